"""Pictures of a training run from the inside: update ratios, histograms of activations and gradients, learning rate."""

import os
from typing import Any

import numpy as np

from kitae import _checks
from kitae.train.curves import RATE, TEXT, TRAINING, VALIDATION, figure_class
from kitae.train.doctor.journal import Journal, LayerLook, Look
from kitae.train.doctor.measure import host

Path = str | os.PathLike[str]

# Okabe and Ito's palette, told apart with every common kind of colour blindness.
LAYER_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000", "#F0E442")
LAYERS = 6  # that histograms are drawn of, evenly chosen
BINS = 40
PANEL_INCHES = (5.0, 3.4)


def plot_run(journal: Journal, path: Path | None = None) -> Any:
    """One figure: loss and learning rate over the steps, update:parameter ratios, and a row of histograms over time
    for activations and one for gradients. ``journal`` is a ``Doctor``'s. Returns matplotlib's Figure."""
    looks = _looks("plot_run", journal)
    active, weighted = _chosen(looks, False), _chosen(looks, True)
    columns = max(3, len(active), len(weighted))
    figure, grid = _figure(3, columns)
    _loss(grid[0][0], journal)
    _rate(grid[0][1], looks)
    _ratios(grid[0][2], looks)
    for axes in grid[0][3:]:
        axes.set_visible(False)
    _histograms(figure, grid[1], looks, active, False)
    _histograms(figure, grid[2], looks, weighted, True)
    return _finish(figure, path)


def plot_update_ratios(journal: Journal, path: Path | None = None) -> Any:
    """log10 of ||update|| / ||parameter|| of each layer's weights over the steps, with the line of a healthy 1e-3."""
    looks = _looks("plot_update_ratios", journal)
    figure, grid = _figure(1, 1, scale=1.6)
    _ratios(grid[0][0], looks)
    return _finish(figure, path)


def plot_learning_rate(journal: Journal, path: Path | None = None) -> Any:
    """The learning rate at the looked-at steps, on a logarithmic axis."""
    looks = _looks("plot_learning_rate", journal)
    figure, grid = _figure(1, 1, scale=1.6)
    _rate(grid[0][0], looks)
    return _finish(figure, path)


def plot_activation_histograms(journal: Journal, path: Path | None = None) -> Any:
    """For each layer (six at most, evenly chosen) how its outputs are spread, look by look."""
    looks = _looks("plot_activation_histograms", journal)
    chosen = _chosen(looks, False)
    figure, grid = _figure(1, len(chosen))
    _histograms(figure, grid[0], looks, chosen, False)
    return _finish(figure, path)


def plot_gradient_histograms(journal: Journal, path: Path | None = None) -> Any:
    """For each layer with weights (six at most) how log10 |gradient| of the weights is spread, look by look."""
    looks = _looks("plot_gradient_histograms", journal)
    chosen = _chosen(looks, True)
    figure, grid = _figure(1, len(chosen))
    _histograms(figure, grid[0], looks, chosen, True)
    return _finish(figure, path)


def histogram_over_time(looks: list[Look], layer: int, gradients: bool) -> tuple[Any, Any]:
    """(edges of the bins, shares of shape (bins, looks)); of gradients: of log10 of their absolute values, zeros left
    out. A look without finite values has zeros."""
    columns = [_values(look.layers[layer], gradients) for look in looks]
    everything = np.concatenate([column for column in columns if column.size] or [np.zeros(1)])
    # The outermost hundredths would stretch the scale.
    low, high = (float(edge) for edge in np.percentile(everything, [0.5, 99.5]))
    if not high > low:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BINS + 1)
    counts = [np.histogram(np.clip(column, low, high), edges)[0] for column in columns]
    shares = np.array([count / max(1, column.size) for count, column in zip(counts, columns, strict=True)])
    return edges, shares.T


def _values(layer: LayerLook, gradients: bool) -> Any:
    if not gradients:
        values = np.zeros(0) if layer.output is None else host(layer.output).astype(np.float64)
        return values[np.isfinite(values)]
    parts = [host(p.gradient).astype(np.float64) for p in layer.weights() if p.gradient is not None]
    values = np.abs(np.concatenate(parts)) if parts else np.zeros(0)
    return np.log10(values[(values > 0) & np.isfinite(values)])


