"""Layers and losses of single steps, at every step of a sequence."""

from collections.abc import Iterator
from typing import Any

from numpy.typing import DTypeLike

from kitae import _checks, _dispatch
from kitae.nn import checks
from kitae.nn.layer import Layer


class TimeDistributed(Layer):
    """y[:, t] = layer(x[:, t]) at every t, as one pass of the layer over batch * time samples

    x: (batch, time, ...) to y: (batch, time, ...). ``layer``: any layer of kitae; ``TimeDistributed(Dense(10))`` is
    one matrix product. A batch norm inside takes its statistics over batch and time. The layer's arrays are named
    "layer.W" and so on.

    As Keras's TimeDistributed; PyTorch's Linear takes such arrays itself, the book's name is TimeAffine.
    """

    def __init__(self, layer: Any) -> None:
        methods = getattr(layer, "forward", None), getattr(layer, "backward", None)
        if isinstance(layer, type) or not all(map(callable, methods)):
            expected = "a layer, an object with forward(x, training=True) and backward(dout)"
            raise _checks.error(TypeError, "nn.TimeDistributed", "layer", expected, layer)
        self.layer = layer
        self._shape: tuple[int, ...] | None = None

    @property
    def params(self) -> dict[str, Any]:  # type: ignore[override]
        return _prefixed(self.layer.params)

    @property
    def grads(self) -> dict[str, Any]:  # type: ignore[override]
        return _prefixed(self.layer.grads)

    @property
    def buffers(self) -> dict[str, Any]:  # type: ignore[override]
        return _prefixed(self.layer.buffers)

    def children(self) -> Iterator[tuple[str, Any]]:
        yield "layer", self.layer

    def build(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        """Build the layer for inputs of ``shape`` (batch, time, ...)."""
        if len(shape) < 3:
            raise _checks.error(
                ValueError, "nn.TimeDistributed.build", "shape", "(batch, time, ...)", _checks.Words(shape)
            )
        self.layer.build((shape[0] * shape[1], *shape[2:]), dtype)

    def forward(self, x: Any, training: bool = True) -> Any:
        op = "nn.TimeDistributed.forward"
        checks.float_array(op, "x", x)
        if x.ndim < 3:
            raise _checks.error(ValueError, op, "x", "shape (batch, time, ...)", x)
        y = self.layer.forward(_samples(x), training=training)
        self._shape = x.shape
        return y.reshape(*x.shape[:2], *y.shape[1:])

    def backward(self, dout: Any) -> Any:
        op = "nn.TimeDistributed.backward"
        shape = checks.after_forward(op, self._shape)
        checks.float_array(op, "dout", dout)
        if dout.shape[:2] != shape[:2]:
            raise _checks.error(ValueError, op, "dout", f"shape {shape[:2]} + that of one step's output", dout)
        return self.layer.backward(_samples(dout)).reshape(shape)


class TimeDistributedLoss:
    """loss = mean over batch and time of loss(outputs[:, t], targets[:, t])

    outputs: (batch, time, ...); targets: (batch, time) or (batch, time, ...), as ``loss`` takes them without the time
    axis. ``ignore``: steps whose target is this number (-1, say) count in no mean and have no gradient: padding, or
    steps that nothing is to be learned from. Where every step is ignored the loss is 0. ``count``: how many steps the
    latest loss is the mean of. On a GPU ``ignore`` waits for it.

    The book's TimeSoftmaxWithLoss is ``TimeDistributedLoss(SoftmaxCrossEntropy(), ignore=-1)``, PyTorch's
    ``ignore_index`` does the same.
    """

    def __init__(self, loss: Any, *, ignore: int | None = None) -> None:
        methods = getattr(loss, "forward", None), getattr(loss, "backward", None)
        if isinstance(loss, type) or not all(map(callable, methods)):
            expected = "a loss, an object with forward(outputs, targets) and backward()"
            raise _checks.error(TypeError, "nn.TimeDistributedLoss", "loss", expected, loss)
        self.loss = loss
        self.ignore = ignore
        if ignore is not None:
            self.ignore = _checks.integer("nn.TimeDistributedLoss", "ignore", ignore, low=-(2**63), high=2**63 - 1)
        self.count = 0
        self._places: Any = None
        self._outputs: Any = None

    def forward(self, outputs: Any, targets: Any) -> float:
        op = "nn.TimeDistributedLoss.forward"
        checks.float_array(op, "outputs", outputs)
        if outputs.ndim < 2:
            raise _checks.error(ValueError, op, "outputs", "shape (batch, time, ...)", outputs)
        _dispatch.backend_for(targets, op, "targets")
        if targets.shape[:2] != outputs.shape[:2]:
            raise _checks.error(ValueError, op, "targets", f"shape {outputs.shape[:2]} or more axes", targets)
        if self.ignore is not None and targets.ndim != 2:
            raise _checks.error(ValueError, op, "targets", "shape (batch, time), as ignore is given", targets)
        samples, wanted, places = _samples(outputs), _samples(targets), None
        if self.ignore is not None:
            places = _dispatch.array_module(targets).flatnonzero(wanted != self.ignore)
            samples, wanted = samples[places], wanted[places]
        value = self.loss.forward(samples, wanted) if len(samples) else 0.0
        self._outputs, self._places, self.count = outputs, places, len(samples)
        return value

    def backward(self) -> Any:
        """doutputs, once for each forward pass."""
        outputs = checks.after_forward("nn.TimeDistributedLoss.backward", self._outputs)
        self._outputs = None
        xp = _dispatch.array_module(outputs)
        if self.count == 0:
            return xp.zeros_like(outputs)
        gradient = self.loss.backward()
        if self._places is None:
            return gradient.reshape(outputs.shape)
        whole = xp.zeros((outputs.shape[0] * outputs.shape[1], *gradient.shape[1:]), gradient.dtype)
        whole[self._places] = gradient
        return whole.reshape(outputs.shape)


def _prefixed(arrays: dict[str, Any]) -> dict[str, Any]:
    return {f"layer.{name}": array for name, array in arrays.items()}


def _samples(sequences: Any) -> Any:
    """(batch, time, ...) as (batch * time, ...)."""
    return sequences.reshape(sequences.shape[0] * sequences.shape[1], *sequences.shape[2:])
