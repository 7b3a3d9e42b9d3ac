"""Instructions of small rows of every family, counted by callgrind: speed that is lost shows here on any machine.

``tools/count_instructions.py build/native/tests/native/instructions`` compares with
tests/native/instruction_counts.txt; ``--write`` renews that file. A count depends on the compiler and not on the
machine, so CI is where they are compared.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

COUNTS = Path(__file__).resolve().parent.parent / "tests" / "native" / "instruction_counts.txt"
#: The same source compiled again by a newer patch release of the compiler moves counts by less.
TOLERANCE = 0.02


def count(program: Path, row: str) -> int:
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=measured"]
    run = subprocess.run([*command, str(program), row], capture_output=True, text=True, check=True)
    found = re.search(r"Collected : (\d+)", run.stderr)
    if found is None or int(found.group(1)) == 0:
        raise RuntimeError(f"{row}: expected callgrind to count instructions of measured(), got\n{run.stderr}")
    return int(found.group(1))


def differences(counted: dict[str, int], committed: dict[str, int]) -> list[str]:
    """What a reader has to look at: rows that came or went, and counts beyond the tolerance, in either direction."""
    found = [f"{row}: not in {COUNTS.name}" for row in counted if row not in committed]
    found += [f"{row}: gone" for row in committed if row not in counted]
    for row in counted.keys() & committed.keys():
        change = counted[row] / committed[row] - 1
        if abs(change) > TOLERANCE:
            advice = "slower" if change > 0 else "faster; renew the counts, so that it stays"
            found.append(f"{row}: {committed[row]} instructions became {counted[row]} ({change:+.1%}, {advice})")
    return sorted(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("program", type=Path, help="the program built from tests/native/instructions.cpp")
    parser.add_argument("--write", action="store_true", help="renew the committed counts")
    chosen = parser.parse_args()
    rows = subprocess.run([str(chosen.program)], capture_output=True, text=True, check=True).stdout.splitlines()
    counted = {row: count(chosen.program, row) for row in rows}
    for row, instructions in counted.items():
        print(f"{instructions:>9}  {row}")
    if chosen.write:
        COUNTS.write_text("".join(f"{instructions} {row}\n" for row, instructions in counted.items()))
        return 0
    committed = {row: int(n) for n, row in (line.split(" ", 1) for line in COUNTS.read_text().splitlines())}
    found = differences(counted, committed)
    print("\n".join(found) or "as committed", file=sys.stderr if found else sys.stdout)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
