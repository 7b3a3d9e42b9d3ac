"""Batch norm's CUDA kernels on the host: every way to compute it has the reference's bits."""

from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import kitae
import simulated
from kitae import _dispatch
from kitae.bench.cases import CASES, Case, Size
from kitae.bench.cases.row import dtype_named
from shifted_channels import CHANNEL_LAYOUTS, CONSTANT, SEQUENCES, arranged_channels, channels_about_shifts
from test_backends_agree import assert_same_bits, run
from test_cuda_boundary import cuda as cupy_module
from test_cuda_boundary import on_device
from test_cuda_simulated import cuda, large

__all__ = ["cuda", "cupy_module"]  # fixtures

#: The driver's own choice, then each forced: csrc/drivers/normalization.cu.
PATHS = ("", "streaming", "resident", "resident2", "resident4")
#: Where channels lie side by side.
GRID_PATHS = ("grid", "grid3")
DTYPES = ("float32", "float64", "float16", "bfloat16")
NONFINITE_CHANNEL, NONFINITE_RUNNING = 1, 2  # csrc/cuda/findings.h


def _rows() -> Iterator[object]:
    for case in CASES:
        if case.family != "batch_norm":
            continue
        for size in case.test_sizes:
            for dtype in case.dtypes:
                yield pytest.param(case, size, dtype, id=f"{case.name}-{size.label}-{dtype}")


