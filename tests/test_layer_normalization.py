"""Layer and weight normalization beside their rows in the cases: worked by hand, PyTorch, extremes, layers."""

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import kitae
from conftest import THREAD_COUNTS
from guard_bands import Guarded
from kitae.nn import Dense, Sequential
from shifted_channels import SEQUENCES, channels_about_shifts
from test_backends_agree import assert_same_bits

DTYPES = (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)
BACKENDS = ("reference", "cpu")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(17)


# ---- layer normalization


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_what_sums_are_taken_from(rng: np.random.Generator, dtype: Any) -> None:
    for outer, inner in SEQUENCES:
        x = channels_about_shifts(outer * inner, rng).astype(dtype)
        gamma, beta = rng.standard_normal((2, x.shape[1]))
        dout = rng.standard_normal(x.shape).astype(x.dtype)
        results = []
        for backend in BACKENDS:
            with kitae.use_backend(backend):
                y, saved = kitae.layer_norm(x, gamma, beta, nonfinite="propagate")
                results.append((y, saved.mean, saved.inv_std, *kitae.layer_norm_backward(dout, saved)))
        for one, other in zip(*results, strict=True):
            assert_same_bits(other, one, f"{x.shape[1]} columns")


@pytest.mark.parametrize("backend", BACKENDS)
def test_layer_norm_worked_by_hand(backend: str) -> None:
    """Row 1: mean 2.5, variance 1.25, with eps 1.75 the divisor is sqrt(3); row 2: mean 0, variance 2.25, divisor 2."""
    x = np.array([[1.0, 2.0, 3.0, 4.0], [1.5, -1.5, 1.5, -1.5]])
    gamma, beta = np.array([1.0, 2.0, 1.0, 2.0]), np.array([0.0, 0.0, 1.0, 1.0])
    with kitae.use_backend(backend):
        y, saved = kitae.layer_norm(x, gamma, beta, eps=1.75)
        r = 1 / np.sqrt(3.0)
        expected = [[-1.5 * r, -1.0 * r, 1 + 0.5 * r, 1 + 3.0 * r], [0.75, -1.5, 1.75, -0.5]]
        np.testing.assert_allclose(y, expected, rtol=1e-15)  # a few roundings
        np.testing.assert_array_equal(saved.mean, [2.5, 0])
        np.testing.assert_allclose(saved.inv_std, [r, 0.5], rtol=1e-15)
        # Of row 2: g = (1, 0, 0, 0), mean 1/4; sum g xhat / 4 = 3/16; dx = (g - 1/4 - xhat 3/16) / 2.
        dout = np.zeros_like(x)
        dout[1, 0] = 1
        dx, dgamma, dbeta = kitae.layer_norm_backward(dout, saved)
    t = 0.75 * 3 / 16
    np.testing.assert_allclose(
        dx, [[0] * 4, [(0.75 - t) / 2, (t - 0.25) / 2, (-0.25 - t) / 2, (t - 0.25) / 2]], rtol=1e-14
    )
    np.testing.assert_array_equal(dgamma, [0.75, 0, 0, 0])
    np.testing.assert_array_equal(dbeta, [1, 0, 0, 0])


