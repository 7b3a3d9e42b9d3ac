"""Threads and processes: how many, after fork, beside each other, interrupted, and what they leave behind."""

import os
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
    assert machine({"proc/self/cgroup": "0::/work/job\n", "sys/fs/cgroup/work/job/cpu.max": quota}) == threads


def test_cgroup_v2_parent_binds(machine):
    files = {
        "proc/self/cgroup": "0::/work/job\n",
        "sys/fs/cgroup/work/job/cpu.max": "max 100000",
        "sys/fs/cgroup/work/cpu.max": "300000 100000",
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


def floating_point_control() -> bytes:
    """This thread's rounding mode, exception masks and flush modes; not the sticky exception flags."""
    import ctypes
    import ctypes.util

    environment = ctypes.create_string_buffer(64)
    assert ctypes.CDLL(ctypes.util.find_library("m")).fegetenv(environment) == 0
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
