"""What ptxas said of each CUDA kernel: fails where registers spill, or where a report or an architecture is missing.

    python tools/check_ptxas.py build/release/ptxas 75 80 90 100 120

CMake keeps the reports (cmake/keep_ptxas_report.sh), one a source file. Kernels for which only PTX is made (75-virtual)
have none: build for real architectures to see them.
"""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

SOURCES = Path(__file__).resolve().parents[1] / "csrc"
_ENTRY = re.compile(r"Compiling entry function '(\S+)' for '(\w+)'")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")


class Kernel(NamedTuple):
    name: str
    architecture: str
    registers: int
    stack: int
    spilled: int


def kernels(report: str) -> list[Kernel]:
    found = []
    name = architecture = ""
    stack = spilled = 0
    for line in report.splitlines():
        if entry := _ENTRY.search(line):
            name, architecture = entry[1], entry[2]
        elif sizes := _STACK.search(line):
            stack, spilled = int(sizes[1]), int(sizes[2]) + int(sizes[3])
        elif (used := _USED.search(line)) and name:
            found.append(Kernel(name, architecture, int(used[1]), stack, spilled))
            name = ""
    return found


def readable(names: list[str]) -> list[str]:
    result = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    short = [
        re.sub(r"\(anonymous namespace\)::|kitae::|cuda::detail::run|void ", "", n) for n in result.stdout.split("\n")
    ]
    return [re.sub(r"\(.*\)$", "", name) for name in short]


def main(folder: Path, expected: Sequence[str] = ()) -> int:
    reports = {report.name.partition(".cu.")[0]: report for report in sorted(folder.glob("*.cu.*"))}
    wrong = [f"{source.name}: no report in {folder}" for source in SOURCES.rglob("*.cu") if source.stem not in reports]
    for stem, report in reports.items():
        found = kernels(report.read_text())
        if not found:
            print(f"{stem}.cu: no kernels")
            continue
        for architecture in sorted({kernel.architecture for kernel in found}, key=lambda name: (len(name), name)):
            registers = [kernel.registers for kernel in found if kernel.architecture == architecture]
            print(f"{stem}.cu: {len(registers)} kernels for {architecture}; at most {max(registers)} registers")
        there = {kernel.architecture for kernel in found}
        wrong += [f"{stem}.cu: not compiled for sm_{number}" for number in expected if f"sm_{number}" not in there]
        bad = [kernel for kernel in found if kernel.spilled]
        for kernel, name in zip(bad, readable([kernel.name for kernel in bad]), strict=False):
            wrong.append(f"{stem}.cu: {name} for {kernel.architecture} spills {kernel.spilled} bytes")
    for line in wrong:
        print(f"WRONG: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
