"""Checks of what layers put out: dead ReLUs, saturated sigmoids and tanhs, scale over depth."""

from typing import Any

import numpy as np

from kitae.train.doctor.findings import Finding, Limits, found
from kitae.train.doctor.journal import Journal, LayerLook, Look, lasting
from kitae.train.doctor.measure import host, std

ENOUGH_FOR_DEAD = 16  # samples: fewer leave a healthy ReLU unit asleep too often
# Where the derivative is 4 % of the largest: y (1 - y) = 0.01 and 1 - y^2 = 0.04.
SATURATED = {"sigmoid": 0.0101, "tanh": 0.0202}


def saturated_share(layer: LayerLook) -> float | None:
    """The share of a sigmoid's or tanh's outputs at which its derivative is below 4 % of the largest."""
    if layer.activation not in SATURATED or layer.output is None:
        return None
    y = host(layer.output)
    y = y if layer.activation == "sigmoid" else (y + 1) / 2
    margin = SATURATED["sigmoid"]
    return float(np.mean((y < margin) | (y > 1 - margin)))


def dead_share(layer: LayerLook) -> float | None:
    return float(host(layer.dead).mean()) if layer.dead is not None else None


def worst(look: Look, share: Any, limit: float, name: str) -> tuple[str, dict[str, Any]] | None:
    values = [(value, str(layer)) for layer in look.layers if (value := share(layer)) is not None]
    over = [(value, layer) for value, layer in values if value > limit]
    if not over:
        return None
    value, layer = max(over, key=lambda entry: entry[0])
    return layer, {name: value, "layers": f"{len(over)} of {len(values)}"}


def check_activations(journal: Journal, limits: Limits) -> list[Finding]:
    findings = []
    if journal.batch >= ENOUGH_FOR_DEAD:
        seen = lasting(journal.looks, lambda look: worst(look, dead_share, limits["dead_units"], "dead_units"))
        if seen is not None:
            findings.append(found("dead_relu", seen[1][0], seen[0].step, **seen[1][1]))
    seen = lasting(
        journal.looks, lambda look: worst(look, saturated_share, limits["saturated_share"], "saturated_outputs")
    )
    if seen is not None:
        findings.append(found("saturated_activations", seen[1][0], seen[0].step, **seen[1][1]))
    for name, sign in (("exploding_activations", 1), ("vanishing_activations", -1)):
        depth = lasting(journal.looks, lambda look, sign=sign: over_depth(look, sign, limits["scale_over_depth"]))  # type: ignore[misc]
        if depth is not None:
            findings.append(found(name, depth[1][0], depth[0].step, **depth[1][1]))
    return findings


def over_depth(look: Look, sign: int, limit: float) -> tuple[str, dict[str, Any]] | None:
    """Hidden outputs' standard deviations, the last weighted layer's left out (it has the targets' scale)."""
    last = max((i for i, layer in enumerate(look.layers) if layer.weights()), default=0)
    deviations = [(str(layer), std(layer.output)) for layer in look.layers[:last] if layer.output is not None]
    deviations = [(name, value) for name, value in deviations if np.isfinite(value)]
    if len(deviations) < 3 or deviations[0][1] == 0:
        return None
    start = deviations[0][1]
    name, value = (max if sign > 0 else min)(deviations, key=lambda entry: entry[1])
    if (value > limit * start) if sign > 0 else (value * limit < start):
        return name, {"std": value, "std_of_first_layer": start}
    return None
