"""kitae.data: what is written is read, and every damaged or foreign file gets a DataError, whatever its bytes."""

import gzip
import io
import itertools
import pickle
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kitae import data

IMAGES = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3)
LABELS = np.array([0, 1, 2, 0, 1, 2], np.uint8)
IDX_CODES = {"u1": 0x08, "i1": 0x09, ">i2": 0x0B, ">i4": 0x0C, ">f4": 0x0D, ">f8": 0x0E}


def idx_bytes(array, dtype="u1"):
    header = struct.pack(">HBB", 0, IDX_CODES[dtype], array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(dtype).tobytes()


def npz_bytes(compressed=True, **arrays):
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
    return file.getvalue()


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content)
    return path


def refused(path, *words, labels=None):
    """The message of the DataError that ``path`` gets: one line with the file, what was expected, what was found."""
    with pytest.raises(data.DataError) as caught:
        data.load(path, labels)
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in ("expected", "found", *words) if word not in message] == []
    return message


class TestIDX:
    @pytest.mark.parametrize("dtype", IDX_CODES)
    @pytest.mark.parametrize("compress", [bytes, gzip.compress])
    def test_every_type_is_read_in_native_order(self, tmp_path, dtype, compress):
        array = np.array([[[0, 1, 2], [100, 101, 127]]])
        read = data.read_idx(write(tmp_path, "some name", compress(idx_bytes(array, dtype))))
        np.testing.assert_array_equal(read, array)
        assert read.dtype == np.dtype(dtype).newbyteorder("=")
        assert read.dtype.isnative
        assert read.flags.writeable

    @pytest.mark.parametrize(
        ("images", "labels"),
        [
            ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
            ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
            ("t10k-images.idx3-ubyte", "t10k-labels.idx1-ubyte"),
            ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte"),
            ("train-images-idx3-ubyte", "train-labels-idx1-ubyte.gz"),
        ],
    )
    def test_the_labels_file_is_found_by_its_mnist_name(self, tmp_path, images, labels):
        write(tmp_path, labels, idx_bytes(LABELS))
        dataset = data.load(write(tmp_path, images, gzip.compress(idx_bytes(IMAGES))))
        np.testing.assert_array_equal(dataset.images, IMAGES)
        np.testing.assert_array_equal(dataset.labels, LABELS)
        assert (dataset.name, dataset.classes) == (images, 3)

    def test_the_labels_file_can_be_named(self, tmp_path):
        labels = write(tmp_path, "l", idx_bytes(LABELS))
        np.testing.assert_array_equal(data.load(write(tmp_path, "i", idx_bytes(IMAGES)), labels).labels, LABELS)

    def test_missing_labels_file(self, tmp_path):
        path = write(tmp_path, "train-images-idx3-ubyte.gz", idx_bytes(IMAGES))
        refused(path, "train-labels-idx1-ubyte[.gz]", "no such file")
        refused(write(tmp_path, "digits", idx_bytes(IMAGES)), "images in the name", "digits")

    @pytest.mark.parametrize("compress", [bytes, gzip.compress])
    def test_every_truncation_is_noticed(self, tmp_path, compress):
        content, labels = compress(idx_bytes(IMAGES)), write(tmp_path, "l", idx_bytes(LABELS))
        for length in range(len(content)):
            refused(write(tmp_path, "i", content[:length]), str(tmp_path / "i"), labels=labels)
        assert data.load(write(tmp_path, "i", content), labels).classes == 3

    def test_messages(self, tmp_path):
        labels = write(tmp_path, "l", idx_bytes(LABELS))
        content = idx_bytes(IMAGES)
        for changed, words in {
            content[:-5]: ["72 bytes", "(6, 4, 3)", "67", "cut off"],
            content + b"x": ["72 bytes", "more bytes"],
            gzip.compress(content + b"x"): ["72 bytes", "more bytes"],
            gzip.compress(content)[:-9]: ["complete gzip file", "damaged"],
            gzip.compress(content)[:-1] + b"\1": ["complete gzip file", "damaged"],
            b"\0\0\7\3" + content[4:]: ["IDX magic number", "00 00 07 03"],
            b"\0\0\x08\x00" + content[4:]: ["IDX magic number", "00 00 08 00"],
            content[:9]: ["3 sizes", "after 9 bytes"],
            b"": ["empty file"],
            b"\x89PNG\r\n": ["MNIST-format IDX", "89 50 4e 47"],
            idx_bytes(LABELS): ["2 or more dimensions", "(6,)", "labels file?"],
            idx_bytes(IMAGES[:0]): ["images", "(0, 4, 3)"],
            idx_bytes(np.full((6, 2), np.nan), ">f4"): ["finite pixels", "NaN"],
        }.items():
            refused(write(tmp_path, "i", changed), *words, labels=labels)
        images = write(tmp_path, "i", content)
        for changed, words in {
            idx_bytes(LABELS[:5]): ["6 labels", "5"],
            idx_bytes(np.full(6, -1), "i1"): ["0 to 999", "-1 to -1"],
            idx_bytes(np.full(6, 1000), ">i2"): ["0 to 999", "1000"],
            idx_bytes(np.zeros(6), ">f4"): ["labels as integers", "float32"],
            idx_bytes(IMAGES): ["labels as integers", "(6, 4, 3)"],
        }.items():
            refused(images, "l:", *words, labels=write(tmp_path, "l", changed))
        refused(tmp_path / "none", "readable file", "No such file")
        refused(tmp_path, "readable file", "directory")
        refused(images, "none", "No such file", labels=tmp_path / "none")

    def test_nothing_beyond_the_announced_bytes_is_decompressed(self, tmp_path):
        bomb = gzip.compress(idx_bytes(IMAGES) + bytes(200_000_000))
        path = write(tmp_path, "i", bomb)
        tracemalloc.start()
        refused(path, "more bytes", labels=path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2_000_000

    @pytest.mark.parametrize("compress", [bytes, gzip.compress])
    def test_a_header_that_announces_too_much_is_refused_unread(self, tmp_path, compress):
        def announcing(*shape):
            return write(tmp_path, "i", compress(struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)))

        tracemalloc.start()
        refused(announcing(2**32 - 1, 2**32 - 1, 2**32 - 1), "at most 4,294,967,296 bytes", "announces")
        refused(announcing(1_000_000, 28, 28), "784,000,000")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2_000_000

    def test_the_limit_can_be_changed(self, tmp_path):
        path = write(tmp_path, "i", idx_bytes(IMAGES))
        assert data.read_idx(path, max_bytes=72).shape == (6, 4, 3)
        with pytest.raises(data.DataError, match="at most 71 bytes"):
            data.read_idx(path, max_bytes=71)


