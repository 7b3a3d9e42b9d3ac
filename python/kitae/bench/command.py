"""python -m kitae bench: run the suite, print the report, save what was asked for."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import plot, report, suite


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m kitae bench",
        description="kitae against textbook NumPy, NumPy at its best and, where installed, PyTorch.",
    )
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to measure (default: cpu)")
    made.add_argument("--quick", action="store_true", help="few sizes and blocks: about a minute")
    made.add_argument("--filter", default="", metavar="WORDS", help='rows that have all these words, as "adam MLP"')
    made.add_argument("--threads", type=_counts, metavar="N[,N]", help="numbers of threads (default: 1,2)")
    made.add_argument(
        "--dtype",
        type=_dtypes,
        default=("float32",),
        metavar="NAME[,NAME]",
        help="float32 (default: all rows), float64, bfloat16 (the quick rows)",
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="save every measurement")
    made.add_argument("--plot", type=Path, metavar="FILE", help="save a picture (needs matplotlib)")
    made.add_argument("--seconds", type=float, metavar="N", help="on cuda: begin no row after this time")
    made.add_argument("--list", action="store_true", help="print the rows and stop")
    return made


def _counts(text: str) -> tuple[int, ...]:
    try:
        counts = tuple(int(word) for word in text.split(","))
    except ValueError:
        counts = ()
    if not counts or min(counts) < 1:
        raise argparse.ArgumentTypeError(f"expected positive integers such as 1,2, got {text!r}")
    return counts


def _dtypes(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if not set(names) <= {"float32", "float64", "bfloat16"}:
        raise argparse.ArgumentTypeError(f"expected float32, float64, bfloat16, separated by commas, got {text!r}")
    return names


def _check_files(chosen: argparse.Namespace) -> None:
    for path in (chosen.json, chosen.plot):
        if path is not None and not path.parent.is_dir():
            parser().error(f"{path}: expected a file in an existing folder")


def _on_cuda(chosen: argparse.Namespace) -> int:
    """The same on a GPU. Status 1: a row of kitae's raised."""
    from kitae import _dispatch

    from .cuda import report as cuda_report
    from .cuda import suite as cuda_suite

    plan = cuda_suite.Plan(chosen.quick, chosen.filter, chosen.seconds or float("inf"))
    rows = cuda_suite.rows(plan)
    if not rows:
        parser().error(f"--filter: expected words of a row's name (see --list), got {chosen.filter!r}")
    if chosen.list:
        print("\n".join(row.name for row in rows))
        return 0
    if chosen.plot is not None or chosen.threads is not None or chosen.dtype != ("float32",):
        parser().error("--plot, --threads and --dtype are for --device cpu")
    _check_files(chosen)
    try:
        _dispatch.cuda("bench", "--device cuda")
    except RuntimeError as error:
        parser().error(str(error))

    from .cuda.device import Gpu

    def progress(done: int, planned: int, row: dict[str, Any]) -> None:
        print(f"[{done:>3}/{planned}] {cuda_report.progress_text(row)}", file=sys.stderr, flush=True)

    def save(results: dict[str, Any]) -> None:  # after every row: a run that is cut short leaves what it measured
        if chosen.json is not None:
            chosen.json.write_text(json.dumps(results, indent=1) + "\n")

    results = cuda_suite.run(plan, Gpu(), progress, save)
    print(cuda_report.text(results))
    return int(cuda_report.kitae_failed(results))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run with the words of a command line; the exit status says whether rows were measured, not who won."""
    chosen = parser().parse_args(arguments)
    if chosen.device == "cuda":
        return _on_cuda(chosen)
    plan = suite.planned(chosen.quick, chosen.filter, chosen.threads, chosen.dtype)
    rows = [row for dtype in plan.dtypes for row in suite.rows(plan, dtype=dtype)]
    left_out = suite.left_out(plan)
    if left_out:
        print(left_out, file=sys.stderr)
    if not rows:
        parser().error(f"--filter: expected words of a row's name (see --list), got {chosen.filter!r}")
    if chosen.list:
        print("\n".join(suite.row_name(case, size) for case, size in rows))
        return 0
    _check_files(chosen)

    def progress(done: int, planned: int, row: dict[str, Any]) -> None:
        print(f"[{done:>3}/{planned}] {report.progress_text(row)}", file=sys.stderr, flush=True)

    results = suite.run(plan, progress)
    print(report.text(results))
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(results, indent=1) + "\n")
    if chosen.plot is not None:
        plot.save(results, chosen.plot)
    return 0
