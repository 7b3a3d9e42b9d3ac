"""Batch normalization: values against float64 and PyTorch, bits against the reference, and what is refused."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kitae
from guard_bands import Guarded
from kitae import _dispatch
from shifted_channels import CHANNEL_LAYOUTS, SEQUENCES, arranged_channels, channels_about_shifts

ml_dtypes = pytest.importorskip("ml_dtypes")

DTYPES = (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)
ACTIVATIONS = (None, "relu", "leaky_relu")
SLOPE = 0.2

# (shape, axis, layout): every order of memory, one row and many chunks of both reductions, lanes that are not full.
LAYOUTS = (
    ((1, 1), 1, "C"),
    ((1, 5), 1, "C"),
    ((7, 13), 1, "C"),
    ((300, 17), 1, "C"),
    ((700, 130), 1, "C"),
    ((5000, 3), 1, "C"),
    ((33, 17), 1, "F"),
    ((6, 9), 0, "C"),
    ((2, 3, 5, 7), 1, "C"),
    ((2, 3, 5, 7), 1, "channels_last"),
    ((2, 3, 5, 7), 1, "F"),
    ((2, 5, 7, 19), -1, "C"),
    ((3, 1, 5), 1, "C"),
    ((4, 3, 11), 1, "every_other"),
    ((4, 3, 11), 1, "reversed"),
    ((2, 3, 2, 3, 5), 1, "C"),
    ((45, 9, 14, 13), 1, "C"),
    ((9, 35, 30, 31), 1, "C"),
    ((1, 3, 70001), 1, "C"),
    ((2, 600, 3), 1, "C"),
    ((2, 1100), 1, "C"),
    ((0, 4), 1, "C"),
    ((3, 0), 1, "C"),
    ((2, 3, 0), 1, "C"),
)


def arranged(array: np.ndarray, layout: str) -> np.ndarray:
    """The same values in another order of memory."""
    if layout == "F":
        return np.asfortranarray(array)
    if layout == "channels_last":
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1)
    if layout == "every_other":
        wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
        wide[..., ::2] = array
        return wide[..., ::2]
    if layout == "reversed":
        return np.ascontiguousarray(array[::-1])[::-1]
    return np.ascontiguousarray(array)


class Inputs:
    """Arguments of one call, and the call itself."""

    def __init__(
        self,
        rng: np.random.Generator,
        shape: tuple[int, ...],
        axis: int = 1,
        dtype: Any = np.float32,
        layout: str = "C",
        *,
        residual: bool = False,
        mean: float = 3.0,
    ) -> None:
        channels = shape[axis]
        kind = np.float32 if np.dtype(dtype).itemsize == 2 else dtype
        self.axis = axis
        self.x = arranged((rng.standard_normal(shape) * 2 + mean).astype(dtype), layout)
        self.gamma = rng.uniform(-1.5, 1.5, channels).astype(kind)
        self.beta = rng.standard_normal(channels).astype(kind)
        self.running_mean = rng.standard_normal(channels).astype(kind)
        self.running_var = rng.uniform(0.5, 2, channels).astype(kind)
        self.residual = arranged(rng.standard_normal(shape).astype(dtype), layout) if residual else None
        self.dout = arranged(rng.standard_normal(shape).astype(dtype), layout)

    def forward(self, **options: Any) -> tuple[np.ndarray, kitae.Saved]:
        vectors = self.gamma, self.beta, self.running_mean, self.running_var
        options = {"training": True, "axis": self.axis, "residual": self.residual, "slope": SLOPE, **options}
        return kitae.batch_norm(self.x, *vectors, **options)

    def arrays(self) -> list[np.ndarray]:
        return [value for value in vars(self).values() if isinstance(value, np.ndarray)]

    def everything(self, **options: Any) -> list[np.ndarray]:
        """All results of a forward and a backward pass on fresh running statistics."""
        mean, var = self.running_mean.copy(), self.running_var.copy()
        try:
            y, saved = self.forward(**options)
            gradients = kitae.batch_norm_backward(self.dout, saved)
            return [y, saved.mean, saved.inv_std, self.running_mean, self.running_var, *gradients]
        finally:
            self.running_mean, self.running_var = mean, var


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """The same dtype, shape and bits; a NaN is like any other."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    integer = f"u{a.itemsize}"
    a_bits, b_bits = np.ascontiguousarray(a).view(integer), np.ascontiguousarray(b).view(integer)
    wide = a.astype(np.float64), b.astype(np.float64)
    return bool(np.all((a_bits == b_bits) | (np.isnan(wide[0]) & np.isnan(wide[1]))))


def oracle(inputs: Inputs, *, activation: str | None = None, training: bool = True, eps: float = 1e-5) -> np.ndarray:
    """y in long double, by the formula of the paper, x counted from a point nearby: long double sums round too."""
    x = inputs.x.astype(np.longdouble)
    origin = x.reshape(-1)[0] if x.size else np.longdouble(0)
    x = x - origin
    axes = tuple(i for i in range(x.ndim) if i != inputs.axis % x.ndim)
    along = [1] * x.ndim
    along[inputs.axis] = -1

    def spread(vector: np.ndarray) -> np.ndarray:
        return vector.astype(np.longdouble).reshape(along)

    mean = x.mean(axis=axes, keepdims=True) if training else spread(inputs.running_mean) - origin
    var = np.square(x - mean).mean(axis=axes, keepdims=True) if training else spread(inputs.running_var)
    z = spread(inputs.gamma) * (x - mean) / np.sqrt(var + np.longdouble(eps)) + spread(inputs.beta)
    if inputs.residual is not None:
        z = z + inputs.residual.astype(np.longdouble)
    slope = {None: 1.0, "relu": 0.0, "leaky_relu": SLOPE}[activation]
    return np.where(z > 0, z, slope * z)


def assert_within_ulps(y: np.ndarray, expected: np.ndarray, beta: np.ndarray, ulps: float, extra: Any = 0) -> None:
    """Of the largest of |y|, |beta| and |y - beta|: the sizes that the last steps are rounded at."""
    scale = np.maximum(np.maximum(np.abs(expected), np.abs(beta)), np.abs(expected - beta)).astype(y.dtype)
    allowed = ulps * np.spacing(scale).astype(np.longdouble) + extra
    assert np.all(np.abs(y.astype(np.longdouble) - expected) <= allowed)


def run_on(backend: Any) -> Any:
    return kitae.use_backend(backend.__name__.rpartition(".")[2].removeprefix("_"))


# ---- bits


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize(("shape", "axis", "layout"), LAYOUTS)
def test_native_code_has_the_bits_of_the_reference(
    rng: np.random.Generator, shape: tuple[int, ...], axis: int, layout: str, dtype: Any
) -> None:
    for activation, residual, training in itertools.product(ACTIVATIONS, (False, True), (True, False)):
        inputs = Inputs(rng, shape, axis, dtype, layout, residual=residual)
        options = {"activation": activation, "training": training}
        with kitae.use_backend("reference"):
            expected = inputs.everything(**options)
        with kitae.use_backend("cpu"):
            got = inputs.everything(**options)
        assert len(expected) == 8 + residual
        for one, other in zip(expected, got, strict=True):
            assert same_bits(one, other), options
            assert one.strides == other.strides


