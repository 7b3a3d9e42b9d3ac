"""Documents that name paths are right about them, and README's commands are those that CI runs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ("README.md", "README.ja.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")
COMMANDS = ('pip install ".[demo]" && python -m kitae demo', 'pip install ".[test]" && pytest')
# A path: in backticks or the target of a link, with a slash or a known ending.
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)#\s]+)\)")
PATH = re.compile(r"[\w.*<>{},/-]+")
ENDINGS = (".py", ".pyi", ".h", ".cpp", ".md", ".toml", ".txt", ".yaml", ".json", ".png", ".typed")
PLACEHOLDER = re.compile(r"[<>*{}]")


def named_paths(text: str) -> set[str]:
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    named = {match for match in CODE.findall(text) if PATH.fullmatch(match)}
    named = {path for path in named if path.endswith((*ENDINGS, "/")) or path.startswith((".ci/", "csrc/", "tests/"))}
    links = {path for path in LINK.findall(text) if "://" not in path}
    return {path for path in named | links if not PLACEHOLDER.search(path)}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_exists(document):
    paths = named_paths((ROOT / document).read_text(encoding="utf-8"))
    if document == "ARCHITECTURE.md":
        assert len(paths) > 20
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert not missing


def test_a_missing_path_is_found():
    assert named_paths("see `csrc/ops/none.h` and [this](docs/none.md), not `x.T` or `csrc/ops/<op>.h`") == {
        "csrc/ops/none.h",
        "docs/none.md",
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_the_two_commands(command):
    assert f"'{command}'" in (ROOT / ".ci" / "run").read_text()
    for readme in ("README.md", "README.ja.md"):
        lines = (ROOT / readme).read_text(encoding="utf-8").splitlines()
        assert command in lines[:30], readme


def test_no_path_of_a_machine():
    for document in DOCUMENTS:
        assert not re.search(r"/(home|root|tmp|work)/", (ROOT / document).read_text(encoding="utf-8")), document
