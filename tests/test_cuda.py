"""On a GPU: the CPU's bits, CuPy's streams, nothing waited for, graphs, other libraries' arrays, no memory left."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import kitae
import on_device
from kitae import _dispatch
from kitae.bench.cases import CASES, Case, Size
from kitae.bench.cases.dropout import philox4x32

pytestmark = pytest.mark.requires_cuda

#: How long a stream is kept busy where a test shows that a call returned before it.
BLOCKED_SECONDS = 0.4


@pytest.fixture
def cupy() -> Iterator[Any]:
    import cupy

    yield cupy
    kitae.check()
    cupy.cuda.get_current_stream().synchronize()


@pytest.fixture
def blocked(cupy: Any) -> Callable[[Any], None]:
    """Keeps a stream busy; the kernel ends by itself, so that nothing can hang."""
    source = """
    extern "C" __global__ void wait_until(unsigned long long nanoseconds) {
      unsigned long long begin, now;
      asm volatile("mov.u64 %0, %globaltimer;" : "=l"(begin));
      do {
        asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
      } while (now - begin < nanoseconds);
    }
    """
    kernel = cupy.RawKernel(source, "wait_until")
    kernel((1,), (1,), (np.uint64(1000),))  # compiled and loaded
    cupy.cuda.get_current_stream().synchronize()

    def block(stream: Any) -> None:
        with stream:
            kernel((1,), (1,), (np.uint64(int(BLOCKED_SECONDS * 1e9)),))

    return block


def _rows() -> Iterator[object]:
    for case in CASES:
        for size in case.test_sizes:
            for dtype in case.dtypes:
                yield pytest.param(case, size, dtype, id=f"{case.name}-{size.label}-{dtype}")


@pytest.mark.parametrize(("case", "size", "dtype"), list(_rows()))
def test_rows(cupy: Any, case: Case, size: Size, dtype: str) -> None:
    original = case.inputs(size, dtype)
    results = on_device.run(cupy, case, original, give_out=False)
    on_device.compare_with_cpu(case, original, results)
    again = on_device.run(cupy, case, original, give_out=bool(case.out))
    for name, value in results.items():
        on_device.assert_same_bits(again[name], value, f"{case.name} {name}: two runs")


def test_it_is_the_gpu_that_runs(cupy: Any) -> None:
    module = _dispatch.cuda()
    before = module.launch_count()
    kitae.dropout(cupy.ones(100, np.float32), 0.5, seed=1)
    assert module.launch_count() == before + 1


# --- larger arrays: every kernel that the driver chooses by size ------------------------------------------------------

SHAPES = [
    ((256, 64, 28, 28), 1),
    ((64, 512, 7, 7), 1),
    ((8, 16, 224, 224), 1),
    ((2, 3, 1024, 1025), 1),
    ((32, 28, 28, 64), -1),
    ((16, 7, 7, 512), -1),
    ((4, 112, 112, 65), -1),
    ((1024, 1024), 1),
    ((8192, 100), 1),
    ((37, 4096), 1),
]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=str)
def test_batch_norm_of_real_sizes(cupy: Any, shape: tuple[int, ...], axis: int, dtype: str) -> None:
    """Against float64 on the GPU, forward and backward with a fused ReLU; the same bits in ten runs."""
    rng = np.random.default_rng(3)
    x = cupy.asarray(rng.standard_normal(shape, np.float32).astype(dtype)) * cupy.asarray(2, dtype) + 1
    dout = cupy.asarray(rng.standard_normal(shape, np.float32).astype(dtype))
    channels = shape[axis]
    gamma, beta = (cupy.asarray(rng.uniform(0.5, 1.5, channels).astype(np.float32)) for _ in range(2))
    axes = tuple(i for i in range(len(shape)) if i != axis % len(shape))
    along = [1] * len(shape)
    along[axis] = channels

    def call() -> tuple[Any, ...]:
        y, saved = kitae.batch_norm(x, gamma, beta, None, None, training=True, axis=axis, activation="relu")
        return y, *kitae.batch_norm_backward(dout, saved)

    y, dx, dgamma, dbeta = call()
    wide, g = x.astype(np.float64), dout.astype(np.float64)
    mean = wide.mean(axis=axes, keepdims=True)
    inv_std = 1 / cupy.sqrt(((wide - mean) ** 2).mean(axis=axes, keepdims=True) + 1e-5)
    normalized = (wide - mean) * inv_std
    gain, shift = (v.astype(np.float64).reshape(along) for v in (gamma, beta))
    value = gain * normalized + shift
    g = cupy.where(y > 0, g, 0)  # at a rounding's distance from 0 the float64 value can differ in sign
    sums = g.sum(axis=axes, keepdims=True), (g * normalized).sum(axis=axes, keepdims=True)
    count = x.size // channels
    expected = gain * inv_std * (g - (sums[0] + normalized * sums[1]) / count)
    bound = 1e-6 if dtype == "float32" else 1e-3
    for name, got, want in (
        ("y", y, cupy.maximum(value, 0)),
        ("dx", dx, expected),
        ("dbeta", dbeta, sums[0].reshape(-1)),
        ("dgamma", dgamma, sums[1].reshape(-1)),
    ):
        error = cupy.linalg.norm((got.astype(np.float64) - want).reshape(-1)) / cupy.linalg.norm(want.reshape(-1))
        assert float(error) < bound, name
    for _ in range(9):
        for first, later in zip((y, dx, dgamma, dbeta), call(), strict=True):
            assert bool((first == later).all())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("offset", [0, 1, 3])
def test_dropout_of_a_million_is_the_cpus(cupy: Any, dtype: str, offset: int) -> None:
    from kitae.bench.cases import dtype_named

    host = np.random.default_rng(5).standard_normal(1_000_003, np.float32).astype(dtype_named(dtype))
    x = on_device.OnDevice(cupy, host).array[offset:]
    y, mask = kitae.dropout(x, 0.3, seed=11, offset=5)
    expected, expected_mask = kitae.dropout(host[offset:], 0.3, seed=11, offset=5)
    on_device.assert_same_bits(on_device.fetched(cupy, y), expected, "y")
    on_device.assert_same_bits(cupy.asnumpy(mask.bits), expected_mask.bits, "bits")


def _tensors(cupy: Any, seed: int = 0) -> list[Any]:
    rng = np.random.default_rng(seed)
    shapes = ((300, 401), (401,), (0, 3), (7,), (1, 1), (70_001,), (64, 3, 7, 7))
    return [cupy.asarray(rng.standard_normal(shape, np.float32)) for shape in shapes]


# --- streams ----------------------------------------------------------------------------------------------------------


def test_work_goes_to_cupys_current_stream(cupy: Any, blocked: Callable[[Any], None]) -> None:
    """x is written behind a long kernel: a call on another stream would read it too early."""
    stream = cupy.cuda.Stream(non_blocking=True)
    x = cupy.zeros(1 << 20, np.float32)
    kitae.dropout(x, 0.5, seed=1)
    cupy.cuda.get_current_stream().synchronize()
    blocked(stream)
    with stream:
        x.fill(1)
        y, _ = kitae.dropout(x, 0.5, seed=1)
        stream.synchronize()
    expected, _ = kitae.dropout(np.ones(1 << 20, np.float32), 0.5, seed=1)
    np.testing.assert_array_equal(cupy.asnumpy(y), expected)


def _calls(cupy: Any) -> dict[str, Callable[[], Any]]:
    x = cupy.asarray(np.random.default_rng(1).standard_normal((64, 32, 14, 14), np.float32))
    ones, zeros = cupy.ones(32, np.float32), cupy.zeros(32, np.float32)
    running = zeros.copy(), ones.copy()
    _, mask = kitae.dropout(x, 0.5, seed=1)
    _, saved = kitae.batch_norm(x, ones, zeros, *running, training=True, activation="relu")
    params, grads = _tensors(cupy), _tensors(cupy, 1)
    bound, passed = kitae.Adam(params, max_norm=1.0), kitae.Adam(_tensors(cupy), max_norm=1.0)
    tracked = kitae.Adam(_tensors(cupy), max_norm=1.0)
    tracked.track = True
    bound.bind(grads)
    tracked.bind(grads)
    others = [[g.copy() for g in grads] for _ in range(2)]
    turn = iter(range(10**9))
    return {
        "dropout": lambda: kitae.dropout(x, 0.5, seed=1),
        "dropout_backward": lambda: kitae.dropout_backward(x, mask),
        "batch_norm": lambda: kitae.batch_norm(x, ones, zeros, *running, training=True),
        "batch_norm inference": lambda: kitae.batch_norm(x, ones, zeros, *running, training=False),
        "batch_norm_backward": lambda: kitae.batch_norm_backward(x, saved),
        "bound step": bound.step,
        "tracked step": tracked.step,
        "step with new gradients": lambda: passed.step(others[next(turn) % 2]),
        "global_norm": lambda: kitae.global_norm(grads),
        "clip_grad_norm": lambda: kitae.clip_grad_norm(grads, 1.0),
        "clip_grad_value": lambda: kitae.clip_grad_value(grads, 1.0),
    }


def test_nothing_waits(cupy: Any, blocked: Callable[[Any], None]) -> None:
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        calls = _calls(cupy)
        for _ in range(3):  # memory for each call lies ready
            for call in calls.values():
                call()
        stream.synchronize()
        waited = []
        for name, call in calls.items():
            blocked(stream)
            before = cupy.cuda.Event()
            before.record(stream)
            call()
            if before.done:
                waited.append(name)
            stream.synchronize()
    assert waited == []


def test_reading_a_norm_waits_and_is_right(cupy: Any) -> None:
    grads = _tensors(cupy)
    norm = kitae.global_norm(grads)
    assert isinstance(norm, cupy.ndarray)
    assert (norm.shape, norm.dtype) == ((), np.float64)
    assert float(norm) == kitae.global_norm([cupy.asnumpy(g) for g in grads])


def test_check_raises_what_the_gpu_found(cupy: Any) -> None:
    params, grads = _tensors(cupy), _tensors(cupy, 1)
    before = [cupy.asnumpy(p) for p in params]
    grads[5][17] = np.nan
    kitae.Adam(params, max_norm=1.0).step(grads)
    with pytest.raises(FloatingPointError):
        kitae.check()
    for p, old in zip(params, before, strict=True):
        np.testing.assert_array_equal(cupy.asnumpy(p), old)
    kitae.check()


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_what_a_step_tells_is_the_cpus(cupy: Any, dtype: str) -> None:
    params, grads = ([t.astype(dtype) for t in _tensors(cupy, seed)] for seed in (0, 1))
    params.append(cupy.asfortranarray(params[0]))
    grads.append(grads[0].copy())
    grads[5][17] = np.inf
    host_params, host_grads = ([cupy.asnumpy(t, order="A") for t in list_of] for list_of in (params, grads))
    opt, expected = (kitae.AdamW(list_of, 1e-2, nonfinite="zero") for list_of in (params, host_params))
    for track in (True, False, True):
        opt.track = expected.track = track
        opt.step(grads)
        expected.step(host_grads)
        np.testing.assert_equal(opt.stats, expected.stats)
    for mine, theirs in zip(params, host_params, strict=True):
        on_device.assert_same_bits(cupy.asnumpy(mine), theirs, dtype)


# --- graphs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("track", [False, True])
@pytest.mark.parametrize("max_norm", [None, 1.0])
@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW"])
def test_captured_steps_are_eager_steps(cupy: Any, kind: str, max_norm: float | None, track: bool) -> None:
    """Bit for bit, and a changed learning rate reaches the captured step without another capture."""
    grads = _tensors(cupy, 1)
    captured, eager = (getattr(kitae, kind)(_tensors(cupy), 1e-2, max_norm=max_norm) for _ in range(2))
    captured.track = eager.track = track
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        captured.bind(grads)
        captured.step()
        stream.synchronize()
        stream.begin_capture()
        captured.step()
        graph = stream.end_capture()
        for lr in (1e-2, 1e-2, 5e-3, 1e-4):
            captured.lr = lr
            graph.launch(stream)
        stream.synchronize()
    for lr in (1e-2, 1e-2, 1e-2, 5e-3, 1e-4):
        eager.lr = lr
        eager.step(grads)
    for mine, theirs in zip(captured.groups[0]["params"], eager.groups[0]["params"], strict=True):
        on_device.assert_same_bits(cupy.asnumpy(mine), cupy.asnumpy(theirs), kind)
    assert captured.steps == eager.steps == 5
    np.testing.assert_equal(captured.stats, eager.stats)


# --- arrays of others, and mixtures -----------------------------------------------------------------------------------


class Exporter:
    """An array that only has the CUDA Array Interface."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self.__cuda_array_interface__ = array.__cuda_array_interface__


