"""Optimizers and gradient lists of CuPy arrays at kitae._cuda's boundary (test_cuda_boundary.py)."""

from types import ModuleType
from typing import Any

import numpy as np
import pytest

import kitae
from imitation_cupy import Stream, ndarray
from test_cuda_boundary import cuda, on_device

__all__ = ["cuda"]  # the fixture

SHAPES = ((17, 31), (0,), (5000,), ())


def _made(rng: np.random.Generator, dtype: str = "float32") -> list[np.ndarray]:
    return [np.asarray(rng.standard_normal(shape)).astype(dtype) for shape in SHAPES]


def _on_device(arrays: list[np.ndarray], device: int = 0) -> list[ndarray]:
    return [on_device(array, device) for array in arrays]


def _assert_same(arrays: list[ndarray], expected: list[np.ndarray]) -> None:
    for array, value in zip(arrays, expected, strict=True):
        np.testing.assert_array_equal(array.get(), value)


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize("options", [{}, {"max_norm": 0.5}])
def test_steps(cuda: ModuleType, rng: np.random.Generator, dtype: str, options: dict[str, Any]) -> None:
    Stream.current.update({0: 0x10, 1: 0x20})
    params = _made(rng, dtype)
    own = _on_device(params, 1)
    expected, opt = kitae.Adam(params, 0.01, **options), kitae.Adam(own, 0.01, **options)
    for step in range(3):
        grads = _made(rng, dtype)
        expected.step(grads)
        opt.step(_on_device(grads, 1))
        if step == 1:
            expected.lr = opt.lr = 0.1
    _assert_same(own, params)
    np.testing.assert_equal(tuple(opt.stats), tuple(expected.stats))
    assert opt.steps == 3
    bound = _on_device(grads, 1)
    opt.bind(bound)
    for _ in range(2):
        before = cuda.launched()[0]
        opt.step()
        assert cuda.launched() == (before + (2 if options else 1), 1, 0x20)
        expected.step(grads)
    _assert_same(own, params)
    state = opt.state_dict()
    assert type(state["slots"]["m"][0]) is ndarray
    saved = expected.state_dict()
    opt.load_state_dict(saved)
    opt.load_state_dict(state)
    opt.step()
    expected.step(grads)
    _assert_same(own, params)