@pytest.mark.parametrize(("case", "size", "dtype"), list(_rows()))
def test_rows(case: Case, size: Size, dtype: str, cuda: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    original = case.inputs(size, dtype)
    reference = run(case, original, "reference", give_out=False)
    # The driver's choice is test_cuda_simulated.py's; streaming and two others in turn, of large tensors one.
    adjacent = original["x"].ndim == 2 and original["x"].flags.c_contiguous
    others = PATHS[2:] + GRID_PATHS if adjacent else PATHS[2:]
    turn = len(case.name + size.label + dtype)
    forced = ["streaming", others[turn % len(others)], others[(turn + 1) % len(others)]]
    if dtype != "float32" or large(size):
        forced = [forced[turn % 2]]
    for seed, path in enumerate(forced):
        monkeypatch.setenv("KITAE_CUDA_BATCH_NORM", path)
        cuda.set_seed(seed)
        results = run(case, original, "cpu", give_out=seed % 2 == 1)
        for name, value in reference.items():
            assert_same_bits(results[name], value, f"{case.name} {name}: reference and simulated, path {path!r}")


def _at(array: np.ndarray, offset: int) -> np.ndarray:
    """A copy whose first element lies `offset` elements past a 64-byte boundary."""
    room = np.zeros(array.size + 256, array.dtype)
    start = -room.ctypes.data % 64 // array.itemsize + offset
    view = room[start : start + array.size].reshape(array.shape)
    view[...] = array
    return view


def _both(call: Callable[[], Any], module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """The reference's result, and the simulated module's."""
    with kitae.use_backend("reference"):
        expected = call()
    monkeypatch.setattr(_dispatch, "_cpu_module", module)
    return expected, call()


#: Whole vectors and none, chunks of several rows and rows of several chunks, widths around a slice's.
SHAPES = ((3, 5, 8, 8), (2, 20, 64), (300, 64), (513, 40), (37, 3), (2, 3, 4096), (2, 2, 8200), (5, 9, 7, 7))


def _shapes_and_paths() -> Iterator[object]:
    for shape in SHAPES:
        for path in PATHS + (GRID_PATHS if len(shape) == 2 else ()):
            yield pytest.param(shape, path, id=f"{'x'.join(map(str, shape))}-{path}")


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize(("shape", "path"), list(_shapes_and_paths()))
def test_at_any_alignment(
    shape: tuple[int, ...],
    dtype: str,
    path: str,
    cuda: ModuleType,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KITAE_CUDA_BATCH_NORM", path)
    values, added, gradient = (rng.standard_normal(shape).astype(dtype_named(dtype)) for _ in range(3))
    gamma, beta = rng.standard_normal((2, shape[1])).astype(np.float32)
    # Each alignment with one way through the activation; over dtypes and paths every pair has its turn.
    ways = ((None, False), ("relu", False), ("leaky_relu", True))
    turn = DTYPES.index(dtype) + (PATHS + GRID_PATHS).index(path)
    for i, offsets in enumerate(((0, 0, 0, 0), (1, 1, 1, 1), (3, 1, 0, 2))):
        arrays = [_at(a, offset) for a, offset in zip((values, added, gradient, values), offsets, strict=True)]
        activation, with_residual = ways[(i + turn) % len(ways)]
        call = partial(_there_and_back, *arrays, gamma, beta, activation, with_residual)
        (expected, mask), (got, simulated_mask) = _both(call, cuda, monkeypatch)
        for number, (value, reference) in enumerate(zip(got, expected, strict=True)):
            assert_same_bits(value, reference, f"result {number}, offsets {offsets}, {activation}")
        if with_residual:
            assert_same_bits(simulated_mask, mask, "mask")
        else:
            assert simulated_mask is None


def _there_and_back(
    x: np.ndarray,
    residual: np.ndarray,
    dout: np.ndarray,
    out: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    activation: str | None,
    with_residual: bool,
) -> tuple[list[np.ndarray], np.ndarray]:
    """Results of forward, of backward, and of backward in place at x's alignment; the mask."""
    y, saved = kitae.batch_norm(
        x,
        gamma,
        beta,
        None,
        None,
        training=True,
        activation=activation,
        residual=residual if with_residual else None,
        nonfinite="propagate",
        out=out,
    )
    results = kitae.batch_norm_backward(dout, saved, out=np.empty_like(x))
    in_place = _at(dout, x.ctypes.data % 64 // x.itemsize)
    kitae.batch_norm_backward(in_place, saved, out=in_place)
    return [y.copy(), saved.mean.copy(), saved.inv_std.copy(), *results, in_place], saved._mask


def test_clusters_of_sixteen(cuda: ModuleType, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KITAE_CUDA_BATCH_NORM", "resident16")
    for shape in ((17 * 256 + 5, 9), (2, 1, 9 * 4096)):
        x = rng.standard_normal(shape).astype(np.float32)
        expected, got = _both(partial(_trained, x), cuda, monkeypatch)
        for value, reference in zip(got, expected, strict=True):
            assert_same_bits(value, reference, str(shape))


@pytest.mark.parametrize("path", ["streaming", "", "resident2", "grid3"])
@pytest.mark.parametrize("layout", CHANNEL_LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_sums_are_taken_from(
    dtype: str, layout: str, path: str, cuda: ModuleType, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Float64 parameters have gradients in which every bit of the sums is seen."""
    monkeypatch.setenv("KITAE_CUDA_BATCH_NORM", path)
    for outer, inner in SEQUENCES:
        x, axis = arranged_channels(channels_about_shifts(outer * inner, rng), outer, inner, layout)
        x = x.astype(dtype_named(dtype))
        gamma, beta = rng.standard_normal((2, x.shape[axis]))
        dout = rng.standard_normal(x.shape).astype(x.dtype)

        def call(
            x: np.ndarray = x, dout: np.ndarray = dout, axis: int = axis, gamma: Any = gamma, beta: Any = beta
        ) -> list[np.ndarray]:
            y, saved = kitae.batch_norm(
                x, gamma, beta, None, None, training=True, axis=axis, nonfinite="propagate", out=np.empty_like(x)
            )
            return [y, saved.mean, saved.inv_std, *kitae.batch_norm_backward(dout, saved)]

        with monkeypatch.context() as context:
            expected, got = _both(call, cuda, context)
        for name, value, reference in zip(
            ("y", "mean", "inv_std", "dx", "dgamma", "dbeta"), got, expected, strict=True
        ):
            assert_same_bits(value, reference, f"{name}, ({outer}, {inner})")
        constant = np.float32(beta[CONSTANT]) if x.dtype != np.float64 else beta[CONSTANT]
        assert (np.take(got[0], CONSTANT, axis) == np.asarray(constant).astype(x.dtype)).all()


def _trained(x: np.ndarray, **options: Any) -> list[np.ndarray]:
    """y, the running statistics, mean and inv_std."""
    channels = x.shape[1]
    dtype = np.float64 if x.dtype == np.float64 else np.float32
    mean, var = np.full(channels, 0.5, dtype), np.full(channels, 2, dtype)
    y, saved = kitae.batch_norm(x, None, None, mean, var, training=True, **options)
    return [y, mean, var, saved.mean, saved.inv_std]


@pytest.mark.parametrize("path", ["streaming", "resident", "resident2"])
@pytest.mark.parametrize("shape", [(600, 5), (4, 5, 3000)])
def test_float64_sums_that_overflow(
    shape: tuple[int, ...], path: str, cuda: ModuleType, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redone scaled, for the channels that need it."""
    monkeypatch.setenv("KITAE_CUDA_BATCH_NORM", path)
    x = rng.standard_normal(shape)
    x[:, 1] *= 1e200
    x[:, 3] *= 1e300
    expected, got = _both(lambda: _trained(x), cuda, monkeypatch)
    assert np.isfinite(expected[3]).all()
    for value, reference in zip(got, expected, strict=True):
        assert_same_bits(value, reference, path)
    assert cuda.check() is None


def test_more_chunks_than_are_added_one_by_one(cuda: ModuleType, rng: np.random.Generator) -> None:
    """Their sums take 16 lanes: no longer the CPU's order, still one order."""
    x = rng.standard_normal((1025 * 256 + 3, 2)).astype(np.float32)
    wide = x.astype(np.float64)
    runs = []
    for seed in (1, 2):
        cuda.set_seed(seed)
        runs.append(_trained(x))
    for first, second in zip(*runs, strict=True):
        assert_same_bits(first, second, "block orders")
    # 1e-12: sqrt(n) roundings of 2^-53 in sums of 5e5 terms are 8e-14 of them.
    np.testing.assert_allclose(runs[0][3], wide.mean(axis=0), rtol=0, atol=1e-12)
    np.testing.assert_allclose(runs[0][4], 1 / np.sqrt(wide.var(axis=0) + 1e-5), rtol=1e-12)


@pytest.mark.parametrize("path", ["streaming", "resident", "resident2", "grid2"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_raise_sets_the_flag_and_writes_nothing(
    path: str, dtype: str, cuda: ModuleType, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KITAE_CUDA_BATCH_NORM", path)
    x = rng.standard_normal((600, 7)).astype(dtype_named(dtype))
    x[3, 5], x[500, 2] = np.inf, np.nan
    out = np.full_like(x, 7)
    for given in (None, out):
        assert cuda.check() is None
        results = _trained(x, out=given)
        assert cuda.check() == (NONFINITE_CHANNEL, 2)
        assert (results[1] == 0.5).all()
        assert (results[2] == 2).all()
    assert (out.astype(np.float32) == 7).all()


@pytest.mark.parametrize("path", ["streaming", "resident", "resident2", "grid2"])
@pytest.mark.parametrize("rule", ["skip", "zero", "propagate"])
def test_other_rules_as_the_reference(
    path: str, rule: str, cuda: ModuleType, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KITAE_CUDA_BATCH_NORM", path)
    for shape in ((600, 7), (2, 7, 300)):
        x = rng.standard_normal(shape).astype(np.float32)
        x[1, 5], x[-1, 2] = np.inf, np.nan
        expected, got = _both(partial(_trained, x, nonfinite=rule), cuda, monkeypatch)
        for value, reference in zip(got, expected, strict=True):
            assert_same_bits(value, reference, rule)
        assert cuda.check() is None


def test_inference_with_statistics_that_are_not_finite(cuda: ModuleType, rng: np.random.Generator) -> None:
    x = rng.standard_normal((5, 4)).astype(np.float32)
    mean, var = np.zeros(4, np.float32), np.array([1, 1, np.nan, np.inf], np.float32)
    out = np.full_like(x, 7)
    kitae.batch_norm(x, None, None, mean, var, training=False, out=out)
    assert cuda.check() == (NONFINITE_RUNNING, 2)
    assert (out == 7).all()
    kitae.batch_norm(x, None, None, mean, var, training=False, nonfinite="propagate", out=out)
    assert cuda.check() is None
    assert np.isnan(out[:, 2]).all()
    assert np.isfinite(out[:, :2]).all()
    kept = x.copy()
    kitae.batch_norm(x, None, None, mean, np.ones(4, np.float32), training=False, out=x)
    np.testing.assert_allclose(x, kept / np.sqrt(1 + 1e-5), rtol=1e-6)


def test_running_statistics_of_any_stride_and_dtype(
    cuda: ModuleType, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = rng.standard_normal((70, 9)).astype(np.float16)
    for dtype in (np.float16, np.float32, np.float64):

        def call(dtype: Any = dtype) -> list[np.ndarray]:
            mean, var = np.zeros(27, dtype)[::3], np.ones(9, dtype)[::-1]
            gamma = np.linspace(0.5, 1.5, 18).astype(dtype)[1::2]
            y, _ = kitae.batch_norm(x, gamma, None, mean, var, training=True)
            return [y, mean.copy(), var.copy()]

        expected, got = _both(call, cuda, monkeypatch)
        for value, reference in zip(got, expected, strict=True):
            assert_same_bits(value, reference, str(dtype))


@pytest.mark.parametrize(
    ("shape", "path", "launches"),
    [
        ((700, 40), "streaming", 3),
        ((700, 40), "resident", 1),
        ((700, 40), "resident4", 1),
        ((700, 40), "grid3", 1),
        ((100_000, 40), "grid3", 3),  # too large for three blocks
        ((8, 5, 2100), "streaming", 3),
        ((8, 5, 2100), "resident", 1),
    ],
)
def test_the_forced_path_is_the_one_that_ran(
    shape: tuple[int, ...],
    path: str,
    launches: int,
    cuda: ModuleType,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By its number of kernels."""
    monkeypatch.setenv("KITAE_CUDA_BATCH_NORM", path)
    x = rng.standard_normal(shape).astype(np.float32)
    before = cuda.launched()[0]
    _, saved = kitae.batch_norm(x, None, None, None, None, training=True)
    between = cuda.launched()[0]
    kitae.batch_norm_backward(x, saved)
    assert (between - before, cuda.launched()[0] - between) == (launches, launches)


def test_the_layer(cuda: ModuleType, rng: np.random.Generator) -> None:
    x = rng.standard_normal((6, 3, 5)).astype(np.float32)
    layer = kitae.BatchNorm(activation="relu")
    y = layer.forward(x)
    dx = layer.backward(np.ones_like(x))
    assert y.shape == dx.shape == x.shape
    assert (y >= 0).all()
    assert layer.grads["gamma"] is not None
    assert simulated.has("batch_norm")


def test_cupy_arrays(cupy_module: ModuleType, rng: np.random.Generator) -> None:
    """The layer and its backward, other memory orders, "zero", and what "raise" leaves for check()."""
    x = rng.standard_normal((6, 4, 5)).astype(np.float32)
    residual = rng.standard_normal(x.shape).astype(np.float32)
    results = []
    for make in (np.copy, on_device):
        layer = kitae.BatchNorm(activation="relu")
        y = layer.forward(make(x), residual=make(residual))
        dx, dresidual = layer.backward(make(x))
        results.append([y, dx, dresidual, *layer.buffers.values(), *layer.grads.values()])
    for expected, got in zip(*results, strict=True):
        assert_same_bits(got.get(), expected, "layer")

    channels = x.shape[1]
    given = [(np.zeros(channels, np.float32), np.ones(channels, np.float32)) for _ in range(2)]
    x[2, 1] = np.nan
    last = x.transpose(0, 2, 1)  # channels last, as (N, C, L)
    expected, _ = kitae.batch_norm(last, None, None, *given[0], training=True, axis=2, nonfinite="zero")
    running = [on_device(a) for a in given[1]]
    got, saved = kitae.batch_norm(on_device(x).T, None, None, *running, training=True, axis=1, nonfinite="zero")
    assert got.strides == x.T.strides
    assert_same_bits(got.get().T, expected.transpose(0, 2, 1), "zero")
    assert_same_bits(running[0].get(), given[0][0], "zero, running mean")
    assert type(saved.mean) is type(running[0])

    kitae.check()
    before = running[1].get()
    kitae.batch_norm(on_device(x), None, None, *running, training=True)
    with pytest.raises(FloatingPointError, match="channel 1 "):
        kitae.check()
    assert_same_bits(running[1].get(), before, "raise")
