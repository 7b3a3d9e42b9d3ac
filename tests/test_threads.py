"""Threads and processes: how many, after fork, beside each other, interrupted, and what they leave behind."""

import ctypes
import ctypes.util
import os
import threading
import time

import numpy as np
import pytest

import kitae
from kitae import _dispatch
from kitae._threads import default_num_threads

VARIABLES = ("KITAE_NUM_THREADS", "OMP_NUM_THREADS")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of 64 CPUs whose control groups are the files given: machine({path: text}) is its thread count."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(64)))
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)

    def threads(files: dict[str, str]) -> int:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return default_num_threads(tmp_path)

    return threads


def test_affinity_alone(machine):
    assert machine({}) == 64


@pytest.mark.parametrize(
    ("quota", "threads"),
    [("max 100000\n", 64), ("200000 100000\n", 2), ("150000 100000", 2), ("1000 100000", 1), ("99999999 100000", 64)],
)
def test_cgroup_v2(machine, quota, threads):
    assert machine({"proc/self/cgroup": "0::/group/job\n", "sys/fs/cgroup/group/job/cpu.max": quota}) == threads


def test_cgroup_v2_parent_binds(machine):
    files = {
        "proc/self/cgroup": "0::/group/job\n",
        "sys/fs/cgroup/group/job/cpu.max": "max 100000",
        "sys/fs/cgroup/group/cpu.max": "300000 100000",
    }
    assert machine(files) == 3


def test_cgroup_v2_inside_a_container(machine):
    assert machine({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "400000 100000"}) == 4


@pytest.mark.parametrize(("quota", "threads"), [("-1", 64), ("250000", 3)])
def test_cgroup_v1(machine, quota, threads):
    files = {
        "proc/self/cgroup": "4:memory:/job\n3:cpu,cpuacct:/job\n",
        "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": quota,
        "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000",
    }
    assert machine(files) == threads


def test_cgroup_v1_inside_a_container(machine):
    files = {
        "proc/self/cgroup": "3:cpu,cpuacct:/docker/0123\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
    }
    assert machine(files) == 2