@pytest.mark.requires_torch
@pytest.mark.parametrize(
    ("shape", "axis"), [((33, 17), -1), ((4, 5, 37), -1), ((3, 4, 5, 6), (1, 2, 3)), ((6, 3, 1000), (-2, -1))]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_layer_norm_as_pytorch(rng: np.random.Generator, shape: tuple[int, ...], axis: Any, dtype: Any) -> None:
    """To the precision of float32 sums in another order, and of float64's."""
    import torch

    normalized = shape[-1:] if axis == -1 else tuple(shape[a] for a in axis)
    x, dout = ((rng.standard_normal(shape) * 2 + 1).astype(dtype) for _ in range(2))
    gamma, beta = (rng.standard_normal(normalized).astype(dtype) for _ in range(2))
    y, saved = kitae.layer_norm(x, gamma, beta, axis=axis)
    gradients = kitae.layer_norm_backward(dout, saved)
    tensors = [torch.from_numpy(array.copy()).requires_grad_() for array in (x, gamma, beta)]
    theirs = torch.nn.functional.layer_norm(tensors[0], normalized, *tensors[1:])
    theirs.backward(torch.from_numpy(dout))
    tolerance = {"rtol": 1e-4, "atol": 2e-5} if dtype == np.float32 else {"rtol": 1e-11, "atol": 1e-12}
    np.testing.assert_allclose(y, theirs.detach().numpy(), **tolerance)
    for ours, tensor in zip(gradients, tensors, strict=True):
        np.testing.assert_allclose(ours, tensor.grad.numpy(), **tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("dtype", "mean"), [(np.float32, 1e4), (np.float64, 1e12), (np.float32, 0.0)])
def test_layer_norm_is_as_precise_as_promised(rng: np.random.Generator, backend: str, dtype: Any, mean: float) -> None:
    x = (rng.standard_normal((200, 384)) + mean).astype(dtype)
    gamma, beta = (rng.uniform(-2, 2, 384).astype(dtype) for _ in range(2))
    with kitae.use_backend(backend):
        y, _ = kitae.layer_norm(x, gamma, beta)
    wide = x.astype(np.longdouble)
    wide = wide - wide[:, :1]  # long double sums round too
    d = wide - wide.mean(axis=-1, keepdims=True)
    variance = np.square(d).mean(axis=-1, keepdims=True)
    product = gamma.astype(np.longdouble) * d / np.sqrt(variance + np.longdouble(1e-5))
    expected = product + beta
    scale = np.maximum(np.maximum(np.abs(expected), np.abs(beta)), np.abs(product))
    # What the float64 sums of 384 rounded terms leave of the mean, a random walk: nothing to see in float32.
    walk = np.finfo(np.float64).eps * np.sqrt(384) * np.abs(wide).max() * np.abs(gamma) / np.sqrt(variance)
    allowed = (3 if mean else 4) * np.spacing(scale.astype(dtype)).astype(np.longdouble) + walk
    assert (np.abs(y - expected) <= allowed).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_a_constant_sample_gives_exactly_beta(rng: np.random.Generator, backend: str, dtype: Any) -> None:
    beta = rng.standard_normal(19).astype(np.float32)
    x = np.repeat(np.array([[0.1], [-3e4], [1e-3]]).astype(dtype), 19, axis=1)
    with kitae.use_backend(backend):
        for eps in (1e-5, 0.0):
            y, _ = kitae.layer_norm(x, None, beta, eps=eps)
            np.testing.assert_array_equal(y, np.broadcast_to(beta.astype(dtype), x.shape))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("dtype", "scale"), [(np.float32, 1e30), (np.float64, 1e300), (np.float64, 1e-150)])
