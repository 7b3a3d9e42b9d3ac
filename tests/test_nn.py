"""kitae.nn: values against float64 equations and finite differences, the layer protocol, messages."""

import math

import ml_dtypes
import numpy as np
import pytest

import kitae
from kitae import nn
from mistakes import assert_named

RNG = np.random.default_rng(7)


def normal(*shape, dtype=np.float64):
    return RNG.standard_normal(shape).astype(dtype)


def numerical_gradient(loss, array, step=1e-6):
    """Central differences of ``loss()`` with respect to each element of ``array``, changed in place."""
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        kept = array[index]
        array[index] = kept + step
        above = loss()
        array[index] = kept - step
        below = loss()
        array[index] = kept
        gradient[index] = (above - below) / (2 * step)
    return gradient


# Central differences in float64 err by step^2 (1e-12) and rounding / step (1e-16 * |loss| / 1e-6).
GRADIENT_TOLERANCE = {"rtol": 1e-6, "atol": 1e-8}


class TestDense:
    def test_forward_is_the_equation(self):
        layer, x = nn.Dense(3), normal(5, 4)
        y = layer.forward(x)
        layer.params["b"][:] = normal(3)
        y = layer.forward(x)
        expected = [
            [sum(x[n, i] * layer.params["W"][i, j] for i in range(4)) + layer.params["b"][j] for j in range(3)]
            for n in range(5)
        ]
        np.testing.assert_allclose(y, expected, rtol=1e-13, atol=1e-13)

    def test_gradients_match_finite_differences(self):
        layer, x, weight_of_output = nn.Dense(3), normal(5, 4), normal(5, 3)
        layer.build(x.shape, x.dtype)

        def loss():
            return float(np.sum(layer.forward(x, training=False) * weight_of_output))

        loss()
        dx = layer.backward(weight_of_output)
        np.testing.assert_allclose(dx, numerical_gradient(loss, x), **GRADIENT_TOLERANCE)
        for name in ("W", "b"):
            np.testing.assert_allclose(
                layer.grads[name], numerical_gradient(loss, layer.params[name]), **GRADIENT_TOLERANCE
            )

    def test_gradient_arrays_exist_from_build_and_are_overwritten_in_place(self):
        layer = nn.Dense(3)
        layer.build((5, 4), np.float64)
        arrays = dict(layer.grads)
        assert {name: grad.shape for name, grad in arrays.items()} == {"W": (4, 3), "b": (3,)}
        for _ in range(2):
            layer.forward(normal(5, 4))
            layer.backward(np.ones((5, 3)))
            assert all(layer.grads[name] is array for name, array in arrays.items())
            np.testing.assert_array_equal(arrays["b"], [5, 5, 5])

    def test_results_are_the_callers(self):
        layer, x, dout = nn.Dense(3), normal(5, 4), normal(5, 3)
        results = []
        for training in (True, True, False):
            results += [layer.forward(x, training=training), layer.backward(dout)]
        arrays = [*results, *layer.params.values(), *layer.grads.values(), x, dout]
        pairs = [(a, b) for i, a in enumerate(results) for b in arrays[i + 1 :]]
        assert not any(np.shares_memory(a, b) for a, b in pairs)

    def test_without_bias(self):
        layer, x = nn.Dense(3, bias=False), normal(5, 4)
        np.testing.assert_array_equal(layer.forward(x), x @ layer.params["W"])
        layer.backward(np.ones((5, 3)))
        assert list(layer.params) == list(layer.grads) == ["W"]

    def test_empty_batch(self):
        layer = nn.Dense(3, inputs=4)
        assert layer.forward(np.empty((0, 4), np.float32)).shape == (0, 3)
        assert layer.backward(np.empty((0, 3), np.float32)).shape == (0, 4)
        assert not layer.grads["W"].any()
        assert not layer.grads["b"].any()

    @pytest.mark.parametrize(
        ("x_dtype", "dtype", "expected"),
        [
            (np.float32, None, np.float32),
            (np.float64, None, np.float64),
            (np.float16, None, np.float32),
            (ml_dtypes.bfloat16, None, np.float32),
            (np.float32, np.float64, np.float64),
            (np.float16, "float64", np.float64),
        ],
    )
    def test_dtype_of_parameters_and_results(self, x_dtype, dtype, expected):
        layer, x = nn.Dense(3, dtype=dtype), normal(5, 4, dtype=x_dtype)
        y = layer.forward(x)
        dx = layer.backward(np.ones((5, 3), x_dtype))
        arrays = [y, dx, *layer.params.values(), *layer.grads.values()]
        assert {array.dtype for array in arrays} == {np.dtype(expected)}
        exact = x.astype(np.float64) @ layer.params["W"].astype(np.float64)
        # 4 products and sums of numbers of size 10 or less, each rounded in the layer's dtype.
        np.testing.assert_allclose(y, exact, rtol=0, atol=40 * np.finfo(expected).eps)

    @pytest.mark.parametrize(
        ("init", "std"),
        [("he", math.sqrt(2 / 400)), ("xavier", math.sqrt(2 / 700)), ("glorot", math.sqrt(2 / 700)),
         ("lecun", math.sqrt(1 / 400)), ("gaussian", 0.01)],
    )  # fmt: skip
    def test_initializations_have_the_published_spread(self, init, std):
        kitae.seed(3)
        layer = nn.Dense(300, inputs=400, init=init)
        weights = layer.params["W"]
        # The standard error of a standard deviation of n normal values is std / sqrt(2 n); 5 of them.
        assert abs(weights.std() - std) < 5 * std / math.sqrt(2 * weights.size)
        assert abs(weights.mean()) < 5 * std / math.sqrt(weights.size)
        assert not layer.params["b"].any()

    def test_seed_fixes_the_weights(self):
        def weights(seed):
            kitae.seed(seed)
            return nn.Dense(5, inputs=4).params["W"]

        np.testing.assert_array_equal(weights(1), weights(1))
        assert (weights(1) != weights(2)).all()

    def test_own_initialization(self):
        layer = nn.Dense(2, init=lambda shape, generator: np.full(shape, 0.5))
        np.testing.assert_array_equal(layer.forward(np.ones((1, 4))), [[2, 2]])


