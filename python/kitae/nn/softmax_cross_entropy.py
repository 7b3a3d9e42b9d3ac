"""Softmax and cross entropy as one loss."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kitae import _checks, _dispatch
from kitae.nn import checks
from kitae.nn.reduction import Loss

FORWARD = "nn.SoftmaxCrossEntropy.forward"
SHARES_TOLERANCE = 1e-3  # of a row's sum: float16 shares of a few classes


class SoftmaxCrossEntropy(Loss):
    """loss = mean over the batch of log(sum_j exp(x_j)) - x_label;  dx = (softmax(x) - onehot(label)) / batch

    logits x: (batch, classes), any floating dtype, 16-bit computed in float32; at least one sample and one class.
    labels: integer class ids (batch,), or rows (batch, classes) of shares that sum to 1, one-hot or mixed (MixUp,
    CutMix): then loss = log(sum_j exp(x_j)) - sum_j t_j x_j and dx = (softmax(x) - t) / batch. The loss is a Python
    float, averaged in float64; dlogits is float32 or float64. A wrong type or dtype raises TypeError, a wrong shape or
    label ValueError.

    ``reduction``: "mean" over the batch, or "sum" over it (dx is then not divided by the batch).
    ``label_smoothing`` a in [0, 1): the target is (1 - a) onehot + a / classes (Szegedy et al. 2015, arXiv:1512.00567,
    section 7), as in PyTorch and Keras.

    The maximum of each row is subtracted first, so large logits do not overflow, and the logarithm is taken of the
    sum and not of a probability, so the loss of a hopeless sample is finite; books add 1e-7 to the probability
    instead. Definition and averaging are those of PyTorch's CrossEntropyLoss. As a loss takes labels, it stands
    beside a Sequential and not in it.
    """

    def __init__(self, *, reduction: str = "mean", label_smoothing: float = 0.0) -> None:
        super().__init__(reduction=reduction)
        op = "nn.SoftmaxCrossEntropy"
        self.label_smoothing = _checks.number(op, "label_smoothing", label_smoothing, low=0, high=1, open_high=True)
        self._targets: Any = None  # where the labels stand in a batch, or rows of shares

    def forward(self, logits: NDArray[Any], labels: NDArray[Any]) -> float:
        checks.float_array(FORWARD, "logits", logits, ndim=2)
        batch, classes = logits.shape
        if batch == 0 or classes == 0:
            raise _checks.error(ValueError, FORWARD, "logits", "at least one sample and one class", logits)
        ids, shares = targets_of(labels, batch, classes)
        dtype = checks.parameter_dtype(FORWARD, None, logits.dtype)
        xp = _dispatch.array_module(logits)
        x = logits.astype(dtype)
        with np.errstate(invalid="ignore"):  # an infinite logit shows in the result
            x -= x.max(axis=1, keepdims=True)
        if shares is None:
            self._targets = xp.arange(batch), ids
            x_target = x[self._targets]
        else:
            self._targets = shares = shares.astype(dtype, copy=False)
            with np.errstate(invalid="ignore"):  # no share of an infinite logit is none
                x_target = xp.where(shares > 0, shares * x, x.dtype.type(0)).sum(axis=1)
        if self.label_smoothing:
            x_target *= 1 - self.label_smoothing
            x_target += self.label_smoothing * x.mean(axis=1)
        xp.exp(x, out=x)
        total = x.sum(axis=1, keepdims=True)
        losses = xp.log(total[:, 0]) - x_target
        x /= total
        self._kept = x
        value = float(losses.sum(dtype=np.float64))
        return value / batch if self.reduction == "mean" else value

    def backward(self) -> NDArray[Any]:
        """dlogits, made in the memory of the probabilities: once for each forward pass."""
        dlogits = checks.after_forward("nn.SoftmaxCrossEntropy.backward", self._kept)
        self._kept = None
        if isinstance(self._targets, tuple):
            dlogits[self._targets] -= 1 - self.label_smoothing
        else:
            dlogits -= (1 - self.label_smoothing) * self._targets
        if self.label_smoothing:
            dlogits -= self.label_smoothing / dlogits.shape[1]
        if self.reduction == "mean":
            dlogits /= dlogits.shape[0]
        return dlogits


def targets_of(labels: NDArray[Any], batch: int, classes: int) -> tuple[Any, Any]:
    """(class ids (batch,), None) of ids or one-hot rows, or (None, rows) of mixed ones, checked."""
    _dispatch.backend_for(labels, FORWARD, "labels")
    if labels.shape == (batch, classes):
        if ((labels == 0) | (labels == 1)).all() and (labels.sum(axis=1) == 1).all():
            return labels.argmax(axis=1), None
        if labels.dtype.kind != "f":
            raise _checks.error(ValueError, FORWARD, "labels", "a single 1 in each one-hot row, else zeros", labels)
        if not ((labels >= 0).all() and (abs(labels.sum(axis=1, dtype=np.float64) - 1) <= SHARES_TOLERANCE).all()):
            expected = "rows of shares: none below 0, and their sum 1 (a one-hot row: a single 1, else zeros)"
            raise _checks.error(ValueError, FORWARD, "labels", expected, labels)
        return None, labels
    if labels.shape != (batch,):
        expected = f"class ids of shape {(batch,)} or one-hot rows of shape {(batch, classes)}"
        raise _checks.error(ValueError, FORWARD, "labels", expected, labels)
    if labels.dtype.kind not in "iu":
        raise _checks.error(TypeError, FORWARD, "labels", "an integer dtype for class ids", labels)
    # One look at all of them: as unsigned numbers the negative ones are the largest.
    if labels.view(labels.dtype.str.replace("i", "u")).max() >= classes:
        low, high = int(labels.min()), int(labels.max())
        found = _checks.Words(f"values from {low} to {high}")
        raise _checks.error(ValueError, FORWARD, "labels", f"class ids from 0 to {classes - 1}", found)
    return labels, None
