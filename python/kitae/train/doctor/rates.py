"""Checks of the learning rate: update over parameter, and what the loss does."""

from typing import Any

import numpy as np

from kitae.train.doctor.findings import Finding, Limits, found
from kitae.train.doctor.journal import Journal, Look

HEALTHY = 1e-3  # cs231n's rule of thumb for ||update|| / ||parameter||
ENOUGH_STEPS = 30  # before which a loss that stands still says nothing
WINDOW = 10


def ratios(look: Look) -> dict[str, float]:
    """||update|| / ||parameter|| of each layer's weights (the largest, where it has several)."""
    found: dict[str, float] = {}
    for layer in look.layers:
        values = [float(p.ratio_l2) for p in layer.weights() if p.ratio_l2 is not None]
        if values:
            found[str(layer)] = max(np.inf if np.isnan(value) else value for value in values)  # inf / inf: overflowed
    return found


def median_ratio(looks: list[Look]) -> float | None:
    """The median over looks of the median over layers."""
    medians = [float(np.median(list(values.values()))) for look in looks if (values := ratios(look))]
    return float(np.median(medians)) if medians else None


def largest_ratio(looks: list[Look]) -> float | None:
    """The largest over looks of the median over layers."""
    medians = [float(np.median(list(values.values()))) for look in looks if (values := ratios(look))]
    return float(np.max(medians)) if medians else None


def smoothed(losses: list[float]) -> Any:
    """Medians of ten losses in a row."""
    count = len(losses) // WINDOW
    if count == 0:
        return np.array([np.median(losses)]) if losses else np.array([])
    return np.median(np.reshape(losses[: count * WINDOW], (count, WINDOW)), axis=1)


def check_rates(journal: Journal, limits: Limits) -> list[Finding]:
    findings = [finding for finding in (too_high(journal, limits), too_low(journal, limits)) if finding is not None]
    return findings or one_layer(journal, limits)


def too_high(journal: Journal, limits: Limits) -> Finding | None:
    """Early updates are a tenth of the parameters or more, and the loss rises over its start or stays there."""
    losses = journal.losses
    if not losses or not np.isfinite(losses[0]):
        return None
    early = [look for look in journal.looks if look.step < ENOUGH_STEPS]
    ratio = largest_ratio(early)
    if ratio is None:
        return None
    start = losses[0]
    finite = [loss if np.isfinite(loss) else np.inf for loss in losses]
    curve = smoothed(finite)
    first = float(np.median(finite[1 : WINDOW + 1])) if len(finite) > 1 else start
    evidence = {"largest_update_ratio": ratio, "first_loss": start, "lr": journal.looks[0].lr}
    worst = max(finite[1 : WINDOW + 1], default=start)
    if ratio > limits["ratio_erasing"] and worst > limits["loss_rise"] * start:
        return found("learning_rate_too_high", None, 1, largest_of_next_losses=worst, **evidence)
    if ratio > limits["ratio_high"]:
        if first > limits["loss_rise"] * start:
            return found("learning_rate_too_high", None, 1, loss_of_next_steps=first, **evidence)
        if len(losses) >= ENOUGH_STEPS and curve[-1] > (1 - limits["loss_stall"]) * start:
            return found("learning_rate_too_high", None, 1, last_loss=float(curve[-1]), **evidence)
    late = median_ratio(journal.looks[1:])
    if late is not None and late > HEALTHY and len(losses) >= ENOUGH_STEPS and curve[-1] > limits["loss_rise"] * start:
        return found("learning_rate_too_high", None, 1, last_loss=float(curve[-1]), **evidence)
    return None


def too_low(journal: Journal, limits: Limits) -> Finding | None:
    """Updates are tiny, and the loss has hardly fallen."""
    losses = journal.losses
    ratio = median_ratio(journal.looks)
    if len(losses) < ENOUGH_STEPS or ratio is None or not ratio < limits["ratio_low"]:
        return None
    window = max(1, len(losses) // 10)
    start, end = float(np.median(losses[:window])), float(np.median(losses[-window:]))
    if not end > (1 - limits["loss_stall"]) * start or fitted(journal, end):
        return None
    evidence = {"update_ratio": ratio, "first_loss": start, "last_loss": end, "lr": journal.looks[-1].lr}
    return found("learning_rate_too_low", None, 1, **evidence)


def fitted(journal: Journal, loss: float) -> bool:
    """Whether a classifier's loss is already well below that of guessing, as with weights trained before."""
    look = journal.outputs
    known = look is not None and look.loss == "SoftmaxCrossEntropy" and (look.classes or 0) > 1
    return bool(known and look is not None and loss < 0.5 * np.log(look.classes or 1))


def one_layer(journal: Journal, limits: Limits) -> list[Finding]:
    """A layer whose median ratio is far from 1e-3 while the median over the layers is near it."""
    by_layer: dict[str, list[float]] = {}
    for look in journal.looks:
        for name, value in ratios(look).items():
            by_layer.setdefault(name, []).append(value)
    medians = {name: float(np.median(values)) for name, values in by_layer.items() if len(values) >= 3}
    if len(medians) < 2:
        return []
    middle = float(np.median(list(medians.values())))
    far = limits["ratio_far"]
    for name, value in medians.items():
        if 0 < value < HEALTHY / far < middle or value > HEALTHY * far > middle:
            return [found("update_ratio", name, 1, update_ratio=value, median_of_layers=middle)]
    return []
