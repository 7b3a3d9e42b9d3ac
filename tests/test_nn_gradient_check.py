"""Every layer's backward against finite differences, and that the check finds what is wrong."""

import math

import numpy as np
import pytest

import kitae
from kitae import nn
from mistakes import assert_named

RNG = np.random.default_rng(23)
IMAGES, SIGNALS, ROWS, STEPS = (2, 2, 5, 6), (2, 2, 7), (4, 3), (2, 4, 3)


@pytest.fixture(autouse=True)
def weights():
    """The same first weights whatever ran before."""
    kitae.seed(5)


def normal(shape):
    return RNG.standard_normal(shape)


def body(units):
    return nn.Sequential(nn.Dense(5), nn.Tanh(), nn.Dense(units))


# name: [(layer, shape of x or x itself)]. Layers that later rows of the table of techniques add have theirs here too.
LAYERS = {
    "Dense": [(lambda: nn.Dense(5), ROWS), (lambda: nn.Dense(5, bias=False), ROWS)],
    "ReLU": [(nn.ReLU, IMAGES)],
    "LeakyReLU": [(lambda: nn.LeakyReLU(0.2), IMAGES)],
    "Sigmoid": [(nn.Sigmoid, IMAGES)],
    "Tanh": [(nn.Tanh, IMAGES)],
    "ELU": [(lambda: nn.ELU(0.7), IMAGES)],
    "SiLU": [(nn.SiLU, IMAGES)],
    "Swish": [(nn.Swish, IMAGES)],
    "GELU": [(nn.GELU, IMAGES), (lambda: nn.GELU("tanh"), IMAGES)],
    "Softmax": [(nn.Softmax, ROWS), (lambda: nn.Softmax(1), IMAGES)],
    "Sequential": [(nn.Sequential, ROWS), (lambda: body(2), ROWS)],
    "Residual": [
        (lambda: nn.Residual(body(3)), ROWS),
        (lambda: nn.Residual(body(2), nn.Dense(2)), ROWS),
        (lambda: nn.Residual(nn.Sequential(kitae.BatchNorm(), nn.ReLU(), nn.Dense(3)), activation=None), ROWS),
    ],
    "Branches": [
        (lambda: nn.Branches(body(2), nn.Sequential(), nn.Dense(1)), ROWS),
        (lambda: nn.Branches(nn.Tanh(), nn.ReLU(), axis=-1), IMAGES),
    ],
    "BatchNorm": [
        (kitae.BatchNorm, ROWS), (kitae.BatchNorm, IMAGES), (lambda: kitae.BatchNorm(activation="relu"), IMAGES),
    ],
    "Dropout": [(lambda: kitae.Dropout(0.4, seed=2), IMAGES), (lambda: kitae.Dropout(0.4, scale="classic"), ROWS)],
    "DropConnect": [(lambda: kitae.DropConnect(nn.Dense(4), 0.4, seed=2), ROWS)],
    "LayerNorm": [(lambda: kitae.LayerNorm(), ROWS)],
    "WeightNorm": [(lambda: kitae.WeightNorm(nn.Dense(4)), ROWS)],
    "Conv1D": [(lambda: nn.Conv1D(3, 3, stride=2, padding=1), SIGNALS)],
    "Conv2D": [(lambda: nn.Conv2D(3, 3, padding="same"), IMAGES), (lambda: nn.Conv2D(3, (2, 3), stride=2), IMAGES)],
    "MaxPool1D": [(lambda: nn.MaxPool1D(2), SIGNALS)],
    "MaxPool2D": [(lambda: nn.MaxPool2D(3, stride=2), IMAGES)],
    "AvgPool1D": [(lambda: nn.AvgPool1D(2), SIGNALS)],
    "AvgPool2D": [(lambda: nn.AvgPool2D(3, stride=2), IMAGES)],
    "GlobalAvgPool2D": [(lambda: nn.GlobalAvgPool2D(), IMAGES)],
    "Flatten": [(lambda: nn.Flatten(), IMAGES)],
    "Embedding": [(lambda: nn.Embedding(3, 5, dtype=np.float64), np.array([[0, 4, 4], [1, 4, 0]]))],
    "SimpleRNN": [(lambda: nn.SimpleRNN(4), STEPS), (lambda: nn.SimpleRNN(4, return_sequences=True), STEPS)],
    "LSTM": [(lambda: nn.LSTM(4), STEPS), (lambda: nn.LSTM(4, return_sequences=True), STEPS)],
    "GRU": [(lambda: nn.GRU(4), STEPS), (lambda: nn.GRU(4, return_sequences=True), STEPS)],
    "TimeDistributed": [(lambda: nn.TimeDistributed(nn.Dense(2)), STEPS)],
}  # fmt: skip
BASES = {"Layer", "Composite", "Activation"}