class TestNPZ:
    @pytest.mark.parametrize("compressed", [False, True])
    @pytest.mark.parametrize("dtype", ["u1", ">f8", "f4", "i8"])
    def test_arrays_are_read_as_stored(self, tmp_path, compressed, dtype):
        images = np.asfortranarray(IMAGES.astype(dtype))
        content = npz_bytes(compressed, images=images, labels=LABELS.astype(np.int16), extra=np.ones(3))
        dataset = data.load(write(tmp_path, "digits.npz", content))
        np.testing.assert_array_equal(dataset.images, IMAGES)
        np.testing.assert_array_equal(dataset.labels, LABELS)
        assert (dataset.labels.dtype, dataset.classes) == (np.int64, 3)

    def test_messages(self, tmp_path):
        class Trap:
            def __reduce__(self):
                return pytest.fail, ("unpickled",)

        for content, words in {
            npz_bytes(x_train=IMAGES, labels=LABELS): ["images and labels", "x_train"],
            npz_bytes(): ["images and labels", "no array"],
            npz_bytes(images=IMAGES, labels=LABELS[:4]): ["6 labels", "4"],
            npz_bytes(images=IMAGES, labels=LABELS[:, None]): ["labels as integers", "(6, 1)"],
            npz_bytes(images=IMAGES, labels=LABELS / 1.0): ["labels as integers", "float64"],
            npz_bytes(images=IMAGES * 1j, labels=LABELS): ["images as numbers", "complex"],
            npz_bytes(images=IMAGES > 3, labels=LABELS): ["images as numbers", "bool"],
            npz_bytes(images=LABELS, labels=LABELS): ["images as numbers", "(6,)"],
            npz_bytes(images=IMAGES, labels=np.array([Trap()] * 6)): ["numbers in labels", "never unpickled"],
            npz_bytes(images=np.array([[Trap()]] * 6), labels=LABELS): ["numbers in images", "never unpickled"],
            b"PK\3\4 and nothing else": ["images and labels", "damaged"],
            pickle.dumps(IMAGES): [".npz file", "the bytes 80 "],
        }.items():
            refused(write(tmp_path, "digits.npz", content), *words)
        path = write(tmp_path, "digits.npz", npz_bytes(images=IMAGES, labels=LABELS))
        refused(path, "no separate labels file", labels=path)

    @pytest.mark.parametrize("compressed", [False, True])
    def test_every_truncation_is_noticed(self, tmp_path, compressed):
        content = npz_bytes(compressed, images=IMAGES, labels=LABELS)
        for length in range(len(content)):
            refused(write(tmp_path, "digits.npz", content[:length]))

    @staticmethod
    def announcing(path, shape, values=b"", kind=zipfile.ZIP_DEFLATED):
        """A file whose images array announces ``shape`` and holds ``values``."""
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
        labels = io.BytesIO()
        np.save(labels, LABELS)
        with zipfile.ZipFile(path, "w", kind) as archive:
            archive.writestr("images.npy", header.getvalue() + values)
            archive.writestr("labels.npy", labels.getvalue())
        return path

    def test_nothing_beyond_the_announced_bytes_is_decompressed(self, tmp_path):
        zeros = bytes(50_000_000)
        tracemalloc.start()
        for shape in [(6, 4), (2**40, 2**40), (50_000_001,), (-6, 4)]:
            path = self.announcing(tmp_path / "a.npz", shape, zeros)
            tracemalloc.reset_peak()
            held = tracemalloc.get_traced_memory()[0]
            refused(path)
            assert tracemalloc.get_traced_memory()[1] - held < 2_000_000
        tracemalloc.stop()

    def test_a_directory_that_announces_too_much_is_refused_unread(self, tmp_path):
        path = self.announcing(tmp_path / "a.npz", (50, 1000), bytes(50_000))
        content = path.read_bytes()
        size = struct.pack("<I", 50_000 + 128)
        assert content.count(size) == 2  # the local header and the directory at the end
        refused(write(tmp_path, "b.npz", content.replace(size, struct.pack("<I", 2**31))), "compressed bytes")
        refused(write(tmp_path, "b.npz", content.replace(size, struct.pack("<I", 2**32 - 2))), "compressed bytes")
        with pytest.raises(data.DataError, match="at most 50,000 bytes"):
            data.read_npz(path, max_bytes=50_000)

    def test_a_foreign_compression_is_refused(self, tmp_path):
        refused(self.announcing(tmp_path / "a.npz", (6, 4), bytes(24), zipfile.ZIP_LZMA), "stored or deflated", "14")

    def test_a_second_member_of_nearly_the_same_name_is_not_read(self, tmp_path):
        path = self.announcing(tmp_path / "a.npz", (6, 4), bytes(24))
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("images", pickle.dumps(IMAGES))
        assert data.load(path).images.shape == (6, 4)