class TestReLU:
    def test_special_values(self):
        layer = nn.ReLU()
        y = layer.forward(np.array([-1.0, -0.0, 0.0, 2.0, np.inf, -np.inf, np.nan]))
        np.testing.assert_array_equal(y, [0, 0, 0, 2, np.inf, 0, np.nan])
        assert not np.signbit(y[:6]).any()
        dx = layer.backward(np.array([np.inf, 3.0, 3.0, 3.0, 3.0, np.nan, 3.0]))
        np.testing.assert_array_equal(dx, [0, 0, 0, 3, 3, 0, 0])

    @pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
    @pytest.mark.parametrize("shape", [(2, 3, 4), (0,), ()])
    def test_any_shape_and_dtype(self, dtype, shape):
        layer, x = nn.ReLU(), np.asarray(normal(*shape), dtype)
        y, dx = layer.forward(x), layer.backward(x)
        assert type(y) is type(dx) is np.ndarray
        assert y.dtype == dx.dtype == dtype
        for result in (y, dx):
            np.testing.assert_array_equal(result.astype(float), np.where(x > 0, x, 0).astype(float))


class TestSoftmaxCrossEntropy:
    def test_known_values(self):
        loss = nn.SoftmaxCrossEntropy()
        assert loss.forward(np.zeros((3, 10)), np.array([0, 4, 9])) == pytest.approx(math.log(10), rel=1e-15)
        np.testing.assert_allclose(loss.backward().sum(axis=1), 0, atol=1e-16)
        # log(e^1 + e^2) - 2 = log(1 + 1/e)
        value = loss.forward(np.array([[1.0, 2.0]]), np.array([1]))
        assert value == pytest.approx(math.log1p(math.exp(-1)), rel=1e-15)

    def test_gradient_matches_finite_differences(self):
        loss, logits, labels = nn.SoftmaxCrossEntropy(), normal(6, 4), np.array([0, 1, 2, 3, 0, 1])
        loss.forward(logits, labels)
        dlogits = loss.backward().copy()
        expected = numerical_gradient(lambda: loss.forward(logits, labels), logits)
        np.testing.assert_allclose(dlogits, expected, **GRADIENT_TOLERANCE)

    def test_one_hot_labels_give_the_same_bits(self):
        loss, logits, labels = nn.SoftmaxCrossEntropy(), normal(6, 4), np.array([0, 1, 2, 3, 0, 1])
        by_id = loss.forward(logits, labels), loss.backward().copy()
        for one_hot in (np.eye(4)[labels], np.eye(4, dtype=bool)[labels], np.eye(4, dtype=np.int8)[labels]):
            by_row = loss.forward(logits, one_hot), loss.backward()
            assert by_row[0] == by_id[0]
            np.testing.assert_array_equal(by_row[1], by_id[1])

    def test_large_logits_and_hopeless_samples_stay_finite(self):
        loss = nn.SoftmaxCrossEntropy()
        assert loss.forward(np.array([[1e4, 0.0]], np.float32), np.array([1])) == 1e4
        np.testing.assert_array_equal(loss.backward(), [[1, -1]])

    @pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
    def test_narrow_dtypes_are_computed_in_float32(self, dtype):
        loss, logits, labels = nn.SoftmaxCrossEntropy(), normal(6, 4, dtype=dtype), np.array([0, 1, 2, 3, 0, 1])
        value, dlogits = loss.forward(logits, labels), loss.backward()
        exact = nn.SoftmaxCrossEntropy()
        # exp, log, the sum of four and a division in float32: a few units in the last place of numbers up to 5.
        assert value == pytest.approx(exact.forward(logits.astype(float), labels), abs=5e-6)
        np.testing.assert_allclose(dlogits, exact.backward(), atol=1e-6)
        assert dlogits.dtype == np.float32

    def test_the_caller_keeps_logits_and_labels(self):
        loss, logits, labels = nn.SoftmaxCrossEntropy(), normal(6, 4), np.array([0, 1, 2, 3, 0, 1])
        copies = logits.copy(), labels.copy()
        loss.forward(logits, labels)
        loss.backward()
        np.testing.assert_array_equal(logits, copies[0])
        np.testing.assert_array_equal(labels, copies[1])


