"""Write python/kitae/_cpu.pyi, _isa.pyi and, where kitae has CUDA, _cuda.pyi from the installed compiled modules.

--check: compare instead, and fail.
"""

import argparse
import difflib
import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from kitae import _isa

PACKAGE = Path(__file__).resolve().parents[1] / "python" / "kitae"


def generated(module: str) -> str:
    """The stub of ``kitae.<module>``, without what depends on the variant that was looked at."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "pybind11_stubgen", f"kitae.{module}", "-o", folder], check=True)
        text = (Path(folder) / "kitae" / f"{module}.pyi").read_text()
    text = re.sub(r"^variant: str = .*$", "variant: str", text, flags=re.MULTILINE)
    command = [sys.executable, "-m", "ruff"]
    options = ["--config", str(PACKAGE.parents[1] / "pyproject.toml"), "--stdin-filename", f"{module}.pyi", "-"]
    fixed = subprocess.run(
        [*command, "check", "--fix", "--exit-zero", "--quiet", *options],
        input=text,
        capture_output=True,
        text=True,
        check=True,
    )
    return subprocess.run(
        [*command, "format", *options], input=fixed.stdout, capture_output=True, text=True, check=True
    ).stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 where a stub is out of date")
    check = parser.parse_args().check
    modules = {"_isa": "_isa"} | {f"_cpu_{variant}": "_cpu" for variant in _isa.supported()}
    if find_spec("kitae._cuda") is not None:
        modules["_cuda"] = "_cuda"
    outdated = 0
    for module, name in modules.items():
        text, path = generated(module), PACKAGE / f"{name}.pyi"
        committed = path.read_text() if path.exists() else ""
        if text == committed:
            continue
        if not check:
            path.write_text(text)
            continue
        outdated = 1
        sys.stdout.writelines(
            difflib.unified_diff(committed.splitlines(True), text.splitlines(True), str(path), f"kitae.{module}")
        )
    return outdated


if __name__ == "__main__":
    sys.exit(main())