def test_the_cuda_array_interface(cupy: Any) -> None:
    x = cupy.asarray(np.random.default_rng(2).standard_normal(1001, np.float32))
    out = cupy.zeros_like(x)
    y, mask = kitae.dropout(Exporter(x), 0.5, seed=3, out=Exporter(out))
    assert isinstance(y, cupy.ndarray)
    expected, _ = kitae.dropout(cupy.asnumpy(x), 0.5, seed=3)
    np.testing.assert_array_equal(cupy.asnumpy(out), expected)
    np.testing.assert_array_equal(cupy.asnumpy(kitae.dropout_backward(Exporter(x), mask)), expected)


def test_torchs_tensors(cupy: Any) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("PyTorch has no CUDA")
    parameter, gradient = torch.ones(1000, device="cuda"), torch.full((1000,), 0.5, device="cuda")
    torch.cuda.synchronize()
    kitae.SGD([parameter], 0.1).step([gradient])
    cupy.cuda.get_current_stream().synchronize()
    assert torch.equal(parameter, torch.full_like(parameter, np.float32(1) - np.float32(0.1) * np.float32(0.5)))
    y, _ = kitae.dropout(parameter.detach(), 0.5, seed=1)
    assert isinstance(y, cupy.ndarray)


def test_numpy_and_cupy_do_not_mix(cupy: Any) -> None:
    host, device = np.ones((4, 3), np.float32), cupy.ones((4, 3), np.float32)
    with pytest.raises(TypeError, match="out: expected a cupy"):
        kitae.dropout(device, 0.5, seed=1, out=host)
    with pytest.raises(TypeError, match="out: expected a numpy"):
        kitae.dropout(host, 0.5, seed=1, out=device)
    with pytest.raises(TypeError, match="gamma"):
        kitae.batch_norm(device, host[0], None, None, None, training=True)
    with pytest.raises(TypeError, match="grads"):
        kitae.SGD([device], 0.1).step([host])
    with pytest.raises(TypeError, match="grads"):
        kitae.global_norm([device, host])
    assert bool((device == 1).all())


