"""Activations against mpmath, PyTorch and finite differences; extremes; dtypes; the normal distribution function."""

import math

import ml_dtypes
import mpmath
import numpy as np
import pytest

from kitae import nn
from kitae.nn.normal_distribution import normal_cdf
from mistakes import assert_named

RNG = np.random.default_rng(5)

# name: (layer, f over mpmath, units in the last place of float64 that f may be off). NumPy's exp and tanh are within
# 4 units; each further operation adds half a one, and the sigmoid's argument 2 u of GELU's approximation is rounded.
CASES = {
    "Sigmoid": (nn.Sigmoid, lambda x: 1 / (1 + mpmath.exp(-x)), 6),
    "Tanh": (nn.Tanh, mpmath.tanh, 4),
    "ReLU": (nn.ReLU, lambda x: max(x, 0), 0),
    "LeakyReLU": (lambda: nn.LeakyReLU(0.3), lambda x: x if x > 0 else mpmath.mpf(0.3) * x, 0.5),
    "ELU": (lambda: nn.ELU(1.5), lambda x: x if x > 0 else 1.5 * mpmath.expm1(x), 5),
    "SiLU": (nn.SiLU, lambda x: x / (1 + mpmath.exp(-x)), 7),
    "GELU": (nn.GELU, lambda x: x * mpmath.ncdf(x), 6),
    "GELU tanh": (
        lambda: nn.GELU("tanh"),
        lambda x: x * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf(0.044715) * x**3))) / 2,
        200,  # 2 u reaches -66 within these points, and three of its roundings become relative errors of exp(2 u)
    ),
}


def units_off(got, exact):
    """By how many units in its last place (of got's dtype) each result is off."""
    return [
        float(abs(mpmath.mpf(float(value)) - true)) / float(np.spacing(abs(got.dtype.type(float(true)))))
        for value, true in zip(got, exact, strict=True)
    ]


def points(dtype):
    tiny = [0.0, 1e-30, -1e-30, 1e-8, -1e-8, 1.0, -1.0]
    return np.concatenate([np.linspace(-9, 9, 181), RNG.standard_normal(100), tiny]).astype(dtype)


