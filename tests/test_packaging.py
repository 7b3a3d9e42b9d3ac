"""What an installed kitae is: quick to import, alone with NumPy, typed, and for every interpreter lock."""

import sys
from importlib import metadata, resources
from pathlib import Path

import pytest

import kitae
from kitae import _isa

TOOLS = Path(__file__).resolve().parents[1] / "tools"

IMPORTS = """
import sys
import numpy
before = set(sys.modules)
import kitae
heavy = {"cupy", "torch", "scipy", "sklearn", "matplotlib", "tqdm", "ml_dtypes", "multiprocessing", "asyncio"}
found = heavy & (set(sys.modules) - before)
assert not found, found
assert "kitae.nn" not in sys.modules and "kitae.bench" not in sys.modules
assert "kitae._cuda" not in sys.modules
assert "libcuda" not in open("/proc/self/maps").read()
"""


def test_import_brings_nothing_but_numpy(run_python):
    run_python(IMPORTS)


@pytest.mark.timing
def test_import_time(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    import check_import_time

    assert min(check_import_time.beyond_numpy_ms()) < check_import_time.LIMIT_MS


def test_typed():
    files = resources.files(kitae)
    for name in ("py.typed", "_cpu.pyi", "_isa.pyi"):
        assert files.joinpath(name).is_file(), name


def test_version():
    assert metadata.version("kitae") == kitae.__version__


def test_numpy_is_the_only_hard_dependency():
    hard = [line for line in metadata.requires("kitae") or [] if "extra ==" not in line]
    assert hard == ["numpy>=2.0"]


def test_extras():
    assert {"demo", "test", "bench", "dev", "plot", "cuda12x", "cuda13x"} <= set(
        metadata.metadata("kitae").get_all("Provides-Extra")
    )


@pytest.mark.skipif(
    not hasattr(sys, "_is_gil_enabled"), reason="this Python has no builds without the interpreter lock"
)
def test_import_leaves_the_interpreter_lock_off(run_python):
    script = "import sys; before = sys._is_gil_enabled(); import kitae; assert sys._is_gil_enabled() == before"
    run_python(script)


def test_show_config(capsys):
    config = kitae.show_config()
    printed = capsys.readouterr().out
    assert config["version"] == kitae.__version__
    assert config["cpu"] in _isa.supported()
    assert config["threads"] == kitae.get_num_threads()
    for key in config:
        assert key in printed