# --- memory -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _memory_left(cupy: Any, spare: int) -> Iterator[None]:
    """CuPy gives this many bytes more, then none."""
    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    pool.set_limit(size=pool.used_bytes() + spare)
    try:
        yield
    finally:
        pool.set_limit(size=0)


def test_out_of_memory_leaves_everything_as_it_was(cupy: Any) -> None:
    x = cupy.ones((1024, 4096), np.float32)
    running = cupy.zeros(4096, np.float32), cupy.ones(4096, np.float32)
    params, grads = [cupy.ones(1 << 22, np.float32)], [cupy.ones(1 << 22, np.float32)]
    with _memory_left(cupy, 1 << 20):
        with pytest.raises(MemoryError):
            kitae.dropout(x, 0.5, seed=1)
        with pytest.raises(MemoryError):
            kitae.batch_norm(x, None, None, *running, training=True)
        with pytest.raises(MemoryError):
            kitae.Adam(params)
    assert bool((x == 1).all() & (params[0] == 1).all() & (running[0] == 0).all() & (running[1] == 1).all())
    y, _ = kitae.batch_norm(x, None, None, *running, training=True)
    assert bool((y == 0).all())
    kitae.SGD(params, 1.0).step(grads)
    assert bool((params[0] == 0).all())


def _skip_without_memory(cupy: Any, needed: int) -> None:
    free, _ = cupy.cuda.runtime.memGetInfo()
    if free < needed:
        pytest.skip(f"needs {needed >> 30} GiB of GPU memory, {free >> 30} are free")