@pytest.mark.parametrize("name", CASES)
class TestElementWise:
    def test_values_in_float64(self, name):
        make, exact, units = CASES[name]
        x = points(np.float64)
        with mpmath.workdps(60):
            off = units_off(make().forward(x), [exact(mpmath.mpf(v)) for v in x.tolist()])
        assert max(off) <= units

    def test_values_in_float32(self, name):
        make, exact, _ = CASES[name]
        x = points(np.float32)
        with mpmath.workdps(60):
            off = units_off(make().forward(x), [exact(mpmath.mpf(v)) for v in x.tolist()])
        # GELU's approximation: as above. The others: NumPy's float32 exp and tanh are within 3 units.
        assert max(off) <= (200 if name == "GELU tanh" else 6)

    def test_derivative_is_that_of_the_function(self, name):
        make, exact, _ = CASES[name]
        x = points(np.float64)
        x = x[np.abs(x) > 1e-6]  # the kinks are tested below
        layer, dout = make(), RNG.standard_normal(x.shape)
        layer.forward(x)
        with mpmath.workdps(60):
            derivative = np.array([float(mpmath.diff(exact, mpmath.mpf(v), h=mpmath.mpf(10) ** -15)) for v in x])
        # |f'| < 2, |f''| < 2, sums of terms of up to 9 in size: a few of their roundings.
        np.testing.assert_allclose(layer.backward(dout), dout * derivative, rtol=1e-14, atol=3e-15)

    def test_extremes_without_warnings(self, name):
        layer = CASES[name][0]()
        for dtype in (np.float32, np.float64):
            largest = np.finfo(dtype).max
            x = np.array([-np.inf, -largest, -1e4, -0.0, 0.0, 1e4, largest, np.inf, np.nan], dtype)
            y = layer.forward(x)
            bounded = isinstance(layer, (nn.Sigmoid, nn.Tanh))
            top = np.ones(3) if bounded else x[5:8]
            low = {"Tanh": -1.0, "ELU": -1.5}.get(name, 0.0)
            bottom = x[:3] * dtype(0.3) if name == "LeakyReLU" else np.full(3, low)
            middle = np.full(2, 0.5 if name == "Sigmoid" else 0.0)
            np.testing.assert_array_equal(y, np.concatenate([bottom, middle, top, [np.nan]]).astype(dtype))
            dx = layer.backward(np.ones_like(x))
            slope = dtype(0.3) if name == "LeakyReLU" else 0
            steep = 0 if bounded else 1
            np.testing.assert_array_equal(dx[[0, 1, 2, 5, 6, 7]], np.array([slope] * 3 + [steep] * 3, dtype))

    @pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
    @pytest.mark.parametrize("shape", [(2, 3, 4), (0, 3), (), (3, 9001)])  # the last is cut into blocks
    def test_any_shape_and_dtype(self, name, dtype, shape):
        layer, exact = CASES[name][0](), CASES[name][0]()
        x, dout = (np.asarray(RNG.standard_normal(shape)).astype(dtype) for _ in range(2))
        y, dx = layer.forward(x), layer.backward(dout)
        assert type(y) is type(dx) is np.ndarray
        assert y.dtype == dx.dtype == dtype
        assert y.shape == dx.shape == shape
        # What is kept (x or y) has x's dtype: the derivative sees it rounded, and changes by less than twice that.
        eps = float(ml_dtypes.finfo(dtype).eps)
        wide = exact.forward(x.astype(np.float64))
        np.testing.assert_allclose(y.astype(float), wide, rtol=16 * eps, atol=eps / 16)
        np.testing.assert_allclose(
            dx.astype(float), exact.backward(dout.astype(np.float64)), rtol=16 * eps, atol=16 * eps
        )

    def test_memory_order_and_the_callers_arrays(self, name):
        layer = CASES[name][0]()
        x, dout = RNG.standard_normal((4, 5)).T[::2], RNG.standard_normal((3, 4))
        copies = x.copy(), dout.copy()
        y, dx = layer.forward(x), layer.backward(dout)
        again = CASES[name][0]()
        np.testing.assert_array_equal(y, again.forward(x.copy()))
        np.testing.assert_array_equal(dx, again.backward(dout))
        np.testing.assert_array_equal(x, copies[0])
        np.testing.assert_array_equal(dout, copies[1])
        assert not np.shares_memory(y, x)
        assert not np.shares_memory(dx, dout)
        assert not np.shares_memory(dx, y)

    def test_mixed_dtypes_are_computed_in_the_wider(self, name):
        layer, exact = CASES[name][0](), CASES[name][0]()
        x, dout = RNG.standard_normal(50).astype(np.float32), RNG.standard_normal(50)
        layer.forward(x)
        exact.forward(x.astype(np.float64))
        dx = layer.backward(dout)
        assert dx.dtype == np.float64
        np.testing.assert_allclose(dx, exact.backward(dout), rtol=1e-6, atol=1e-6)  # what is kept is float32

    @pytest.mark.requires_torch
    def test_pytorch_agrees(self, name):
        import torch

        functions = torch.nn.functional
        peers = {
            "Sigmoid": torch.sigmoid, "Tanh": torch.tanh, "ReLU": torch.relu,
            "LeakyReLU": lambda x: functions.leaky_relu(x, 0.3), "ELU": lambda x: functions.elu(x, 1.5),
            "SiLU": functions.silu, "GELU": functions.gelu,
            "GELU tanh": lambda x: functions.gelu(x, approximate="tanh"),
        }  # fmt: skip
        x, dout = points(np.float64), RNG.standard_normal(288)
        tensor = torch.tensor(x, requires_grad=True)
        expected = peers[name](tensor)
        expected.backward(torch.tensor(dout))
        layer = CASES[name][0]()
        # PyTorch's GELU cancels in 1 + erf for negative x: an error of eps times |x|.
        np.testing.assert_allclose(layer.forward(x), expected.detach().numpy(), rtol=1e-14, atol=1e-15)
        np.testing.assert_allclose(layer.backward(dout), tensor.grad.numpy(), rtol=1e-13, atol=1e-14)