SEEDS = [
    idx_bytes(IMAGES),
    gzip.compress(idx_bytes(IMAGES), mtime=0),
    npz_bytes(images=IMAGES, labels=LABELS),
    npz_bytes(False, images=IMAGES, labels=LABELS),
]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 600), st.binary(max_size=4), st.integers(0, 4)), max_size=4),
)
def test_damaged_files_raise_data_errors_only(tmp_path, content, edits):
    for position, replacement, removed in edits:
        position %= len(content) + 1
        content = content[:position] + replacement + content[position + removed :]
    labels = None if content[:2] == b"PK" else write(tmp_path, "labels", idx_bytes(LABELS))
    path = write(tmp_path, "file", content)
    try:
        dataset = data.load(path, labels)
    except data.DataError:
        refused(path, labels=labels)
    else:
        assert dataset.images.shape[0] == len(dataset.labels)


def test_digits_are_the_published_ones():
    digits = data.digits()
    assert (digits.images.shape, digits.classes) == ((1797, 8, 8), 10)
    # The counts of each digit as scikit-learn's documentation and the UCI test file state them.
    assert np.bincount(digits.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert (digits.images.min(), digits.images.max()) == (0, 16)


class TestSplit:
    def test_every_sample_lands_once_with_its_label(self):
        images, labels = np.arange(50)[:, None], np.arange(50)
        train, train_labels, test, test_labels = data.train_test_split(images, labels, test_fraction=0.3, seed=1)
        assert (len(train), len(test)) == (35, 15)
        np.testing.assert_array_equal(train[:, 0], train_labels)
        np.testing.assert_array_equal(test[:, 0], test_labels)
        assert sorted([*train_labels, *test_labels]) == list(range(50))

    def test_the_seed_decides(self):
        def split(seed):
            return data.train_test_split(np.zeros(50), np.arange(50), seed=seed)[3].tolist()

        assert split(1) == split(1) != split(2)

    def test_both_parts_have_a_sample(self):
        for count, fraction in itertools.product((2, 3), (0.01, 0.99)):
            train, _, test, _ = data.train_test_split(np.zeros(count), np.zeros(count), test_fraction=fraction)
            assert len(train) + len(test) == count
            assert min(len(train), len(test)) == 1

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"labels": np.zeros(3)}, ["labels", "4", "3"]),
            ({"test_fraction": 1.0}, ["test_fraction", "between 0 and 1", "1.0"]),
            ({"test_fraction": float("nan")}, ["test_fraction", "nan"]),
            ({"images": np.zeros(1), "labels": np.zeros(1)}, ["images", "2 or more", "1"]),
        ],
    )
    def test_mistakes_are_named(self, arguments, words):
        with pytest.raises(ValueError, match="train_test_split") as caught:
            data.train_test_split(**{"images": np.zeros(4), "labels": np.zeros(4)} | arguments)
        assert [word for word in ("expected", "got", *words) if word not in str(caught.value)] == []
