"""The CUDA kernels, run on the host with blocks, warps and lanes in shuffled order: the reference's bits."""

import math
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest

import kitae
import simulated
from kitae import _dispatch
from kitae.bench.cases import CASES, Case, Size
from kitae.bench.cases.row import dtype_named
from test_backends_agree import assert_same_bits, run

SEEDS = (1, 2, 3)
DTYPES = ("float32", "float64", "float16", "bfloat16")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The simulated module in place of the CPU backend."""
    module = simulated.require(simulated.MODULE)
    monkeypatch.setattr(_dispatch, "_cpu_module", module)
    return module


def large(size: Size) -> bool:
    """Large tensors take their time: one order of the blocks, and bfloat16 goes float16's ways."""
    return sum(map(math.prod, size.shapes)) > 100_000


def _rows() -> Iterator[object]:
    for case in CASES if simulated.MODULE is not None else CASES[:1]:  # one skip says it, two thousand are no better
        if simulated.MODULE is not None and not simulated.has(case.family):
            continue
        for size in case.test_sizes:
            for dtype in case.dtypes:
                if large(size) and dtype == "bfloat16":
                    continue
                yield pytest.param(case, size, dtype, id=f"{case.name}-{size.label}-{dtype}")


@pytest.mark.parametrize(("case", "size", "dtype"), list(_rows()))
def test_rows(case: Case, size: Size, dtype: str, cuda: ModuleType) -> None:
    original = case.inputs(size, dtype)
    reference = run(case, original, "reference", give_out=False)
    # Every order for float32; the other types take the same paths between blocks, so one of the orders in turn.
    every = dtype == "float32" and not large(size)
    seeds = SEEDS if every else SEEDS[len(case.name + size.label + dtype) % len(SEEDS) :][:1]
    runs = []
    for number, seed in enumerate(seeds):
        cuda.set_seed(seed)
        runs.append(run(case, original, "cpu", give_out=bool(case.out) and (number > 0 or len(seeds) == 1)))
    for name, value in reference.items():
        for seed, results in zip(seeds, runs, strict=True):
            assert_same_bits(results[name], value, f"{case.name} {name}: reference and simulated, block order {seed}")


def _dropout_with(module: ModuleType, x: np.ndarray, y: np.ndarray, bits: np.ndarray | None, threshold: int) -> None:
    module.dropout_forward(x, y, bits, threshold, 1.25, 2**63 + 11, 5)


def _at(array: np.ndarray, offset: int) -> np.ndarray:
    """A copy of a vector whose first element lies `offset` elements past a 64-byte boundary."""
    room = np.zeros(array.size + 256, array.dtype)
    start = -room.ctypes.data % 64 // array.itemsize + offset
    view = room[start : start + array.size]
    view[...] = array
    return view


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [0, 1, 5, 31, 33, 1023, 1024, 1025, 1031, 2048, 2055, 99_331])
def test_dropout_at_any_alignment(cuda: ModuleType, dtype: str, count: int, rng: np.random.Generator) -> None:
    cpu = pytest.importorskip("kitae._cpu")
    values = rng.standard_normal(count).astype(dtype_named(dtype))
    bits, expected_bits = (np.zeros((count + 63) // 64 * 8, np.uint8) for _ in range(2))
    expected = np.empty_like(values)
    _dropout_with(cpu, values, expected, expected_bits, 2**30 + 77)
    vector = 16 // values.itemsize
    pairs = {(0, 0), (1, 1), (0, 1), (1, 0), (vector - 1, vector - 1), (vector // 2, 1), (3, vector)}
    for from_offset, to_offset in sorted(pairs):
        what = f"x at {from_offset}, y at {to_offset}"
        x, y = _at(values, from_offset), _at(np.full_like(values, 7), to_offset)
        bits[...] = 0xA5
        cuda.set_seed(from_offset + 3 * to_offset)
        _dropout_with(cuda, x, y, bits, 2**30 + 77)
        assert_same_bits(y, expected, what)
        assert_same_bits(bits, expected_bits, what)
        y[...] = 7
        cuda.dropout_backward(x, y, bits, 0, 1.25, 0, 0)
        assert_same_bits(y, expected, what + ", from the stored mask")
        _dropout_with(cuda, x, x, None, 2**30 + 77)
        assert_same_bits(x, expected, what + ", in place, no mask")


def test_dropout_with_a_mask_at_an_odd_address(cuda: ModuleType, rng: np.random.Generator) -> None:
    x = rng.standard_normal(5001).astype(np.float32)
    expected, y = np.empty_like(x), np.empty_like(x)
    aligned = np.zeros((5001 + 63) // 64 * 8, np.uint8)
    _dropout_with(cuda, x, expected, aligned, 2**31)
    odd = _at(np.zeros_like(aligned), 1)
    _dropout_with(cuda, x, y, odd, 2**31)
    assert_same_bits(odd, aligned, "mask")
    cuda.dropout_backward(x, y, odd, 0, 1.25, 0, 0)
    assert_same_bits(y, expected, "from the mask")


@pytest.mark.parametrize("threshold", [0, 1, 2**16, 2**31 + 3, 2**32 - 1, 2**32])
def test_dropout_thresholds(cuda: ModuleType, threshold: int, rng: np.random.Generator) -> None:
    """Ties of the first draw are common where the threshold is near an end, and all of the mask where it is there."""
    cpu = pytest.importorskip("kitae._cpu")
    x = rng.standard_normal((7, 3001)).astype(np.float32)
    for view in (x, x.T, x[:, ::-2], np.broadcast_to(x[:1], (5, 3001))):
        expected, y = np.empty_like(view), np.empty_like(view)
        bits, expected_bits = (np.zeros((view.size + 63) // 64 * 8, np.uint8) for _ in range(2))
        _dropout_with(cpu, view, expected, expected_bits, threshold)
        _dropout_with(cuda, view, y, bits, threshold)
        assert_same_bits(y, expected, "y")
        assert_same_bits(bits, expected_bits, "bits")


def test_nothing_was_found(cuda: ModuleType) -> None:
    assert cuda.check() is None


def test_it_is_the_simulated_module_that_runs(cuda: ModuleType) -> None:
    assert _dispatch.backend_for(np.zeros(2), "op", "x") is cuda
    assert kitae.show_config()["cpu"] == "simulated"
