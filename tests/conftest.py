"""Fixtures of every test, and two rules: threads and backend are as before after each test; a skip is never silent."""

import os
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from types import ModuleType

import numpy as np
import pytest
from hypothesis import settings

import kitae
from kitae import _dispatch

SANITIZED = bool(os.environ.get("KITAE_SANITIZED"))
# On a build with sanitizers memory is watched, not bits: one count that shares work is enough beside one that does not.
THREAD_COUNTS = (1, 3) if SANITIZED else (1, 2, 3, 4, 7, 8, 16)

# Packages that some tests compare with, each with a marker requires_<package>.
OPTIONAL = ("torch", "jax", "keras", "optax", "onnx", "thinc", "dezero")
os.environ.setdefault("KERAS_BACKEND", "numpy")  # read when Keras is imported

# The CUDA kernels on the host need modules that `.ci/run simulated` builds: no part of a run without them.
if not os.environ.get("KITAE_SIMULATED") and os.environ.get("KITAE_REQUIRE_SIMULATED") != "1":
    collect_ignore_glob = ["test_cuda_simulated*.py", "test_cuda_boundary*.py"]

# Machines of CI are slow and busy: no deadline. A build with sanitizers is slower still: fewer examples.
settings.register_profile("default", deadline=None)
settings.register_profile("sanitized", deadline=None, max_examples=20)
settings.load_profile("sanitized" if SANITIZED else "default")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for package in OPTIONAL:
        if item.get_closest_marker(f"requires_{package}") and find_spec(package) is None:
            required = f"KITAE_REQUIRE_{package.upper()}"
            if os.environ.get(required) == "1":
                pytest.fail(f"{required}=1, but {package} is not installed")
            pytest.skip(f"{package} is not installed")
    if item.get_closest_marker("requires_cuda"):
        reason = _why_no_cuda()
        if reason is not None:
            if os.environ.get("KITAE_REQUIRE_CUDA") == "1":
                pytest.fail(f"KITAE_REQUIRE_CUDA=1, but CUDA is off: {reason}")
            pytest.skip(f"CUDA is off: {reason}")


@cache
def _why_no_cuda() -> str | None:
    try:
        _dispatch.cuda()
    except RuntimeError as error:
        return str(error)
    return None


@pytest.fixture(autouse=True)
def _process_wide_settings() -> Iterator[None]:
    threads = kitae.get_num_threads()
    forced = _dispatch._forced.set(None)
    yield
    _dispatch._forced.reset(forced)
    kitae.set_num_threads(threads)


@pytest.fixture
def ctrl_c() -> Iterator[Callable[[], None]]:
    """Sends SIGINT to this process, which answers as Python does at a terminal: a shell's background job begins with
    SIGINT ignored, and then has no handler for it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: os.kill(os.getpid(), signal.SIGINT)
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers that depend on the test's name alone."""
    return np.random.default_rng(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture(params=["reference", "cpu"])
def backend(request: pytest.FixtureRequest) -> ModuleType:
    return _dispatch._named(request.param)


@pytest.fixture(params=THREAD_COUNTS)
def thread_count(request: pytest.FixtureRequest) -> int:
    kitae.set_num_threads(request.param)
    return request.param


@pytest.fixture
def run_python() -> Callable[..., str]:
    """Run a script in a fresh interpreter, with additional environment variables; its output, or its traceback."""

    def run(script: str, /, *, timeout: float = 120, **environment: str) -> str:
        result = subprocess.run(
            [sys.executable, "-W", "error", "-c", script],
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, **environment},
        )
        assert result.returncode == 0, f"exit status {result.returncode}\n{result.stdout}\n{result.stderr}"
        return result.stdout

    return run
