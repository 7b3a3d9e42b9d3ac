"""What a wheel must be: small, without AVX outside the modules that are chosen by instruction set, without libgomp.

Prints every number it checks, and the platform tag that auditwheel would give.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

LARGEST_BYTES = 40_000_000
LARGEST_CPU_BYTES = 5_000_000  # of the wheel without kitae._cuda
# Vector registers that a module's code may name: none of them outside the modules that _cpu.py chooses by CPU.
WIDE_REGISTERS = {"_cpu_x86_64_v3": {"ymm"}, "_cpu_x86_64_v4": {"ymm", "zmm"}}
# No libcuda and no libcudart: _cuda loads on a machine without a driver.
LIBRARIES = {"libstdc++.so.6", "libm.so.6", "libgcc_s.so.1", "libc.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1"}
LIBRARY_PREFIXES = ("ld-linux",)


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def check_module(path: Path) -> list[str]:
    """Prints what one shared object needs and uses; returns what is wrong with it."""
    name = path.name.partition(".")[0]
    needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", output("readelf", "-d", str(path))))
    registers = set(re.findall(r"%([yz]mm)\d", output("objdump", "-d", "--no-show-raw-insn", str(path))))
    versions = re.findall(r"(GLIBC|GLIBCXX|CXXABI)_([0-9.]+)", output("objdump", "-T", str(path)))
    highest: dict[str, tuple[int, ...]] = {}
    for library, version in versions:
        highest[library] = max(highest.get(library, ()), tuple(map(int, version.split("."))))
    symbols = ", ".join(f"{library} {'.'.join(map(str, version))}" for library, version in sorted(highest.items()))
    print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB; wide registers: {sorted(registers) or 'none'}")
    print(f"    needs {', '.join(sorted(needed))}; newest symbols: {symbols}")
    wrong = []
    if unexpected := registers - WIDE_REGISTERS.get(name, set()):
        wrong.append(f"{path.name}: uses {sorted(unexpected)}, which the CPUs it is loaded on may lack")
    if unexpected := {lib for lib in needed - LIBRARIES if not lib.startswith(LIBRARY_PREFIXES)}:
        wrong.append(f"{path.name}: needs {sorted(unexpected)}")
    if missing := WIDE_REGISTERS.get(name, set()) - registers:
        wrong.append(f"{path.name}: never uses {sorted(missing)}: was it compiled for its instruction set?")
    return wrong


def main(wheel: Path, *, cuda_expected: bool) -> int:
    size = wheel.stat().st_size
    print(f"{wheel.name}: {size / 1e6:.2f} MB")
    wrong = [] if size < LARGEST_BYTES else [f"{wheel.name}: {size} bytes, the limit is {LARGEST_BYTES}"]
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
            names = archive.namelist()
            cuda = sum(entry.compress_size for entry in archive.infolist() if entry.filename.startswith("kitae/_cuda."))
        if cuda_expected and cuda == 0:
            wrong.append(f"{wheel.name}: kitae._cuda is missing")
        print(f"{wheel.name}: without kitae._cuda {(size - cuda) / 1e6:.2f} MB")
        if size - cuda > LARGEST_CPU_BYTES:
            wrong.append(f"{wheel.name}: {size - cuda} bytes without kitae._cuda, the limit is {LARGEST_CPU_BYTES}")
        modules = sorted(Path(folder).rglob("*.so"))
        if not modules:
            wrong.append(f"{wheel.name}: no compiled module")
        for module in modules:
            wrong += check_module(module)
    for expected in ("kitae/py.typed", "kitae/_cpu.pyi", "kitae/_isa.pyi"):
        if expected not in names:
            wrong.append(f"{wheel.name}: {expected} is missing")
    if unexpected := [name for name in names if name.endswith((".cpp", ".h", ".cu", ".o", ".a"))]:
        wrong.append(f"{wheel.name}: contains {unexpected}")
    print(" ".join(output(sys.executable, "-m", "auditwheel", "show", str(wheel)).split()))
    for line in wrong:
        print(f"WRONG: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--cuda", action="store_true", help="kitae._cuda has to be in it")
    arguments = parser.parse_args()
    sys.exit(main(arguments.wheel, cuda_expected=arguments.cuda))
