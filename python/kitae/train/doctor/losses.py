"""Checks of output activation, loss and targets: do they belong together?"""

from typing import Any

import numpy as np

from kitae.train.doctor.findings import Finding, Limits, found
from kitae.train.doctor.journal import Journal, LabelLook, OutputLook
from kitae.train.doctor.measure import host, is_float
from kitae.train.doctor.network import Leaf

SOFTMAX, SIGMOID, SQUARED = "SoftmaxCrossEntropy", "SigmoidCrossEntropy", "MeanSquaredError"
REACHED = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0), "relu": (0.0, np.inf), "softmax": (0.0, 1.0)}
ROWS = 256
OUTSIDE = 0.01  # share of the targets; single outliers are the data's business


def look_at_outputs(loss: Any, network: list[Leaf], outputs: Any, targets: Any) -> OutputLook:
    kind = type(loss).__name__
    y, t = host(outputs[:ROWS]).astype(np.float64), host_of_labels(targets[:ROWS])
    activation = network[-1].activation if network and not network[-1].recurrent else None
    probabilities = bool(y.ndim == 2 and y.shape[1] > 1 and (y >= 0).all() and np.allclose(y.sum(axis=1), 1, atol=1e-3))
    one_hot = t.ndim == 2 and t.shape[1] > 2 and bool(((t == 0) | (t == 1)).all() and (t.sum(axis=1) == 1).all())
    if activation is None and probabilities:
        activation = "softmax"
    low, high = REACHED.get(activation or "", (-np.inf, np.inf))
    measured = t.size > 0 and t.shape == y.shape and kind not in (SOFTMAX, SIGMOID)
    return OutputLook(
        kind,
        activation,
        probabilities,
        one_hot,
        y.shape[1] if y.ndim == 2 else None,
        float(t.min()) if t.size else 0.0,
        float(t.max()) if t.size else 0.0,
        float(np.mean((t < low) | (t > high))) if measured else 0.0,
    )


def host_of_labels(t: Any) -> Any:
    array = t.get() if hasattr(t, "get") else np.asarray(t)
    return array.astype(np.float64) if array.dtype.kind in "fiub" else host(array)


def check_losses(journal: Journal, limits: Limits) -> list[Finding]:
    look = journal.outputs
    if look is None:
        return []
    if look.loss in (SOFTMAX, SIGMOID) and look.activation is not None:
        return [found("output_mismatch", None, 0, loss=look.loss, output=look.activation, expected="logits")]
    if look.loss == SQUARED and look.one_hot and look.activation is not None:
        return [found("output_mismatch", None, 0, loss=look.loss, output=look.activation, targets="classes, one-hot")]
    if look.outside > OUTSIDE:
        return [
            found(
                "targets_out_of_range",
                None,
                0,
                output=look.activation,
                share_outside=look.outside,
                smallest=look.target_low,
                largest=look.target_high,
            )
        ]
    return []


def look_at_labels(loss: str, outputs: Any, targets: Any, step: int, against: float) -> LabelLook | None:
    """For a classifier by softmax: how many samples have a label that was all but ruled out.

    "Ruled out": the label has less than ``against`` times the probability of the predicted class.
    """
    if loss != SOFTMAX or outputs.ndim != 2 or outputs.shape[1] < 2 or not is_float(outputs):
        return None
    y, t = host(outputs[:ROWS]), host_of_labels(targets[:ROWS])
    ids = t.argmax(axis=1) if t.ndim == 2 else t.astype(np.int64)
    top = y.max(axis=1)
    behind = top - y[np.arange(len(y)), ids]  # log of the ratio of the two probabilities
    return LabelLook(step, len(y), float(np.mean(behind == 0)), float(np.mean(behind > -np.log(against))))
