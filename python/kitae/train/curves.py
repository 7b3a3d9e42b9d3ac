"""Learning curves as a picture."""

import os
from typing import Any

from kitae import _checks

# Okabe and Ito's palette, told apart with every common kind of colour blindness.
TRAINING, VALIDATION, RATE = "#0072B2", "#D55E00", "#009E73"
TEXT: dict[Any, Any] = {"font.size": 13, "axes.titlesize": 15, "axes.spines.top": False, "axes.spines.right": False}
PANEL_INCHES = (5.5, 4.5)
SHARES = ("accuracy", "binary_accuracy", "precision", "recall", "f1")


def figure_class() -> Any:
    """matplotlib's Figure, without pyplot: no window, no global state."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise _checks.missing_package("train (pictures)", "matplotlib", "kitae[train]") from None
    return Figure


def plot_history(history: Any, path: str | os.PathLike[str] | None = None) -> Any:
    """Draw a ``History``: a panel for the loss, one for each metric, one for the learning rate (logarithmic).

    The axis is the epoch, counted from 1; training and validation share a panel. Returns matplotlib's Figure, saved
    where a ``path`` is given (its ending says the format). An empty history raises ValueError; without matplotlib
    ImportError.
    """
    if not history.epoch:
        raise _checks.error(ValueError, "train.plot_history", "history", "at least one epoch", _checks.Words("none"))
    make = figure_class()
    import matplotlib

    names = [name for name in history.history if not name.startswith("val_")]
    names += [name[4:] for name in history.history if name.startswith("val_") and name[4:] not in names]
    names.sort(key=lambda name: (name != "loss", name == "lr"))
    with matplotlib.rc_context(TEXT):
        figure = make(figsize=(PANEL_INCHES[0] * len(names), PANEL_INCHES[1]), layout="constrained")
        for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
            _panel(axes, history, name)
        if path is not None:
            figure.savefig(path, dpi=100)
    return figure


def _panel(axes: Any, history: Any, name: str) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    epochs = [epoch + 1 for epoch in history.epoch]
    marker = "o" if len(epochs) == 1 else None
    curves = [(name, "training", RATE if name == "lr" else TRAINING), (f"val_{name}", "validation", VALIDATION)]
    for key, label, color in curves:
        if key in history.history:
            values = [float("nan") if value is None else value for value in history.history[key]]
            axes.plot(epochs, values, label=label, color=color, marker=marker, linewidth=2)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    if name == "lr":
        axes.set(title="Learning rate", ylabel="learning rate of the epoch's last update", yscale="log")
        return
    axes.set(title=name.replace("_", " ").capitalize(), ylabel=f"{name.replace('_', ' ')} (mean over the samples)")
    if name == "loss":
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    elif name in SHARES:
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend(frameon=False)


def plot_range_test(result: Any, path: str | os.PathLike[str] | None = None) -> Any:
    """Draw a ``RangeTest``: losses over the learning rate (logarithmic). matplotlib's Figure, saved to ``path``."""
    make = figure_class()
    import matplotlib

    with matplotlib.rc_context(TEXT):
        figure = make(figsize=(9, 6), layout="constrained")
        axes = figure.subplots()
        axes.plot(result.lrs, result.losses, color=TRAINING, alpha=0.35, linewidth=1, label="loss of each minibatch")
        axes.plot(result.lrs, result.smoothed, color=TRAINING, linewidth=2.5, label="moving mean")
        if result.suggestion == result.suggestion:
            label = f"falls fastest: {result.suggestion:.2g}"
            axes.axvline(result.suggestion, color=VALIDATION, linestyle="--", label=label)
        # A diverging end would press the part to look at against the axis.
        bottom, top = min(result.smoothed), max(result.smoothed[0], min(result.smoothed))
        axes.set_ylim(bottom - 0.1 * (top - bottom) - 1e-12, top + 0.5 * (top - bottom) + 1e-12)
        axes.set(title="Learning rate range test", xlabel="learning rate", ylabel="training loss", xscale="log")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        if path is not None:
            figure.savefig(path, dpi=100)
    return figure
