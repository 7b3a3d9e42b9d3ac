"""Truncated backpropagation through time."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from kitae import _checks, _dispatch
from kitae.nn.composite import walk
from kitae.nn.layer import backward_for_parameters
from kitae.nn.recurrent import Recurrent
from kitae.nn.time_distributed import TimeDistributedLoss

OP = "train.TruncatedBPTT"
_LARGEST = 2**31 - 1


class SegmentStep(NamedTuple):
    """One segment, when ``model.grads`` hold its gradients."""

    loss: float  # mean over the segment's steps
    outputs: Any  # (batch, steps, ...)
    targets: Any
    counted: int  # what the loss is the mean of


class TruncatedBPTT:
    """An update every ``forward`` steps of a sequence, from gradients that go ``backward`` steps back.

    A batch x (batch, time, ...), t (batch, time, ...) is cut into segments of ``forward`` steps, the last one maybe
    shorter; the state lives on from segment to segment, gradients do not. Each segment's gradient is that of its mean
    loss, computed as if all that came before the last ``backward`` steps were constants:

    - backward = forward (20 and 20 are usual): segments are trained one by one.
    - backward > forward: a pass begins backward - forward steps before the segment, from the state of then, and the
      loss is that of the segment's own steps (BPTT(h; h') with h = backward, h' = forward: Williams and Peng 1990).
      Costs backward / forward times the work. The steps before are run again with the weights of now.
    - backward < forward: losses of all steps count for layers after the recurrent ones, those of the last ``backward``
      steps alone for the recurrent layers and what stands before them, as in DL4J (tBPTTForwardLength,
      tBPTTBackwardLength, which has no backward > forward).

    By hand, with backward = forward::

        for layer in recurrent_layers:
            layer.reset_state()
        for x_segment, t_segment in TruncatedBPTT(20).segments(x, t):
            value = loss.forward(model.forward(x_segment), t_segment)
            model.backward(loss.backward())
            optimizer.step(model.grads)

    ``train_batch`` does that for any lengths; ``backpropagate`` leaves the update to the caller. The model's recurrent
    layers need ``stateful=True`` and, as every step has a target, ``return_sequences=True``. ``reset``: every batch
    starts from zeros; False: where the batch before ended, for one long sequence cut into batches. ``backward=None``:
    as many as ``forward``.

    Wrong types raise TypeError, wrong values ValueError.
    """

    def __init__(self, forward: int = 20, backward: int | None = None, *, reset: bool = True) -> None:
        self.forward = _checks.integer(OP, "forward", forward, low=1, high=_LARGEST)
        self.backward = self.forward
        if backward is not None:
            self.backward = _checks.integer(OP, "backward", backward, low=1, high=_LARGEST)
        self.reset = _checks.boolean(OP, "reset", reset)

    def segments(self, x: Any, t: Any) -> Iterator[tuple[Any, Any]]:
        """(x, t) of ``forward`` steps each, views of the arrays."""
        time = _steps(f"{OP}.segments", x, t)
        return ((x[:, start:stop], t[:, start:stop]) for start, stop in self._bounds(time))

    def train_batch(self, model: Any, loss: Any, optimizer: Any, x: Any, t: Any) -> float:
        """One update a segment; the mean loss of all steps. An optimizer without parameters is given the model's."""
        total, count = 0.0, 0
        for step in self.backpropagate(model, loss, x, t):
            if not optimizer.groups:
                optimizer.attach(model.params)
            optimizer.step(model.grads)
            total += step.loss * step.counted
            count += step.counted
        return total / count if count else 0.0

    def backpropagate(self, model: Any, loss: Any, x: Any, t: Any) -> Iterator[SegmentStep]:
        """Forward, loss and backward of each segment: update the weights before asking for the next.

        A segment of which ``TimeDistributedLoss(ignore=...)`` counts no step only carries the state on.
        """
        op = f"{OP}.backpropagate"
        time = _steps(op, x, t)
        layers = [layer for _, layer in walk(model) if isinstance(layer, Recurrent)]
        for layer in layers:
            if not layer.stateful:
                found = _checks.Words(f"nn.{type(layer).__name__}({layer.units}) with stateful=False")
                raise _checks.error(ValueError, op, "model", "recurrent layers with stateful=True", found)
        if not layers:
            raise _checks.error(ValueError, op, "model", "at least one recurrent layer", _checks.Words("none"))
        return self._backpropagate(op, model, layers, loss, x, t, time)

    def _backpropagate(
        self, op: str, model: Any, layers: list[Recurrent], loss: Any, x: Any, t: Any, time: int
    ) -> Iterator[SegmentStep]:
        if self.reset:
            for layer in layers:
                layer.reset_state()
        before = max(0, self.backward - self.forward)
        window = 0
        for start, stop in self._bounds(time):
            outputs = model.forward(x[:, window:stop], training=True)
            if outputs.ndim < 2 or outputs.shape[1] != stop - window:
                expected = f"outputs for {stop - window} steps (return_sequences=True)"
                raise _checks.error(ValueError, op, "model", expected, outputs)
            own, targets = outputs[:, start - window :], t[:, start:stop]
            value = loss.forward(own, targets)
            count = loss.count if isinstance(loss, TimeDistributedLoss) else len(own) * (stop - start)
            if count:
                self._backward(model, layers, _after_zeros(loss.backward(), start - window))
            following = max(0, stop - before)
            # Taken before the update, as the steps that they belong to were.
            states = [layer.state_after(following - window) for layer in layers] if following < stop < time else None
            if count:
                yield SegmentStep(value, own, targets, count)
            if states is not None:
                for layer, state in zip(layers, states, strict=True):
                    layer.set_state(*state)
            window = following

    def _backward(self, model: Any, layers: list[Recurrent], dout: Any) -> None:
        lengths = [layer.backward_steps for layer in layers]
        try:
            for layer in layers:
                layer.backward_steps = self.backward
            backward_for_parameters(model, dout)
        finally:
            for layer, length in zip(layers, lengths, strict=True):
                layer.backward_steps = length

    def _bounds(self, time: int) -> Iterator[tuple[int, int]]:
        return ((start, min(start + self.forward, time)) for start in range(0, time, self.forward))


def _steps(op: str, x: Any, t: Any) -> int:
    """How many time steps x and t have."""
    for argument, array in (("x", x), ("t", t)):
        _dispatch.backend_for(array, op, argument)
        if array.ndim < 2:
            raise _checks.error(ValueError, op, argument, "shape (batch, time, ...)", array)
    if t.shape[:2] != x.shape[:2]:
        raise _checks.error(ValueError, op, "t", f"shape {x.shape[:2]} or more axes, batch and time of x", t)
    if x.shape[1] == 0:
        raise _checks.error(ValueError, op, "x", "at least one time step", x)
    return x.shape[1]


def _after_zeros(dout: Any, steps: int) -> Any:
    """dout after ``steps`` steps of zeros."""
    if steps == 0:
        return dout
    xp = _dispatch.array_module(dout)
    whole = xp.zeros((dout.shape[0], steps + dout.shape[1], *dout.shape[2:]), dout.dtype)
    whole[:, steps:] = dout
    return whole
