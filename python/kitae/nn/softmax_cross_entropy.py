"""Softmax and cross entropy as one loss."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kitae import _checks, _dispatch
from kitae.nn import checks

FORWARD = "nn.SoftmaxCrossEntropy.forward"


class SoftmaxCrossEntropy:
    """loss = mean over the batch of log(sum_j exp(x_j)) - x_label;  dx = (softmax(x) - onehot(label)) / batch

    logits x: (batch, classes), any floating dtype, 16-bit computed in float32; at least one sample and one class.
    labels: integer class ids (batch,) or one-hot rows (batch, classes). The loss is a Python float, averaged in
    float64; dlogits is float32 or float64. A wrong type or dtype raises TypeError, a wrong shape or label ValueError.

    The maximum of each row is subtracted first, so large logits do not overflow, and the logarithm is taken of the
    sum and not of a probability, so the loss of a hopeless sample is finite; books add 1e-7 to the probability
    instead. Definition and averaging are those of PyTorch's CrossEntropyLoss. As a loss takes labels, it stands
    beside a Sequential and not in it.
    """

    def __init__(self) -> None:
        self._probabilities: NDArray[Any] | None = None
        self._of_label: tuple[NDArray[Any], NDArray[Any]]

    def forward(self, logits: NDArray[Any], labels: NDArray[Any]) -> float:
        checks.float_array(FORWARD, "logits", logits, ndim=2)
        batch, classes = logits.shape
        if batch == 0 or classes == 0:
            raise _checks.error(ValueError, FORWARD, "logits", "at least one sample and one class", logits)
        ids = class_ids(labels, batch, classes)
        dtype = checks.parameter_dtype(FORWARD, None, logits.dtype)
        x = logits.astype(dtype)
        x -= np.maximum.reduce(x, axis=1, keepdims=True)
        self._of_label = np.arange(batch), ids
        x_label = x[self._of_label]
        np.exp(x, out=x)
        total = np.add.reduce(x, axis=1, keepdims=True)
        losses = np.log(total[:, 0]) - x_label
        x /= total
        self._probabilities = x
        return float(np.add.reduce(losses, dtype=np.float64)) / batch

    def backward(self) -> NDArray[Any]:
        """dlogits, made in the memory of the probabilities: once for each forward pass."""
        dlogits = checks.after_forward("nn.SoftmaxCrossEntropy.backward", self._probabilities)
        self._probabilities = None
        dlogits[self._of_label] -= 1
        dlogits /= dlogits.shape[0]
        return dlogits


def class_ids(labels: NDArray[Any], batch: int, classes: int) -> NDArray[Any]:
    """Integer class ids (batch,) from ids or one-hot rows, checked."""
    _dispatch.backend_for(labels, FORWARD, "labels")
    if labels.shape == (batch, classes):
        if not (((labels == 0) | (labels == 1)).all() and (labels.sum(axis=1) == 1).all()):
            raise _checks.error(ValueError, FORWARD, "labels", "a single 1 in each one-hot row, else zeros", labels)
        return labels.argmax(axis=1)
    if labels.shape != (batch,):
        expected = f"class ids of shape {(batch,)} or one-hot rows of shape {(batch, classes)}"
        raise _checks.error(ValueError, FORWARD, "labels", expected, labels)
    if labels.dtype.kind not in "iu":
        raise _checks.error(TypeError, FORWARD, "labels", "an integer dtype for class ids", labels)
    low, high = np.minimum.reduce(labels), np.maximum.reduce(labels)
    if low < 0 or high >= classes:
        found = _checks.Words(f"values from {low} to {high}")
        raise _checks.error(ValueError, FORWARD, "labels", f"class ids from 0 to {classes - 1}", found)
    return labels
