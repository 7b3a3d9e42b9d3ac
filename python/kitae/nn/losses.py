"""Losses element by element, and all losses by name. Softmax with cross entropy stands in a file of its own."""

from typing import Any, ClassVar

import numpy as np

from kitae import _checks
from kitae.nn.functions import sigmoid
from kitae.nn.reduction import ElementWiseLoss, Loss
from kitae.nn.softmax_cross_entropy import SoftmaxCrossEntropy


class SigmoidCrossEntropy(ElementWiseLoss):
    """loss of an element = -t log(s) - (1 - t) log(1 - s) with s = sigmoid(x); its dx = s - t

    outputs x: logits, any shape (batch, ...); targets t: of the same shape, from 0 to 1 (0 and 1 of any real dtype, or
    probabilities). Several outputs a sample are independent yes-or-no questions. ``reduction``, default "mean", over
    all elements, as PyTorch's BCEWithLogitsLoss and Keras's BinaryCrossentropy(from_logits=True) have it:
    see ``ElementWiseLoss``, for dtypes and errors too; a target outside of [0, 1] raises ValueError.

    Computed as max(x, 0) - x t + log(1 + exp(-|x|)), so logits of any size give the exact loss; books add 1e-7 to the
    probability instead, and stop at 16.
    """

    def _check_targets(self, op: str, xp: Any, targets: Any) -> None:
        if targets.dtype.kind == "b":
            return
        low, high = float(xp.min(targets)), float(xp.max(targets))
        if not (low >= 0 and high <= 1):
            found = _checks.Words(f"values from {low:g} to {high:g}")
            raise _checks.error(ValueError, op, "targets", "numbers from 0 to 1", found)

    def _losses(self, xp: Any, x: Any, t: Any) -> tuple[Any, Any]:
        losses = xp.abs(x)
        xp.negative(losses, out=losses)
        xp.exp(losses, out=losses)
        xp.log1p(losses, out=losses)
        # max(x, 0) - x t in the form that does not subtract large numbers: |x| times 1 - t or t.
        losses += xp.abs(x) * xp.where(x > 0, 1 - t, t)
        gradient = sigmoid(x)
        gradient -= t
        return losses, gradient


class ReconstructionCrossEntropy(SigmoidCrossEntropy):
    """loss = mean over the batch of the sum over a sample's elements of -t log(s) - (1 - t) log(1 - s), s = sigmoid(x)

    What an autoencoder of pixels from 0 to 1 minimizes (Bengio et al. 2007, "Greedy layer-wise training of deep
    networks"; Vincent et al. 2010): outputs x are the logits of the reconstruction, targets the input. It is
    ``SigmoidCrossEntropy`` with ``reduction="batch_mean"`` as default, so its size grows with the number of pixels;
    Keras's autoencoder examples use the mean over all elements, 1/pixels of it.
    """

    def __init__(self, *, reduction: str = "batch_mean") -> None:
        super().__init__(reduction=reduction)


class MeanSquaredError(ElementWiseLoss):
    """loss of an element = (y - t)^2; its dy = 2 (y - t); with reduction="half_sum" (y - t)^2 / 2 and y - t

    ``reduction``: "mean" over all elements (default; PyTorch's MSELoss, Keras); "batch_mean", summed over each sample's
    elements, mean over the batch; "sum"; "half_sum", half the sum over all elements (the sum of squared errors of the
    books, whose gradient is y - t, not divided by the batch). Dtypes and errors: ``ElementWiseLoss``.
    """

    reductions: ClassVar[tuple[str, ...]] = ("mean", "batch_mean", "sum", "half_sum")
    _slope: ClassVar[float] = 2.0

    def _factor(self, outputs: Any) -> float:
        return 0.5 if self.reduction == "half_sum" else super()._factor(outputs)

    def _losses(self, xp: Any, x: Any, t: Any) -> tuple[Any, Any]:
        difference = x - t
        return xp.multiply(difference, difference, dtype=np.float64), difference


BY_NAME: dict[str, type[Loss]] = {
    "softmax_cross_entropy": SoftmaxCrossEntropy,
    "sigmoid_cross_entropy": SigmoidCrossEntropy,
    "mean_squared_error": MeanSquaredError,
    "mse": MeanSquaredError,
    "reconstruction_cross_entropy": ReconstructionCrossEntropy,
}


def loss(value: Any, op: str = "nn.loss") -> Any:
    """A loss of a name in ``losses.BY_NAME``, with its defaults; any other object with the two passes as it is.

    Names: "softmax_cross_entropy", "sigmoid_cross_entropy", "mean_squared_error" or "mse",
    "reconstruction_cross_entropy". Another name raises ValueError, another object TypeError.
    """
    if isinstance(value, str):
        return BY_NAME[_checks.one_of(op, "loss", value, tuple(BY_NAME))]()
    passes = getattr(value, "forward", None), getattr(value, "backward", None)
    if isinstance(value, type) or not all(map(callable, passes)):
        expected = "a loss, an object with forward(outputs, targets) and backward(), or its name"
        raise _checks.error(TypeError, op, "loss", expected, value)
    return value
