"""Batch norm's running statistics, taken anew and exactly over a whole data set."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

import kitae
from kitae import _checks, _dispatch

OP = "train.precise_batch_norm"


def precise_batch_norm(model: Any, batches: Iterable[Any], *, passes: int | None = None) -> None:
    """Set every batch norm's running statistics to those of its inputs over ALL samples:
    ``mean = sum x / N``, ``var = sum (x - mean)^2 / N``, times N / (N - 1) where the layer is ``unbiased``.

    It is the variance of everything, not the mean of the batches' variances: the batches' moments (float64, by the
    kernel of ``kitae.batch_norm``) are pooled after Chan, Golub and LeVeque 1979,

        delta = mean_b - mean;  mean += delta n_b / n;  M2 += M2_b + delta^2 n n_b / (n + n_b)

    so how the data is cut into batches and in which order it comes does not matter (within 1e-12 in float64; in float32
    the layers between round, and matrix products may round by the batch's size). For evaluation after training, and
    needed after the parameters were averaged (``kitae.SWA``, ``kitae.EMA``): running averages of training lag behind
    the parameters and weigh the last batches most.

    model: an object with ``forward(x, training=...)`` that has been run once; its ``kitae.BatchNorm`` layers are found
    through ``children()`` and ``layers``. Its parameters stay, dropout is off. batches: arrays x, or tuples whose first
    entry is x; gone through once a pass, so a generator serves for one pass only. passes: the network runs in inference
    throughout, since statistics of a mini-batch, which algorithm 2 of the paper and Wu and Johnson 2021 normalize with,
    depend on the cut. So a layer's inputs are right once the layers before it are: each pass measures every layer with
    the statistics of the pass before, and after as many passes as there are batch norms (default; fewer where a pass
    changes nothing) all are exact. A pass costs one inference over the data; passes=1 is the cheap approximation where
    earlier statistics are nearly right already.

    All statistics are written at the end, into the existing arrays, or none: on any error, Ctrl-C too, the buffers are
    as before. Waits for a GPU once a pass. Raises TypeError or ValueError in words, FloatingPointError where a layer's
    inputs are infinite or NaN. Source: Ioffe and Szegedy 2015, algorithm 2, with the exact variance; PyTorch's
    update_bn averages the statistics of the batches instead.
    """
    if not callable(getattr(model, "forward", None)):
        raise _checks.error(TypeError, OP, "model", "an object with forward(x, training=...)", model)
    layers = list(batch_norms(model))
    if passes is not None:
        passes = _checks.integer(OP, "passes", passes, low=1, high=2**31 - 1)
    if not isinstance(batches, Iterable) or isinstance(batches, (str, bytes)):
        raise _checks.error(TypeError, OP, "batches", "an iterable of batches", batches)
    for layer in layers:
        if not layer.params:
            got = _checks.Words("a BatchNorm without parameters")
            raise _checks.error(ValueError, OP, "model", "a network that has been run once", got)
    passes = passes or len(layers)
    if passes > 1 and isinstance(batches, Iterator):
        expected = f"batches that can be gone through {passes} times (a list; or passes=1)"
        raise _checks.error(ValueError, OP, "batches", expected, batches)
    if not layers:
        return
    watched = [_Watched(layer) for layer in layers]
    try:
        for _ in range(passes):
            if not _one_pass(model, batches, watched):
                break
    finally:
        for one in watched:
            one.give_back()
    for one in watched:
        one.write()


def batch_norms(model: Any) -> Iterator[Any]:
    """Every ``kitae.BatchNorm`` in a model, once, in the order of its layers."""
    seen: set[int] = set()

    def inside(layer: Any) -> Iterator[Any]:
        if id(layer) in seen:
            return
        seen.add(id(layer))
        if isinstance(layer, kitae.BatchNorm):
            yield layer
        children = getattr(layer, "children", None)
        within = [child for _, child in children()] if callable(children) else []
        for child in within or list(getattr(layer, "layers", ())):
            yield from inside(child)

    return inside(model)


def _one_pass(model: Any, batches: Iterable[Any], watched: list["_Watched"]) -> bool:
    """Whether any statistics changed."""
    samples = 0
    for batch in batches:
        x = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
        _dispatch.backend_for(x, OP, "batches")
        samples += len(x)
        model.forward(x, training=False)
    if samples == 0:
        raise _checks.error(ValueError, OP, "batches", "at least one sample", _checks.Words("none"))
    changed = [one.finish() for one in watched]
    return any(changed)


class _Watched:
    """A batch norm whose inputs are measured, with statistics in float64 in the place of its own."""

    def __init__(self, layer: Any) -> None:
        self._layer, self._forward = layer, layer.forward
        self._own = {name: layer.buffers[name] for name in ("running_mean", "running_var")}
        layer.buffers.update({name: array.astype(np.float64) for name, array in self._own.items()})
        layer.forward = self._measuring_forward
        self._measured = False
        self._start()

    def _start(self) -> None:
        self._count, self._mean, self._squares = 0, 0.0, 0.0  # squares: of the deviations from the mean

    def _measuring_forward(self, x: Any, training: bool = True, **more: Any) -> Any:
        self._add(_dispatch.as_array(x))
        return self._forward(x, training=False, **more)

    def _add(self, x: Any) -> None:
        channels = self._own["running_mean"].size
        if self._layer.semantics == "dlfs":  # every element of a sample is a channel
            x = x.reshape(len(x), -1)
        if x.size == 0:
            return
        mean, variance = (_dispatch.empty(channels, np.float64, x) for _ in range(2))
        mean.fill(0)
        variance.fill(-1)  # stays there where a kernel on a GPU finds infinite or NaN elements: it then writes nothing
        kitae.batch_norm(
            x, None, None, mean, variance, training=True, axis=self._layer.axis, running_decay=0.0, unbiased=False
        )
        variance = _dispatch.array_module(x).where(variance < 0, np.nan, variance)
        n, before = x.size // channels, self._count
        self._count += n
        delta = mean - self._mean
        self._mean = self._mean + delta * (n / self._count)
        self._squares = self._squares + (variance * n + delta * delta * (before * n / self._count))

    def finish(self) -> bool:
        """Take what was measured as the statistics for the next pass."""
        if self._count == 0:
            return False
        variance = self._squares / self._count
        if self._layer.unbiased:
            variance = variance * (self._count / max(self._count - 1, 1))
        changed = False
        for name, value in (("running_mean", self._mean), ("running_var", variance)):
            xp, now = _dispatch.array_module(value), self._layer.buffers[name]
            if not bool(xp.isfinite(value).all()):
                got = _checks.Words("infinite or NaN ones")
                raise _checks.error(FloatingPointError, OP, "batches", "finite inputs of every batch norm", got)
            changed = changed or not bool((now == value).all())
            now[...] = value
        self._measured = True
        self._start()
        return changed

    def give_back(self) -> None:
        self._found = {name: self._layer.buffers[name] for name in self._own}
        self._layer.buffers.update(self._own)
        del self._layer.forward

    def write(self) -> None:
        if self._measured:
            for name, array in self._own.items():
                array[...] = self._found[name]
