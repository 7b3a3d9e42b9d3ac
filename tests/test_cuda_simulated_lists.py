"""Optimizer plans and gradient lists of the CUDA backend on the host (simulated.py): what the rows don't reach."""

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import kitae
from kitae import reference
from kitae.bench.cases.row import dtype_named
from test_backends_agree import assert_same_bits
from test_cuda_simulated import cuda
from test_optimizer_stats import RULES, copied, tensors

__all__ = ["cuda"]  # the fixture

DTYPES = ("float32", "float64", "float16", "bfloat16")
SHAPES = ((3, 1367), (0,), (5,), (4097,), (2, 0, 3), (), (130,), (64, 64), (4, 9000))
RAISE, SKIP, ZERO, PROPAGATE = range(4)
NONE, ALL, TENSOR, LAYER = range(4)
ADAM = {"learning_rate": 0.01, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "eps_after_correction": 1.0}
MOMENTUM = {"velocity_keep": 0.9, "velocity_gain": -0.01, "parameter_gain": 1.0}
Layout = Callable[[np.ndarray], np.ndarray]


def _misaligned(array: np.ndarray) -> np.ndarray:
    return _at(array, 1)


def _fortran(array: np.ndarray) -> np.ndarray:
    return array.copy(order="F")


def _every_other(array: np.ndarray) -> np.ndarray:
    if array.ndim == 0:
        return array.copy()
    room = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
    view = room[..., ::2]
    view[...] = array
    return view


def _plain(array: np.ndarray) -> np.ndarray:
    return array.copy()


def _at(array: np.ndarray, offset: int) -> np.ndarray:
    """A contiguous copy whose first element lies `offset` elements past a 64-byte boundary."""
    room = np.zeros(array.size + 128, array.dtype)
    start = -room.ctypes.data % 64 // array.itemsize + offset
    view = room[start : start + array.size].reshape(array.shape)
    view[...] = array
    return view


