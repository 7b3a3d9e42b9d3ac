"""What losses share: what they are averaged over."""

from typing import Any, ClassVar

import numpy as np

from kitae import _checks, _dispatch
from kitae.nn import checks


class Loss:
    """``forward(outputs, targets)`` gives a Python float, ``backward()`` the gradient with respect to the outputs.

    ``reduction`` says which sum or mean of the elements' losses it is; ``backward`` belongs to the latest ``forward``,
    once: the gradient takes over the memory that was kept. On a GPU ``forward`` waits for its float.
    """

    #: What ``reduction`` may be.
    reductions: ClassVar[tuple[str, ...]] = ("mean", "sum")

    def __init__(self, *, reduction: str = "mean") -> None:
        op = f"nn.{type(self).__name__}"
        self.reduction = _checks.one_of(op, "reduction", reduction, self.reductions)
        self._kept: Any = None

    def forward(self, outputs: Any, targets: Any) -> float:
        raise NotImplementedError

    def backward(self) -> Any:
        raise NotImplementedError


class ElementWiseLoss(Loss):
    """A sum of losses of elements: outputs and targets have one shape, (batch, ...).

    ``reduction``: "mean" over all elements, "batch_mean" (summed over each sample's elements, mean over the batch),
    "sum" over all elements. outputs: any floating dtype, 16-bit computed in float32; targets: any real dtype, rounded
    to the outputs' one; at least one element. The loss is summed in float64; the gradient is float32 or float64. A
    wrong type or dtype raises TypeError, a wrong shape ValueError.
    """

    reductions: ClassVar[tuple[str, ...]] = ("mean", "batch_mean", "sum")

    def forward(self, outputs: Any, targets: Any) -> float:
        op = f"nn.{type(self).__name__}.forward"
        checks.float_array(op, "outputs", outputs)
        _dispatch.backend_for(targets, op, "targets")
        if targets.dtype.kind not in "fiub" and targets.dtype.name != "bfloat16":
            raise _checks.error(TypeError, op, "targets", "real numbers", targets)
        if not (outputs.ndim and outputs.size):
            raise _checks.error(ValueError, op, "outputs", "at least one sample and one element", outputs)
        checks.shape(op, "targets", targets, outputs.shape, "that of the outputs")
        dtype = checks.parameter_dtype(op, None, outputs.dtype)
        xp = _dispatch.array_module(outputs)
        x, t = outputs.astype(dtype, copy=False), targets.astype(dtype, copy=False)
        self._check_targets(op, xp, targets)
        # What does not become finite shows in the result.
        with np.errstate(invalid="ignore", over="ignore"):
            losses, kept = self._losses(xp, x, t)
            total = float(xp.sum(losses, dtype=np.float64))
        factor = self._factor(outputs)
        self._kept = kept, factor
        return total * factor

    def backward(self) -> Any:
        kept, factor = checks.after_forward(f"nn.{type(self).__name__}.backward", self._kept)
        self._kept = None
        kept *= self._slope * factor
        return kept

    #: The gradient of an element's loss by what is kept of it.
    _slope: ClassVar[float] = 1.0

    def _factor(self, outputs: Any) -> float:
        return {"mean": 1 / outputs.size, "batch_mean": 1 / outputs.shape[0], "sum": 1.0}[self.reduction]

    def _check_targets(self, op: str, xp: Any, targets: Any) -> None:
        """Refuse targets that mean nothing."""

    def _losses(self, xp: Any, x: Any, t: Any) -> tuple[Any, Any]:
        """The losses of the elements, and a new array for ``backward``."""
        raise NotImplementedError
