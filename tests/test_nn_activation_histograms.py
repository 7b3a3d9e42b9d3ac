"""Numbers of each layer's outputs, against NumPy on the outputs themselves; the picture; no trace left."""

import sys

import numpy as np
import pytest

import kitae
from kitae import nn
from mistakes import assert_named

RNG = np.random.default_rng(29)


def network():
    return nn.Sequential(nn.Dense(30, init=nn.initializers.Gaussian(1.0)), nn.Tanh(), nn.Dense(20), nn.ReLU())


def test_numbers_are_those_of_the_outputs():
    model, x = network(), RNG.standard_normal((50, 40))
    found = nn.activation_histograms(model, x, bins=12)
    y = x
    assert [(layer.name, layer.layer) for layer in found.layers] == [
        ("0", "Dense"), ("1", "Tanh"), ("2", "Dense"), ("3", "ReLU"),
    ]  # fmt: skip
    for layer, numbers in zip(model.layers, found.layers, strict=True):
        y = layer.forward(y, training=False)
        assert numbers.mean == pytest.approx(y.mean(), rel=1e-12)
        assert numbers.std == pytest.approx(y.std(), rel=1e-12)
        assert numbers.zeros == np.mean(y == 0)
        assert numbers.nonfinite == 0
        counts, edges = np.histogram(y, 12)
        np.testing.assert_array_equal(numbers.counts, counts)
        np.testing.assert_array_equal(numbers.edges, edges)
    assert found.layers[1].saturated == np.mean(np.abs(model.layers[1].forward(model.layers[0].forward(x))) >= 0.98)
    assert found.layers[1].saturated > 0.5  # weights of std 1 on 40 inputs: sums of std 6
    assert found.layers[3].zeros == pytest.approx(0.5, abs=0.15)
    assert [numbers.saturated for numbers in found.layers[::2]] == [None, None]


def test_saturated_sigmoid_both_ends():
    x = np.array([[-10.0, -4.0, 0.0, 4.0, 10.0]])  # sigmoid(4) = 0.982 is not within 1 %, sigmoid(10) is
    (numbers,) = nn.activation_histograms(nn.Sigmoid(), x).layers
    assert (numbers.name, numbers.saturated) == ("", 0.4)


def test_initialization_decides_what_deep_layers_see():
    """The book's experiment (Glorot and Bengio 2010, figure 6): five tanh layers of 100 units."""
    x = RNG.standard_normal((1000, 100))

    def last(init):
        layers = [layer for _ in range(5) for layer in (nn.Dense(100, init=init), nn.Tanh())]
        return nn.activation_histograms(nn.Sequential(layers), x, only=(nn.Tanh,)).layers[-1]

    assert last("standard_normal").saturated > 0.5
    assert last("gaussian").std < 1e-4  # 0.1 a layer
    assert 0.2 < last("xavier").std < 0.6
    assert last("xavier").saturated < 0.01


def test_range_and_only():
    found = nn.activation_histograms(network(), RNG.standard_normal((5, 4)), 4, range=(-1, 1), only=(nn.Tanh,))
    assert [layer.layer for layer in found.layers] == ["Tanh"]
    np.testing.assert_array_equal(found.layers[0].edges, [-1, -0.5, 0, 0.5, 1])
    assert found.layers[0].counts.sum() == 150


def test_what_is_not_finite_is_counted_apart():
    (numbers,) = nn.activation_histograms(nn.Sequential(nn.ReLU()), np.array([[1.0, np.inf, np.nan, 3.0]])).layers
    assert (numbers.nonfinite, numbers.mean, numbers.counts.sum()) == (0.5, 2.0, 2)
    (nothing,) = nn.activation_histograms(nn.Sequential(nn.ReLU()), np.array([[np.nan]])).layers
    assert nothing.nonfinite == 1
    assert np.isnan(nothing.mean)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_narrow_dtypes(dtype):
    x = RNG.standard_normal((64, 64)).astype(dtype)
    (numbers,) = nn.activation_histograms(nn.Tanh(), x).layers
    assert numbers.mean == pytest.approx(np.tanh(x.astype(np.float32)).astype(dtype).mean(dtype=np.float64), rel=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_state_is_left_alone(training):
    model = nn.Sequential(nn.Dense(4), kitae.BatchNorm(), kitae.Dropout(0.5, seed=1))
    x = RNG.standard_normal((6, 3)) + 5
    model.forward(x)
    before = {name: array.copy() for name, array in model.buffers.items()}
    found = nn.activation_histograms(model, x, training=training)
    for name, array in model.buffers.items():
        np.testing.assert_array_equal(array, before[name])
    assert (abs(found.layers[1].std - 1) < 0.1) == training
    assert all("forward" not in vars(layer) for layer in model.layers)


def test_table_and_picture(tmp_path):
    found = nn.activation_histograms(network(), RNG.standard_normal((5, 4)))
    lines = str(found).splitlines()
    assert lines[0].split() == ["layer", "mean", "std", "zeros", "saturated"]
    assert [line.split()[:2] for line in lines[1:]] == [["0", "Dense"], ["1", "Tanh"], ["2", "Dense"], ["3", "ReLU"]]
    assert [len(line.split()) for line in lines[1:]] == [5, 6, 5, 5]  # only tanh has a fraction of saturated outputs
    found.plot(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib(monkeypatch):
    found = nn.activation_histograms(nn.Tanh(), np.ones((1, 1)))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"matplotlib, which is not installed: pip install \"kitae\[train\]\""):
        found.plot("picture.png")


MISTAKES = {
    "bins": (lambda: nn.activation_histograms(nn.Tanh(), np.ones(2), 0), ValueError, ["bins", "0"]),
    "range": (
        lambda: nn.activation_histograms(nn.Tanh(), np.ones(2), range=(1, 1)), ValueError,
        ["range[1]", "(1, inf)", "1"],
    ),
    "model": (lambda: nn.activation_histograms(3, np.ones(2)), TypeError, ["model", "a layer", "3"]),
    "x": (lambda: nn.activation_histograms(nn.Tanh(), [1.0]), TypeError, ["nn.Tanh.forward", "x", "list"]),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(mistake):
    assert_named(*MISTAKES[mistake], "kitae.nn.")