def test_layer_norm_of_extreme_values(rng: np.random.Generator, backend: str, dtype: Any, scale: float) -> None:
    """Without eps, the scale of x does not matter, and dx is inversely proportional to it."""
    x, dout = (rng.standard_normal((5, 40)).astype(dtype) for _ in range(2))
    with kitae.use_backend(backend):
        expected, plain = kitae.layer_norm(x, None, None, eps=0.0)
        y, saved = kitae.layer_norm(x * dtype(scale), None, None, eps=0.0)
        tolerance = 20 * np.finfo(dtype).eps  # x * scale is rounded
        np.testing.assert_allclose(y, expected, rtol=tolerance, atol=tolerance)
        dx = kitae.layer_norm_backward(dout, saved)[0].astype(np.float64) * scale
        of_plain = kitae.layer_norm_backward(dout, plain)[0]
    np.testing.assert_allclose(dx, of_plain, rtol=1e3 * tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("give_out", [False, True])
def test_nonfinite_samples(backend: str, give_out: bool) -> None:
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    x[1, 0, 2], x[1, 2, 3] = np.nan, np.inf
    out = np.full_like(x, 7) if give_out else None
    with kitae.use_backend(backend):
        with pytest.raises(FloatingPointError) as error:
            kitae.layer_norm(x, None, None, out=out)
        assert str(error.value).startswith("kitae.layer_norm: x: expected a finite mean and variance in every sample")
        assert "sample (1, 0) with 1 infinite or NaN elements, the first at (1, 0, 2)" in str(error.value)
        if out is not None:
            assert (out == 7).all()
        with pytest.raises(FloatingPointError, match=r"sample \(1, 2\) with 1 .* the first at \(1, 0, 2\)"):
            kitae.layer_norm(x, None, None, axis=1, out=None)
        cleaned = np.nan_to_num(x, nan=0, posinf=0)
        expected, _ = kitae.layer_norm(cleaned, None, None)
        y, saved = kitae.layer_norm(x, None, None, nonfinite="zero", out=out)
        np.testing.assert_array_equal(y, expected)
        assert np.isfinite(kitae.layer_norm_backward(np.ones_like(x), saved)[0]).all()
        y, _ = kitae.layer_norm(x, None, None, nonfinite="propagate", out=out)
        assert np.isnan(y[1, 0]).all()
        assert np.isnan(y[1, 2]).all()
        np.testing.assert_array_equal(
            np.delete(y.reshape(6, 4), (3, 5), 0), np.delete(expected.reshape(6, 4), (3, 5), 0)
        )


def test_the_same_bits_for_any_number_of_threads(rng: np.random.Generator) -> None:
    for shape in ((3, 70001), (277, 4113), (5000, 65), (700, 1030), (5, 4096), (20001, 6)):
        x, dout = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
        gamma = rng.standard_normal(shape[-1]).astype(np.float32)
        results = []
        for threads in THREAD_COUNTS:
            kitae.set_num_threads(threads)
            y, saved = kitae.layer_norm(x, gamma, None)
            w, of_weights = kitae.weight_norm(x, gamma)
            all_of_it = (y, *kitae.layer_norm_backward(dout, saved), w, *kitae.weight_norm_backward(dout, of_weights))
            results.append(all_of_it)
        for one, other in itertools.pairwise(results):
            for a, b in zip(one, other, strict=True):
                assert_same_bits(a, b, str(shape))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_short_rows_have_the_reference_bits(rng: np.random.Generator, dtype: Any) -> None:
    """Every length up to two vectors of lanes, numbers of rows that fill no vector, zeros of both signs."""
    for columns, rows in itertools.product(range(1, 34), (1, 3, 16, 277)):
        x, dout = (rng.standard_normal((rows, columns)).astype(dtype) for _ in range(2))
        if rows > 3:
            x[1], x[2], dout[2:5] = 0, -0.0, -0.0
        gamma, beta = (rng.standard_normal(columns).astype(np.float32) for _ in range(2))
        results = []
        for backend in BACKENDS:
            out, dx = (Guarded(np.empty_like(x)) for _ in range(2))
            with kitae.use_backend(backend):
                fresh, saved = kitae.layer_norm(x, gamma, beta)
                given, _ = kitae.layer_norm(x, gamma, beta, out=out.array)
                gradients = kitae.layer_norm_backward(dout, saved, out=dx.array)
            assert out.intact()
            assert dx.intact()
            results.append((fresh, given, saved.mean, saved.inv_std, *gradients))
        for expected, actual in zip(*results, strict=True):
            assert_same_bits(actual, expected, f"{rows}x{columns}")


@pytest.mark.parametrize("backend", BACKENDS)
def test_dx_in_the_place_of_dout(rng: np.random.Generator, backend: str) -> None:
    for shape in ((4, 6), (600, 3), (600, 300)):
        x, dout = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
        with kitae.use_backend(backend):
            _, saved = kitae.layer_norm(x, None, None)
            expected = kitae.layer_norm_backward(dout, saved)
            results = kitae.layer_norm_backward(dout, saved, out=dout)
        assert results[0] is dout
        for a, b in zip(results, expected, strict=True):
            assert_same_bits(a, b, str(shape))


def test_out_of_a_normalized_axis_in_the_middle_lies_as_y_does(rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 3, 4, 5)).astype(np.float32)
    y, saved = kitae.layer_norm(x, None, None, axis=1)
    wide = x.astype(np.float64)
    expected = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    assert saved.mean.shape == (2, 4, 5)
    out = np.zeros_like(y)
    assert out.strides == y.strides
    assert kitae.layer_norm(x, None, None, axis=1, out=out)[0] is out
    assert_same_bits(out, y, "out")
    with pytest.raises(ValueError, match="out: expected C order with the normalized axes last"):
        kitae.layer_norm(x, None, None, axis=1, out=np.zeros_like(x))


