"""docs/techniques.md tells the truth: every name can be imported, every test and every example exists and runs."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "techniques.md"
EXAMPLES = sorted((ROOT / "examples" / "techniques").glob("*.py"))


def rows() -> list[list[str]]:
    lines = TABLE.read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [row for row in cells if row[0] not in ("id", "---")]


def in_backticks(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_row(row: list[str]) -> None:
    identity, technique, names, page, test, example = row
    assert technique, identity
    assert in_backticks(names), f"{identity}: no name"
    for name in in_backticks(names):
        resolve(name)
    (link,) = re.findall(r"\]\(([^)#]+)[^)]*\)", page)
    assert (TABLE.parent / link).is_file(), f"{identity}: {link}"
    assert in_backticks(test), f"{identity}: no test"
    for place in in_backticks(test):
        file, _, function = place.partition("::")
        tree = ast.parse((ROOT / file).read_text())
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert function in functions, place
    for file in in_backticks(example):
        assert (ROOT / file).is_file(), file
    assert in_backticks(example), f"{identity}: no example"


def resolve(name: str) -> object:
    """What a dotted name such as ``kitae.train.Trainer.fit`` means."""
    words = name.split(".")
    assert words[0] == "kitae", name
    for count in range(len(words), 0, -1):
        try:
            found: object = importlib.import_module(".".join(words[:count]))
        except ModuleNotFoundError:
            continue
        for word in words[count:]:
            found = getattr(found, word)
        return found
    raise AssertionError(name)


@pytest.mark.timing
@pytest.mark.parametrize("example", [e for e in EXAMPLES if e.stem != "shared"], ids=lambda path: path.stem)
def test_example(example: Path, tmp_path: Path) -> None:
    """Each ends in a table on the terminal and a picture."""
    command = [sys.executable, example, "--quick", "--out", tmp_path / "picture.png"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "---" in run.stdout
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