def _beside(parameter: np.ndarray, state: np.ndarray) -> np.ndarray:
    """As the classes allocate it (_dispatch.empty_beside): vectors begin at the same element."""
    return _at(state, parameter.ctypes.data // parameter.itemsize % 4)


def _made(rng: np.random.Generator, dtype: str, layout: Layout = _plain) -> list[np.ndarray]:
    return [layout(np.asarray(rng.standard_normal(shape)).astype(dtype_named(dtype))) for shape in SHAPES]


def _copies(arrays: list[Any]) -> list[Any]:
    """With the same strides and the same place within 64 bytes."""
    made = []
    for array in arrays:
        if array is None:
            made.append(None)
            continue
        low, high = np.lib.array_utils.byte_bounds(array) if array.size else (array.ctypes.data, array.ctypes.data)
        room = np.zeros(high - low + 128, np.uint8)
        start = -room.ctypes.data % 64 + low % 64 + array.ctypes.data - low
        view = np.ndarray(array.shape, array.dtype, room, start, array.strides) if array.size else array.copy()
        view[...] = array
        made.append(view)
    return made


class _Pair:
    """The same plan on the reference and on the simulated GPU, each with memory of its own."""

    def __init__(
        self,
        cuda: ModuleType,
        rule: str,
        numbers: list[dict[str, float]],
        params: list[np.ndarray],
        *,
        master: bool = True,
        places: list[tuple[int, list[int] | None]] | None = None,
    ) -> None:
        self.cuda, self.memory, self.plans = cuda, [], []
        slot_count = {"adam": 2, "velocity": 1, "amsgrad": 3, "gradient_descent": 0, "average": 0}[rule]
        for module in (reference, cuda):
            own = _copies(params)
            wide = [np.float64 if p.dtype == np.float64 else np.float32 for p in own]
            slots = [
                [_beside(p, np.zeros(p.shape, kind)) for _ in range(slot_count)]
                for p, kind in zip(own, wide, strict=True)
            ]
            masters = [_beside(p, p.astype(np.float32)) if master and p.itemsize == 2 else None for p in own]
            groups = [i % len(numbers) for i in range(len(own))]
            plan = module.OptimizerPlan(
                rule=rule,
                parameters=own,
                masters=masters,
                slots=slots,
                groups=groups,
                places=places or [(i, None) for i in range(len(own))],
                group_count=len(numbers),
            )
            for group, values in enumerate(numbers):
                plan.set_numbers(group, values)
            self.plans.append(plan)
            self.memory.append(
                [*own, *(slot for each in slots for slot in each), *(m for m in masters if m is not None)]
            )

    def set_numbers(self, group: int, numbers: dict[str, float]) -> None:
        for plan in self.plans:
            plan.set_numbers(group, numbers)

    def step(self, grads: list[Any] | None, number: int, *options: Any) -> None:
        found = [plan.step(grads, number, *options) for plan in self.plans]
        np.testing.assert_equal(found[1], (True, math.nan, -1, -1), "the GPU was waited for")
        with np.errstate(all="ignore"):
            np.testing.assert_equal(self.plans[1].result()[:4], found[0])

    def assert_same(self, what: str = "") -> None:
        for i, (expected, array) in enumerate(zip(*self.memory, strict=True)):
            assert_same_bits(array, expected, f"{what} array {i}")


@pytest.mark.parametrize("layout", [_plain, _misaligned, _fortran, _every_other])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gradient_dtype", ["same", "float32"])
def test_steps(cuda: ModuleType, rng: np.random.Generator, dtype: str, gradient_dtype: str, layout: Layout) -> None:
    params = _made(rng, dtype, layout)
    numbers = [ADAM, {**ADAM, "learning_rate": 0.1, "weight_keep": 0.99, "l2": 0.01, "l1": 0.001}]
    pair = _Pair(cuda, "adam", numbers, params)
    for number in range(1, 5):
        cuda.set_seed(number)
        grads: list[Any] = _made(rng, dtype if gradient_dtype == "same" else "float32", layout)
        if number == 2:
            grads[3] = grads[1] = None
        if number == 3:
            pair.set_numbers(0, {"learning_rate": 0.25})
        pair.step(grads, number, *((NONE, 0.0, 0.0, PROPAGATE) if number % 2 else (ALL, 0.5, 1e-6, RAISE)))
        pair.assert_same(f"step {number}")


@pytest.mark.parametrize("offset", range(8))
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_alignment(cuda: ModuleType, rng: np.random.Generator, dtype: str, offset: int) -> None:
    """Vectors where all arrays of a tensor begin as far from one, elements before and after them, and elsewhere."""
    kind, sizes = dtype_named(dtype), (1, 3, 6, 130, 4097 + offset)
    made = [_at(rng.standard_normal(size).astype(kind), offset) for size in sizes]
    pair = _Pair(cuda, "adam", [ADAM], made)
    for number, other in enumerate((offset, offset + 4, offset + 1), 1):
        grads = [_at(rng.standard_normal(size).astype(kind), other) for size in sizes]
        pair.step(grads, number, NONE, 0.0, 0.0, PROPAGATE)
        pair.assert_same(f"gradients at {other}")
    expected = _copies(made)
    reference.clip_grad_value(expected, 1 / 3)
    cuda.clip_grad_value(made, 1 / 3)
    for array, value in zip(made, expected, strict=True):
        assert_same_bits(array, value, "clipped")


@pytest.mark.parametrize("rule", ["gradient_descent", "velocity", "amsgrad"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rules_without_masters(cuda: ModuleType, rng: np.random.Generator, rule: str, dtype: str) -> None:
    numbers = {"gradient_descent": {"gradient_gain": -0.1}, "velocity": MOMENTUM, "amsgrad": ADAM}[rule]
    pair = _Pair(cuda, rule, [numbers], _made(rng, dtype), master=False)
    for number in (1, 2):
        cuda.set_seed(number)
        pair.step(_made(rng, dtype), number, TENSOR, 0.0, 0.0, PROPAGATE)
    pair.assert_same()


def test_mixed_dtypes_in_one_launch(cuda: ModuleType, rng: np.random.Generator) -> None:
    params = [_made(rng, DTYPES[i % 4])[i] for i in range(len(SHAPES))]
    pair = _Pair(cuda, "adam", [ADAM], params)
    for number in (1, 2, 3):
        cuda.set_seed(number)
        grads = [_made(rng, DTYPES[i % 4])[i] for i in range(len(SHAPES))]
        pair.step(grads, number, ALL, 1.0, 1e-6, SKIP)
    pair.assert_same()


def test_the_last_dtypes_first(cuda: ModuleType, rng: np.random.Generator) -> None:
    """One tensor of float64 among others turns the wide kernels on; nothing else may change."""
    params = [*_made(rng, "float32"), np.float64(rng.standard_normal(5000))]
    pair = _Pair(cuda, "velocity", [MOMENTUM], params)
    pair.step([*_made(rng, "float32"), rng.standard_normal(5000).astype(np.float32)], 1, ALL, 1.0, 0.0, ZERO)
    pair.assert_same()


def test_tied_parameters(cuda: ModuleType, rng: np.random.Generator) -> None:
    """Three gradients of one parameter, one of them transposed, added in the order of the list."""
    params = [rng.standard_normal((70, 80)).astype(np.float32), rng.standard_normal(9).astype(np.float32)]
    places: list[tuple[int, list[int] | None]] = [(0, None), (1, None), (0, [1, 0]), (0, None)]
    pair = _Pair(cuda, "adam", [ADAM], params, places=places)
    for number in (1, 2, 3):
        cuda.set_seed(number)
        shapes = ((70, 80), (9,), (80, 70), (70, 80))
        grads: list[Any] = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
        if number == 2:
            grads[0] = None
        pair.step(grads, number, ALL, 0.5, 1e-6, SKIP)
        pair.assert_same(f"step {number}")


def test_a_changed_parameter_wins_over_its_master(cuda: ModuleType, rng: np.random.Generator) -> None:
    pair = _Pair(cuda, "velocity", [MOMENTUM], [rng.standard_normal(5003).astype(np.float16)])
    for number in (1, 2):
        pair.step([rng.standard_normal(5003).astype(np.float16)], number, NONE, 0.0, 0.0, PROPAGATE)
        for memory in pair.memory:
            memory[0][::7] = number
    pair.assert_same()


def test_bound_gradients_are_read_at_each_step(cuda: ModuleType, rng: np.random.Generator) -> None:
    params, grads = _made(rng, "float32"), _made(rng, "float32")
    pair = _Pair(cuda, "adam", [ADAM], params)
    for plan in pair.plans:
        plan.bind(grads)
    for number in (1, 2, 3):
        cuda.set_seed(number)
        pair.step(None, number, ALL, 0.5, 1e-6, RAISE)
        for grad in grads:
            grad[...] = rng.standard_normal(grad.shape)
        pair.set_numbers(0, {"learning_rate": 0.01 * number})
        for plan in pair.plans:
            plan.refresh()
    pair.step(_made(rng, "float32"), 4, NONE, 0.0, 0.0, PROPAGATE)
    assert not pair.plans[1].bound()
    pair.assert_same()


@pytest.mark.parametrize("rule", [RAISE, SKIP])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("asked", [True, False])
def test_a_stopped_step_writes_nothing(
    cuda: ModuleType, rng: np.random.Generator, rule: int, dtype: str, asked: bool
) -> None:
    params, grads = _made(rng, dtype), _made(rng, dtype)
    pair = _Pair(cuda, "adam", [ADAM], params)
    grads[7][63, 63] = np.nan
    grads[8][3, 77] = np.inf
    before = [array.copy() for array in pair.memory[1]]
    pair.plans[1].step(grads, 1, ALL, 0.5, 1e-6, rule)
    if asked:
        norm = pair.plans[1].result()[1]
        np.testing.assert_equal(pair.plans[1].result(), (False, norm, 0, 7, 0))
        assert not math.isfinite(norm)
    for array, old in zip(pair.memory[1], before, strict=True):
        assert_same_bits(array, old, "stopped")
    assert cuda.check() == ((3, 7) if rule == RAISE else None)
    # Unless it asked, the host counted a step that the GPU did not make: the next one is the GPU's first.
    pair.plans[0].step(_zeros_but(grads, 1.0), 1, ALL, 0.5, 1e-6, rule)
    pair.plans[1].step(_zeros_but(grads, 1.0), 1 if asked else 2, ALL, 0.5, 1e-6, rule)
    pair.assert_same("after it")
    assert pair.plans[1].result()[4] == 1
    assert cuda.check() is None


def _zeros_but(arrays: list[np.ndarray], value: float) -> list[np.ndarray]:
    made = [np.zeros_like(array) for array in arrays]
    made[0][...] = value
    return made


def test_counts_are_of_the_last_step(cuda: ModuleType, rng: np.random.Generator) -> None:
    pair = _Pair(cuda, "velocity", [{**MOMENTUM, "l1": 0.1}, MOMENTUM], _made(rng, "float32"))
    for number, bad in enumerate((3, 0, 5, 700, 0, 1), 1):
        cuda.set_seed(number)
        grads = _made(rng, "float32")
        grads[8].reshape(-1)[:bad] = np.nan
        grads[3][:bad] = -np.inf
        pair.step(grads, number, NONE, 0.0, 0.0, ZERO if number % 2 else PROPAGATE)
        assert pair.plans[1].result()[2] == bad * 2


def test_the_count_can_be_set(cuda: ModuleType, rng: np.random.Generator) -> None:
    pair = _Pair(cuda, "adam", [ADAM, ADAM], _made(rng, "float32"))
    for number in (1, 2, 1000, 1001, 2**40):
        pair.step(_made(rng, "float32"), number, NONE, 0.0, 0.0, PROPAGATE)
        assert pair.plans[1].result()[4] == number
    pair.plans[1].set_steps(7)
    assert pair.plans[1].result()[4] == 7
    pair.step(_made(rng, "float32"), 8, NONE, 0.0, 0.0, PROPAGATE)
    pair.assert_same()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [_plain, _misaligned, _fortran, _every_other])
def test_averages(cuda: ModuleType, rng: np.random.Generator, dtype: str, layout: Layout) -> None:
    pair = _Pair(cuda, "average", [{"gain": 0.25}, {"gain": 1.0}], _made(rng, dtype, layout))
    for number in (1, 2):
        cuda.set_seed(number)
        pair.step(_made(rng, dtype, layout), number, NONE, 0.0, 0.0, PROPAGATE)
        pair.assert_same()


def test_nothing_but_empty_tensors(cuda: ModuleType) -> None:
    pair = _Pair(cuda, "adam", [ADAM], [np.zeros((0, 3), np.float32), np.zeros(0, np.float32)])
    pair.step([np.zeros((0, 3), np.float32), None], 1, ALL, 1.0, 0.0, RAISE)
    pair.assert_same()


# Steps that measure themselves


def _assert_tracked(pair: _Pair, what: str = "") -> list[tuple[float, ...]]:
    expected, tracked = (plan.tracked() for plan in pair.plans)
    np.testing.assert_equal(tracked, expected, what)
    pair.assert_same(what)
    return tracked


@pytest.mark.parametrize("layout", [_plain, _misaligned, _fortran, _every_other])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gradient_dtype", ["same", "float32"])
def test_tracked_steps(
    cuda: ModuleType, rng: np.random.Generator, dtype: str, gradient_dtype: str, layout: Layout
) -> None:
    params = _made(rng, dtype, layout)
    pair = _Pair(cuda, "adam", [ADAM, {**ADAM, "weight_keep": 0.99, "l2": 0.01, "l1": 0.001}], params)
    for plan in pair.plans:
        plan.set_tracking(True)
        assert plan.tracked() == []
    for number in range(1, 5):
        cuda.set_seed(number)
        grads: list[Any] = _made(rng, dtype if gradient_dtype == "same" else "float32", layout)
        if number == 2:
            grads[3] = grads[1] = None
        if number == 3:
            grads[8].flat[[0, 17, 4096, 30_001]] = np.nan, np.inf, -np.inf, np.nan
        if number == 4:
            for plan in pair.plans:
                plan.set_tracking(False)
        rule = ZERO if number == 3 else PROPAGATE
        pair.step(grads, number, *((NONE, 0.0, 0.0, rule) if number % 2 else (ALL, 0.5, 1e-6, rule)))
        tracked = _assert_tracked(pair, f"step {number}")
        if number == 2:
            assert tracked[3] == (0,) * 6
        if number == 3:
            assert [of[0] for of in tracked] == [0] * 8 + [4]
        assert len(tracked) == (0 if number == 4 else len(SHAPES))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_rule_tracks(cuda: ModuleType, rng: np.random.Generator, rule: str, dtype: str) -> None:
    start, grads = tensors(rng, dtype_named(dtype)), [tensors(rng, dtype_named(dtype), 0.1) for _ in range(2)]
    found = []
    for backend in ("reference", "cpu"):
        params = copied(start)
        with kitae.use_backend(backend):
            opt = RULES[rule](params)
            opt.track = True
            for grad in grads:
                opt.step(grad)
            found.append((params, opt.stats))
    assert found[1][1] == found[0][1]
    for name, array in found[1][0].items():
        assert_same_bits(array, found[0][0][name], name)


def test_tracked_gradients_are_added_first(cuda: ModuleType, rng: np.random.Generator) -> None:
    params = [rng.standard_normal((70, 80)).astype(np.float32), rng.standard_normal(9).astype(np.float32)]
    places: list[tuple[int, list[int] | None]] = [(0, None), (1, None), (0, [1, 0])]
    pair = _Pair(cuda, "velocity", [MOMENTUM], params, places=places)
    for plan in pair.plans:
        plan.set_tracking(True)
    grads = [rng.standard_normal(shape).astype(np.float32) for shape in ((70, 80), (9,), (80, 70))]
    pair.step(grads, 1, NONE, 0.0, 0.0, PROPAGATE)
    tracked = _assert_tracked(pair)
    np.testing.assert_allclose(tracked[0][1], ((grads[0] + grads[2].T).astype(np.float64) ** 2).sum(), rtol=1e-12)


def test_tracked_lists_of_all_sizes(cuda: ModuleType, rng: np.random.Generator) -> None:
    """Of every dtype, one and many chunks side by side in a warp, and more of them than the grid has warps."""
    sizes = (40 * 4096 + 17, 3, 16, 4097, 0, 1, 4 * 4096, 5000)
    params = [rng.standard_normal(size).astype(dtype_named(DTYPES[i % 4])) for i, size in enumerate(sizes)]
    params += [rng.standard_normal(i % 37).astype(np.float32) for i in range(400)]
    pair = _Pair(cuda, "gradient_descent", [{"gradient_gain": -0.1}], params)
    for plan in pair.plans:
        plan.set_tracking(True)
    for number in (1, 2):
        cuda.set_seed(number)
        grads = [rng.standard_normal(p.shape).astype(p.dtype) for p in params]
        pair.step(grads, number, TENSOR, 1.0, 1e-6, PROPAGATE)
        _assert_tracked(pair, f"step {number}")


def test_a_stopped_step_has_tracked_nothing(cuda: ModuleType, rng: np.random.Generator) -> None:
    params, grads = _made(rng, "float32"), _made(rng, "float32")
    pair = _Pair(cuda, "adam", [ADAM], params)
    for plan in pair.plans:
        plan.set_tracking(True)
    pair.step(grads, 1, ALL, 0.5, 1e-6, SKIP)
    assert len(_assert_tracked(pair)) == len(SHAPES)
    grads[7][63, 63] = np.nan
    pair.step(grads, 2, ALL, 0.5, 1e-6, SKIP)
    assert _assert_tracked(pair) == []


# Norms and clipping


def _with_none(arrays: list[np.ndarray]) -> list[Any]:
    return [*arrays[:2], None, *arrays[2:], None]


@pytest.mark.parametrize("layout", [_plain, _misaligned, _fortran, _every_other])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", [RAISE, SKIP, ZERO, PROPAGATE])
@pytest.mark.parametrize("scope", [ALL, TENSOR, LAYER])
def test_clipping(
    cuda: ModuleType, rng: np.random.Generator, layout: Layout, dtype: str, rule: int, scope: int
) -> None:
    grads = _with_none(_made(rng, dtype, layout))
    layers = [0, 1, 1, 4, len(grads)] if scope == LAYER else None
    for bad in (False, True):
        if bad:
            grads[4][77] = np.inf
        for max_norm in (1.5, 1e30, 0.0):
            expected = _copies(grads)
            norm, first, *norms = reference.clip_grad_norm(expected, max_norm, 1e-6, rule, scope, layers, None)
            for waits in (True, False):
                cuda.set_seed(int(waits) + 2 * int(bad))
                own = _copies(grads)
                memory = None if waits else np.zeros(1 + len(grads) + (len(layers) - 1 if layers else 0))
                got = cuda.clip_grad_norm(own, max_norm, 1e-6, rule, scope, layers, memory)
                if waits:
                    np.testing.assert_equal(got, (norm, first, *norms))
                else:
                    np.testing.assert_equal(memory, [norm, *norms[0], *norms[1]])
                assert cuda.check() == ((3, first) if bad and rule == RAISE and not waits else None)
                for array, value in zip(own, expected, strict=True):
                    if array is not None:
                        assert_same_bits(array, value, f"waits: {waits}, bad: {bad}, max_norm: {max_norm}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [_plain, _misaligned, _fortran, _every_other])
def test_clipping_by_value(cuda: ModuleType, rng: np.random.Generator, dtype: str, layout: Layout) -> None:
    grads = _made(rng, dtype, layout)
    grads[3][5] = np.nan
    expected = _copies(grads)
    reference.clip_grad_value(expected, 1 / 3)
    cuda.clip_grad_value(grads, 1 / 3)
    for array, value in zip(grads, expected, strict=True):
        assert_same_bits(array, value, "clipped")


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_long_tensors(cuda: ModuleType, rng: np.random.Generator, seed: int) -> None:
    """More chunks than a warp looks ahead, and short tensors between long ones."""
    sizes = (150 * 4096 + 17, 3, 40 * 4096, 5 * 4096 - 1, 4 * 4096, 1)
    grads = [rng.standard_normal(size, np.float32) for size in sizes]
    cuda.set_seed(seed)
    assert cuda.global_norm(grads, False, None) == reference.global_norm(grads, False, None)


@pytest.mark.parametrize("largest", [1e200, 1e-200, 5e-324, 1e308])
@pytest.mark.parametrize("count", [1, 40])
def test_float64_sums_that_overflow(cuda: ModuleType, rng: np.random.Generator, largest: float, count: int) -> None:
    with np.errstate(all="ignore"):
        grads = [rng.uniform(-1, 1, size) * largest for size in (5000, 0, 33)] * count
        grads[2] = rng.standard_normal(33)
        grads += [rng.standard_normal(9).astype(np.float32), np.zeros(5, np.float16)]
        if count > 1:
            grads = grads[2:]
            grads[0] = np.array([largest])
        for bad in (False, True):
            if bad:
                grads[-2][1] = np.inf
            memory = np.zeros(1 + len(grads))
            norm, first = reference.global_norm(grads, False, None)
            np.testing.assert_equal(cuda.global_norm(grads, False, None), (norm, first))
            cuda.global_norm(grads, False, memory)
            assert_same_bits(memory[0], np.float64(norm), "norm")


def test_norms_take_many_tensors(cuda: ModuleType, rng: np.random.Generator) -> None:
    """A warp finds a chunk's tensor in three loads, and not in two."""
    grads = [rng.standard_normal(i % 37).astype(np.float32) for i in range(1100)]
    for seed in (1, 2):
        cuda.set_seed(seed)
        assert cuda.global_norm(grads, False, None) == reference.global_norm(grads, False, None)


# The public classes


def _trained(backend: str, steps: int, **options: Any) -> tuple[Any, list[np.ndarray]]:
    rng = np.random.default_rng(5)
    params = _made(rng, "float32")
    with kitae.use_backend(backend):
        opt = kitae.Adam(params, 0.01, **options)
        for step in range(steps):
            grads = _made(rng, "float32")
            if step == 1:
                grads[3][9] = np.nan
            if step == 3:
                opt.lr = 0.1
            opt.step(grads)
    return opt, params


@pytest.mark.parametrize("nonfinite", ["skip", "zero", "propagate"])
def test_adam_counts_and_tells(cuda: ModuleType, nonfinite: str) -> None:
    expected, values = _trained("reference", 5, max_norm=0.5, nonfinite=nonfinite)
    opt, params = _trained("cpu", 5, max_norm=0.5, nonfinite=nonfinite)
    assert opt.steps == expected.steps == (4 if nonfinite == "skip" else 5)
    np.testing.assert_equal(tuple(opt.stats), tuple(expected.stats))
    for array, value in zip(params, values, strict=True):
        assert_same_bits(array, value, "parameter")


def test_adam_without_norms(cuda: ModuleType) -> None:
    opt, params = _trained("cpu", 2)
    expected, values = _trained("reference", 2)
    assert opt.stats.nonfinite == 1
    assert math.isnan(opt.stats.norm)
    state, other = opt.state_dict(), expected.state_dict()
    assert state["steps"] == other["steps"] == 2
    for array, value in zip([*params, *state["slots"]["v"]], [*values, *other["slots"]["v"]], strict=True):
        assert_same_bits(array, value, "parameter or state")


def test_raise_waits_for_check(cuda: ModuleType) -> None:
    params = [np.ones(5, np.float32), np.ones(4, np.float32)]
    opt = kitae.Adam(params, max_norm=1.0)
    opt.step([np.ones(5, np.float32), np.full(4, np.nan, np.float32)])
    assert opt.steps == 0
    assert not opt.stats.written
    np.testing.assert_array_equal(params[0], 1)
    assert cuda.check() == (3, 1)
    opt.step([np.ones(5, np.float32), np.ones(4, np.float32)])
    assert opt.steps == 1
    assert opt.stats.written
    assert cuda.check() is None


def test_loaded_state_goes_on(cuda: ModuleType) -> None:
    opt, params = _trained("cpu", 5, nonfinite="zero")
    saved = opt.state_dict()
    copy = [p.copy() for p in params]
    with kitae.use_backend("cpu"):
        other = kitae.Adam(copy, 0.5, nonfinite="zero")
        other.step([np.ones_like(p) for p in copy])
        for to, value in zip(copy, params, strict=True):
            to[...] = value
        other.load_state_dict(saved)
        assert other.steps == 5
        grads = [np.full_like(p, 0.25) for p in params]
        other.step(grads)
        opt.step(grads)
    for array, value in zip(copy, params, strict=True):
        assert_same_bits(array, value, "parameter")
