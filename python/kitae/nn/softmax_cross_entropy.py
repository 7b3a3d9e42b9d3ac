"""Softmax and cross entropy as one loss."""

import numpy as np

from kitae.nn import checks
from kitae.nn.scratch import Scratch


class SoftmaxCrossEntropy:
    """loss = mean over the batch of log(sum_j exp(x_j)) - x_label;  dx = (softmax(x) - onehot(label)) / batch

    logits x: (batch, classes), any floating dtype (16-bit is computed in float32). labels: integer class ids (batch,)
    or one-hot rows (batch, classes). The loss is a Python float, averaged in float64; dlogits has the dtype of the
    computation. The maximum of each row is subtracted first, so large logits do not overflow, and the logarithm is
    taken of the sum and not of a probability, so the loss of a hopeless sample is finite; books add 1e-7 instead.
    Same definition and averaging as PyTorch's CrossEntropyLoss. It is no layer of a Sequential: it takes the labels.
    """

    def __init__(self):
        self._probabilities = self._labels = None
        self._memory = Scratch()

    def forward(self, logits, labels):
        checks.float_array("SoftmaxCrossEntropy.forward", "logits", logits, ndim=2)
        batch, classes = logits.shape
        if batch == 0 or classes == 0:
            raise checks.error(
                ValueError, "SoftmaxCrossEntropy.forward", "logits", "one sample and one class or more",
                f"shape {logits.shape}",
            )  # fmt: skip
        labels = class_ids(labels, batch, classes)
        dtype = checks.parameter_dtype("SoftmaxCrossEntropy", None, logits.dtype)
        shifted = self._memory.array(logits.shape, dtype)
        np.subtract(logits, logits.max(axis=1, keepdims=True), out=shifted, dtype=dtype)
        of_label = shifted[np.arange(batch), labels]
        exponentials = np.exp(shifted, out=shifted)
        totals = exponentials.sum(axis=1, keepdims=True)
        losses = np.log(totals[:, 0]) - of_label
        exponentials /= totals
        self._probabilities, self._labels = exponentials, labels
        return float(losses.mean(dtype=np.float64))

    def backward(self):
        """dlogits, computed in place of the probabilities: once per forward."""
        dlogits = checks.after_forward("SoftmaxCrossEntropy.backward", self._probabilities)
        self._probabilities = None
        batch = dlogits.shape[0]
        dlogits[np.arange(batch), self._labels] -= 1
        dlogits /= batch
        return dlogits


def class_ids(labels, batch, classes):
    """Integer class ids (batch,) from ids or one-hot rows, checked."""
    op = "SoftmaxCrossEntropy.forward"
    if not isinstance(labels, np.ndarray):
        raise checks.error(TypeError, op, "labels", "a numpy.ndarray", type(labels).__name__)
    if labels.shape == (batch, classes):
        if not (((labels == 0) | (labels == 1)).all() and (labels.sum(axis=1) == 1).all()):
            raise checks.error(ValueError, op, "labels", "a single 1 and zeros in each one-hot row", "other values")
        return labels.argmax(axis=1)
    if labels.shape != (batch,):
        expected = f"class ids of shape {(batch,)} or one-hot rows of shape {(batch, classes)}"
        raise checks.error(ValueError, op, "labels", expected, f"shape {labels.shape}")
    if labels.dtype.kind not in "iu":
        raise checks.error(TypeError, op, "labels", "an integer dtype for class ids", labels.dtype)
    if labels.min() < 0 or labels.max() >= classes:
        found = f"values from {labels.min()} to {labels.max()}"
        raise checks.error(ValueError, op, "labels", f"class ids from 0 to {classes - 1}", found)
    return labels