@pytest.mark.parametrize("damaged", ["", "nonsense", "1 2 3", "0 0", "1 0", "max"])
def test_unreadable_quota_is_no_quota(machine, damaged):
    assert 1 <= machine({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": damaged}) <= 64


def test_unreadable_groups_are_no_quota(machine):
    assert machine({"proc/self/cgroup": "\n0\n::\n"}) == 64


@pytest.mark.parametrize(
    ("own", "openmp", "threads"),
    [
        ("3", None, 3),
        (None, "5", 5),
        ("3", "5", 3),
        ("3", "2", 3),
        (None, "6,2", 6),
        ("0", None, 64),
        ("many", "4", 4),
        ("100", None, 64),
        ("\u00b2", None, 64),
    ],
)
def test_environment(machine, monkeypatch, own, openmp, threads):
    for name, value in zip(VARIABLES, (own, openmp), strict=True):
        if value is not None:
            monkeypatch.setenv(name, value)
    assert machine({}) == threads


def test_environment_reaches_the_native_code(run_python):
    script = "import kitae; print(kitae.get_num_threads())"
    assert run_python(script, KITAE_NUM_THREADS="1").strip() == "1"


def test_set_num_threads():
    for count in (1, 5, 1024):
        kitae.set_num_threads(count)
        assert kitae.get_num_threads() == count


@pytest.mark.parametrize(
    ("count", "error"), [(0, ValueError), (-1, ValueError), (1025, ValueError), (2.0, TypeError), (None, TypeError)]
)
def test_set_num_threads_refuses(count, error):
    before = kitae.get_num_threads()
    with pytest.raises(error, match=r"^kitae\.set_num_threads: n: expected an integer in \[1, 1024\], got "):
        kitae.set_num_threads(count)
    assert kitae.get_num_threads() == before


# A child forked after parallel work: torch's and libgomp's hang here.
FORK = """
import os, sys, time
import numpy as np
import kitae
from kitae import _dispatch
kitae.set_num_threads(4)
source = np.arange(1 << 20, dtype=np.uint8)
target = np.zeros_like(source)
def work():
    target[:] = 0
    _dispatch.cpu().copy_split(target, source)
    return (target == source).all()
assert work()
for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else REPEATS):
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        os._exit(0 if work() else 1)
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() - start > 10:
            os.kill(child, 9)
            sys.exit("the forked child hangs")
        time.sleep(0.001)
    elapsed = time.monotonic() - start
    assert elapsed < 1, elapsed
    assert work()
"""


@pytest.mark.timing
def test_fork_after_use(run_python):
    run_python("REPEATS = 3\n" + FORK)


@pytest.mark.slow
def test_fork_after_use_often(run_python):
    run_python("REPEATS = 100\n" + FORK)


def _copy_in_child(expected: bytes) -> float:
    start = time.monotonic()
    source = np.frombuffer(expected, np.uint8)
    target = np.zeros_like(source)
    kitae.set_num_threads(4)
    _dispatch.cpu().copy_split(target, source)
    assert target.tobytes() == expected
    return time.monotonic() - start


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_other_start_methods_after_use(method):
    import multiprocessing

    data = bytes(1 << 20)
    assert _copy_in_child(data) < 1
    with multiprocessing.get_context(method).Pool(4, maxtasksperchild=5) as pool:
        assert max(pool.map(_copy_in_child, [data] * 100)) < 1


def libm() -> ctypes.CDLL:
    return ctypes.CDLL(ctypes.util.find_library("m"))


def floating_point_control() -> bytes:
    """This thread's rounding mode, exception masks and flush modes; not the sticky exception flags."""
    environment = ctypes.create_string_buffer(64)
    assert libm().fegetenv(environment) == 0
    x87, mxcsr = environment.raw[:2], int.from_bytes(environment.raw[28:32], "little")
    return x87 + (mxcsr & ~0x3F).to_bytes(4, "little")


IMPORT_KEEPS_MODE = f"""
import ctypes, ctypes.util
import numpy, sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
libm = ctypes.CDLL(ctypes.util.find_library("m"))
def environment():
    buffer = ctypes.create_string_buffer(64)
    assert libm.fegetenv(buffer) == 0
    return buffer.raw[:2] + bytes([buffer.raw[28] & 0xc0]) + buffer.raw[29:32]
before = environment()
import kitae
assert environment() == before, (environment(), before)
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="reads x86-64's registers")
def test_import_leaves_the_floating_point_mode(run_python):
    run_python(IMPORT_KEEPS_MODE)


# What every family does, once, on memory of its own.


def work(seed: int = 1) -> list[np.ndarray]:
    """Batch norm, dropout, Adam and clipping over arrays that several threads share; everything that came out."""
    rng = np.random.default_rng(seed)
    x, dout = (rng.standard_normal((64, 32, 8, 8)).astype(np.float32) for _ in range(2))
    vectors = [np.ones(32, np.float32) for _ in range(4)]
    y, saved = kitae.batch_norm(x, *vectors, training=True, activation="relu")
    dx, dgamma, dbeta = kitae.batch_norm_backward(dout, saved)
    dropped, mask = kitae.dropout(x, 0.3, seed=seed)
    params = [rng.standard_normal(n).astype(np.float32) for n in (10, 70000)]
    grads = [rng.standard_normal(n).astype(np.float32) for n in (10, 70000)]
    optimizer = kitae.Adam(params, max_norm=1.0)
    optimizer.step(grads)
    kitae.clip_grad_norm(grads, 0.5)
    back = kitae.dropout_backward(dout, mask)
    return [y, dx, dgamma, dbeta, *vectors, dropped, back, *params, *grads, *optimizer.state_dict()["slots"]["m"]]


def same(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    return all(a.tobytes() == b.tobytes() for a, b in zip(first, second, strict=True))


def test_any_number_of_threads_gives_the_same_bits(thread_count):
    found = work()
    kitae.set_num_threads(1)
    assert same(found, work())


def run_in_threads(count: int, body) -> None:
    """body(number) in ``count`` threads that start together; the first exception is raised here."""
    start, errors = threading.Barrier(count), []

    def run(number: int) -> None:
        try:
            start.wait()
            body(number)
        except BaseException as error:  # carried to the caller
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_calls_from_many_threads():
    kitae.set_num_threads(4)
    expected = [work(seed) for seed in range(8)]

    def body(number: int) -> None:
        for _ in range(5):
            kitae.set_num_threads(1 + number % 4)
            assert same(work(number), expected[number])

    run_in_threads(8, body)


def test_the_same_arrays_from_many_threads_do_not_crash():
    """What the numbers are is nobody's promise; that the process lives and its memory is whole, is."""
    kitae.set_num_threads(4)
    params = [np.ones(70000, np.float32), np.ones(10, np.float32)]
    grads = [np.ones(70000, np.float32), np.ones(10, np.float32)]
    optimizers = [kitae.Adam(params) for _ in range(4)]
    shared = optimizers[0]
    running = [np.zeros(32, np.float32), np.ones(32, np.float32)]
    x = np.random.default_rng(1).standard_normal((64, 32)).astype(np.float32)

    def body(number: int) -> None:
        for _ in range(30):
            (shared if number % 2 else optimizers[number // 2]).step(grads)
            kitae.clip_grad_norm(grads, 1.0)
            kitae.batch_norm(x, None, None, *running, training=True)
            kitae.dropout(x, 0.5, seed=number)

    run_in_threads(8, body)
    assert all(np.isfinite(array).all() for array in (*params, *grads, *running))


@pytest.mark.timing
def test_the_interpreter_lock_is_released():
    kitae.set_num_threads(1)
    x, out = np.ones(1 << 25, np.float32), np.empty(1 << 25, np.float32)
    ticks, done = [], threading.Event()

    def tick() -> None:
        while not done.is_set():
            ticks.append(time.monotonic())
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    start = time.monotonic()
    kitae.dropout(x, 0.5, seed=1, store="replay", out=out)
    end = time.monotonic()
    done.set()
    thread.join()
    during = [moment for moment in ticks if start < moment < end]
    assert len(during) > 3, f"{len(during)} ticks in {end - start:.3f} s"


PURE_CALLS = {
    "dropout": lambda x: kitae.dropout(x, 0.5, seed=1),
    "dropout_mask": lambda x: kitae.dropout_mask(8 * x.size, 0.5, seed=1),
    "batch_norm": lambda x: kitae.batch_norm(x.reshape(-1, 64, 64), None, None, None, None, training=True),
    "batch_norm over rows": lambda x: kitae.batch_norm(x.reshape(-1, 64), None, None, None, None, training=True),
}


def interrupted_after(seconds: float, call, ctrl_c) -> float:
    """Runs ``call``, sends Ctrl-C after ``seconds``; how long after that KeyboardInterrupt arrived."""
    sent = []

    def send() -> None:
        sent.append(time.monotonic())
        ctrl_c()

    timer = threading.Timer(seconds, send)
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            call()
        return time.monotonic() - sent[0]
    finally:
        timer.join()


@pytest.mark.timing
@pytest.mark.parametrize(("name", "threads"), [*((name, 1) for name in PURE_CALLS), ("dropout", 4), ("batch_norm", 4)])
def test_ctrl_c_stops_a_pure_function(name, threads, ctrl_c):
    kitae.set_num_threads(threads)
    call, whole, size = PURE_CALLS[name], 0.0, 1 << 23
    while whole < 0.3 and size < 1 << 30:  # long enough to tell an interrupted call from a finished one
        size *= 2
        x = np.ones(size, np.float16)
        start = time.monotonic()
        call(x)
        whole = time.monotonic() - start
    assert whole > 0.15
    # A call that did not look between its units would end `whole` after its start.
    assert interrupted_after(0.05, lambda: call(x), ctrl_c) < min(0.25, 0.75 * (whole - 0.05))


@pytest.mark.timing
def test_ctrl_c_lets_in_place_work_finish(ctrl_c):
    kitae.set_num_threads(1)
    params, grads = [np.zeros(1 << 24, np.float32)], [np.ones(1 << 24, np.float32)]
    optimizer = kitae.SGD(params, 1.0)
    optimizer.step(grads)

    def steps() -> None:
        while True:
            optimizer.step(grads)

    interrupted_after(0.1, steps, ctrl_c)
    values = np.unique(params[0])
    assert len(values) == 1, "a step was cut short"
    assert values[0] <= -1


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="reads x86-64's registers")
def test_every_call_leaves_the_floating_point_mode():
    before = floating_point_control()
    for threads in (1, 4):
        kitae.set_num_threads(threads)
        work()
        assert floating_point_control() == before


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="sets x86-64's registers")
def test_results_do_not_depend_on_the_callers_floating_point_mode():
    """A caller that flushes subnormals and rounds upward gets the same bits, and its mode back."""
    expected = kernels_on_subnormals()
    library = libm()
    saved = ctypes.create_string_buffer(64)
    assert library.fegetenv(saved) == 0
    changed = ctypes.create_string_buffer(saved.raw, 64)
    mxcsr = int.from_bytes(saved.raw[28:32], "little") | 0x8040 | 0x4000  # flush to zero, denormals are zero, up
    changed[28:32] = mxcsr.to_bytes(4, "little")
    try:
        assert library.fesetenv(changed) == 0
        before = floating_point_control()
        found = kernels_on_subnormals()
        after = floating_point_control()
    finally:
        library.fesetenv(saved)
    assert after == before
    assert same(found, expected)


def kernels_on_subnormals() -> list[np.ndarray]:
    """Native calls alone, on ready-made arrays: NumPy's own arithmetic would follow the caller's mode."""
    kitae.set_num_threads(3)
    small, params, grads = SUBNORMAL.copy(), PARAMETERS.copy(), GRADIENTS.copy()
    out = np.empty_like(small)
    kitae.dropout(small, 0.3, seed=1, out=out)
    optimizer = kitae.SGD([params], 1.0)
    optimizer.step([small])
    kitae.clip_grad_norm([grads], 0.3)
    y, _ = kitae.batch_norm(GRADIENTS.reshape(-1, 4), None, None, None, None, training=True)
    return [out, params, grads, y]


SUBNORMAL = np.full(70000, 3e-39, np.float32)
PARAMETERS = np.zeros(70000, np.float32)
GRADIENTS = np.random.default_rng(5).standard_normal(70000).astype(np.float32)
