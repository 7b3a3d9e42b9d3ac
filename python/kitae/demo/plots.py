"""The demo's pictures: learning curves, and where the time of a step goes."""

import os
from typing import Any

from kitae.demo.contenders import KERNELS
from kitae.demo.training import Run

# Okabe and Ito's palette, told apart with every common kind of colour blindness.
# Reference and native coincide: a thin line on a broad one shows both.
RUN_STYLES: tuple[dict[str, Any], ...] = (
    {"color": "black", "linewidth": 1.5, "linestyle": (0, (4, 2)), "zorder": 4},
    {"color": "#E69F00", "linewidth": 7, "alpha": 0.7, "solid_capstyle": "round", "zorder": 2},
    {"color": "#0072B2", "linewidth": 2, "zorder": 3},
)
KERNEL_COLORS = ("#BBBBBB", "#0072B2", "#E69F00", "#F0E442", "#009E73")
SIZE = (12, 7)  # inches at 100 dots an inch: 1200 x 700 pixels
TEXT: dict[Any, Any] = {"font.size": 14, "axes.titlesize": 16, "axes.spines.top": False, "axes.spines.right": False}


def save_plots(folder: str, runs: list[Run], data: str, machine: str) -> list[str]:
    """Draw both pictures into ``folder`` and return their paths."""
    import matplotlib

    with matplotlib.rc_context(TEXT):
        return [
            _save(_curves(runs, data), os.path.join(folder, "curves.png")),
            _save(_time_split(runs, machine), os.path.join(folder, "time.png")),
        ]


def _save(figure: Any, path: str) -> str:
    figure.savefig(path, dpi=100)
    return path


def _curves(runs: list[Run], data: str) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure = Figure(figsize=SIZE, layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    for run, style in zip(runs, RUN_STYLES, strict=True):
        epochs = range(1, len(run.epoch_losses) + 1)
        marker = "o" if len(epochs) == 1 else None
        loss.plot(epochs, run.epoch_losses, label=run.contender.name, marker=marker, **style)
        accuracy.plot(epochs, run.accuracies, label=run.contender.name, marker=marker, **style)
    loss.set(title="Training loss", xlabel="epoch", ylabel="cross entropy (mean of the epoch, with dropout)")
    loss.set_ylim(bottom=0)
    accuracy.set(title="Test accuracy", xlabel="epoch", ylabel="share of the test images predicted right")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    accuracy.set_ylim(top=1)
    for axes in (loss, accuracy):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    accuracy.legend(loc="lower right", frameon=False)
    figure.suptitle(f"One network, three implementations: {data}", fontsize=18)
    return figure


def _time_split(runs: list[Run], machine: str) -> Any:
    """Textbook and native on one scale; the reference, many times slower, on its own."""
    from matplotlib.figure import Figure

    textbook, reference, native = runs
    figure = Figure(figsize=SIZE, layout="constrained")
    pair, single = figure.subplots(2, height_ratios=(2, 1))
    seconds = [sum(run.watch.medians().values()) for run in (textbook, native)]
    _stacked_bars(pair, [textbook, native], ["", f"speed-up {seconds[0] / seconds[1]:.1f} x"])
    _stacked_bars(single, [reference], ["written for exactness, not for speed"])
    pair.set_title(f"Where the time of a training step goes\n{machine}", pad=50)
    pair.legend(ncols=len(KERNELS), loc="lower center", bbox_to_anchor=(0.42, 1.0), frameon=False, columnspacing=1.2)
    single.set_xlabel("milliseconds a training step (medians); mind the two scales")
    return figure


def _stacked_bars(axes: Any, runs: list[Run], remarks: list[str]) -> None:
    medians = [{kernel: 1e3 * s for kernel, s in run.watch.medians().items()} for run in runs]
    totals = [sum(median.values()) for median in medians]
    rows = range(len(runs))
    left = [0.0] * len(runs)
    for kernel, color in zip(KERNELS, KERNEL_COLORS, strict=True):
        widths = [median[kernel] for median in medians]
        axes.barh(rows, widths, left=left, color=color, edgecolor="white", height=0.6, label=kernel)
        for row, width in zip(rows, widths, strict=True):
            if width > 0.06 * max(totals):
                ink = "white" if color == "#0072B2" else "black"
                axes.text(left[row] + width / 2, row, f"{width:.2f}", ha="center", va="center", color=ink)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for row, (total, remark) in enumerate(zip(totals, remarks, strict=True)):
        axes.text(total, row, f"  {total:.2f} ms\n  {remark}".rstrip(), va="center")
    axes.set_yticks(rows, [run.contender.name for run in runs])
    axes.set_ylim(len(runs) - 0.5, -0.5)
    axes.set_xlim(0, 1.5 * max(totals))
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