class TestSequential:
    def test_names_and_passes(self):
        network, x = nn.Sequential([nn.Dense(4), nn.ReLU(), nn.Sequential([nn.Dense(2)])]), normal(3, 5)
        y = network.forward(x)
        assert list(network.params) == list(network.grads) == ["0.W", "0.b", "2.0.W", "2.0.b"]
        p = network.params
        expected = np.maximum(x @ p["0.W"] + p["0.b"], 0) @ p["2.0.W"] + p["2.0.b"]
        np.testing.assert_allclose(y, expected, rtol=1e-14)

    def test_gradients_match_finite_differences(self):
        network, x, labels = nn.Sequential(nn.Dense(4), nn.ReLU(), nn.Dense(3)), normal(6, 5), np.arange(6) % 3
        loss = nn.SoftmaxCrossEntropy()

        def value():
            return loss.forward(network.forward(x), labels)

        value()
        dx = network.backward(loss.backward()).copy()
        grads = {name: grad.copy() for name, grad in network.grads.items()}
        np.testing.assert_allclose(dx, numerical_gradient(value, x), **GRADIENT_TOLERANCE)
        for name, param in network.params.items():
            np.testing.assert_allclose(grads[name], numerical_gradient(value, param), **GRADIENT_TOLERANCE)

    @pytest.mark.parametrize("transposed", [False, True])
    def test_a_shared_array_is_one_parameter_with_summed_gradients(self, transposed):
        first, second = nn.Dense(4, inputs=4, dtype=float), nn.Dense(4, inputs=4, dtype=float)
        second.params["W"] = first.params["W"].T if transposed else first.params["W"]
        network, x, weight_of_output = nn.Sequential([first, nn.ReLU(), second]), normal(3, 4), normal(3, 4)
        assert list(network.params) == list(network.grads) == ["0.W", "0.b", "2.b"]

        def value():
            return float(np.sum(network.forward(x) * weight_of_output))

        for _ in range(2):  # the sum starts anew at each backward pass
            value()
            network.backward(weight_of_output)
        kept = network.grads["0.W"].copy()
        np.testing.assert_allclose(kept, numerical_gradient(value, network.params["0.W"]), **GRADIENT_TOLERANCE)

    def test_build_makes_all_parameters(self):
        network = nn.Sequential([nn.Dense(4), nn.ReLU(), nn.Dense(3)])
        network.build((128, 5), np.float16)
        assert {name: (p.shape, p.dtype.name) for name, p in network.params.items()} == {
            "0.W": ((5, 4), "float32"), "0.b": ((4,), "float32"), "2.W": ((4, 3), "float32"), "2.b": ((3,), "float32"),
        }  # fmt: skip

    def test_training_reaches_every_layer(self):
        class Recorder:
            params, grads, buffers = {}, {}, {"calls": []}

            def forward(self, x, training=True):
                self.buffers["calls"].append(training)
                return x

            def backward(self, dout):
                return dout

        network = nn.Sequential([nn.Sequential([Recorder()])])
        network.forward(normal(2, 2))
        network.forward(normal(2, 2), training=False)
        assert network.buffers == {"0.0.calls": [True, False]}


def built():
    layer = nn.Dense(3, inputs=4)
    layer.forward(np.ones((5, 4), np.float32))
    return layer


def overlapping():
    first, second = nn.Dense(4, inputs=4), nn.Dense(2, inputs=8)
    second.params["W"] = first.params["W"].reshape(8, 2)
    return nn.Sequential([first, second])


LOSS = nn.SoftmaxCrossEntropy
ONES = np.ones((2, 3))
REUSED = nn.ReLU()