@pytest.mark.slow
def test_dropout_beyond_two_to_the_31(cupy: Any) -> None:
    size = 2**31 + 4099
    _skip_without_memory(cupy, 3 * size)
    x = cupy.ones(size, np.float16)
    kitae.dropout(x, 0.5, seed=9, offset=2, out=x)
    tail = 8192
    block = np.arange((size - tail) // 8, -(-size // 8), dtype=np.uint64)
    counter = np.zeros((block.size, 4), np.uint64)
    counter[:, 0], counter[:, 1], counter[:, 2] = block & np.uint64(0xFFFFFFFF), block >> np.uint64(32), 2
    words = philox4x32(counter, (9, 0))
    draws = np.stack([words & np.uint64(0xFFFF), words >> np.uint64(16)], axis=2).reshape(-1)
    start = int(block[0]) * 8
    got = cupy.asnumpy(x[start:])
    kept = draws[: got.size] >= 2**15  # a tie is kept: the threshold's low half is 0
    np.testing.assert_array_equal(got, np.where(kept, np.float16(2), np.float16(0)))


@pytest.mark.slow
def test_batch_norm_beyond_two_to_the_31(cupy: Any) -> None:
    shape = (3, 2, 2**29)
    size = int(np.prod(shape))
    _skip_without_memory(cupy, 5 * size)
    x = cupy.empty(shape, np.float16)
    x[...] = cupy.tile(cupy.arange(8, dtype=np.float16), 2**26)
    y, saved = kitae.batch_norm(x, None, None, None, None, training=True, out=None)
    np.testing.assert_allclose(cupy.asnumpy(saved.mean), 3.5, rtol=1e-12)
    expected = ((np.arange(8) - 3.5) / np.sqrt(5.25 + 1e-5)).astype(np.float16)
    for channel in range(2):
        np.testing.assert_allclose(cupy.asnumpy(y[2, channel, -8:]), expected, rtol=2e-3)
    first = y[0, 0, :8].copy()
    assert all(bool((y[n, c].reshape(-1, 8) == first).all()) for n in range(3) for c in range(2))


@pytest.mark.slow
def test_lists_beyond_two_to_the_31(cupy: Any) -> None:
    size = 2**31 + 17
    _skip_without_memory(cupy, 9 * size)
    p, g = cupy.ones(size, np.float16), cupy.full(size, 0.5, np.float16)
    kitae.SGD([p], 1.0, master=False).step([g])
    assert bool((p[-100_000:] == 0.5).all() & (p[:100_000] == 0.5).all())
    np.testing.assert_allclose(float(kitae.global_norm([g])), 0.5 * np.sqrt(size), rtol=1e-12)


def test_every_device(cupy: Any) -> None:
    count = cupy.cuda.runtime.getDeviceCount()
    expected, _ = kitae.dropout(np.ones(1000, np.float32), 0.5, seed=1)
    for device in range(count):
        with cupy.cuda.Device(device):
            x = cupy.ones(1000, np.float32)
        y, _ = kitae.dropout(x, 0.5, seed=1)
        assert y.device.id == device
        np.testing.assert_array_equal(cupy.asnumpy(y), expected)
