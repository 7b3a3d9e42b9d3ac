"""Networks on CuPy arrays, by a stand-in: the same numbers as on NumPy's, and no array crosses over unasked."""

import numpy as np
import pytest

from foreign_arrays import ForeignArray, install
from kitae import nn

RNG = np.random.default_rng(31)


@pytest.fixture
def cupy(monkeypatch):
    return install(monkeypatch)


def given(weight):
    return lambda shape, rng: weight[: shape[0], : shape[1]]


WEIGHT = RNG.standard_normal((6, 6))
LAYERS = {
    "Dense": lambda: nn.Dense(4, init=given(WEIGHT)),
    "ReLU": nn.ReLU,
    "LeakyReLU": nn.LeakyReLU,
    "Sigmoid": nn.Sigmoid,
    "Tanh": nn.Tanh,
    "ELU": nn.ELU,
    "SiLU": nn.SiLU,
    "GELU": nn.GELU,
    "GELU tanh": lambda: nn.GELU("tanh"),
    "Softmax": nn.Softmax,
    "Residual": lambda: nn.Residual(nn.Sequential(nn.Dense(5, init=given(WEIGHT)), nn.Tanh())),
    "Branches": lambda: nn.Branches(nn.Dense(2, init=given(WEIGHT)), nn.Sequential(), nn.ReLU()),
}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("name", LAYERS)
def test_layers(cupy, name, dtype):
    here, there = LAYERS[name](), LAYERS[name]()
    x = RNG.standard_normal((3, 5)).astype(dtype)
    y, foreign_y = here.forward(x), there.forward(ForeignArray(x.copy()))
    dout = RNG.standard_normal(y.shape).astype(y.dtype)
    dx, foreign_dx = here.backward(dout), there.backward(ForeignArray(dout.copy()))
    pairs = [(y, foreign_y), (dx, foreign_dx)]
    pairs += [(here.params[key], there.params[key]) for key in here.params]
    pairs += [(here.grads[key], there.grads[key]) for key in here.grads]
    for ours, foreign in pairs:
        assert type(foreign) is ForeignArray
        assert foreign.dtype == ours.dtype
        np.testing.assert_array_equal(foreign.get(), ours)


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        (nn.SoftmaxCrossEntropy(), np.array([0, 2, 1])),
        (nn.SoftmaxCrossEntropy(label_smoothing=0.1, reduction="sum"), np.eye(3)),
        (nn.SigmoidCrossEntropy(), RNG.integers(0, 2, (3, 3))),
        (nn.ReconstructionCrossEntropy(), RNG.uniform(0, 1, (3, 3))),
        (nn.MeanSquaredError(), RNG.standard_normal((3, 3))),
    ],
)
def test_losses(cupy, loss, targets):
    outputs = RNG.standard_normal((3, 3))
    value, gradient = loss.forward(outputs, targets), loss.backward()
    foreign_value = loss.forward(ForeignArray(outputs), ForeignArray(targets))
    foreign_gradient = loss.backward()
    assert type(foreign_value) is float
    assert foreign_value == value
    assert type(foreign_gradient) is ForeignArray
    np.testing.assert_array_equal(foreign_gradient.get(), gradient)


def test_arrays_do_not_mix(cupy):
    with pytest.raises(TypeError):
        nn.MeanSquaredError().forward(ForeignArray(np.ones((2, 2))), np.ones((2, 2)))


def test_looking_inside(cupy):
    network = nn.Sequential(nn.Dense(4, init=given(WEIGHT)), nn.Tanh(), nn.Dense(2, init=given(WEIGHT)))
    x = RNG.standard_normal((3, 5))
    foreign = nn.activation_histograms(network, ForeignArray(x)).layers
    assert nn.check_gradients(network, ForeignArray(x)).largest < 1e-6
    assert [row.output_shape for row in network.summary().rows] == [(None, 4), (None, 4), (None, 2)]
    same = nn.Sequential(nn.Dense(4, init=given(WEIGHT)), nn.Tanh(), nn.Dense(2, init=given(WEIGHT)))
    for ours, theirs in zip(nn.activation_histograms(same, x).layers, foreign, strict=True):
        assert (ours.mean, ours.std, ours.saturated) == (theirs.mean, theirs.std, theirs.saturated)
        np.testing.assert_array_equal(ours.counts, theirs.counts)
        assert type(theirs.counts) is np.ndarray


def test_a_shared_array_is_found(cupy):
    first, second = nn.Dense(5, init=given(WEIGHT)), nn.Dense(5, init=given(WEIGHT))
    network = nn.Sequential(first, second)
    x = ForeignArray(RNG.standard_normal((3, 5)))
    network.forward(x)
    second.params["W"] = first.params["W"]
    network.forward(x)
    network.backward(ForeignArray(np.ones((3, 5))))
    assert list(network.params) == ["0.W", "0.b", "1.b"]
    w = first.params["W"].get()
    dw_second = (x.get() @ w).T @ np.ones((3, 5))  # biases are 0
    dw_first = x.get().T @ (np.ones((3, 5)) @ w.T)
    np.testing.assert_allclose(network.grads["0.W"].get(), dw_first + dw_second, rtol=1e-13)
