"""The distribution of each layer's outputs: what an initialization does to a signal, as numbers and as a picture."""

import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kitae import _checks, _dispatch
from kitae.nn.watching import watched_outputs

OP = "nn.activation_histograms"
#: How near an end of its range an output counts as saturated, as a part of the range.
_NEAR = 0.01


@dataclass(frozen=True)
class LayerOutputs:
    """One layer's outputs over all samples: ``mean`` and ``std`` of the finite ones; ``zeros``, ``saturated`` and
    ``nonfinite`` are fractions of all (``saturated`` is None for a layer without bounds); ``counts`` of the finite ones
    in the bins between ``edges``."""

    name: str
    layer: str
    mean: float
    std: float
    zeros: float
    saturated: float | None
    nonfinite: float
    counts: NDArray[np.int64]
    edges: NDArray[np.float64]


class ActivationHistograms:
    """What ``activation_histograms`` returns: ``layers``, a list of ``LayerOutputs``; printed, it is a table."""

    def __init__(self, layers: list[LayerOutputs]) -> None:
        self.layers = layers

    def __str__(self) -> str:
        width = max([5, *(len(f"{layer.name} {layer.layer}") for layer in self.layers)])
        lines = [f"{'layer':<{width}}       mean        std   zeros  saturated"]
        for layer in self.layers:
            saturated = "" if layer.saturated is None else f"{layer.saturated:.1%}"
            words = f"{layer.name} {layer.layer}"
            lines.append(f"{words:<{width}} {layer.mean:10.3g} {layer.std:10.3g} {layer.zeros:7.1%} {saturated:>10}")
        return "\n".join(lines)

    __repr__ = __str__

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Save a picture, a histogram a layer side by side; its kind is that of the ending, such as .png.

        Needs matplotlib (``pip install "kitae[train]"``), else ImportError.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as missing:
            raise _checks.missing_package("activation_histograms.plot", "matplotlib", "kitae[train]") from missing
        count = max(1, len(self.layers))
        columns = min(count, 6)
        figure = Figure(figsize=(2.6 * columns, 2.6 * math.ceil(count / columns)), layout="constrained")
        for number, layer in enumerate(self.layers):
            axes = figure.add_subplot(math.ceil(count / columns), columns, number + 1)
            axes.stairs(layer.counts, layer.edges, fill=True, color="#0072B2")
            axes.set_title(f"{layer.name} {layer.layer}\nmean {layer.mean:.2g}, std {layer.std:.2g}", fontsize=9)
            axes.set_yticks([])
            axes.tick_params(labelsize=8)
        figure.savefig(path, dpi=100)


def activation_histograms(
    model: Any,
    x: Any,
    bins: int = 50,
    *,
    range: tuple[float, float] | None = None,
    only: tuple[type, ...] | None = None,
    training: bool = False,
) -> ActivationHistograms:
    """The distribution of the outputs of each layer of ``model`` for a batch x, one forward pass

    A signal whose std shrinks or grows from layer to layer, outputs near the bounds of a sigmoid or tanh, or mostly
    zeros after a ReLU point to a wrong scale of the initial weights (Glorot and Bengio 2010, section 4).

    model: any layer, such as a Sequential; it is built if it is not yet. ``bins``: of each histogram, between the least
    and the largest finite output, or over ``range``. ``only``: layer classes to look at, such as ``(nn.Tanh,)``; None:
    all that hold no others. ``training``: the mode of the pass; batch norm is the identity in inference before it has
    seen data. Buffers (running statistics, the dropout's count) are set back afterwards. "Saturated" are outputs within
    1 % of the range from an end of it, for layers that have ends (``Activation.bounds``).

    The outputs themselves are not kept. On a GPU it waits for the numbers. Wrong arguments raise TypeError or
    ValueError.
    """
    bins = _checks.integer(OP, "bins", bins, low=1, high=10**6)
    if range is not None:
        low = _checks.number(OP, "range[0]", range[0])
        range = low, _checks.number(OP, "range[1]", range[1], low=low, open_low=True)
    if not callable(getattr(model, "forward", None)):
        raise _checks.error(TypeError, OP, "model", "a layer, with forward(x, training=True)", model)
    found: list[LayerOutputs] = []

    def see(name: str, layer: Any, y: Any) -> None:
        if only is None or isinstance(layer, only):
            found.append(_of_outputs(name, layer, y, bins, range))

    kept = {name: array.copy() for name, array in getattr(model, "buffers", {}).items()}
    try:
        with watched_outputs(model, see):
            model.forward(x, training=training)
    finally:
        for name, array in getattr(model, "buffers", {}).items():
            if name in kept:
                array[...] = kept[name]
    return ActivationHistograms(found)


def _of_outputs(name: str, layer: Any, y: Any, bins: int, limits: tuple[float, float] | None) -> LayerOutputs:
    xp = _dispatch.array_module(y)
    values = y.reshape(-1).astype(np.float64)
    finite = values[xp.isfinite(values)]
    size, left = max(1, values.size), finite.size
    # A range of its own where there is nothing to take one from, as NumPy's is for equal values.
    counts, edges = xp.histogram(finite, bins=bins, range=limits if left or limits else (0.0, 1.0))
    bounds, saturated = getattr(layer, "bounds", None), None
    if bounds is not None:
        low, high = bounds
        near = _NEAR * (high - low)
        saturated = float(((finite <= low + near) | (finite >= high - near)).sum()) / size
    return LayerOutputs(
        name,
        type(layer).__name__,
        float(finite.mean()) if left else math.nan,
        float(finite.std()) if left else math.nan,
        float((values == 0).sum()) / size,
        saturated,
        (values.size - left) / size,
        _host(counts),
        _host(edges),
    )


def _host(array: Any) -> NDArray[Any]:
    return array.get() if _checks.is_cupy(array) else array