def found_layers():
    """Every class of kitae and kitae.nn that has the two passes of a layer."""
    classes = {name: getattr(module, name) for module in (kitae, nn) for name in module.__all__}
    return sorted(
        name
        for name, found in classes.items()
        if isinstance(found, type) and hasattr(found, "backward") and not issubclass(found, nn.Loss)
        if name not in BASES and not name.endswith("Loss")
    )


@pytest.mark.parametrize("name", found_layers())
@pytest.mark.parametrize("training", [True, False])
def test_every_layer(name, training):
    assert name in LAYERS, f"{name} needs a row in LAYERS"
    for make, given in LAYERS[name]:
        x = given if isinstance(given, np.ndarray) else normal(given)
        layer = make()
        check = nn.check_gradients(layer, x, training=training)
        assert set(check.errors) == {*layer.params, *(["x"] if x.dtype.kind == "f" else [])}
        assert check.checked > 0
        # Kinks within 6e-6 of a normal number are rare.
        assert check.kinks <= 1


LOSSES = [
    (nn.SoftmaxCrossEntropy(), np.array([0, 2, 1, 1])),
    (nn.SoftmaxCrossEntropy(reduction="sum", label_smoothing=0.1), np.array([0, 2, 1, 1])),
    ("sigmoid_cross_entropy", RNG.uniform(0, 1, ROWS)),
    ("reconstruction_cross_entropy", RNG.uniform(0, 1, ROWS)),
    ("mse", normal(ROWS)),
    (nn.MeanSquaredError(reduction="half_sum"), normal(ROWS)),
]


@pytest.mark.parametrize(("loss", "targets"), LOSSES)
def test_losses(loss, targets):
    """A loss's gradient is that of a network without layers."""
    check = nn.check_gradients(nn.Sequential(), normal(ROWS), loss=loss, targets=targets)
    assert check.checked == 12
    network = nn.Sequential(nn.Dense(6), kitae.BatchNorm(activation="relu"), kitae.Dropout(0.5), nn.Dense(3))
    assert nn.check_gradients(network, normal(ROWS), loss=loss, targets=targets).largest < 1e-6


class Wrong(nn.Dense):
    """A dense layer with a mistake in one gradient."""

    def __init__(self, mistake):
        super().__init__(3, inputs=3, dtype=np.float64)
        self.mistake = mistake

    def backward(self, dout):
        before = self.grads["b"].copy()
        dx = super().backward(dout)
        match self.mistake:
            case "x":
                dx[1, 2] *= 1.001
            case "W":
                self.grads["W"][2, 0] += 1e-4
            case "b":
                self.grads["b"] *= -1
            case "accumulates":
                self.grads["b"] += before
            case "NaN":
                self.grads["W"][0, 1] = math.nan
            case "shape":
                dx = dx.T[:2]
        return dx


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        ("x", ["gradient of x[1, 2]: expected the difference", "relative error 0.001; 1 of 12 elements"]),
        ("W", ["gradient of W[2, 0]: expected the difference", "1 of 9 elements are off"]),
        ("b", ["gradient of b[", "relative error 2; 3 of 3 elements are off"]),
        ("accumulates", ["gradient of b", "the same gradient from two equal passes", "got another"]),
        ("NaN", ["gradient of W[0, 1]", "got nan from backward"]),
        ("shape", ["gradient of x", "shape (4, 3)", "(2, 4)"]),
    ],
)
def test_mistakes_of_a_layer_are_found(mistake, words):
    with pytest.raises(nn.GradientError) as caught:
        nn.check_gradients(Wrong(mistake), np.random.default_rng(1).standard_normal(ROWS))
    message = str(caught.value)
    assert message.startswith("kitae.nn.check_gradients: ")
    assert [word for word in words if word not in message] == []
    assert isinstance(caught.value, AssertionError)


