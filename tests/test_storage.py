"""Weights in safetensors files: the same bits back in place, and a clear error for everything else."""

import json
import pickle
import struct
import sys

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import imitation_cupy
import kitae
from kitae import nn


def network():
    return nn.Sequential(nn.Dense(5), kitae.BatchNorm(), nn.ReLU(), kitae.Dropout(0.5), nn.Dense(2))


def trained(x):
    model = network()
    model.forward(x)
    return model


def arrays(model):
    return {**model.params, **model.buffers}


def copies(model):
    return {name: array.copy() for name, array in arrays(model).items()}


def assert_same_bits(ours, theirs):
    assert list(ours) == list(theirs)
    for name, array in ours.items():
        assert (array.shape, array.dtype) == (theirs[name].shape, theirs[name].dtype)
        assert array.tobytes() == theirs[name].tobytes(), name


class Arrays:
    """A model that is nothing but arrays."""

    def __init__(self, params=None, buffers=None):
        self.params, self.buffers = params or {}, buffers or {}


@pytest.fixture
def x(rng):
    return rng.standard_normal((8, 3)).astype(np.float32)


@pytest.fixture
def file(tmp_path, x):
    path = tmp_path / "model.safetensors"
    nn.save_weights(trained(x), path)
    return path


class TestBits:
    def test_into_the_models_own_arrays(self, tmp_path, x):
        model, other = trained(x), trained(-x)
        before = arrays(other)
        nn.save_weights(model, tmp_path / "f")
        assert nn.load_weights(other, tmp_path / "f") == ([], [])
        assert_same_bits(arrays(other), arrays(model))
        assert all(before[name] is array for name, array in arrays(other).items())
        assert other.buffers["3.offset"] == 1
        np.testing.assert_array_equal(other.forward(x, training=False), model.forward(x, training=False))
        np.testing.assert_array_equal(other.forward(x), model.forward(x))

    @pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "int64", "uint64", "uint8", "bool"])
    def test_every_dtype_keeps_its_bits(self, tmp_path, rng, dtype):
        dtype = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
        bits = rng.integers(0, 2 if dtype.kind == "b" else 256, (4, 6, dtype.itemsize), dtype=np.uint8)
        model = Arrays({"W": bits.view(dtype)[..., 0], "scalar": bits.view(dtype)[0, 0].reshape(())})
        target = Arrays({name: np.zeros_like(array) for name, array in model.params.items()})
        nn.save_weights(model, tmp_path / "f")
        nn.load_weights(target, tmp_path / "f")
        assert_same_bits(arrays(target), arrays(model))

    @pytest.mark.parametrize("view", [np.s_[::2], np.s_[:, ::-1], np.s_[:0]], ids=str)
    def test_views_and_memory_orders(self, tmp_path, rng, view):
        """The safetensors library itself writes the bytes after a view's first element, whatever its strides."""
        base = np.asfortranarray(rng.standard_normal((6, 5)))
        nn.save_weights(Arrays({"W": base[view]}), tmp_path / "f")
        around = np.full((6, 5), 7.0, order="F")
        nn.load_weights(Arrays({"W": around[view]}), tmp_path / "f")
        expected = np.full((6, 5), 7.0)
        expected[view] = base[view]
        np.testing.assert_array_equal(around, expected)

    def test_the_safetensors_library_reads_the_file(self, file, x):
        read = safetensors.numpy.load_file(file)
        assert read["0.W"].shape == (3, 5)
        assert set(read) == set(arrays(trained(x)))

    def test_cupy_arrays_come_back_to_their_device(self, tmp_path, monkeypatch, rng):
        imitation_cupy.install(monkeypatch)
        host = rng.standard_normal((3, 2))
        with imitation_cupy.Device(1):
            ours, theirs = imitation_cupy.ndarray(host), imitation_cupy.ndarray(np.zeros((3, 2)))
        nn.save_weights(Arrays({"W": ours}), tmp_path / "f")
        nn.load_weights(Arrays({"W": theirs}), tmp_path / "f")
        np.testing.assert_array_equal(theirs.get(), host)
        assert theirs.device.id == 1


class TestBuilding:
    def test_from_the_shape_in_the_file(self, tmp_path, x):
        model, other = trained(x.astype(np.float64)), network()
        nn.save_weights(model, tmp_path / "f", input_shape=(3,))
        nn.load_weights(other, tmp_path / "f")
        assert_same_bits(arrays(other), arrays(model))

    def test_without_a_shape(self, tmp_path):
        file = tmp_path / "f"
        nn.save_weights(Arrays({"0.W": np.ones((3, 5), np.float32)}), file)
        with pytest.raises(ValueError, match=r"nn.load_weights: model: expected a model that is built"):
            nn.load_weights(network(), file)

    def test_nothing_to_save(self, tmp_path):
        with pytest.raises(ValueError, match=r"nn.save_weights: model: expected a model that is built"):
            nn.save_weights(network(), tmp_path / "f")
        assert list(tmp_path.iterdir()) == []


