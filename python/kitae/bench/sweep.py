"""Random shapes and layouts beside the suite's fixed rows: whether kitae is as good where nobody has looked.

Sizes are drawn evenly on a logarithmic scale, from a seed, so that a run can be repeated and a losing row looked up.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import report, suite
from .cases import CASES, Case, Size
from .contenders import torch_if_installed
from .timing import Settings, geometric_mean

COUNT = 200
#: Elements of the largest problem: 32 MB an array, beyond most caches.
LARGEST = 1 << 23
#: A row may be this much slower than PyTorch; more is a finding.
LIMIT = 0.9
SETTINGS = Settings(
    block_seconds=0.005, blocks=3, fewest_blocks=3, dropped_seconds=0.001, pause_seconds=0.002, pause_after_openmp=0.008
)

_LAYOUTS = {2: ("contiguous", "contiguous", "fortran"), 3: ("contiguous",), 4: ("contiguous", "channels_last")}


def sizes(case: Case, count: int, seed: int) -> list[Size]:
    """``count`` different problems for a case; the same for the same seed."""
    rng = np.random.default_rng([seed, *case.family.encode()])  # cases of a family share their shapes
    draw = {"batch_norm": _images, "layer_norm": _tokens, "dropout": _flat}.get(case.family, _list)
    return [draw(rng) for _ in range(count)]


def _between(rng: np.random.Generator, low: int, high: int) -> int:
    """A whole number, evenly on a logarithmic scale; half of them rounded to powers of two, as people choose them."""
    value = math.exp(rng.uniform(math.log(low), math.log(high)))
    if rng.random() < 0.5:
        value = 2.0 ** round(math.log2(value))
    return min(high, max(low, round(value)))


def _images(rng: np.random.Generator) -> Size:
    """(N, C), (N, C, L), (N, C, H, W), channels first or last, or transposed in memory."""
    elements = _between(rng, 64, LARGEST)
    channels = _between(rng, 1, min(4096, elements // 2))
    ndim = int(rng.choice((2, 2, 3, 4, 4, 4)))
    side = _between(rng, 1, max(1, round((elements // channels) ** (1 / (ndim - 1)))))
    inner = (side,) * (ndim - 2)
    outer = max(2, elements // (channels * math.prod(inner)))
    last = ndim > 2 and rng.random() < 0.5
    shape = (outer, *inner, channels) if last else (outer, channels, *inner)
    layout = "contiguous" if last else str(rng.choice(_LAYOUTS[ndim]))
    order = "channels last" if last else layout.replace("_", " ").replace("contiguous", "channels first")
    label = "x".join(map(str, shape)) + f" {order}"
    return Size(label, (shape,), axis=-1 if last else 1, layout=layout)


def _tokens(rng: np.random.Generator) -> Size:
    """(samples, features), or sequences of them."""
    elements = _between(rng, 64, LARGEST)
    features = _between(rng, 1, min(8192, elements // 2))
    samples = max(2, elements // features)
    length = _between(rng, 1, samples) if rng.random() < 0.5 else 0
    shape = (max(1, samples // length), length, features) if length else (samples, features)
    return Size("x".join(map(str, shape)), (shape,))


def _flat(rng: np.random.Generator) -> Size:
    elements = _between(rng, 16, LARGEST)
    return Size(str(elements), ((elements,),))


def _list(rng: np.random.Generator) -> Size:
    """Up to 500 tensors, a few large ones among many small ones as networks have them."""
    count = _between(rng, 1, 500)
    largest = _between(rng, 16, LARGEST // count)
    lengths = tuple(_between(rng, 1, largest) for _ in range(count))
    label = f"{count} tensors, {sum(lengths)} elements"
    return Size(label, tuple((length,) for length in lengths), options={"steps": 1})


def run(
    plan: suite.Plan, count: int, seed: int, progress: Callable[[int, int, dict[str, Any]], None]
) -> dict[str, Any]:
    """The suite on random sizes: kitae and PyTorch only."""
    chosen = [
        (case, size)
        for case in CASES
        if case.bench_sizes and plan.filter.lower() in f"{case.family} {case.name}".lower()
        for size in sizes(case, count, seed)
    ]
    results = suite.run(plan, progress, chosen)
    return results | {"sweep": {"count": count, "seed": seed, "filter": plan.filter}}


def text(results: dict[str, Any]) -> str:
    """Per op: mean, worst rows; then every row below the limit."""
    measured = [line for line in report.lines(results) if "PyTorch" in line.speedups]
    table, low = [], []
    for op in dict.fromkeys(line.op for line in measured):
        for threads in sorted({line.threads for line in measured}):
            chosen = sorted(
                (line for line in measured if (line.op, line.threads) == (op, threads)),
                key=lambda line: line.speedups["PyTorch"],
            )
            ratios = [line.speedups["PyTorch"] for line in chosen]
            below = [line for line in chosen if line.speedups["PyTorch"] < LIMIT]
            low += below
            tenth = ratios[len(ratios) // 10]
            table.append(
                (
                    report.OP_NAMES.get(op, op),
                    str(threads),
                    str(len(chosen)),
                    *(report.ratio_text(ratio) for ratio in (geometric_mean(ratios), tenth, ratios[0])),
                    str(len(below)),
                )
            )
    header = ("op", "threads", "rows", "mean", "lowest tenth", "worst", f"below {LIMIT}x")
    parts = [report.machine_text(results), *report.busy_text(results), "", "Against PyTorch's best:"]
    parts += [report.aligned(header, table), "", f"Rows below {LIMIT}x: {len(low)} of {len(measured)}"]
    parts += [
        f"  {report.ratio_text(line.speedups['PyTorch']):>6}  {line.label} ({report.in_threads(line.threads)}): "
        f"{report.seconds_text(line.seconds)}, {line.share:.0%} of a copy"
        for line in sorted(low, key=lambda line: line.speedups["PyTorch"])
    ]
    return "\n".join(parts)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="benchmarks/sweep.py",
        description="kitae against PyTorch on random shapes and layouts; prints the worst ratios.",
    )
    made.add_argument("--count", type=int, default=COUNT, metavar="N", help=f"sizes an op (default: {COUNT})")
    made.add_argument("--seed", type=int, default=1, metavar="N", help="of the sizes (default: 1)")
    made.add_argument("--filter", default="", metavar="WORDS", help='ops whose family and name have it, as "adam"')
    made.add_argument(
        "--threads", type=int, nargs="+", default=[2], metavar="N", help="numbers of threads (default: 2)"
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="save every measurement")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = parser().parse_args(arguments)
    if torch_if_installed() is None:
        parser().error("the sweep compares with PyTorch, which is not installed")
    if chosen.json is not None and not chosen.json.parent.is_dir():
        parser().error(f"--json: expected a file in an existing folder, got {chosen.json}")
    plan = suite.Plan(False, chosen.filter, tuple(chosen.threads), SETTINGS, systems=("PyTorch", "kitae"))

    def progress(done: int, planned: int, row: dict[str, Any]) -> None:
        print(f"[{done:>4}/{planned}] {report.progress_text(row)}", file=sys.stderr, flush=True)

    results = run(plan, chosen.count, chosen.seed, progress)
    if not results["rows"]:
        parser().error(f"--filter: expected words of an op's family and name, got {chosen.filter!r}")
    print(text(results))
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0
