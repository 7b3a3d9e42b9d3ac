"""tools/gpu_check.sh as far as it goes without a GPU: help, mistakes, words for why it can't start."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "tools" / "gpu_check.sh"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable}
    return subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, timeout=60, env=environment)


def has_gpu() -> bool:
    return subprocess.run([sys.executable, ROOT / "tools" / "find_gpu.py"], capture_output=True).returncode == 0


def test_help() -> None:
    result = run("--help")
    assert result.returncode == 0
    for option in ("--quick", "--build-only", "--out DIR"):
        assert option in result.stdout


def test_an_unknown_option_is_named() -> None:
    result = run("--fast")
    assert result.returncode == 2
    assert result.stderr == "gpu_check: expected --quick, --build-only or --out DIR, got --fast\n"


def test_without_a_gpu_it_says_why(tmp_path: Path) -> None:
    if has_gpu():
        pytest.skip("there is a GPU")
    result = run("--quick", "--out", str(tmp_path))
    assert result.returncode == 2
    assert "gpu_check: no GPU to check on: " in result.stdout
    assert "NVIDIA driver" in result.stdout
    assert "--build-only builds here" in result.stdout
