"""One look: layers' forward and backward are wrapped for a single step, and samples of what passes are kept."""

from collections.abc import Callable
from typing import Any

import numpy as np

from kitae import _dispatch
from kitae.train.doctor.journal import LayerLook, Look, ParameterLook
from kitae.train.doctor.measure import sample
from kitae.train.doctor.network import Leaf, Wrapped

FARTHEST = 500  # steps between looks
ROWS = 64  # samples of a large batch that the exact checks (dead units, batch statistics) look at
LARGE = 1 << 18  # elements
PARAMETER_SAMPLE = 4096
STALE_FROM = 50  # steps after which running statistics with the usual decays have forgotten their start


def next_look(step: int, every: int | None) -> int:
    """The step to look at after ``step``: 0, 1, 2, 4, 8, 16, ..., at distances of at most 500; or 0, 1, 2 and every so
    many."""
    if step < 2:
        return step + 1
    if every is not None:
        return (step // every + 1) * every
    return step + min(FARTHEST, step)


class Looking:
    """From the start of a step to its end: ``before_update`` lies between backward and the update or before it."""

    def __init__(self, network: list[Leaf], step: int) -> None:
        self._network, self._step = network, step
        self._wrapped = Wrapped()
        self._before: dict[tuple[int, str], Any] = {}
        self.layers = [LayerLook(leaf.name, leaf.kind, leaf.activation, leaf.traits) for leaf in network]
        for i, leaf in enumerate(network):
            self._wrapped.wrap(leaf.layer, "forward", self._forward(i))
            self._wrapped.wrap(leaf.layer, "backward", self._backward(i))

    def _forward(self, i: int) -> Callable[[Any], Any]:
        leaf, look = self._network[i], self.layers[i]

        def around(original: Any) -> Any:
            def forward(x: Any, *args: Any, **keywords: Any) -> Any:
                y = original(x, *args, **keywords)
                self._note_output(leaf, look, x, y[0] if isinstance(y, tuple) else y)
                return y

            return forward

        return around

    def _backward(self, i: int) -> Callable[[Any], Any]:
        look = self.layers[i]

        def around(original: Any) -> Any:
            def backward(dout: Any, *args: Any, **keywords: Any) -> Any:
                look.dout = sample(dout)
                dx = original(dout, *args, **keywords)
                first = dx[0] if isinstance(dx, tuple) else dx
                if "recurrent" in look.traits and getattr(first, "ndim", 0) == 3:
                    look.over_time = (first.astype(np.float64) ** 2).mean(axis=(0, 2)) ** 0.5
                return dx

            return backward

        return around

    def _note_output(self, leaf: Leaf, look: LayerLook, x: Any, y: Any) -> None:
        look.output = sample(y)
        look.width = int(y.shape[1]) if y.ndim == 2 else None
        part = y[:ROWS] if y.size > LARGE else y
        if look.activation == "relu":
            axes = tuple(axis for axis in range(y.ndim) if axis != 1) if y.ndim != 3 else (0,)
            look.dead = ~(part > 0).any(axis=axes)
        if leaf.running and x.ndim >= 2:
            axis = getattr(leaf.layer, "axis", 1)
            look.values_a_channel = int(x.size // x.shape[axis]) if x.shape[axis] else 0
            if self._step >= STALE_FROM:
                look.stale = self._staleness(leaf.layer.buffers["running_mean"], x[:ROWS], axis)

    def _staleness(self, running: Any, x: Any, axis: int) -> Any:
        axes = tuple(a for a in range(x.ndim) if a != axis % x.ndim)
        mean, std = x.mean(axis=axes), x.std(axis=axes)
        xp = _dispatch.array_module(x)
        if mean.shape != running.shape:  # statistics of another shape, such as one for each element
            return None
        spread = xp.where(std > 0, std, xp.inf)
        return xp.median(xp.abs(mean - running) / spread)

    def before_update(self) -> None:
        """Remember the weights (a sample of each): after the forward pass, by which they exist."""
        for i, leaf in enumerate(self._network):
            for name, array in leaf.layer.params.items():
                if array.ndim >= 2:  # biases start at 0: a ratio to them says nothing
                    self._before[i, name] = sample(array, PARAMETER_SAMPLE)

    def stop(self) -> None:
        self._wrapped.remove()

    def finish(self, lr: float | None) -> Look:
        """After the update, or where there is none."""
        self.stop()
        for (i, name), before in self._before.items():
            layer, look = self._network[i].layer, self.layers[i]
            array, gradient = layer.params[name], layer.grads.get(name)
            noted = ParameterLook(name, array.ndim, array.shape, before)
            if gradient is not None:
                noted.gradient = sample(gradient, PARAMETER_SAMPLE)
                compare(noted, before, sample(array, PARAMETER_SAMPLE))
            look.parameters[name] = noted
        return Look(self._step, self.layers, lr)


def compare(noted: ParameterLook, before: Any, after: Any) -> None:
    """Update over parameter: ||update|| / ||parameter|| and mean |update| / mean |parameter|."""
    xp = _dispatch.array_module(before)
    with np.errstate(all="ignore"):
        update = after.astype(np.float32) - before.astype(np.float32) if after.itemsize < 4 else after - before
        size, mean = xp.sqrt(xp.vdot(before, before)), xp.abs(before).sum()
        moved, moved_mean = xp.sqrt(xp.vdot(update, update)), xp.abs(update).sum()
        noted.ratio_l2 = moved / size if size > 0 else None
        noted.ratio_mean = moved_mean / mean if mean > 0 else None
        if noted.gradient is not None and noted.gradient.shape == update.shape:
            driven = noted.gradient != 0
            count = driven.sum()
            noted.lost = ((update == 0) & driven).sum() / count if count else 0.0
