"""Losses by name."""

from typing import Any

from kitae import _checks, nn

BY_NAME = {
    "softmax_cross_entropy": "SoftmaxCrossEntropy",
    "sigmoid_cross_entropy": "SigmoidCrossEntropy",
    "mean_squared_error": "MeanSquaredError",
    "reconstruction_cross_entropy": "ReconstructionCrossEntropy",
}


def find(op: str, loss: Any) -> Any:
    """A loss object: ``loss`` itself, or a new one of the class of that name."""
    if isinstance(loss, str):
        return getattr(nn, BY_NAME[_checks.one_of(op, "loss", loss, tuple(BY_NAME))])()
    if isinstance(loss, type) or not (
        callable(getattr(loss, "forward", None)) and callable(getattr(loss, "backward", None))
    ):
        expected = "a loss, an object with forward(outputs, targets) and backward(), or its name"
        raise _checks.error(TypeError, op, "loss", expected, loss)
    return loss
