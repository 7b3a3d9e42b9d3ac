"""How the cost of a call grows from a thousand to 64 million elements, with one thread and with two."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import report, suite
from .cases import CASES, Case, Size
from .timing import Settings

SIZES = tuple(1000 * 4**power for power in range(9))  # to 65,536,000
_CHANNELS = 250  # of batch norm, side by side: 1000 elements are 4 rows
_ONE_STEP = {"steps": 1}
OPS: dict[str, Callable[[int], tuple[int, ...]]] = {
    "batch_norm": lambda elements: (elements // _CHANNELS, _CHANNELS),
    "batch_norm_backward": lambda elements: (elements // _CHANNELS, _CHANNELS),
    "dropout": lambda elements: (elements,),
    "adam": lambda elements: (elements,),
    "clip_grad_norm": lambda elements: (elements,),
}
SETTINGS = Settings(block_seconds=0.010, blocks=5)


def rows(sizes: Sequence[int] = SIZES) -> list[tuple[Case, Size]]:
    cases = {case.name: case for case in CASES}
    return [
        (cases[op], Size(str(elements), (shape(elements),), options=_ONE_STEP))
        for op, shape in OPS.items()
        for elements in sizes
    ]


def run(
    plan: suite.Plan, progress: Callable[[int, int, dict[str, Any]], None], sizes: Sequence[int] = SIZES
) -> dict[str, Any]:
    return suite.run(plan, progress, rows(sizes))


def points(results: dict[str, Any]) -> dict[tuple[str, int], list[tuple[int, float, float]]]:
    """(op, threads) -> (elements, seconds, seconds of a copy of as many bytes), results in given or changed arrays."""
    found: dict[tuple[str, int], list[tuple[int, float, float]]] = {}
    for line in report.lines(results):
        if line.destination != "fresh" and line.variant != "step(grads)":
            point = (int(line.size), line.seconds, line.seconds * line.share)
            found.setdefault((line.op, line.threads), []).append(point)
    return found


def text(results: dict[str, Any]) -> str:
    found = points(results)
    threads = sorted({count for _, count in found})
    header = ("op", "elements", *(f"{report.in_threads(count)}, ns an element" for count in threads), "speed-up")
    table = []
    for op in OPS:
        for i, (elements, _, _) in enumerate(found[op, threads[0]]):
            seconds = [found[op, count][i][1] for count in threads]
            costs = (f"{1e9 * value / elements:.3f}" for value in seconds)
            table.append((report.OP_NAMES[op], f"{elements:,}", *costs, f"{seconds[0] / seconds[-1]:.2f}"))
    return "\n".join([report.machine_text(results), *report.busy_text(results), "", report.aligned(header, table)])


def plot(results: dict[str, Any], path: Path) -> None:
    """One panel an op: nanoseconds an element over elements, beside a copy of as many bytes."""
    from matplotlib.figure import Figure

    found = points(results)
    figure = Figure(figsize=(3.2 * len(OPS), 3.6), layout="constrained")
    for axes, op in zip(figure.subplots(1, len(OPS), sharey=True), OPS, strict=True):
        for (name, threads), line in found.items():
            if name != op:
                continue
            elements, seconds, copies = zip(*line, strict=True)
            (drawn,) = axes.loglog(
                elements,
                [1e9 * value / n for n, value in zip(elements, seconds, strict=True)],
                marker="o",
                markersize=4,
                label=f"kitae, {report.in_threads(threads)}",
            )
            axes.loglog(
                elements,
                [1e9 * value / n for n, value in zip(elements, copies, strict=True)],
                color=drawn.get_color(),
                linestyle=":",
                label=f"a copy of as many bytes, {report.in_threads(threads)}",
            )
        axes.set_title(report.OP_NAMES[op], fontsize=10)
        axes.set_xlabel("elements (float32)")
        axes.grid(alpha=0.3)
        if op == next(iter(OPS)):
            axes.set_ylabel("nanoseconds an element")
            axes.legend(fontsize=7)
    figure.supxlabel("\n".join([report.machine_text(results), *report.busy_text(results)]), fontsize=7)
    figure.savefig(path, dpi=110)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks/scaling.py", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="save every measurement")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="save a picture (needs matplotlib)")
    chosen = parser.parse_args(arguments)
    for path in (chosen.json, chosen.plot):
        if path is not None and not path.parent.is_dir():
            parser.error(f"{path}: expected a file in an existing folder")
    threads = suite.planned().threads
    plan = suite.Plan(threads=threads, settings=SETTINGS, systems=("kitae",))

    def progress(done: int, planned: int, row: dict[str, Any]) -> None:
        print(f"[{done:>2}/{planned}] {report.progress_text(row)}", file=sys.stderr, flush=True)

    results = run(plan, progress)
    print(text(results))
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(results, indent=1) + "\n")
    if chosen.plot is not None:
        plot(results, chosen.plot)
    return 0
