"""Checks of the curves: overfitting, underfitting, labels that look wrong."""

import numpy as np

from kitae.train.doctor.findings import Finding, Limits, found
from kitae.train.doctor.journal import Journal
from kitae.train.doctor.rates import smoothed

LATEST = 3  # epochs whose mean stands against the best
LABELLED = 300  # samples seen up to the best epoch, before labels are doubted
LEARNED = 0.5  # share predicted right, before a label is doubted


def check_curves(journal: Journal, limits: Limits) -> list[Finding]:
    return wrong_labels(journal, limits) + overfit(journal, limits)


def validation(journal: Journal) -> list[tuple[int, float, float]]:
    """(epoch, training loss, validation loss)."""
    return [
        (i, float(logs["loss"]), float(logs["val_loss"]))
        for i, logs in enumerate(journal.epochs)
        if logs.get("loss") is not None and logs.get("val_loss") is not None
    ]


def overfit(journal: Journal, limits: Limits) -> list[Finding]:
    curve = validation(journal)
    if len(curve) < LATEST + 2:
        return []
    best, _, lowest = min(curve, key=lambda entry: entry[2])
    training = float(np.mean([entry[1] for entry in curve[-LATEST:]]))
    latest = float(np.mean([entry[2] for entry in curve[-LATEST:]]))
    rises = latest > limits["overfit_rise"] * lowest and training < curve[best][1]
    large = latest - lowest > limits["overfit_size"] * journal.losses[0]
    if not rises or not large or latest < limits["overfit_gap"] * training:
        return []
    step = journal.epoch_ends[best] if best < len(journal.epoch_ends) else journal.steps
    evidence = {"validation_loss": latest, "best": lowest, "best_epoch": best, "training_loss": training}
    findings = [found("overfitting", None, step, **evidence)]
    if journal.samples is not None and journal.parameters > journal.samples:
        sizes = {"parameters": journal.parameters, "samples": journal.samples}
        findings.append(found("more_parameters_than_samples", None, step, **sizes))
    return findings


def wrong_labels(journal: Journal, limits: Limits) -> list[Finding]:
    """Around the best epoch the network is sure about most samples, and rules out the labels of too many others.

    Networks learn what samples have in common before they memorize the exceptions (Arpit et al. 2017), so wrong labels
    stand out before the loss of the training data goes to 0, and not after it.
    """
    if not journal.labels:
        return []
    curve = validation(journal)
    end = journal.steps
    if curve:
        end = journal.epoch_ends[min(curve, key=lambda entry: entry[2])[0]]
    chosen, samples = [], 0
    for look in reversed(journal.labels):
        if look.step < end and samples < LABELLED:
            chosen.append(look)
            samples += look.samples
    if samples < LABELLED:
        return []
    against = sum(look.against * look.samples for look in chosen) / samples
    right = sum(look.right * look.samples for look in chosen) / samples
    if right < LEARNED or against < limits["memorized_against"]:
        return []
    return [found("label_noise", None, end, label_ruled_out=against, predicted_right=right, samples=samples)]


def underfit(journal: Journal, limits: Limits) -> list[Finding]:
    """At the end the loss is where it began; asked only where nothing else was found."""
    curve = smoothed(journal.losses)
    if not journal.finished or len(journal.epochs) < LATEST or len(curve) < LATEST:
        return []
    if not curve[-1] > limits["underfit_loss"] * journal.losses[0]:
        return []
    return [found("underfitting", None, journal.steps, first_loss=journal.losses[0], last_loss=float(curve[-1]))]
