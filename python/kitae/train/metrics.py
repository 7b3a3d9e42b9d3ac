"""Metrics of outputs against targets. Classes are along the last axis of outputs; ids or one-hot rows are targets."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kitae import _checks, _dispatch

Metric = Callable[[Any, Any], float]


def predicted_classes(op: str, outputs: Any) -> Any:
    """The class of the largest output."""
    if getattr(outputs, "ndim", 0) < 2:
        expected = "outputs of shape (batch, ..., classes)"
        raise _checks.error(ValueError, op, "outputs", expected, outputs)
    return outputs.argmax(axis=-1)


def target_classes(op: str, targets: Any, shape: tuple[int, ...]) -> Any:
    """Class ids of ``shape`` from ids or one-hot rows."""
    if targets.ndim == len(shape) + 1 and targets.shape[:-1] == shape:
        return targets.argmax(axis=-1)
    if targets.shape != shape:
        raise _checks.error(ValueError, op, "targets", f"class ids of shape {shape}, or one-hot rows", targets)
    return targets


def accuracy(outputs: NDArray[Any], targets: NDArray[Any]) -> float:
    """Share of the samples whose largest output is that of their class.

    outputs: (batch, ..., classes), logits or probabilities; targets: integer ids (batch, ...) or one-hot rows of the
    shape of outputs. A Python float; on a GPU reading it waits. A wrong shape raises ValueError.
    """
    predicted = predicted_classes("train.accuracy", outputs)
    right = predicted == target_classes("train.accuracy", targets, predicted.shape)
    return int(_dispatch.array_module(right).count_nonzero(right)) / right.size


def binary_accuracy(outputs: NDArray[Any], targets: NDArray[Any], threshold: float = 0.0) -> float:
    """Share of the elements where outputs > threshold is what targets > 0.5 is.

    The threshold is 0 for logits (sigmoid and cross entropy as one loss), 0.5 for probabilities. outputs and targets of
    one shape, else ValueError.
    """
    if outputs.shape != targets.shape:
        raise _checks.error(ValueError, "train.binary_accuracy", "targets", f"shape {outputs.shape}", targets)
    right = (outputs > threshold) == (targets > 0.5)
    return int(_dispatch.array_module(right).count_nonzero(right)) / right.size


def mean_absolute_error(outputs: NDArray[Any], targets: NDArray[Any]) -> float:
    """mean |outputs - targets|; arrays of one shape, else ValueError."""
    if outputs.shape != targets.shape:
        raise _checks.error(ValueError, "train.mean_absolute_error", "targets", f"shape {outputs.shape}", targets)
    return float(abs(outputs - targets).mean(dtype=np.float64))


BY_NAME: dict[str, Metric] = {
    "accuracy": accuracy,
    "binary_accuracy": binary_accuracy,
    "mean_absolute_error": mean_absolute_error,
}


def find(op: str, place: str, metric: Any) -> tuple[str, Metric]:
    """(key in logs, function) of a metric's name or of a function of (outputs, targets)."""
    if isinstance(metric, str):
        return metric, BY_NAME[_checks.one_of(op, place, metric, tuple(BY_NAME))]
    if not callable(metric):
        raise _checks.error(TypeError, op, place, "a metric's name or a function of (outputs, targets)", metric)
    return getattr(metric, "__name__", type(metric).__name__), metric


def is_of_whole_set(metric: Metric) -> bool:
    """Whether a metric is no mean over samples: it is taken of all outputs at once, at an evaluation's end."""
    return getattr(metric, "of_whole_set", False)


def precision(outputs: NDArray[Any], targets: NDArray[Any], average: str = "macro") -> float:
    """True positives / all predicted, by class; "macro": the plain mean over the classes, "micro", "weighted" as well.

    Outputs and targets as in ``accuracy``, computed by scikit-learn's ``precision_score``; a class never predicted
    counts as 0. No mean over minibatches: a ``Trainer`` takes it of a whole evaluation. ImportError without
    scikit-learn.
    """
    return _by_class("precision", outputs, targets, average)


def recall(outputs: NDArray[Any], targets: NDArray[Any], average: str = "macro") -> float:
    """True positives / all of the class; otherwise as ``precision``, by scikit-learn's ``recall_score``."""
    return _by_class("recall", outputs, targets, average)


def f1(outputs: NDArray[Any], targets: NDArray[Any], average: str = "macro") -> float:
    """2 precision recall / (precision + recall), by class; otherwise as ``precision``, by ``f1_score``."""
    return _by_class("f1", outputs, targets, average)


def confusion_matrix(outputs: NDArray[Any], targets: NDArray[Any]) -> NDArray[np.int64]:
    """counts[i, j]: samples of class i that were predicted as class j, (classes, classes), by scikit-learn.

    Outputs and targets as in ``accuracy``; classes are those of the outputs' last axis.
    """
    ids, predicted = _ids("confusion_matrix", outputs, targets)
    return _scikit_learn().confusion_matrix(ids, predicted, labels=np.arange(outputs.shape[-1]))


def of_whole_set(metric: Metric) -> Metric:
    """Mark a metric that is no mean over samples: a ``Trainer`` calls it once with all outputs of an evaluation."""
    metric.of_whole_set = True  # type: ignore[attr-defined]
    return metric


def _by_class(name: str, outputs: Any, targets: Any, average: str) -> float:
    op = f"train.{name}"
    _checks.one_of(op, "average", average, ("macro", "micro", "weighted"))
    ids, predicted = _ids(name, outputs, targets)
    score = getattr(_scikit_learn(), f"{name}_score")
    return float(score(ids, predicted, average=average, zero_division=0))


def _ids(name: str, outputs: Any, targets: Any) -> tuple[Any, Any]:
    """Class ids and predicted ones in the CPU's memory, where scikit-learn looks."""
    predicted = predicted_classes(f"train.{name}", outputs)
    ids = target_classes(f"train.{name}", targets, predicted.shape)
    if _checks.is_cupy(predicted):
        predicted, ids = predicted.get(), ids.get()
    return ids.reshape(-1), predicted.reshape(-1)


def _scikit_learn() -> Any:
    try:
        from sklearn import metrics
    except ImportError:
        raise _checks.missing_package("train (metrics by class)", "scikit-learn", "kitae[train]") from None
    return metrics


for whole in (precision, recall, f1):
    BY_NAME[whole.__name__] = of_whole_set(whole)
