"""A script as the book "Deep Learning from Scratch" has them, before and after: no line of it changes.

python examples/dlfs_digits.py

It runs tests/books/one/ch06/digits.py, whose `common` package is plain NumPy in our own words, as `python digits.py`
and as `python -m kitae.dlfs digits.py`, and compares what the two print.
"""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "tests/books/one/ch06/digits.py"


def run(*command):
    """What the script printed: losses, accuracy, seconds, and what follows."""
    lines = subprocess.run(command, cwd=SCRIPT.parent, check=True, capture_output=True, text=True).stdout.splitlines()
    losses = [float(line.split()[1]) for line in lines if line.startswith("loss")]
    accuracy, seconds = (float(next(line.split()[1] for line in lines if line.startswith(word))) for word in words)
    return losses, accuracy, seconds, lines[len(losses) + 2 :]


words = ("accuracy", "seconds")
before, accuracy_before, seconds_before, _ = run(sys.executable, SCRIPT.name, *sys.argv[1:])
after, accuracy_after, seconds_after, report = run(sys.executable, "-m", "kitae.dlfs", SCRIPT.name, *sys.argv[1:])
difference = max(abs(a - b) / b for a, b in zip(after[:100], before[:100], strict=True))

print(*report, sep="\n")
print()
print(f"before: {len(before)} steps in {seconds_before:.2f} s, {accuracy_before:.2%} of the test images right")
print(f" after: {len(after)} steps in {seconds_after:.2f} s, {accuracy_after:.2%} right")
print(f"{seconds_before / seconds_after:.2f} times as fast")
print(f"largest relative difference of the first {len(before[:100])} losses: {difference:.1e}")