def test_derivatives_at_the_kinks():
    x = np.array([-0.0, 0.0])
    for layer, expected in ((nn.ReLU(), 0), (nn.LeakyReLU(0.25), 0.25), (nn.ELU(0.5), 0.5)):
        layer.forward(x)
        np.testing.assert_array_equal(layer.backward(np.ones(2)), [expected, expected])


def test_the_two_gelus_differ_as_published():
    # PyTorch's documentation and the paper call them close: their largest distance, 4.73e-4 near |x| = 2.27, is a
    # property of the two functions, from mpmath.
    x = np.linspace(-5, 5, 100_001)
    assert np.abs(nn.GELU().forward(x) - nn.GELU("tanh").forward(x)).max() == pytest.approx(4.73e-4, abs=1e-6)


def test_swish_is_silu():
    assert nn.Swish is nn.SiLU


class TestNormalDistributionFunction:
    @pytest.mark.parametrize(("dtype", "farthest", "units"), [(np.float64, 37.5, 5), (np.float32, 13.0, 0.51)])
    def test_error_against_mpmath(self, dtype, farthest, units):
        x = np.concatenate(
            [RNG.uniform(-farthest, farthest, 700), RNG.standard_normal(700), RNG.uniform(-6, 0, 600), [0.0, -0.0]]
        ).astype(dtype)
        with mpmath.workdps(60):
            off = units_off(normal_cdf(x), [mpmath.ncdf(mpmath.mpf(v)) for v in x.tolist()])
        assert max(off) <= units

    def test_known_values(self):
        # Abramowitz and Stegun, table 26.1: Phi(1), Phi(2), Phi(3).
        np.testing.assert_allclose(
            normal_cdf(np.array([1.0, 2.0, 3.0])), [0.841344746068543, 0.977249868051821, 0.998650101968370], rtol=1e-14
        )
        np.testing.assert_array_equal(normal_cdf(np.array([-np.inf, 0, np.inf, np.nan])), [0, 0.5, 1, np.nan])

    def test_out_may_be_the_argument(self):
        x = RNG.standard_normal(20_000)
        expected = normal_cdf(x)
        assert normal_cdf(x, out=x) is x
        np.testing.assert_array_equal(x, expected)