# Rows of 17 elements or of 4 lanes and a rest overlap in their last lanes, which are read before anything is written.
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(1, 3, 17), (2, 3, 7, 11), (45, 9, 14, 13), (3, 5, 32)])
def test_in_place_has_the_bits_of_the_reference(
    rng: np.random.Generator, shape: tuple[int, ...], activation: str | None, dtype: Any
) -> None:
    inputs = Inputs(rng, shape, dtype=dtype)
    for training in (True, False):
        with kitae.use_backend("reference"):
            expected, saved = inputs.forward(training=training, activation=activation)
            gradients = kitae.batch_norm_backward(inputs.dout, saved)
        dout = inputs.dout.copy()
        _, saved = inputs.forward(training=training, activation=activation)
        for one, other in zip(gradients, kitae.batch_norm_backward(dout, saved, out=dout), strict=True):
            assert same_bits(one, other)
    kitae.batch_norm(
        inputs.x,
        inputs.gamma,
        inputs.beta,
        inputs.running_mean,
        inputs.running_var,
        training=False,
        activation=activation,
        slope=SLOPE,
        out=inputs.x,
    )
    assert same_bits(inputs.x, expected)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("shape", "axis"), [((2000, 70), 1), ((40, 3000), 1), ((6, 40, 30, 31), 1), ((3, 3, 40001), 1), ((700, 1, 90), 1)]
)
def test_threads_change_no_bit(rng: np.random.Generator, shape: tuple[int, ...], axis: int, training: bool) -> None:
    inputs = Inputs(rng, shape, axis, residual=True)
    results = []
    for threads in (1, 2, 3, 4, 7, 8, 16):
        kitae.set_num_threads(threads)
        for out in (None, np.empty_like(inputs.x)):  # two orders of work
            results.append(inputs.everything(activation="relu", training=training, out=out))
    for result in results[1:]:
        assert all(same_bits(a, b) for a, b in zip(results[0], result, strict=True))


DIGEST = """
import hashlib
import numpy as np
import kitae
rng = np.random.default_rng(7)
digest = hashlib.sha256()
for dtype in (np.float32, np.float64, np.float16):
    for shape, axis in (((300, 37), 1), ((5, 7, 9, 11), 1), ((5, 9, 11, 7), -1), ((2, 3, 9001), 1)):
        for activation, residual in ((None, False), ("relu", False), ("leaky_relu", True)):
            x, r, dout = (rng.standard_normal(shape).astype(dtype) for _ in range(3))
            gamma, beta, mean, var = (rng.uniform(0.5, 1.5, shape[axis]).astype(np.float32) for _ in range(4))
            y, saved = kitae.batch_norm(
                x, gamma, beta, mean, var,
                training=True, axis=axis, activation=activation, residual=r if residual else None,
            )
            for array in (y, mean, var, *kitae.batch_norm_backward(dout, saved)):
                digest.update(array.tobytes())
print(kitae._dispatch.cpu().variant, digest.hexdigest())
"""


def test_every_instruction_set_has_the_same_bits(run_python: Callable[..., str]) -> None:
    from kitae import _isa

    results = {variant: run_python(DIGEST, KITAE_CPU_ISA=variant).split() for variant in _isa.supported()}
    assert all(ran == asked for asked, (ran, _) in results.items())
    assert len({digest for _, digest in results.values()}) == 1


