"""The report as a picture: speed-up over each peer, one dot a row, grouped by op."""

from pathlib import Path
from typing import Any

from .report import OP_NAMES, PEERS, busy_text, lines, machine_text


def save(results: dict[str, Any], path: Path) -> None:
    """Write the plot; the file's ending chooses the format (png, svg, pdf)."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("--plot: expected matplotlib, not installed; pip install 'kitae[plot]'") from error
    measured = lines(results)
    most = max(line.threads for line in measured)
    measured = [line for line in measured if line.threads == most and line.dtype == "float32"]
    ops = list(dict.fromkeys(line.op for line in measured))
    figure = Figure(figsize=(9, 1.2 + 0.42 * len(ops)), layout="constrained")
    axes = figure.subplots()
    for shift, (peer, marker) in enumerate(zip(PEERS, "os^D", strict=True)):
        points = [(line.speedups[peer], ops.index(line.op)) for line in measured if peer in line.speedups]
        if points:
            speedups, places = zip(*points, strict=True)
            axes.scatter(
                speedups, [place + 0.22 * (shift - 1) for place in places], marker=marker, s=22, label=f"against {peer}"
            )
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(range(len(ops)), [OP_NAMES.get(op, op) for op in ops])
    axes.invert_yaxis()
    axes.grid(axis="x", which="both", alpha=0.3)
    axes.set_xlabel(f"times as fast ({most} thread{'s' if most > 1 else ''}, float32); left of 1 kitae loses")
    figure.legend(loc="outside upper right", ncols=len(PEERS))
    figure.suptitle(f"kitae {results['machine']['versions']['kitae']}: {results['date']}", x=0.01, ha="left")
    figure.supxlabel("\n".join([machine_text(results), *busy_text(results)]), fontsize=7)
    figure.savefig(path, dpi=150)