def _looks(op: str, journal: Journal) -> list[Look]:
    if not journal.looks:
        raise _checks.error(ValueError, f"train.{op}", "journal", "at least one looked-at step", _checks.Words("none"))
    return journal.looks


def _chosen(looks: list[Look], weighted: bool) -> list[int]:
    layers = looks[0].layers
    places = [i for i, layer in enumerate(layers) if (layer.weights() if weighted else layer.output is not None)]
    if len(places) > LAYERS:
        places = [places[round(i * (len(places) - 1) / (LAYERS - 1))] for i in range(LAYERS)]
    return places


def _figure(rows: int, columns: int, scale: float = 1.0) -> tuple[Any, Any]:
    make = figure_class()
    import matplotlib

    with matplotlib.rc_context(TEXT):
        size = (PANEL_INCHES[0] * columns * scale, PANEL_INCHES[1] * rows * scale)
        figure = make(figsize=size, layout="constrained")
        return figure, figure.subplots(rows, columns, squeeze=False)


def _finish(figure: Any, path: Path | None) -> Any:
    if path is not None:
        figure.savefig(path, dpi=100)
    return figure


def _loss(axes: Any, journal: Journal) -> None:
    losses = np.array(journal.losses)
    axes.plot(np.arange(len(losses)), losses, color=TRAINING, linewidth=0.8, label="training, each batch")
    validation = [
        (end, logs["val_loss"])
        for end, logs in zip(journal.epoch_ends, journal.epochs, strict=True)
        if "val_loss" in logs
    ]
    if validation:
        axes.plot(*zip(*validation, strict=True), color=VALIDATION, linewidth=2, marker=".", label="validation")
    axes.set(title="Loss", xlabel="step (updates so far)", ylabel="loss (mean over the samples)")
    if losses.size and (losses[np.isfinite(losses)] > 0).all():
        axes.set_yscale("log")
    axes.legend(frameon=False, fontsize="small")
    axes.grid(alpha=0.3)


def _rate(axes: Any, looks: list[Look]) -> None:
    known = [(look.step, look.lr) for look in looks if look.lr]
    if known:
        axes.plot(*zip(*known, strict=True), color=RATE, marker=".", linewidth=2)
        axes.set_yscale("log")
    axes.set(title="Learning rate", xlabel="step (updates so far)", ylabel="learning rate")
    axes.grid(alpha=0.3)


def _ratios(axes: Any, looks: list[Look]) -> None:
    from kitae.train.doctor.rates import HEALTHY, ratios

    curves: dict[str, list[tuple[int, float]]] = {}
    for look in looks:
        for name, value in ratios(look).items():
            if value > 0 and np.isfinite(value):
                curves.setdefault(name, []).append((look.step, float(np.log10(value))))
    for number, (name, points) in enumerate(curves.items()):
        color = LAYER_COLORS[number % len(LAYER_COLORS)]
        axes.plot(*zip(*points, strict=True), color=color, marker=".", linewidth=1.5, label=name)
    axes.axhline(np.log10(HEALTHY), color="black", linestyle="--", linewidth=1.5, label="healthy: -3")
    axes.set(title="Update over parameter", xlabel="step (updates so far)", ylabel="log10 (||update|| / ||weights||)")
    axes.margins(y=0.25)
    axes.legend(frameon=False, fontsize="x-small", ncols=2)
    axes.grid(alpha=0.3)


def _histograms(figure: Any, row: Any, looks: list[Look], chosen: list[int], gradients: bool) -> None:
    from matplotlib.colors import PowerNorm

    what, unit = ("gradients", "log10 |gradient|") if gradients else ("activations", "output")
    for axes, place in zip(row, chosen, strict=False):
        edges, shares = histogram_over_time(looks, place, gradients)
        mesh = axes.pcolormesh(
            np.arange(len(looks) + 1), edges, 100 * shares, cmap="viridis", norm=PowerNorm(0.5)
        )  # a ReLU's zeros would hide the rest
        shown = np.unique(np.linspace(0, len(looks) - 1, min(5, len(looks))).astype(int))
        axes.set_xticks(shown + 0.5, [str(looks[i].step) for i in shown])
        axes.set(title=f"{looks[0].layers[place]}: {what}", xlabel="step (looked-at ones)", ylabel=unit)
        figure.colorbar(mesh, ax=axes, label="% of the values")
    for axes in row[len(chosen) :]:
        axes.set_visible(False)