# (call, exception, words of the message: op, argument, expected, got)
MISTAKES = {
    "units 0": (lambda: nn.Dense(0), ValueError, ["nn.Dense", "units", "integer", "0"]),
    "units float": (lambda: nn.Dense(3.0), TypeError, ["nn.Dense", "units", "integer", "3.0"]),
    "inputs": (lambda: nn.Dense(3, inputs=-1), ValueError, ["nn.Dense", "inputs", "integer", "-1"]),
    "init name": (lambda: nn.Dense(3, init="hee"), ValueError, ["nn.Dense", "init", "'he'", "'hee'"]),
    "init shape": (
        lambda: nn.Dense(3, inputs=2, init=lambda shape, generator: np.ones(3)), ValueError, ["init", "(2, 3)", "(3,)"],
    ),
    "dtype": (lambda: nn.Dense(3, dtype=np.int32), TypeError, ["nn.Dense", "dtype", "float32", "int32"]),
    "bias": (lambda: nn.Dense(3, bias=1), TypeError, ["nn.Dense", "bias", "True or False", "1"]),
    "x list": (lambda: nn.Dense(3).forward([[1.0]]), TypeError, ["nn.Dense.forward", "x", "numpy.ndarray", "list"]),
    "x integer": (lambda: nn.Dense(3).forward(np.ones((2, 2), int)), TypeError, ["Dense", "x", "float32", "int64"]),
    "x longdouble": (lambda: nn.ReLU().forward(np.ones(2, np.longdouble)), TypeError, ["ReLU", "x", "float128"]),
    "x big-endian": (lambda: nn.ReLU().forward(np.ones(2, ">f8")), TypeError, ["ReLU", "x", "byte order", ">f8"]),
    "x flat": (lambda: nn.Dense(3).forward(np.ones(4)), ValueError, ["Dense", "x", "2 dimensions", "(4,)"]),
    "x width": (lambda: built().forward(np.ones((5, 3), np.float32)), ValueError, ["x", "(batch, 4)", "(5, 3)"]),
    "x wide": (lambda: built().forward(np.ones((5, 4))), TypeError, ["Dense", "x", "float32", "float64"]),
    "no forward": (lambda: nn.Dense(3).backward(np.ones((5, 3))), RuntimeError, ["nn.Dense.backward", "forward"]),
    "relu no forward": (lambda: nn.ReLU().backward(np.ones(3)), RuntimeError, ["nn.ReLU.backward", "forward"]),
    "dout shape": (lambda: built().backward(np.ones((5, 4), "f4")), ValueError, ["dout", "(5, 3)", "(5, 4)"]),
    "dout dtype": (lambda: built().backward(np.ones((5, 3))), TypeError, ["dout", "float32", "float64"]),
    "logits empty": (lambda: LOSS().forward(np.ones((0, 3)), np.ones(0, int)), ValueError, ["logits", "one sample"]),
    "label 3 of 3": (lambda: LOSS().forward(ONES, np.array([0, 3])), ValueError, ["labels", "0 to 2", "0 to 3"]),
    "label -1": (lambda: LOSS().forward(ONES, np.array([0, -1])), ValueError, ["labels", "0 to 2", "-1"]),
    "labels float": (lambda: LOSS().forward(ONES, np.ones(2)), TypeError, ["labels", "integer", "float64"]),
    "labels list": (lambda: LOSS().forward(ONES, [0, 1]), TypeError, ["labels", "numpy.ndarray", "list"]),
    "labels length": (lambda: LOSS().forward(ONES, np.ones(3, int)), ValueError, ["labels", "(2,)", "(3,)"]),
    "labels two-hot": (lambda: LOSS().forward(ONES, np.ones((2, 3))), ValueError, ["labels", "single 1", "(2, 3)"]),
    "labels halves": (lambda: LOSS().forward(ONES, np.full((2, 3), 0.5)), ValueError, ["labels", "sum 1"]),
    "loss twice": (lambda: [loss := LOSS(), loss.forward(ONES, np.array([0, 1])), loss.backward(), loss.backward()],
                   RuntimeError, ["nn.SoftmaxCrossEntropy.backward", "forward"]),
    "no layer": (lambda: nn.Sequential([nn.ReLU]), TypeError, ["nn.Sequential", "layers[0]", "a layer", "type"]),
    "number": (lambda: nn.Sequential([3]), TypeError, ["nn.Sequential", "layers[0]", "a layer", "3"]),
    "layer twice": (lambda: nn.Sequential([REUSED, REUSED]), ValueError, ["layers[1]", "once", "stands before"]),
    "overlap": (lambda: overlapping().params, ValueError, ["nn.Sequential", "1.W", "0.W", "(8, 2)"]),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(mistake):
    assert_named(*MISTAKES[mistake], "kitae.nn.")
