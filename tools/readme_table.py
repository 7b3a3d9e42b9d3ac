"""Write README's benchmark table from the committed measurements that its opening marker names; --check compares.

<!-- benchmark table: benchmarks/results/NAME.json -->
...
<!-- end of benchmark table -->
"""

import argparse
import json
import re
import sys
from pathlib import Path

from kitae.bench import report

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(
    r"(?P<opening><!-- benchmark table: (?P<source>\S+) -->\n).*?(?P<closing><!-- end of benchmark table -->)",
    re.DOTALL,
)


def updated(text: str, root: Path) -> str:
    """The text with every table between markers made anew from the file that its marker names."""
    if not BLOCK.search(text):
        raise ValueError(
            "README: expected <!-- benchmark table: FILE --> and <!-- end of benchmark table -->, got neither"
        )

    def replaced(match: re.Match[str]) -> str:
        results = json.loads((root / match["source"]).read_text())
        return f"{match['opening']}\n{report.markdown(results)}\n\n{match['closing']}"

    return BLOCK.sub(replaced, text)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; fail where the table differs")
    parser.add_argument("files", nargs="*", type=Path, default=[ROOT / "README.md"], help="default: README.md")
    chosen = parser.parse_args(arguments)
    differ = []
    for path in chosen.files:
        text = path.read_text()
        fresh = updated(text, ROOT)
        if fresh == text:
            continue
        differ.append(path.name)
        if not chosen.check:
            path.write_text(fresh)
    if chosen.check and differ:
        print(f"{', '.join(differ)}: the benchmark table is not what tools/readme_table.py makes of its JSON; run it")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
