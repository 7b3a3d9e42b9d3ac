"""Each face's example runs end to end on real digits and prints both times and the largest difference."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.mark.timing
@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("dlfs_digits.py", "40"), id="dlfs"),
        pytest.param(("torch_digits.py", "20"), id="torch", marks=pytest.mark.requires_torch),
        pytest.param(("onnx_digits.py",), id="onnx", marks=pytest.mark.requires_onnx),
        pytest.param(("thinc_digits.py",), id="thinc", marks=pytest.mark.requires_thinc),
    ],
)
def test_example_of_a_face(words: tuple[str, ...]) -> None:
    name, *arguments = words
    run = subprocess.run([sys.executable, EXAMPLES / name, *arguments], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert "before" in run.stdout
    assert "after" in run.stdout
    assert "largest" in run.stdout