@pytest.mark.parametrize("offset", range(5))
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_state_begins_where_its_parameter_does(cuda: ModuleType, dtype: str, offset: int) -> None:
    """As many elements before a vector of four: parameter, gradient and state then move in vectors together."""
    room = np.ones(140, dtype)
    start = -room.ctypes.data % 64 // room.itemsize + offset
    parameter = ndarray(room[start : start + 33].reshape(3, 11))
    opt = kitae.Adam([parameter])
    opt.step([on_device(parameter.get())])
    arrays = [*opt._inputs["slots"][0], *(m for m in opt._inputs["masters"] if m is not None)]
    assert len(arrays) == (3 if dtype == "float16" else 2)
    assert {array.shape for array in arrays} == {(3, 11)}
    vector = min(4, 16 // room.itemsize)
    assert {array.data.ptr // array.itemsize % vector for array in arrays} == {offset % vector}


def test_a_changed_learning_rate_reaches_a_captured_step(cuda: ModuleType, rng: np.random.Generator) -> None:
    """A replay launches without the host: what it reads must be there before."""
    opt = kitae.Adam(_on_device(_made(rng)), 0.01)
    opt.bind(_on_device(_made(rng)))
    opt.step()
    before = cuda.launched()[0]
    opt.lr = 0.5
    assert cuda.launched()[0] == before + 1
    opt.step()
    assert cuda.launched()[0] == before + 2


def test_tied_and_overlapping_parameters(cuda: ModuleType, rng: np.random.Generator) -> None:
    w = rng.standard_normal((40, 60)).astype(np.float32)
    own = on_device(w)
    grads = [rng.standard_normal(shape).astype(np.float32) for shape in ((40, 60), (60, 40))]
    kitae.SGD([w, w.T], 0.1).step(grads)
    kitae.SGD([own, own.T], 0.1).step(_on_device(grads))
    _assert_same([own], [w])
    with pytest.raises(ValueError, match=r"params\[1\].*memory of its own"):
        kitae.SGD([own, own[1:]])
    opt = kitae.SGD([own], 0.1)
    with pytest.raises(ValueError, match="memory of its own"):
        opt.step([own])


def test_other_arrays_are_refused(cuda: ModuleType, rng: np.random.Generator) -> None:
    own = _on_device(_made(rng))
    with pytest.raises(TypeError, match=r"params\[1\].*cupy"):
        kitae.SGD([own[0], np.zeros(3, np.float32)])
    with pytest.raises(ValueError, match=r"params\[1\].*device"):
        kitae.SGD([own[0], on_device(np.zeros(3, np.float32), 1)])
    opt = kitae.SGD([own[0]], 0.1)
    with pytest.raises(TypeError, match=r"grads\[0\]"):
        opt.step([np.zeros((17, 31), np.float32)])
    with pytest.raises(ValueError, match=r"grads\[0\].*device"):
        opt.step([on_device(np.zeros((17, 31), np.float32), 1)])
    with pytest.raises(ValueError, match=r"grads\[0\].*shape"):
        opt.step([on_device(np.zeros((17, 30), np.float32))])
    with pytest.raises(TypeError, match=r"grads\[1\]"):
        kitae.global_norm([own[0], np.zeros(3, np.float32)])


def test_norms_stay_on_the_device(cuda: ModuleType, rng: np.random.Generator) -> None:
    grads = _made(rng)
    own: list[Any] = [*_on_device(grads, 1), None]
    before = cuda.launched()[0]
    norm = kitae.global_norm(own)
    assert type(norm) is ndarray
    assert norm.dtype == np.float64
    assert norm.get() == kitae.global_norm(grads)
    assert cuda.launched()[:2] == (before + 1, 1)
    expected = kitae.clip_grad_norm([*grads, None], 0.5, per="tensor")
    norms = kitae.clip_grad_norm(own, 0.5, per="tensor")
    assert [float(n.get()) for n in norms] == expected
    _assert_same(own[:-1], grads)
    kitae.clip_grad_value(grads, 0.01)
    kitae.clip_grad_value(own, 0.01)
    _assert_same(own[:-1], grads)


def test_what_raise_finds_is_raised_by_check(cuda: ModuleType) -> None:
    own = _on_device([np.ones(5, np.float32), np.full(4, np.nan, np.float32)])
    kitae.clip_grad_norm(own, 0.1)
    np.testing.assert_array_equal(own[0].get(), 1)
    with pytest.raises(FloatingPointError, match="number 1 "):
        kitae.check()
    kitae.check()
    params = _on_device([np.ones(5, np.float32), np.ones(4, np.float32)])
    opt = kitae.Adam(params, max_norm=1.0)
    opt.step(own)
    with pytest.raises(FloatingPointError, match="number 1 "):
        kitae.check()
    assert opt.steps == 0
    assert not opt.stats.written
    _assert_same(params, [np.ones(5, np.float32), np.ones(4, np.float32)])


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_adaptive_clipping(cuda: ModuleType, rng: np.random.Generator, dtype: str) -> None:
    params, grads = _made(rng, dtype), [np.asarray(4 * g) for g in _made(rng, dtype)]
    for of_units in (None, 0):
        own = _on_device([*grads, np.ones((6, 8), dtype)])
        kitae.clip_grad_adaptive(_on_device([*params, np.ones((6, 8), dtype)]), own, axis=of_units)
        expected = [*(g.copy() for g in grads), np.ones((6, 8), dtype)]
        kitae.clip_grad_adaptive([*params, np.ones((6, 8), dtype)], expected, axis=of_units)
        _assert_same(own, expected)
    # Strided: by way of copies, listed twice as one.
    wide, weights = (rng.standard_normal((12, 40)).astype(dtype) for _ in range(2))
    of_device = _on_device([wide])[0][::-1, ::2]
    kitae.clip_grad_adaptive(_on_device([weights[:, :20].copy()] * 2), [of_device, of_device])
    kitae.clip_grad_adaptive([weights[:, :20]], [wide[::-1, ::2]])
    _assert_same([of_device], [wide[::-1, ::2]])
    for rule in ("raise", "skip"):
        broken = [np.full(9, np.nan, dtype) if i == 2 else g for i, g in enumerate(grads)]
        own = _on_device(broken)
        kitae.clip_grad_adaptive(_on_device([params[0], params[1], np.ones(9, dtype), params[3]]), own, nonfinite=rule)
        _assert_same(own, broken)
        if rule == "raise":
            with pytest.raises(FloatingPointError, match="number 2 "):
                kitae.check()
        kitae.check()
    kitae.clip_grad_adaptive(
        _on_device([np.ones(2, dtype)]), own := _on_device([np.array([3, np.inf], dtype)]), nonfinite="zero"
    )
    assert own[0].get()[1] == 0
    np.testing.assert_allclose(own[0].get()[0], 0.01 * np.sqrt(2), rtol=1e-3)


@pytest.mark.parametrize("mode", ["clip_l2_per_layer", "renormalize_l2_per_layer", "clip_l2_per_param_type"])
def test_normalizations(cuda: ModuleType, rng: np.random.Generator, mode: str) -> None:
    grads = _made(rng)
    own = _on_device(grads, 1)
    before = cuda.launched()[0]
    norms = kitae.normalize_gradients([own[:2], {"W": own[2], "b": own[3]}, []], mode, 0.5)
    assert cuda.launched()[:2] == (before + 2, 1)  # norms, change
    expected = kitae.normalize_gradients([grads[:2], {"W": grads[2], "b": grads[3]}, []], mode, 0.5)
    _assert_same(own, grads)
    if mode.endswith("layer"):
        assert all(type(norm) is ndarray for norm in norms)
        assert [float(norm.get()) for norm in norms] == expected
    else:
        assert [float(norm.get()) for norm in norms[0]] == expected[0]
        assert {key: float(norm.get()) for key, norm in norms[1].items()} == expected[1]
    kitae.normalize_gradients([own], "clip_elementwise_absolute_value", 0.01)
    kitae.clip_grad_value(grads, 0.01)
    _assert_same(own, grads)


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_averages(cuda: ModuleType, rng: np.random.Generator, dtype: str) -> None:
    params, changed = _made(rng, dtype), _made(rng, dtype)
    own = _on_device(params, 1)
    expected, average = kitae.EMA(params, 0.75), kitae.EMA(own, 0.75)
    for array, other, value in zip(params, own, changed, strict=True):
        array[...] = value
        other.set(value)
    for _ in range(2):
        expected.update()
        average.update()
    _assert_same(average.averages, expected.averages)
    with average.applied():
        _assert_same(own, expected.averages)
    _assert_same(own, changed)
    average.load_state_dict(expected.state_dict())
    average.update()
    expected.update()
    _assert_same(average.averages, expected.averages)


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize("options", [{}, {"max_norm": 0.5}])
def test_tracked_steps(cuda: ModuleType, rng: np.random.Generator, dtype: str, options: dict[str, Any]) -> None:
    """The CPU's numbers, read when they are asked for: a step is the launches that it is without."""
    Stream.current.update({0: 0x10, 1: 0x20})
    params = _made(rng, dtype)
    own = _on_device(params, 1)
    expected, opt = kitae.Adam(params, 0.01, **options), kitae.Adam(own, 0.01, **options)
    grads = _made(rng, dtype)
    opt.bind(_on_device(grads, 1))
    for track in (False, True, True, False):
        expected.track = opt.track = track
        before = cuda.launched()[0]
        opt.step()
        assert cuda.launched() == (before + (2 if options else 1), 1, 0x20)
        expected.step(grads)
        np.testing.assert_equal(opt.stats, expected.stats)
        assert (opt.stats.parameters is not None) == track
    _assert_same(own, params)
    opt.track = True
    opt.attach(own[:1])
    opt.step(_on_device(grads[:1], 1))
    assert set(opt.stats.parameters or ()) == {"0"}