@pytest.mark.parametrize(
    ("axis", "error", "words"),
    [
        (2, ValueError, r"axis: expected an integer in \[-2, 1\], got 2"),
        ((0, -2), ValueError, r"axis: expected an axis or a tuple of different axes, got \(0, -2\)"),
        ((), ValueError, "axis: expected an axis or a tuple of different axes"),
        ((0, 1.0), TypeError, r"axis\[1\]: expected an integer"),
        ([0, 1], TypeError, "axis: expected an integer"),
        (True, TypeError, "axis: expected an integer"),
    ],
)
def test_bad_axes(axis: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        kitae.layer_norm(np.ones((3, 4)), None, None, axis=axis)


def test_layer_norm_layer(rng: np.random.Generator) -> None:
    x, dout = (rng.standard_normal((6, 4, 5)).astype(np.float32) for _ in range(2))
    layer = kitae.LayerNorm(axis=(1, 2))
    y = layer.forward(x)
    assert layer.params["gamma"].shape == layer.grads["beta"].shape == (4, 5)
    assert layer.params["gamma"].dtype == np.float32
    given = dict(layer.grads)
    layer.params["gamma"][...] = 2
    layer.params["beta"][...] = -1
    np.testing.assert_allclose(layer.forward(x, training=False), 2 * y - 1, rtol=1e-5, atol=1e-6)
    dx = layer.backward(dout)
    _, saved = kitae.layer_norm(x, layer.params["gamma"], layer.params["beta"], axis=(1, 2))
    for a, b in zip(
        (dx, layer.grads["gamma"], layer.grads["beta"]), kitae.layer_norm_backward(dout, saved), strict=True
    ):
        assert_same_bits(a, b, "the function's")
    assert all(layer.grads[name] is array for name, array in given.items())
    layer.trainable = False
    assert layer.grads == {"gamma": None, "beta": None}
    layer.backward(dout)


def test_layer_norm_layer_with_sizes() -> None:
    layer = kitae.LayerNorm((2, 3), axis=(-2, -1), dtype=np.float64)
    assert layer.params["gamma"].shape == (2, 3)
    assert layer.params["gamma"].dtype == np.float64
    with pytest.raises(ValueError, match="LayerNorm: shape: expected 1 lengths"):
        kitae.LayerNorm((2, 3))
    with pytest.raises(ValueError, match=r"gamma: expected shape \(4, 3\), got shape \(2, 3\)"):
        layer.forward(np.ones((5, 4, 3)))
    with pytest.raises(RuntimeError, match=r"LayerNorm\.backward: dout: expected a forward pass before"):
        kitae.LayerNorm(3).backward(np.ones((2, 3), np.float32))
    unbuilt = kitae.LayerNorm()
    with pytest.raises(FloatingPointError):
        unbuilt.forward(np.full((2, 3), np.nan))
    assert unbuilt.params == {}
    assert kitae.LayerNorm(dtype=np.float64).dtype == np.float64
    unbuilt.forward(np.ones((2, 3), np.float16))
    assert unbuilt.params["gamma"].dtype == np.float32


# ---- weight normalization


@pytest.mark.parametrize("backend", BACKENDS)
def test_weight_norm_worked_by_hand(backend: str) -> None:
    """Columns (3, 4) and (0, 2) of norms 5 and 2."""
    v, g = np.array([[3.0, 0.0], [4.0, 2.0]]), np.array([10.0, 3.0])
    dw = np.array([[1.0, 1.0], [0.0, 1.0]])
    with kitae.use_backend(backend):
        w, saved = kitae.weight_norm(v, g)
        dv, dg = kitae.weight_norm_backward(dw, saved)
    np.testing.assert_array_equal(saved.norms, [5, 2])
    np.testing.assert_allclose(w, [[6, 0], [8, 3]], rtol=1e-15)
    np.testing.assert_allclose(dg, [0.6, 1], rtol=1e-15)  # the part of dw along (0.6, 0.8) and (0, 1)
    # dw - vhat dg: (1 - 0.36, -0.48) times 10/5, (1, 0) times 3/2.
    np.testing.assert_allclose(dv, [[1.28, 1.5], [-0.96, 0]], rtol=1e-14, atol=1e-15)


@pytest.mark.requires_torch
def test_weight_norm_as_pytorch(rng: np.random.Generator) -> None:
    import torch

    v, dw = (rng.standard_normal((6, 3, 5, 5)) for _ in range(2))
    g = rng.uniform(0.5, 2, 6)
    w, saved = kitae.weight_norm(v, g)
    gradients = kitae.weight_norm_backward(dw, saved)
    tensors = [torch.from_numpy(a.copy()).requires_grad_() for a in (v, g.reshape(6, 1, 1, 1))]
    theirs = torch._weight_norm(*tensors, 0)
    theirs.backward(torch.from_numpy(dw))
    np.testing.assert_allclose(w, theirs.detach().numpy(), rtol=1e-12)
    for ours, tensor in zip(gradients, tensors, strict=True):
        np.testing.assert_allclose(ours, tensor.grad.numpy().reshape(ours.shape), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scale", [1e300, 1e-300, 1e160, 1e-160])
def test_weight_norm_of_extreme_values(rng: np.random.Generator, backend: str, scale: float) -> None:
    """Squares overflow and underflow; directions don't."""
    v, dw = rng.standard_normal((40, 7)), rng.standard_normal((40, 7))
    g = rng.uniform(0.5, 2, 7)
    with kitae.use_backend(backend):
        expected, plain = kitae.weight_norm(v, g)
        w, saved = kitae.weight_norm(v * scale, g)
        np.testing.assert_allclose(w, expected, rtol=1e-14)
        np.testing.assert_allclose(saved.norms, plain.norms * scale, rtol=1e-14)
        dv, dg = kitae.weight_norm_backward(dw, saved)
        dv_plain, dg_plain = kitae.weight_norm_backward(dw, plain)
    np.testing.assert_allclose(dg, dg_plain, rtol=1e-12)
    np.testing.assert_allclose(dv * scale, dv_plain, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_unit_of_zeros_stays_zero(backend: str) -> None:
    v = np.array([[0.0, 1.0], [0.0, 0.0]], np.float32)
    with kitae.use_backend(backend):
        w, saved = kitae.weight_norm(v, np.full(2, 3, np.float32))
        dv, dg = kitae.weight_norm_backward(np.ones_like(v), saved)
    np.testing.assert_array_equal(w, [[0, 3], [0, 0]])
    np.testing.assert_array_equal(dv, [[0, 0], [0, 3]])
    np.testing.assert_array_equal(dg, [0, 1])


def test_weight_norm_layer_computes_as_the_layer_at_first(rng: np.random.Generator) -> None:
    x, dout = rng.standard_normal((5, 4)), rng.standard_normal((5, 3))
    dense = Dense(3, inputs=4, dtype=np.float64)
    weight = dense.params["W"].copy()
    layer = kitae.WeightNorm(dense)
    assert list(layer.params) == list(layer.grads) == ["v", "g", "b"]
    np.testing.assert_allclose(layer.params["g"], np.linalg.norm(weight, axis=0), rtol=1e-15)
    np.testing.assert_allclose(layer.forward(x), x @ weight, rtol=1e-13, atol=1e-14)
    given = dict(layer.grads)
    layer.backward(dout)
    dw = x.T @ dout
    unit = weight / np.linalg.norm(weight, axis=0)
    np.testing.assert_allclose(layer.grads["g"], (dw * unit).sum(0), rtol=1e-12)
    np.testing.assert_allclose((layer.grads["v"] * weight).sum(0), 0, atol=1e-12)  # dv is at a right angle to v
    np.testing.assert_allclose(layer.grads["b"], dout.sum(0), rtol=1e-13)
    assert all(layer.grads[name] is array for name, array in given.items())


def test_weight_norm_layer_by_finite_differences(rng: np.random.Generator) -> None:
    x, dout = rng.standard_normal((5, 4)), rng.standard_normal((5, 3))
    layer = kitae.WeightNorm(Dense(3, dtype=np.float64))
    layer.forward(x)
    for array in layer.params.values():
        array += rng.standard_normal(array.shape)
    layer.forward(x)
    layer.backward(dout)
    analytic = {name: array.copy() for name, array in layer.grads.items()}
    for name, array in layer.params.items():
        for index in np.ndindex(array.shape):
            centre = array[index]
            sides = []
            for step in (1e-6, -1e-6):
                array[index] = centre + step
                sides.append(float(np.sum(dout * layer.forward(x, training=False))))
            array[index] = centre
            assert analytic[name][index] == pytest.approx((sides[0] - sides[1]) / 2e-6, rel=1e-3, abs=1e-5), name


def test_weight_norm_in_a_network_that_learns(rng: np.random.Generator) -> None:
    x = rng.standard_normal((64, 6)).astype(np.float32)
    t = x @ rng.standard_normal((6, 2)).astype(np.float32)
    network = Sequential([kitae.WeightNorm(Dense(2))])
    network.forward(x)
    optimizer = kitae.Adam(network.params, lr=0.05)
    losses = []
    for _ in range(200):
        error = network.forward(x) - t
        losses.append(float(np.square(error).mean()))
        network.backward(2 * error / error.size)
        optimizer.step(network.grads)
    assert losses[-1] < 1e-2 * losses[0]


class _Convolution:
    """A layer with a convolution's weights, (out_channels, in_channels, kh, kw)."""

    def __init__(self, shape: tuple[int, ...], rng: np.random.Generator) -> None:
        self.params = {"W": rng.standard_normal(shape), "b": np.zeros(shape[0])}
        self.grads = {name: np.zeros_like(array) for name, array in self.params.items()}
        self.buffers: dict[str, np.ndarray] = {}

    def forward(self, x: np.ndarray, training: bool = True) -> np.ndarray:
        return x

    def backward(self, dout: np.ndarray) -> np.ndarray:
        self.grads["W"][...] = 1
        return dout


def test_weight_norm_of_a_convolution_has_a_norm_an_output_channel(rng: np.random.Generator) -> None:
    layer = _Convolution((4, 3, 2, 2), rng)
    wrapped = kitae.WeightNorm(layer)
    weight = layer.params["W"].copy()
    np.testing.assert_allclose(wrapped.params["g"], np.sqrt(np.square(weight).sum((1, 2, 3))), rtol=1e-14)
    wrapped.params["g"][...] = 2
    wrapped.forward(weight)
    np.testing.assert_allclose(np.sqrt(np.square(layer.params["W"]).sum((1, 2, 3))), 2, rtol=1e-14)
    wrapped.backward(weight)
    assert wrapped.grads["g"].shape == (4,)
    assert kitae.WeightNorm(layer, axis=1).params["g"].shape == (3,)


def test_weight_norm_refuses_what_has_no_weight(rng: np.random.Generator) -> None:
    with pytest.raises(TypeError, match="WeightNorm: layer: expected a layer"):
        kitae.WeightNorm("W")
    with pytest.raises(ValueError, match='WeightNorm: layer: expected a layer with a parameter "W"'):
        kitae.WeightNorm(kitae.BatchNorm(3))
    with pytest.raises(ValueError, match="none called"):
        kitae.WeightNorm(kitae.WeightNorm(Dense(3, inputs=2)))
    with pytest.raises(RuntimeError, match=r"WeightNorm\.backward: dout: expected a forward pass before"):
        kitae.WeightNorm(Dense(3, inputs=2)).backward(np.ones((1, 3), np.float32))
    with pytest.raises(ValueError, match=r"weight_norm: v: expected two dimensions or more"):
        kitae.weight_norm(np.ones(3), np.ones(3))
    with pytest.raises(ValueError, match=r"weight_norm: g: expected shape \(3,\), got shape \(2,\)"):
        kitae.weight_norm(np.ones((2, 3)), np.ones(2))
    v = np.ones((2, 3))
    with pytest.raises(ValueError, match="weight_norm: out: expected memory of its own"):
        kitae.weight_norm(v, np.ones(3), out=v)