def test_one_wrong_element_deep_in_a_network_is_found():
    class Deep(nn.Tanh):
        def backward(self, dout):
            dx = super().backward(dout)
            dx[0, 0] += 1e-3
            return dx

    network = nn.Sequential(nn.Dense(4), nn.Residual(nn.Sequential(nn.Dense(4), Deep()), activation=None))
    with pytest.raises(nn.GradientError, match=r"gradient of x\[0, \d\]"):
        nn.check_gradients(network, np.random.default_rng(1).standard_normal(ROWS))


def test_errors_are_numbers_and_not_only_a_verdict():

    class Slightly(nn.Tanh):
        def backward(self, dout):
            return super().backward(dout) * (1 + 1e-7)

    exact = nn.check_gradients(nn.Tanh(), np.full((1, 1), 0.5))
    check = nn.check_gradients(Slightly(), np.full((1, 1), 0.5))
    assert exact.largest < 1e-9
    assert check.errors["x"] == pytest.approx(1e-7, rel=0.05)
    with pytest.raises(nn.GradientError):
        nn.check_gradients(Slightly(), np.full((1, 1), 0.5), tolerance=5e-8)


def test_kinks_are_left_out_and_counted():
    check = nn.check_gradients(nn.ReLU(), np.array([[0.0, 1.0, -2.0, 0.0]]))
    assert (check.checked, check.kinks) == (2, 2)


def test_everything_is_as_before():
    layer = nn.Sequential(nn.Dense(4), kitae.BatchNorm(), kitae.Dropout(0.5, seed=1))
    x = normal(ROWS)
    layer.forward(x)
    arrays = {"x": x, **layer.params, **layer.buffers}
    before = {name: array.copy() for name, array in arrays.items()}
    nn.check_gradients(layer, x)
    for name, array in {"x": x, **layer.params, **layer.buffers}.items():
        assert array is arrays[name]
        np.testing.assert_array_equal(array, before[name])


def test_a_part_of_long_arrays_is_compared():
    layer = nn.Dense(40, inputs=30, dtype=np.float64)
    assert nn.check_gradients(layer, normal((2, 30)), most=25).checked == 25 * 3
    assert nn.check_gradients(layer, normal((2, 30)), most=25, seed=1).checked == 75


MISTAKES = {
    "float32": (lambda: nn.check_gradients(nn.ReLU(), np.ones(3, np.float32)), TypeError, ["x", "float64", "float32"]),
    "list": (lambda: nn.check_gradients(nn.ReLU(), [1.0]), TypeError, ["x", "numpy.ndarray", "list"]),
    "parameters": (
        lambda: nn.check_gradients(kitae.BatchNorm(3, dtype=np.float32), np.ones(ROWS)), TypeError,
        ["params['gamma']", "float64", "float32"],
    ),
    "tolerance": (lambda: nn.check_gradients(nn.ReLU(), np.ones(3), tolerance=0), ValueError, ["tolerance", "0"]),
    "most": (lambda: nn.check_gradients(nn.ReLU(), np.ones(3), most=0), ValueError, ["most", "0"]),
    "targets": (lambda: nn.check_gradients(nn.ReLU(), np.ones(3), targets=1), ValueError, ["loss", "targets", "None"]),
    "loss": (lambda: nn.check_gradients(nn.ReLU(), np.ones(3), loss="l1"), ValueError, ["loss", "'mse'", "'l1'"]),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(mistake):
    assert_named(*MISTAKES[mistake], "kitae.nn.check_gradients: ")