class TestDifferences:
    def model(self, **params):
        return Arrays({"W": np.ones((3, 2)), "b": np.ones(2), **params})

    @pytest.mark.parametrize(
        ("other", "words"),
        [
            ({"more": np.ones(1)}, r"names: expected those of the model, got 1 missing in the file \(more\)"),
            ({"W": np.ones((2, 3))}, r"W: expected shape \(2, 3\), dtype float64, got array of shape \(3, 2\)"),
            ({"b": np.ones(2, np.float32)}, r"b: expected shape \(2,\), dtype float32, got .* dtype float64"),
        ],
    )
    def test_refused_and_nothing_written(self, tmp_path, other, words):
        nn.save_weights(self.model(), tmp_path / "f")
        target = self.model(**other)
        for array in target.params.values():
            array[...] = 5
        with pytest.raises(ValueError, match=f"kitae.nn.load_weights: {words}"):
            nn.load_weights(target, tmp_path / "f")
        assert all((array == 5).all() for array in target.params.values())

    def test_not_strict(self, tmp_path):
        nn.save_weights(self.model(old=np.ones(1)), tmp_path / "f")
        target = Arrays({"W": np.zeros((3, 2)), "new": np.zeros(1)})
        assert nn.load_weights(target, tmp_path / "f", strict=False) == (["new"], ["b", "old"])
        assert (target.params["W"] == 1).all()
        assert target.params["new"] == 0

    def test_not_strict_about_names_alone(self, tmp_path):
        nn.save_weights(self.model(), tmp_path / "f")
        with pytest.raises(ValueError, match="W: expected shape"):
            nn.load_weights(Arrays({"W": np.zeros((3, 3))}), tmp_path / "f", strict=False)


class TestForeignFiles:
    def refused(self, path, x, words="kitae.nn.load_weights: path: expected"):
        model = trained(x)
        before = copies(model)
        with pytest.raises(ValueError, match=words):
            nn.load_weights(model, path)
        assert_same_bits(arrays(model), before)

    def test_cut_off_anywhere(self, tmp_path, file, x):
        content = file.read_bytes()
        for length in [*range(40), *range(40, len(content), 37), len(content) - 1]:
            (tmp_path / "cut").write_bytes(content[:length])
            self.refused(tmp_path / "cut", x)

    def test_any_byte_changed(self, tmp_path, file, x):
        """A bit of a weight too, which the format alone does not notice. Blanks that pad the header mean nothing."""
        content = file.read_bytes()
        header = 8 + struct.unpack("<Q", content[:8])[0]
        meaning = len(content[:header].rstrip(b" "))
        for place in [*range(meaning), *range(header, len(content))]:
            changed = bytearray(content)
            changed[place] ^= 1
            (tmp_path / "changed").write_bytes(changed)
            self.refused(tmp_path / "changed", x)

    @pytest.mark.parametrize(
        "content",
        [b"", b"PK\3\4", pickle.dumps({"W": 1}), b"\x93NUMPY" + b"\0" * 200, b"\xff" * 64],
        ids=["empty", "zip", "pickle", "npy", "ones"],
    )
    def test_other_kinds(self, tmp_path, content, x):
        (tmp_path / "f").write_bytes(content)
        self.refused(tmp_path / "f", x, "expected a whole safetensors file, got")

    def test_safetensors_of_others(self, tmp_path, x):
        safetensors.numpy.save_file({"W": np.ones(3)}, tmp_path / "f")
        self.refused(tmp_path / "f", x, "expected a file that kitae wrote")

    def test_version_of_the_future(self, monkeypatch, tmp_path, file, x):
        from kitae import _tensor_file

        read, document = _tensor_file.read("test", file)
        _tensor_file.write("test", tmp_path / "f", read, {**document, "version": 2})
        self.refused(tmp_path / "f", x, "expected version 1, got .*: version 2")
        _tensor_file.write("test", tmp_path / "f", read, [document])
        self.refused(tmp_path / "f", x, "expected a file of kitae weights")

    def test_nothing_is_unpickled(self, monkeypatch, file, x):
        def fail(*_arguments, **_keywords):
            raise AssertionError("unpickling")

        for name in ("load", "loads", "Unpickler"):
            monkeypatch.setattr(pickle, name, fail)
        nn.load_weights(trained(x), file)

    def test_no_file(self, tmp_path, x):
        with pytest.raises(FileNotFoundError):
            nn.load_weights(trained(x), tmp_path / "none")


class TestRefused:
    def test_what_is_no_array(self, tmp_path):
        for value in ([1.0], np.ma.masked_array([1.0]), np.array([object()]), np.array([1j])):
            with pytest.raises(TypeError, match=r"kitae\.nn\.save_weights: W: expected"):
                nn.save_weights(Arrays({"W": value}), tmp_path / "f")
        assert list(tmp_path.iterdir()) == []

    def test_two_arrays_of_one_name(self, tmp_path):
        with pytest.raises(ValueError, match="model: expected a name for each array, got two arrays 'W'"):
            nn.save_weights(Arrays({"W": np.ones(1)}, {"W": np.ones(1)}), tmp_path / "f")

    def test_without_the_library(self, monkeypatch, tmp_path, x):
        monkeypatch.setitem(sys.modules, "safetensors", None)
        with pytest.raises(ImportError, match=r'pip install "kitae\[train\]"'):
            nn.save_weights(trained(x), tmp_path / "f")

    def test_save_over_the_loaded_file(self, file, x):
        model = trained(x)
        nn.load_weights(model, file)
        expected = copies(model)
        nn.save_weights(model, file)
        other = trained(-x)
        nn.load_weights(other, file)
        assert_same_bits(arrays(other), expected)


def test_metadata_is_json(file):
    with safetensors.safe_open(file, "np") as opened:
        document = json.loads(opened.metadata()["kitae"])
    assert document == {"kind": "kitae weights", "version": 1, "dtype": "float32", "input_shape": [3]}