class TestSoftmax:
    @pytest.mark.parametrize("axis", [0, 1, -1])
    def test_values_and_gradient(self, axis):
        layer, x, dout = nn.Softmax(axis), 4 * RNG.standard_normal((3, 4, 5)), RNG.standard_normal((3, 4, 5))
        rows = np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis]).tolist()
        expected = [[math.exp(v) / math.fsum(map(math.exp, row)) for v in row] for row in rows]
        y = layer.forward(x)
        # exp of up to 12, a sum of 5, a division: a few eps, and eps times the maximum that is subtracted.
        np.testing.assert_allclose(np.moveaxis(y, axis, -1).reshape(len(rows), -1), expected, rtol=1e-14)
        dx, step = layer.backward(dout), 1e-6
        for index in [(0, 0, 0), (2, 3, 4), (1, 2, 3)]:
            above, below = x.copy(), x.copy()
            above[index] += step
            below[index] -= step
            slope = np.sum((nn.Softmax(axis).forward(above) - nn.Softmax(axis).forward(below)) * dout) / (2 * step)
            # Central differences: rounding (1e-16 of size 10) over the step.
            assert dx[index] == pytest.approx(slope, abs=1e-9)

    @pytest.mark.requires_torch
    def test_pytorch_agrees(self):
        import torch

        x, dout = RNG.standard_normal((6, 7)), RNG.standard_normal((6, 7))
        tensor = torch.tensor(x, requires_grad=True)
        expected = torch.softmax(tensor, 1)
        expected.backward(torch.tensor(dout))
        layer = nn.Softmax()
        np.testing.assert_allclose(layer.forward(x), expected.detach().numpy(), rtol=1e-14)
        np.testing.assert_allclose(layer.backward(dout), tensor.grad.numpy(), rtol=1e-13, atol=1e-16)

    def test_extremes_without_warnings(self):
        x = np.array([[1e4, -1e4, 0], [-np.inf, 0, 0], [np.nan, 0, 0], [np.inf, 0, 0]], np.float32)
        y = nn.Softmax().forward(x)
        np.testing.assert_array_equal(y[:2], [[1, 0, 0], [0, 0.5, 0.5]])
        assert np.isnan(y[2]).all()
        assert np.isnan(y[3, 0])

    @pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
    def test_narrow_dtypes(self, dtype):
        x, dout = (RNG.standard_normal((8, 5)).astype(dtype) for _ in range(2))
        layer, exact = nn.Softmax(), nn.Softmax()
        y, dx = layer.forward(x), layer.backward(dout)
        assert y.dtype == dx.dtype == dtype
        eps = float(ml_dtypes.finfo(dtype).eps)
        np.testing.assert_allclose(y.astype(float), exact.forward(x.astype(float)), rtol=4 * eps)
        # y is kept rounded; dout - sum is of size 3.
        np.testing.assert_allclose(dx.astype(float), exact.backward(dout.astype(float)), atol=4 * eps)


MISTAKES = {
    "slope 0": (lambda: nn.LeakyReLU(0), ValueError, ["nn.LeakyReLU", "slope", "(0, inf)", "0"]),
    "slope NaN": (lambda: nn.LeakyReLU(math.nan), ValueError, ["nn.LeakyReLU", "slope", "nan"]),
    "alpha": (lambda: nn.ELU(-1.0), ValueError, ["nn.ELU", "alpha", "(0, inf)", "-1"]),
    "alpha text": (lambda: nn.ELU("1"), TypeError, ["nn.ELU", "alpha", "'1'"]),
    "approximate": (lambda: nn.GELU("erf"), ValueError, ["nn.GELU", "approximate", "'tanh'", "'erf'"]),
    "approximate None": (lambda: nn.GELU(None), ValueError, ["nn.GELU", "approximate", "'none'", "None"]),
    "axis": (lambda: nn.Softmax(1.0), TypeError, ["nn.Softmax", "axis", "integer", "1.0"]),
    "axis of x": (lambda: nn.Softmax(2).forward(np.ones((2, 2))), ValueError, ["Softmax.forward", "axis", "[-2, 1]"]),
    "empty axis": (lambda: nn.Softmax().forward(np.ones((2, 0))), ValueError, ["x", "at least one", "(2, 0)"]),
    "x integer": (lambda: nn.Tanh().forward(np.ones(2, int)), TypeError, ["nn.Tanh.forward", "x", "float32", "int64"]),
    "x list": (lambda: nn.GELU().forward([1.0]), TypeError, ["nn.GELU.forward", "x", "numpy.ndarray", "list"]),
    "no forward": (lambda: nn.SiLU().backward(np.ones(2)), RuntimeError, ["nn.SiLU.backward", "forward"]),
    "dout": (
        lambda: [a := nn.ELU(), a.forward(np.ones(3)), a.backward(np.ones((3, 1)))], ValueError,
        ["nn.ELU.backward", "dout", "(3,)", "(3, 1)"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(mistake):
    assert_named(*MISTAKES[mistake], "kitae.nn.")
