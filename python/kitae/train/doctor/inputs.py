"""Checks of the data: range, scale, constant features, values that are not finite."""

from typing import Any

import numpy as np

from kitae.train.doctor.findings import Finding, Limits, found
from kitae.train.doctor.journal import InputLook, Journal
from kitae.train.doctor.measure import first_nonfinite, host, is_float

ROWS, FEATURES = 1024, 4096
ENOUGH_FOR_CONSTANT = 100  # samples below which a feature may be constant by chance


def look_at_inputs(x: Any, t: Any) -> InputLook:
    """The numbers of a batch of inputs (and whether the targets ``t`` are the inputs again)."""
    reconstructs = x is t or (getattr(t, "shape", None) == x.shape and x.ndim >= 2 and bool((x == t).all()))
    if not is_float(x) or x.size == 0:
        return InputLook(tuple(x.shape), False, reconstructs=reconstructs)
    values = host(x[:ROWS]).reshape(min(len(x), ROWS), -1)[:, :FEATURES].astype(np.float64)
    scale = np.sqrt(np.mean(values**2, axis=0))
    low, high = values.min(axis=0), values.max(axis=0)
    constant = np.flatnonzero(low == high) if len(values) >= ENOUGH_FOR_CONSTANT else np.array([], int)
    varying = scale[scale > 0]
    widest = int(scale.argmax())
    return InputLook(
        tuple(x.shape),
        True,
        rms=float(np.sqrt(np.mean(values**2))),
        low=float(low.min()),
        high=float(high.max()),
        constant=tuple(map(int, constant)),
        constant_nonzero=tuple(int(i) for i in constant if low[i] != 0),
        spread=float(scale[widest] / np.median(varying)) if x.ndim == 2 and varying.size else 1.0,
        widest=widest,
        reconstructs=reconstructs,
    )


def nonfinite_inputs(x: Any, t: Any, step: int) -> Finding | None:
    """The first sample and feature that is infinite or NaN, in the inputs or in targets of a floating dtype."""
    for name, array in (("inputs", x), ("targets", t)):
        if not is_float(array):
            continue
        with np.errstate(all="ignore"):
            total = array.sum()
        if not np.isfinite(float(total)):
            place = first_nonfinite(array)  # None where only the sum overflowed
            if place is not None:
                value = float(array[place])
                feature = place[1] if len(place) == 2 else place[1:]
                return found(
                    "nan_in_inputs", None, step, array=name, sample_of_batch=place[0], feature=feature, value=value
                )
    return None


def check_inputs(journal: Journal, limits: Limits) -> list[Finding]:
    look = journal.inputs
    if look is None or not look.floating or not np.isfinite(look.rms):
        return []
    findings = []
    scale = {"rms": look.rms, "smallest": look.low, "largest": look.high}
    normalized_first = bool(journal.looks) and "normalizes" in journal.looks[0].layers[0].traits
    if not normalized_first:
        if look.rms > limits["input_rms"] or 0 < look.rms < limits["input_rms_low"]:
            findings.append(found("unscaled_inputs", None, 0, **scale))
        elif look.spread > limits["feature_spread"]:
            findings.append(
                found("unscaled_inputs", None, 0, feature=look.widest, rms_over_that_of_others=look.spread, **scale)
            )
    features = int(np.prod(look.shape[1:]))
    share = len(look.constant) / features if features else 0.0
    if share > limits["constant_share"]:
        findings.append(found("constant_features", None, 0, constant=len(look.constant), of=features))
    elif look.constant_nonzero:
        first = look.constant_nonzero
        findings.append(found("constant_features", None, 0, constant_not_zero=len(first), first=first[0], of=features))
    return findings