@pytest.mark.parametrize("layout", CHANNEL_LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_what_sums_are_taken_from(rng: np.random.Generator, dtype: Any, layout: str) -> None:
    """Float64 parameters have gradients in which every bit of the sums is seen."""
    for (outer, inner), activation in itertools.product(SEQUENCES, (None, "relu")):
        x, axis = arranged_channels(channels_about_shifts(outer * inner, rng), outer, inner, layout)
        x, dout = x.astype(dtype), rng.standard_normal(x.shape).astype(dtype)
        gamma, beta = rng.standard_normal((2, x.shape[axis]))
        results = []
        for backend in ("reference", "cpu"):
            with kitae.use_backend(backend):
                y, saved = kitae.batch_norm(
                    x, gamma, beta, None, None, training=True, axis=axis, nonfinite="propagate", activation=activation
                )
                results.append((y, saved.mean, saved.inv_std, *kitae.batch_norm_backward(dout, saved)))
        names = ("y", "mean", "inv_std", "dx", "dgamma", "dbeta")
        for name, one, other in zip(names, *results, strict=True):
            np.testing.assert_array_equal(
                other.astype(np.float64), one.astype(np.float64), f"{name}, ({outer}, {inner}), {activation}"
            )


# ---- values


def test_variance_costs_what_moments_promise(rng: np.random.Generator) -> None:
    """Of n elements at most n (from x0) or 66 n (from 0) variances cancel; sums round 256 + 4 + n / 4096 times."""
    n = 1 << 16
    x = rng.standard_normal((n, 40)).astype(np.float32)
    x[:, :20] += np.repeat([0.0, 0.5, 1, 2, 3, 5, 30, 1e3, 1e5, 1e7], 2).astype(np.float32)
    x[:, 20:] = rng.uniform(0.1, 1, 20)
    x[n // 8 * rng.integers(1, 8, 20), range(20, 40)] *= np.tile([1.2, 1.26, 0.74, 0.5, -3], 4).astype(np.float32)
    wide = x.astype(np.longdouble)
    variance = np.square(wide - wide.mean(0)).mean(0)
    samples = x[:: n // 8]
    far = (np.abs(samples[1:] - samples[0]) >= np.abs(samples[0]) / 4).any(0)
    cancels = np.square(wide - np.where(far, 0, wide[0])).mean(0) / variance
    assert far[:10].all()
    assert (~far[14:20]).all()
    assert (far[20:] == np.tile([False, True, True, True, True], 4)).all()
    assert (cancels <= 1 + np.where(far, 66, 1) * n).all()
    _, saved = kitae.batch_norm(x, None, None, None, None, training=True, eps=0)
    error = np.abs(saved.inv_std.astype(np.longdouble) ** -2 - variance) / variance
    assert (error <= 2 * (260 + n / 4096) * 2.0**-53 * cancels).all()


@pytest.mark.parametrize("mean", [0.0, 1e3, 1e4, 1e5, 1e6])
@pytest.mark.parametrize("shape", [(512, 64), (8, 16, 28, 29)])
def test_within_two_ulps_at_any_mean(
    backend: Any, rng: np.random.Generator, shape: tuple[int, ...], mean: float
) -> None:
    """d = x - center rounds by an ulp at most (not at all near a large mean), its product by one, a sum by a half."""
    inputs = Inputs(rng, shape)
    inputs.x = (mean + rng.standard_normal(shape)).astype(np.float32)
    inputs.running_mean += np.float32(mean)
    beta = inputs.beta.astype(np.longdouble).reshape([1, -1] + [1] * (len(shape) - 2))
    for training in (False, True):
        expected = oracle(inputs, training=training)
        with run_on(backend):
            y, _ = inputs.forward(training=training)
        assert_within_ulps(y, expected, beta, 2 if mean else 3)


@pytest.mark.parametrize("mean", [0.0, 1e3, 1e6])
@pytest.mark.parametrize("shape", [(512, 64), (8, 16, 28, 29)])
def test_float64_is_as_exact_as_its_sums(rng: np.random.Generator, shape: tuple[int, ...], mean: float) -> None:
    inputs = Inputs(rng, shape, dtype=np.float64)
    inputs.x = mean + rng.standard_normal(shape)
    along = [1, -1] + [1] * (len(shape) - 2)
    y, saved = inputs.forward()
    # n rounded terms: a random walk of sqrt(n) roundings, over the distances from the first element. Three times that.
    n = inputs.x.size // shape[1]
    deviation = np.moveaxis(inputs.x, 1, 0).reshape(shape[1], -1)
    deviation = deviation - deviation[:, :1]
    walk = 3 * np.finfo(np.float64).eps * np.sqrt(n)
    gain = np.abs(inputs.gamma) * saved.inv_std
    of_mean = (walk * gain * np.abs(deviation).mean(1)).reshape(along)
    of_variance = (walk * np.square(deviation).mean(1) * saved.inv_std**2).reshape(along)
    beta = inputs.beta.astype(np.longdouble).reshape(along)
    expected = oracle(inputs)
    assert_within_ulps(y, expected, beta, 4, of_mean + np.abs(expected - beta) * of_variance)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("residual", [False, True])
def test_activation_and_residual(rng: np.random.Generator, activation: str | None, residual: bool) -> None:
    inputs = Inputs(rng, (64, 3, 7, 9), dtype=np.float64, residual=residual)
    y, _ = inputs.forward(activation=activation)
    # Three more roundings, each half an ulp of numbers below 16.
    np.testing.assert_allclose(y, oracle(inputs, activation=activation).astype(np.float64), rtol=0, atol=1e-14)


def test_sixteen_bits_are_float32_rounded_once(rng: np.random.Generator) -> None:
    for dtype in (np.float16, ml_dtypes.bfloat16):
        inputs = Inputs(rng, (200, 3, 17), dtype=dtype)
        y, _ = inputs.forward()
        inputs.x = inputs.x.astype(np.float32)
        inputs.running_mean[:], inputs.running_var[:] = 0, 1
        wide, _ = inputs.forward()
        assert same_bits(y, wide.astype(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize("value", [1e7, 100.0, 1.0 / 3, 0.0, -1e30])
def test_constant_channel_is_exactly_beta(value: float, dtype: Any) -> None:
    if dtype == np.float16:
        value /= 1e30 if abs(value) > 65504 else 1
    for shape in ((37, 3), (5, 3, 10, 11)):
        x = np.full(shape, value, dtype)
        beta = np.array([0.1, -7.0, 1e-5], np.float32)
        gamma = np.array([3.0, -1.0, 1e5], np.float32)
        y, _ = kitae.batch_norm(x, gamma, beta, None, None, training=True)
        expected = np.broadcast_to(beta.reshape([1, 3] + [1] * (x.ndim - 2)), shape).astype(dtype)
        assert same_bits(y, expected)
        y, _ = kitae.batch_norm(x, gamma, beta, None, None, training=True, eps=0)
        assert same_bits(y, expected)


def test_plus_minus_1e30() -> None:
    x = np.array([[1e30], [-1e30], [1e30], [-1e30]], np.float32)
    running_var = np.ones(1, np.float32)
    y, saved = kitae.batch_norm(x, None, None, np.zeros(1, np.float32), running_var, training=True)
    np.testing.assert_array_max_ulp(y, np.sign(x), 2)
    dout = np.array([[1.0], [2.0], [3.0], [5.0]], np.float32)
    dx, dgamma, dbeta = kitae.batch_norm_backward(dout, saved)
    # xhat is the sign: dx = (dout - mean(dout) - xhat mean(dout xhat)) / 1e30.
    expected = (dout - 2.75 - np.sign(x) * -0.75) / np.float32(1e30)
    np.testing.assert_allclose(dx, expected, rtol=1e-6)
    assert dgamma[0] == -3
    assert dbeta[0] == 11
    assert np.isinf(running_var[0])  # 4/3 1e60 is beyond float32


@pytest.mark.parametrize("size", [1e160, 1e200, 1e300])
def test_float64_sums_that_overflow(backend: Any, rng: np.random.Generator, size: float) -> None:
    pattern = rng.standard_normal((50, 2, 9))
    plain, plain_saved = kitae.batch_norm(pattern, None, None, None, None, training=True, eps=0)
    with run_on(backend):
        y, saved = kitae.batch_norm(pattern * size, None, None, None, None, training=True, eps=0)
    np.testing.assert_allclose(y, plain, rtol=0, atol=1e-14)
    np.testing.assert_allclose(saved.inv_std, plain_saved.inv_std / size, rtol=1e-14)


def finite_difference(f: Callable[[], float], array: np.ndarray, step: float = 1e-6) -> np.ndarray:
    gradient = np.empty(array.shape)
    for index in np.ndindex(array.shape):
        value = array[index]
        array[index] = value + step
        above = f()
        array[index] = value - step
        below = f()
        array[index] = value
        gradient[index] = (above - below) / (2 * step)
    return gradient


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(("shape", "axis"), [((9, 5), 1), ((3, 2, 3, 4), 1), ((3, 4, 2), 2)])
def test_gradients_by_finite_differences(
    rng: np.random.Generator, shape: tuple[int, ...], axis: int, residual: bool, activation: str | None, training: bool
) -> None:
    inputs = Inputs(rng, shape, axis, np.float64, residual=residual)
    options = {"training": training, "activation": activation}
    running = inputs.running_mean.copy(), inputs.running_var.copy()

    def loss() -> float:
        inputs.running_mean[:], inputs.running_var[:] = running
        return float(np.sum(inputs.forward(**options)[0] * inputs.dout))

    loss()
    inputs.running_mean[:], inputs.running_var[:] = running
    _, saved = inputs.forward(**options)
    gradients = kitae.batch_norm_backward(inputs.dout, saved)
    targets = [inputs.x, inputs.gamma, inputs.beta, *([inputs.residual] if residual else [])]
    assert len(gradients) == len(targets)
    for gradient, target in zip(gradients, targets, strict=True):
        # Central differences: step^2 f''' / 6 plus eps |loss| / step, both below 1e-8 for values of order one.
        np.testing.assert_allclose(gradient, finite_difference(loss, target), rtol=1e-6, atol=1e-7)


def test_gradients_are_as_exact_as_their_sums(rng: np.random.Generator) -> None:
    """float32 at mean 1e4 against the float64 gradient of the same numbers."""
    inputs = Inputs(rng, (64, 3, 20, 21), mean=1e4)
    _, saved = inputs.forward()
    dx, dgamma, dbeta = kitae.batch_norm_backward(inputs.dout, saved)
    wide = Inputs(rng, (1, 3))
    for name, value in vars(inputs).items():
        setattr(wide, name, value.astype(np.longdouble) if isinstance(value, np.ndarray) else value)
    axes = (0, 2, 3)
    mean = wide.x.mean(axes, keepdims=True)
    inv_std = 1 / np.sqrt(np.square(wide.x - mean).mean(axes, keepdims=True) + np.longdouble(1e-5))
    xhat = (wide.x - mean) * inv_std
    expected_beta, expected_gamma = wide.dout.sum(axes), (wide.dout * xhat).sum(axes)
    np.testing.assert_array_max_ulp(dbeta, expected_beta.astype(np.float32), 1)
    np.testing.assert_array_max_ulp(dgamma, expected_gamma.astype(np.float32), 1)
    centered = wide.dout - wide.dout.mean(axes, keepdims=True) - xhat * (wide.dout * xhat).mean(axes, keepdims=True)
    expected = wide.gamma.reshape(1, 3, 1, 1) * inv_std * centered
    # Four roundings at the size of dout times the gain.
    assert np.max(np.abs(dx - expected)) <= 4 * 2.0**-24 * np.max(np.abs(expected)) * 2


@pytest.mark.requires_torch
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(30, 7), (6, 5, 8), (4, 3, 6, 5), (2, 3, 4, 3, 2)])
def test_pytorch_agrees(rng: np.random.Generator, shape: tuple[int, ...], training: bool) -> None:
    import torch

    inputs = Inputs(rng, shape, dtype=np.float64)
    mean, var = torch.tensor(inputs.running_mean), torch.tensor(inputs.running_var)
    x, gamma, beta = (torch.tensor(a, requires_grad=True) for a in (inputs.x, inputs.gamma, inputs.beta))
    expected = torch.nn.functional.batch_norm(x, mean, var, gamma, beta, training, 0.1, 1e-5)
    expected.backward(torch.tensor(inputs.dout))
    y, saved = inputs.forward(training=training)
    dx, dgamma, dbeta = kitae.batch_norm_backward(inputs.dout, saved)
    close = {"rtol": 1e-12, "atol": 1e-12}
    np.testing.assert_allclose(y, expected.detach().numpy(), **close)
    np.testing.assert_allclose(inputs.running_mean, mean.numpy(), **close)
    np.testing.assert_allclose(inputs.running_var, var.numpy(), **close)
    for got, tensor in ((dx, x), (dgamma, gamma), (dbeta, beta)):
        np.testing.assert_allclose(got, tensor.grad.numpy(), **close)


@pytest.mark.parametrize("unbiased", [True, False])
def test_running_statistics(rng: np.random.Generator, unbiased: bool) -> None:
    inputs = Inputs(rng, (10, 3, 4), dtype=np.float64)
    mean, var = inputs.running_mean.copy(), inputs.running_var.copy()
    inputs.forward(unbiased=unbiased, running_decay=0.75)
    batch = np.moveaxis(inputs.x, 1, 0).reshape(3, -1)
    np.testing.assert_allclose(inputs.running_mean, 0.75 * mean + 0.25 * batch.mean(1), rtol=1e-13)
    np.testing.assert_allclose(inputs.running_var, 0.75 * var + 0.25 * batch.var(1, ddof=int(unbiased)), rtol=1e-13)


def test_none_is_one_and_zero(rng: np.random.Generator) -> None:
    inputs = Inputs(rng, (20, 3), dtype=np.float16)
    plain, saved = kitae.batch_norm(inputs.x, None, None, None, None, training=True)
    ones, zeros = np.ones(3, np.float32), np.zeros(3, np.float32)
    explicit, explicit_saved = kitae.batch_norm(inputs.x, ones, zeros, None, None, training=True)
    assert same_bits(plain, explicit)
    pairs = zip(
        kitae.batch_norm_backward(inputs.dout, saved),
        kitae.batch_norm_backward(inputs.dout, explicit_saved),
        strict=True,
    )
    assert all(same_bits(a, b) for a, b in pairs)


def test_dtypes_of_gradients(rng: np.random.Generator) -> None:
    for dtype, gamma, beta in itertools.product(
        (np.float32, np.float64, np.float16), (np.float32, np.float64, None), (np.float32, np.float64, None)
    ):
        inputs = Inputs(rng, (20, 3), dtype=dtype)
        inputs.gamma = None if gamma is None else inputs.gamma.astype(gamma)
        inputs.beta = None if beta is None else inputs.beta.astype(beta)
        _, saved = inputs.forward()
        dx, dgamma, dbeta = kitae.batch_norm_backward(inputs.dout, saved)
        default = np.float64 if dtype == np.float64 else np.float32
        assert (dx.dtype, dgamma.dtype, dbeta.dtype) == (dtype, gamma or default, beta or default)


def test_parameters_of_16_bits_are_rounded_once(rng: np.random.Generator) -> None:
    for dtype in (np.float16, ml_dtypes.bfloat16):
        inputs = Inputs(rng, (400, 37), dtype=dtype)
        for name in ("gamma", "beta", "running_mean", "running_var"):
            setattr(inputs, name, getattr(inputs, name).astype(dtype))
        results = {}
        for name in ("reference", "cpu"):
            with kitae.use_backend(name):
                results[name] = inputs.everything()
        assert all(same_bits(a, b) for a, b in zip(results["reference"], results["cpu"], strict=True))
        _, _, _, running_mean, _, _, dgamma, dbeta = results["cpu"]
        assert running_mean.dtype == dgamma.dtype == dbeta.dtype == dtype
        total = inputs.dout.astype(np.longdouble).sum(0)
        # float32 is exact enough to tell which of two neighbours is nearer, except within its own last bit of a tie.
        np.testing.assert_array_equal(
            dbeta.astype(np.float64), total.astype(np.float32).astype(dtype).astype(np.float64)
        )


def test_relu_of_special_numbers() -> None:
    """ReLU(NaN) = NaN and ReLU(-0) = +0, their gradients 1 and 0."""
    x = np.array([[np.nan, 0.0, -1.0, 1.0]], np.float32).T
    mean, var = np.zeros(1, np.float32), np.ones(1, np.float32)
    gamma = np.array([-1.0], np.float32)
    for residual in (None, np.zeros_like(x)):
        y, saved = kitae.batch_norm(
            x, gamma, None, mean, var, training=False, activation="relu", eps=0, residual=residual
        )
        np.testing.assert_array_equal(y[:, 0], np.array([np.nan, 0, 1, 0], np.float32))
        assert not np.signbit(y[1:]).any()
        dx = kitae.batch_norm_backward(np.ones_like(x), saved)[0]
        np.testing.assert_array_equal(dx[:, 0], [-1, 0, -1, 0])


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_activation_gradient_where_z_changes_sign(rng: np.random.Generator, activation: str, dtype: Any) -> None:
    """Backward decides by x what forward decided by z: 200 neighbours on both sides of every channel's crossing."""
    tiny = np.finfo(dtype).tiny
    gammas = np.array([1, -1, 0, -0.0, 3e-5, -7e4, tiny, 1e30, -1e-30, 0.3], dtype)
    betas = np.array([0, -0.0, 1, -1, 0.3, 1e-30, -1e30, 7e4, tiny, np.inf], dtype)
    means = np.array([0, 1, -1e-3, 1e4, -1e30], dtype)
    gamma, beta, mean = (grid.ravel().copy() for grid in np.meshgrid(gammas, betas, means))
    var = rng.uniform(0.1, 10, gamma.shape).astype(dtype)
    with np.errstate(all="ignore"):
        crossing = (mean - beta / (gamma.astype(np.float64) / np.sqrt(var.astype(np.float64)))).astype(dtype)
        crossing = np.where(np.isfinite(crossing), crossing, mean)
        steps = np.arange(-200, 201)[:, None]
        near = crossing + steps * np.spacing(np.abs(crossing))
        x = np.concatenate([near.astype(dtype), np.full((1, gamma.size), np.finfo(dtype).max, dtype)])
        x = np.concatenate([x, -x[-1:], rng.standard_normal((50, gamma.size)).astype(dtype), np.zeros_like(x[-1:])])
    infinite = np.where((gamma == 0) | (np.abs(gamma) > 1e-20), np.inf, 1).astype(dtype)
    x = np.concatenate([x, infinite[None], -infinite[None]])
    dout = np.ones_like(x)
    passed = {}
    for name in ("reference", "cpu"):
        with kitae.use_backend(name):
            saved = kitae.batch_norm(x, gamma, beta, mean, var, training=False, eps=0, activation=activation)[1]
            passed[name] = kitae.batch_norm_backward(dout, saved)
    assert all(same_bits(a, b) for a, b in zip(passed["reference"], passed["cpu"], strict=True))
    # The crossing is where it was looked for: most channels with a gain have both signs.
    dx = passed["cpu"][0]
    both = (dx == dx[0]).all(0)[(gamma != 0) & np.isfinite(beta)]
    assert both.mean() < 0.7


# ---- batches of one value, and of none


def test_one_value_a_channel_gives_beta(rng: np.random.Generator) -> None:
    for shape in ((1, 5), (1, 5, 1, 1)):
        inputs = Inputs(rng, shape)
        mean, var = inputs.running_mean.copy(), inputs.running_var.copy()
        y, saved = inputs.forward(activation="relu")
        np.testing.assert_array_equal(y.ravel(), np.maximum(inputs.beta, 0))
        dx, dgamma, _ = kitae.batch_norm_backward(inputs.dout, saved)
        assert not dx.any()
        assert not dgamma.any()
        np.testing.assert_allclose(inputs.running_mean, 0.9 * mean + 0.1 * inputs.x.ravel(), rtol=1e-6)
        np.testing.assert_allclose(inputs.running_var, 0.9 * var, rtol=1e-6)


@pytest.mark.parametrize("shape", [(0, 4), (3, 4, 0), (0, 4, 5, 0), (5, 0)])
def test_an_empty_batch_changes_nothing(backend: Any, rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    inputs = Inputs(rng, shape, residual=True)
    mean, var = inputs.running_mean.copy(), inputs.running_var.copy()
    with run_on(backend):
        y, saved = inputs.forward(activation="relu")
        dx, dgamma, dbeta, dresidual = kitae.batch_norm_backward(inputs.dout, saved)
    assert y.shape == dx.shape == dresidual.shape == shape
    assert same_bits(inputs.running_mean, mean)
    assert same_bits(inputs.running_var, var)
    assert not dgamma.any()
    assert not dbeta.any()


# ---- infinite and NaN


def poisoned(rng: np.random.Generator, dtype: Any, bad: float) -> Inputs:
    inputs = Inputs(rng, (40, 6, 3), dtype=dtype)
    inputs.x[5, 4, 1] = inputs.x[7, 2, 0] = bad
    return inputs


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["reference", "cpu"])
class TestNonfinite:
    def test_raise_writes_nothing(self, rng: np.random.Generator, name: str, bad: float, dtype: Any) -> None:
        inputs = poisoned(rng, dtype, bad)
        out = np.full_like(inputs.x, 7)
        before = [array.tobytes() for array in (*inputs.arrays(), out)]
        with kitae.use_backend(name):
            for target in (None, out):
                with pytest.raises(FloatingPointError, match=r"x: expected a finite .*channel 2 with 1 .*\(7, 2, 0\)"):
                    inputs.forward(out=target)
        assert [array.tobytes() for array in (*inputs.arrays(), out)] == before

    def test_skip_leaves_running_statistics(self, rng: np.random.Generator, name: str, bad: float, dtype: Any) -> None:
        inputs = poisoned(rng, dtype, bad)
        before = inputs.running_mean.tobytes(), inputs.running_var.tobytes()
        with kitae.use_backend(name):
            y, _ = inputs.forward(nonfinite="skip")
        assert (inputs.running_mean.tobytes(), inputs.running_var.tobytes()) == before
        finite = np.isfinite(y.astype(np.float64)).all(axis=(0, 2))
        assert finite.tolist() == [True, True, False, True, False, True]

    def test_zero_counts_as_zero(self, rng: np.random.Generator, name: str, bad: float, dtype: Any) -> None:
        inputs = poisoned(rng, dtype, bad)
        clean = poisoned(np.random.default_rng(0), dtype, 0.0)
        for attribute, value in vars(inputs).items():
            setattr(clean, attribute, value.copy() if isinstance(value, np.ndarray) else value)
        clean.x[~np.isfinite(clean.x)] = 0
        before = inputs.x.tobytes()
        with kitae.use_backend(name):
            got, expected = inputs.everything(nonfinite="zero"), clean.everything()
        assert all(same_bits(a, b) for a, b in zip(got, expected, strict=True))
        assert inputs.x.tobytes() == before

    def test_propagate(self, rng: np.random.Generator, name: str, bad: float, dtype: Any) -> None:
        inputs = poisoned(rng, dtype, bad)
        with kitae.use_backend(name):
            y, saved = inputs.forward(nonfinite="propagate")
        assert np.isnan(y[:, [2, 4]].astype(np.float64)).all()
        assert np.isfinite(y[:, [0, 1, 3, 5]].astype(np.float64)).all()
        assert not np.isfinite(inputs.running_mean[[2, 4]]).any()
        assert np.isnan(saved.inv_std[[2, 4]]).all()

    def test_backends_agree(self, rng: np.random.Generator, name: str, bad: float, dtype: Any) -> None:
        inputs = poisoned(rng, dtype, bad)
        results = []
        for backend in (name, "reference"):
            with kitae.use_backend(backend):
                results.append([*inputs.everything(nonfinite="skip"), *inputs.everything(nonfinite="propagate")])
        assert all(same_bits(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("name", ["reference", "cpu"])
@pytest.mark.parametrize(("mean", "var"), [(np.nan, 1.0), (np.inf, 1.0), (0.0, np.nan), (0.0, np.inf), (0.0, -1.0)])
def test_inference_with_bad_running_statistics(rng: np.random.Generator, name: str, mean: float, var: float) -> None:
    inputs = Inputs(rng, (4, 3))
    inputs.running_mean[1], inputs.running_var[1] = mean, var
    out = np.full_like(inputs.x, 7)
    with kitae.use_backend(name):
        with pytest.raises(FloatingPointError, match=r"running_mean, running_var: expected a finite .*in channel 1"):
            inputs.forward(training=False, out=out)
        assert np.all(out == 7)
        inputs.forward(training=False, out=out, nonfinite="propagate")
    assert np.isfinite(out[:, [0, 2]]).all()


def test_infinite_elements_in_inference_stay_infinite() -> None:
    """Also where a gain is a float32 number and nothing of it is left over: inf * 0 must not happen."""
    x = np.array([[np.inf], [-np.inf], [np.nan], [3e38]], np.float32)
    zero, one = np.zeros(1, np.float32), np.ones(1, np.float32)
    for gamma, dtype in itertools.product((1.0, -1.0, 0.25, 1 / 3, 1e-3, -3e4), (np.float32, np.float64, np.float16)):
        with np.errstate(over="ignore"):
            values = x.astype(dtype)
        for name in ("reference", "cpu"):
            with kitae.use_backend(name):
                y, _ = kitae.batch_norm(
                    values, one * np.float32(gamma), zero, zero, one, training=False, eps=0, nonfinite="propagate"
                )
            with np.errstate(over="ignore"):
                np.testing.assert_array_equal(y, (values.astype(np.float64) * np.float32(gamma)).astype(dtype))


def test_zero_in_inference_is_about_x(rng: np.random.Generator) -> None:
    inputs = Inputs(rng, (4, 3))
    inputs.x[1, 2] = np.inf
    y, _ = inputs.forward(training=False, nonfinite="zero")
    inputs.x[1, 2] = 0
    assert same_bits(y, inputs.forward(training=False)[0])


# ---- memory


@pytest.mark.parametrize(
    ("shape", "axis", "layout"), [((2, 3, 5, 7), 1, "channels_last"), ((2, 5, 7, 3), -1, "C"), ((4, 6), 1, "F")]
)
def test_memory_without_gaps_is_not_copied(
    rng: np.random.Generator, shape: tuple[int, ...], axis: int, layout: str
) -> None:
    inputs = Inputs(rng, shape, axis, layout=layout)
    y, saved = inputs.forward()
    assert saved._x is inputs.x
    assert y.strides == inputs.x.strides
    expected_inner = 4 if layout == "F" else 1
    assert _dispatch.cpu().batch_norm_sizes(inputs.x, axis % len(shape))[2] == expected_inner


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=str)
def test_every_order_of_four_axes(rng: np.random.Generator, order: tuple[int, ...]) -> None:
    inputs = Inputs(rng, (2, 3, 4, 5))
    plain = inputs.everything()
    inverse = np.argsort(order)
    for name in ("x", "dout"):
        setattr(inputs, name, np.ascontiguousarray(getattr(inputs, name).transpose(order)).transpose(inverse))
    for backend in ("reference", "cpu"):
        with kitae.use_backend(backend):
            got = inputs.everything()
        # Another order of summation: float64 sums of 40 numbers differ by less than float32 shows, twice.
        for a, b in zip(plain, got, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_dout_and_residual_in_another_order(rng: np.random.Generator) -> None:
    inputs = Inputs(rng, (4, 3, 5, 6), residual=True)
    expected = inputs.everything(activation="relu")
    inputs.dout = np.asfortranarray(inputs.dout)
    inputs.residual = arranged(inputs.residual, "channels_last")
    assert all(same_bits(a, b) for a, b in zip(expected, inputs.everything(activation="relu"), strict=True))


def test_zero_strides_and_memory_maps(rng: np.random.Generator, tmp_path: Any) -> None:
    column = rng.standard_normal((6, 3, 1)).astype(np.float32)
    view = np.broadcast_to(column, (6, 3, 4))
    got, _ = kitae.batch_norm(view, None, None, None, None, training=True)
    expected, _ = kitae.batch_norm(np.ascontiguousarray(view), None, None, None, None, training=True)
    assert same_bits(got, expected)
    np.save(tmp_path / "x.npy", np.ascontiguousarray(view))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    got, _ = kitae.batch_norm(mapped, None, None, None, None, training=True)
    assert type(got) is np.ndarray
    assert same_bits(got, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize("shape", [(7, 13), (300, 17), (3, 5, 7, 3), (2, 3, 4099)])
def test_guard_bands(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> None:
    for activation in (None, "relu"):
        inputs = Inputs(rng, shape, dtype=dtype, residual=True)
        expected = inputs.everything(activation=activation)
        out, dx = Guarded(np.zeros_like(inputs.x)), Guarded(np.zeros_like(inputs.x))
        # Every other number of the memory.
        mean, var = (Guarded(np.repeat(a, 2)[::2]) for a in (inputs.running_mean, inputs.running_var))
        inputs.running_mean, inputs.running_var = mean.array, var.array
        y, saved = inputs.forward(activation=activation, out=out.array)
        gradients = kitae.batch_norm_backward(inputs.dout, saved, out=dx.array)
        assert y is out.array
        assert gradients[0] is dx.array
        assert all(guarded.intact() for guarded in (out, dx, mean, var))
        got = [y, saved.mean, saved.inv_std, mean.array, var.array, *gradients]
        assert all(same_bits(a, b) for a, b in zip(expected, got, strict=True))


def test_inference_in_place(rng: np.random.Generator) -> None:
    for layout in ("C", "channels_last"):
        inputs = Inputs(rng, (4, 3, 5, 6), layout=layout)
        expected, _ = inputs.forward(training=False)
        y, _ = inputs.forward(training=False, out=inputs.x)
        assert y is inputs.x
        assert same_bits(y, expected)


def test_backward_in_place(rng: np.random.Generator) -> None:
    for shape, activation in itertools.product(((300, 200), (40, 30, 9, 9)), ACTIVATIONS):
        inputs = Inputs(rng, shape)
        _, saved = inputs.forward(activation=activation)
        expected = kitae.batch_norm_backward(inputs.dout, saved)
        got = kitae.batch_norm_backward(inputs.dout, saved, out=inputs.dout)
        assert got[0] is inputs.dout
        assert all(same_bits(a, b) for a, b in zip(expected, got, strict=True))


# 17 MB and more go past the caches, 8 MB and more ask for memory: other loops than those that work in place.
@pytest.mark.parametrize(
    ("shape", "axis", "dtype"),
    [
        ((70_000, 61), 1, np.float32),
        ((66_000, 64), 1, np.float32),
        ((17_000, 250), 1, np.float32),
        ((6_991, 601), 1, np.float32),
        ((10, 7, 60_001), 1, np.float32),
        ((9, 500, 31, 31), 1, np.float32),
        ((6_000, 19, 5, 8), 1, np.float32),
        ((40_000, 53), 1, np.float64),
        ((16_500, 131), 1, np.float32),
        ((1_800, 1_201), 1, np.float32),
        ((16_500, 515), 1, ml_dtypes.bfloat16),
        ((140_000, 61), 1, ml_dtypes.bfloat16),
        ((10, 7, 120_001), 1, ml_dtypes.bfloat16),
        ((9, 980, 31, 31), 1, ml_dtypes.bfloat16),
    ],
)
def test_large_outputs_have_the_bits_of_those_in_place(
    rng: np.random.Generator, shape: tuple[int, ...], axis: int, dtype: Any
) -> None:
    size, edge = int(np.prod(shape)), 32
    for offset, activation in ((0, None), (5, "relu")):
        inputs = Inputs(rng, shape, axis, dtype)
        room = np.full(size + 2 * edge, 7.5, dtype)
        out = room[edge + offset :][:size].reshape(shape)

        def intact(room: np.ndarray = room, begin: int = edge + offset) -> bool:
            return bool(np.all(room[:begin] == 7.5) and np.all(room[begin + size :] == 7.5))

        for training in (True, False):
            y, saved = inputs.forward(training=training, activation=activation, out=out)
            assert y is out
            assert intact()
            few = [0, shape[axis] // 2, shape[axis] - 1]  # a channel's numbers do not depend on the others
            part = Inputs(rng, (2, 3))
            for name, value in vars(inputs).items():
                if isinstance(value, np.ndarray):
                    setattr(part, name, np.ascontiguousarray(value[:, few] if value.ndim > 1 else value[few]))
            expected, _ = part.forward(training=training, activation=activation)
            assert same_bits(y[:, few], expected)
            dx, *_ = kitae.batch_norm_backward(inputs.dout, saved, out=out)
            assert intact()
            in_place = inputs.dout.copy()
            kitae.batch_norm_backward(in_place, saved, out=in_place)
            assert same_bits(dx, in_place)
        y, _ = inputs.forward(training=False, activation=activation, out=out)
        in_place = inputs.x = inputs.x.copy()
        inputs.forward(training=False, activation=activation, out=in_place)
        assert same_bits(y, in_place)


def test_saved_keeps_what_backward_needs(rng: np.random.Generator) -> None:
    inputs = Inputs(rng, (30, 4))
    _, saved = inputs.forward(activation="relu")
    expected = kitae.batch_norm_backward(inputs.dout, saved)
    inputs.beta += 100  # as an optimizer's step does
    got = kitae.batch_norm_backward(inputs.dout, saved)
    assert all(same_bits(a, b) for a, b in zip(expected, got, strict=True))
    assert saved.training
    for array in (saved.mean, saved.inv_std):
        assert array.dtype == np.float64
        assert array.shape == (4,)
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


# ---- what is refused


def unaligned(array: np.ndarray) -> np.ndarray:
    raw = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    raw[...] = array
    return raw


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


WRONG_ARRAYS: dict[str, tuple[Callable[[np.ndarray], Any], type[Exception]]] = {
    "list": (np.ndarray.tolist, TypeError),
    "string": (lambda a: "x", TypeError),
    "number": (lambda a: 1.0, TypeError),
    "matrix": (lambda a: a.reshape(a.shape[0], -1).view(np.matrix), TypeError),
    "masked": (np.ma.masked_array, TypeError),
    "int": (lambda a: a.astype(np.int64), TypeError),
    "bool": (lambda a: a > 0, TypeError),
    "complex": (lambda a: a.astype(np.complex64), TypeError),
    "object": (lambda a: a.astype(object), TypeError),
    "longdouble": (lambda a: a.astype(np.longdouble), TypeError),
    "structured": (lambda a: np.zeros(a.shape, [("a", "f4")]), TypeError),
    "big-endian": (lambda a: a.astype(">f4"), TypeError),
    "unaligned": (unaligned, ValueError),
    "shape": (lambda a: np.zeros((*a.shape[:-1], a.shape[-1] + 1), a.dtype), ValueError),
    "ndim": (lambda a: a[np.newaxis], ValueError),
    "0-d": (lambda a: a.reshape(-1)[0:1].reshape(()), ValueError),
}
ANY_SHAPE = {"shape", "ndim"}  # not wrong for x itself
WRITTEN = {"read-only": (read_only, ValueError)}
OF_X_DTYPE = {"other float": (lambda a: a.astype(np.float64), TypeError)}


def wrong_forward() -> Iterator[Any]:
    for argument in ("x", "gamma", "beta", "running_mean", "running_var", "residual", "out"):
        kinds = dict(WRONG_ARRAYS)
        if argument in ("running_mean", "running_var", "out"):
            kinds |= WRITTEN
        if argument in ("residual", "out"):
            kinds |= OF_X_DTYPE
        if argument in ("gamma", "beta", "running_mean", "running_var"):
            kinds |= {"float16": (lambda a: a.astype(np.float16), TypeError)}
        for kind, (spoil, error) in kinds.items():
            if not (argument == "x" and kind in ANY_SHAPE):
                yield pytest.param(argument, spoil, error, id=f"{argument}-{kind}")


def unchanged(arrays: list[np.ndarray]) -> Callable[[], bool]:
    before = [array.tobytes() for array in arrays]
    return lambda: [array.tobytes() for array in arrays] == before


@pytest.mark.parametrize("name", ["reference", "cpu"])
@pytest.mark.parametrize(("argument", "spoil", "error"), list(wrong_forward()))
def test_wrong_arrays_in_forward(
    rng: np.random.Generator, name: str, argument: str, spoil: Callable[[np.ndarray], Any], error: type[Exception]
) -> None:
    inputs = Inputs(rng, (6, 3), residual=True)
    out = np.zeros_like(inputs.x)
    same = unchanged([*inputs.arrays(), out])
    arguments = {key: getattr(inputs, key) for key in ("x", "gamma", "beta", "running_mean", "running_var", "residual")}
    arguments |= {"out": out}
    arguments[argument] = spoil(arguments[argument])
    with (
        kitae.use_backend(name),
        pytest.raises(error, match=rf"^kitae\.batch_norm: {argument}: expected .*, got "),
    ):
        kitae.batch_norm(**arguments, training=True)
    assert same()


@pytest.mark.parametrize("name", ["reference", "cpu"])
@pytest.mark.parametrize("argument", ["dout", "out"])
@pytest.mark.parametrize("kind", [*WRONG_ARRAYS, *WRITTEN, *OF_X_DTYPE])
def test_wrong_arrays_in_backward(rng: np.random.Generator, name: str, argument: str, kind: str) -> None:
    if argument == "dout" and kind in WRITTEN:
        kind = "other float"
    spoil, error = (WRONG_ARRAYS | WRITTEN | OF_X_DTYPE)[kind]
    inputs = Inputs(rng, (6, 3))
    with kitae.use_backend(name):
        _, saved = inputs.forward()
        out = np.zeros_like(inputs.x)
        same = unchanged([*inputs.arrays(), out])
        arguments = {"dout": inputs.dout, "out": out}
        arguments[argument] = spoil(arguments[argument])
        with pytest.raises(error, match=rf"^kitae\.batch_norm_backward: {argument}: expected .*, got "):
            kitae.batch_norm_backward(arguments["dout"], saved, out=arguments["out"])
        assert same()


WRONG_NUMBERS = {
    "training": [(1, TypeError), (None, TypeError), ("yes", TypeError)],
    "axis": [(2, ValueError), (-3, ValueError), (1.0, TypeError), (None, TypeError), (True, TypeError)],
    "eps": [(-1e-5, ValueError), (np.nan, ValueError), (np.inf, ValueError), ("1", TypeError), (None, TypeError)],
    "running_decay": [(-0.1, ValueError), (1.1, ValueError), (np.nan, ValueError), (True, TypeError), ([1], TypeError)],
    "unbiased": [(1, TypeError), (None, TypeError)],
    "activation": [("tanh", ValueError), (1, TypeError), (["relu"], TypeError)],
    "slope": [(np.nan, ValueError), (np.inf, ValueError), ("0.1", TypeError)],
    "nonfinite": [("ignore", ValueError), (None, ValueError), (0, TypeError)],
}


@pytest.mark.parametrize(
    ("argument", "value", "error"),
    [(name, value, error) for name, cases in WRONG_NUMBERS.items() for value, error in cases],
)
def test_wrong_hyperparameters(rng: np.random.Generator, argument: str, value: Any, error: type[Exception]) -> None:
    inputs = Inputs(rng, (6, 3))
    same = unchanged(inputs.arrays())
    with pytest.raises(error, match=rf"^kitae\.batch_norm: {argument}: expected .*, got "):
        inputs.forward(**{argument: value})
    assert same()
    if argument not in ("training",):
        name = {"axis": "axis"}.get(argument, argument)
        if argument == "axis" and error is ValueError:
            return  # a layer meets the axes of x later
        if value is None and argument in ("eps", "unbiased", "nonfinite"):
            return  # None: the preset's
        with pytest.raises(error, match=rf"^kitae\.BatchNorm: {name}: expected .*, got "):
            kitae.BatchNorm(**{argument: value})


def test_numpy_scalars_are_numbers(rng: np.random.Generator) -> None:
    inputs = Inputs(rng, (6, 3))
    expected = inputs.everything(eps=0.5, running_decay=0.25)
    got = inputs.everything(eps=np.float64(0.5), running_decay=np.array(0.25), axis=np.int64(1), training=np.True_)
    assert all(same_bits(a, b) for a, b in zip(expected, got, strict=True))


def test_one_dimension_is_refused() -> None:
    with pytest.raises(ValueError, match=r"x: expected two dimensions or more"):
        kitae.batch_norm(np.zeros(3, np.float32), None, None, None, None, training=True, axis=0)


@pytest.mark.parametrize("name", ["reference", "cpu"])
class TestOverlap:
    def test_running_statistics(self, rng: np.random.Generator, name: str) -> None:
        inputs = Inputs(rng, (6, 3))
        memory = np.ones(5, np.float32)
        pairs = {
            "running_mean": [(memory[:3], memory[2:]), (memory[:3], memory[:3]), (inputs.gamma, inputs.running_var)],
            "running_var": [(inputs.running_mean, inputs.beta), (inputs.running_mean, inputs.x.reshape(-1)[:3])],
        }
        for argument, cases in pairs.items():
            for mean, var in cases:
                same = unchanged([*inputs.arrays(), memory])
                with (
                    kitae.use_backend(name),
                    pytest.raises(ValueError, match=f"{argument}: expected memory of its own"),
                ):
                    kitae.batch_norm(inputs.x, inputs.gamma, inputs.beta, mean, var, training=True)
                assert same()

    def test_out(self, rng: np.random.Generator, name: str) -> None:
        inputs = Inputs(rng, (6, 3), residual=True)
        memory = np.zeros(20, np.float32)
        inputs.x = memory[:18].reshape(6, 3)
        inputs.x[...] = rng.standard_normal((6, 3))
        shifted = memory[2:].reshape(6, 3)
        for training, out in (
            (True, inputs.x),
            (True, shifted),
            (False, shifted),
            (True, inputs.residual),
            (False, inputs.residual),
        ):
            same = unchanged([*inputs.arrays(), memory])
            with kitae.use_backend(name), pytest.raises(ValueError, match="out: expected memory of its own"):
                inputs.forward(training=training, out=out)
            assert same()

    def test_out_of_backward(self, rng: np.random.Generator, name: str) -> None:
        inputs = Inputs(rng, (6, 3))
        memory = np.zeros(20, np.float32)
        inputs.dout = memory[:18].reshape(6, 3)
        with kitae.use_backend(name):
            _, saved = inputs.forward()
            for out in (inputs.x, memory[2:].reshape(6, 3)):
                same = unchanged([*inputs.arrays(), memory])
                with pytest.raises(ValueError, match="out: expected memory of its own"):
                    kitae.batch_norm_backward(inputs.dout, saved, out=out)
                assert same()

    def test_out_in_another_order_of_memory(self, rng: np.random.Generator, name: str) -> None:
        inputs = Inputs(rng, (6, 3))
        with kitae.use_backend(name):
            _, saved = inputs.forward()
            out = np.zeros((6, 3), np.float32, order="F")
            with pytest.raises(ValueError, match="out: expected the memory order of x"):
                inputs.forward(out=out)
            with pytest.raises(ValueError, match="out: expected the memory order of x"):
                kitae.batch_norm_backward(inputs.dout, saved, out=out)
            assert not out.any()


def test_missing_running_statistics(rng: np.random.Generator) -> None:
    inputs = Inputs(rng, (6, 3))
    for training, mean, var, missing in (
        (False, None, None, "running_mean"),
        (False, inputs.running_mean, None, "running_var"),
        (True, None, inputs.running_var, "running_mean"),
        (True, inputs.running_mean, None, "running_var"),
    ):
        with pytest.raises(TypeError, match=f"kitae.batch_norm: {missing}: expected an array.*, got None"):
            kitae.batch_norm(inputs.x, None, None, mean, var, training=training)


def test_backward_wants_saved(rng: np.random.Generator) -> None:
    with pytest.raises(TypeError, match="saved: expected the second result of batch_norm, got"):
        kitae.batch_norm_backward(np.zeros((2, 3)), (1, 2))


# ---- the layer


class TestLayer:
    def test_is_the_function(self, rng: np.random.Generator) -> None:
        inputs = Inputs(rng, (20, 3, 5))
        layer = kitae.BatchNorm(activation="relu")
        assert layer.params == layer.grads == layer.buffers == {}
        y = layer.forward(inputs.x)
        inputs.gamma[:], inputs.beta[:], inputs.running_mean[:], inputs.running_var[:] = 1, 0, 0, 1
        expected, saved = inputs.forward(activation="relu")
        assert same_bits(y, expected)
        assert same_bits(layer.buffers["running_mean"], inputs.running_mean)
        assert same_bits(layer.buffers["running_var"], inputs.running_var)
        gamma = layer.grads["gamma"]
        dx = layer.backward(inputs.dout)
        expected_dx, dgamma, dbeta = kitae.batch_norm_backward(inputs.dout, saved)
        assert same_bits(dx, expected_dx)
        assert layer.grads["gamma"] is gamma  # overwritten, not replaced
        assert same_bits(gamma, dgamma)
        assert same_bits(layer.grads["beta"], dbeta)
        y = layer.forward(inputs.x, training=False)
        assert same_bits(y, inputs.forward(activation="relu", training=False)[0])
        assert same_bits(layer.buffers["running_mean"], inputs.running_mean)

    def test_built_at_once(self) -> None:
        layer = kitae.BatchNorm(4, dtype=np.float64)
        arrays = {**layer.params, **layer.buffers}
        assert {name: (a.dtype.name, a.shape, a[0]) for name, a in arrays.items()} == {
            "gamma": ("float64", (4,), 1.0),
            "beta": ("float64", (4,), 0.0),
            "running_mean": ("float64", (4,), 0.0),
            "running_var": ("float64", (4,), 1.0),
        }
        assert kitae.BatchNorm(4).params["gamma"].dtype == np.float32
        with pytest.raises(ValueError, match=r"BatchNorm.forward: gamma: expected shape \(3,\), got shape \(4,\)"):
            layer.forward(np.zeros((2, 3)))

    @pytest.mark.parametrize(
        ("dtype", "expected"), [(np.float32, "float32"), (np.float64, "float64"), (np.float16, "float32")]
    )
    def test_dtype_is_that_of_x(self, dtype: Any, expected: str) -> None:
        layer = kitae.BatchNorm(axis=-1)
        assert layer.forward(np.ones((2, 3, 4), dtype)).dtype == dtype
        assert (
            layer.params["gamma"].dtype == layer.grads["beta"].dtype == layer.buffers["running_var"].dtype == expected
        )
        assert layer.params["gamma"].shape == (4,)
        layer = kitae.BatchNorm()
        layer.build((2, 5, 4), dtype)
        assert layer.params["gamma"].dtype == expected
        assert layer.params["gamma"].shape == (5,)

    def test_residual(self, rng: np.random.Generator) -> None:
        inputs = Inputs(rng, (20, 3, 5), residual=True)
        layer = kitae.BatchNorm(activation="relu")
        layer.forward(inputs.x, residual=inputs.residual)
        dx, dresidual = layer.backward(inputs.dout)
        assert dx.shape == dresidual.shape == inputs.x.shape
        assert set(np.unique(dresidual != 0)) == {False, True}

    def test_not_trainable(self, rng: np.random.Generator) -> None:
        inputs = Inputs(rng, (20, 3))
        layer = kitae.BatchNorm(trainable=False)
        layer.forward(inputs.x)
        assert layer.grads == {"gamma": None, "beta": None}
        assert layer.buffers["running_mean"].any()  # the other switch
        frozen = layer.backward(inputs.dout)
        layer.trainable = True
        layer.forward(inputs.x)
        assert same_bits(layer.backward(inputs.dout), frozen)
        assert layer.grads["gamma"].any()

    def test_presets(self, rng: np.random.Generator) -> None:
        one = np.ones((1, 3), np.float32)
        assert not kitae.BatchNorm().forward(one).any()
        torch = kitae.BatchNorm(semantics="torch")
        with pytest.raises(ValueError, match="more than one value a channel"):
            torch.forward(one)
        torch.forward(one, training=False)
        torch.forward(np.zeros((0, 3), np.float32))
        nan = np.array([[np.nan, 1.0], [1.0, 2.0]], np.float32)
        assert np.isnan(kitae.BatchNorm(semantics="torch").forward(nan)[:, 0]).all()
        with pytest.raises(FloatingPointError):
            kitae.BatchNorm().forward(nan)
        assert kitae.BatchNorm(eps=0.25, semantics="torch").eps == 0.25
        with pytest.raises(ValueError, match="semantics: expected one of"):
            kitae.BatchNorm(semantics="caffe")

    @pytest.mark.parametrize(
        ("keywords", "error"),
        [
            ({"channels": -1}, ValueError),
            ({"channels": 2.0}, TypeError),
            ({"dtype": np.int32}, TypeError),
            ({"dtype": "float16"}, TypeError),
            ({"dtype": "nonsense"}, TypeError),
            ({"trainable": 1}, TypeError),
        ],
    )
    def test_wrong_keywords(self, keywords: dict[str, Any], error: type[Exception]) -> None:
        (argument,) = keywords
        with pytest.raises(error, match=f"kitae.BatchNorm: {argument}: expected .*, got "):
            kitae.BatchNorm(**keywords)

    def test_mistakes(self) -> None:
        layer = kitae.BatchNorm()
        with pytest.raises(RuntimeError, match=r"kitae.BatchNorm.backward: dout: expected a forward pass before"):
            layer.backward(np.zeros((2, 3), np.float32))
        with pytest.raises(TypeError, match=r"kitae.BatchNorm.forward: x: expected dtype .*, got int64"):
            layer.forward(np.zeros((2, 3), int))
        with pytest.raises(TypeError, match=r"kitae.BatchNorm.forward: x: expected a numpy.ndarray"):
            layer.forward([[1.0]])
        with pytest.raises(ValueError, match="x: expected two dimensions or more"):
            layer.forward(np.zeros(3, np.float32))
        assert layer.params == {}
        with pytest.raises(ValueError, match="shape: expected a tuple of two lengths or more"):
            layer.build((3,), np.float32)


# ---- anything else


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_shape_and_layout(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(0, 9), min_size=2, max_size=5), label="shape"))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1), label="axis")
    dtype = data.draw(st.sampled_from(DTYPES), label="dtype")
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32), label="seed"))
    order = data.draw(st.permutations(range(len(shape))), label="order")
    activation = data.draw(st.sampled_from(ACTIVATIONS), label="activation")
    inputs = Inputs(rng, shape, axis, dtype, residual=data.draw(st.booleans(), label="residual"))
    steps = tuple(data.draw(st.sampled_from([slice(None), slice(None, None, -1), slice(None, None, 2)])) for _ in shape)
    for name in ("x", "dout"):
        larger = np.zeros([2 * n for n in shape], dtype).transpose(order)
        base = np.ascontiguousarray(larger).transpose(np.argsort(order))
        view = base[
            tuple(slice(0, 2 * n, 2) if s.step == 2 else slice(0, n) for n, s in zip(shape, steps, strict=True))
        ]
        view = view[tuple(s if s.step == -1 else slice(None) for s in steps)]
        view[...] = getattr(inputs, name)
        setattr(inputs, name, view)
    results = []
    for name in ("reference", "cpu"):
        with kitae.use_backend(name):
            results.append(inputs.everything(activation=activation))
    assert all(same_bits(a, b) for a, b in zip(*results, strict=True))
