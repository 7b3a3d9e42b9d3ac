"""Checks of gradients over depth and over time, and of numbers too small for their dtype."""

from typing import Any

import numpy as np

from kitae.train.doctor.findings import Finding, Limits, found
from kitae.train.doctor.journal import Journal, LayerLook, Look, lasting
from kitae.train.doctor.measure import host, rms


def check_gradients(journal: Journal, limits: Limits) -> list[Finding]:
    findings = []
    for name, test in (
        ("exploding_gradients", lambda look: grown_over_time(look, limits) or grown_over_depth(look, limits)),
        ("vanishing_gradients", lambda look: shrunk_over_depth(look, limits)),
        ("underflow", lambda look: lost_updates(look, limits)),
    ):
        seen = lasting(journal.looks, test)
        if seen is not None:
            step = max(1, seen[0].step) if name == "underflow" else seen[0].step  # seen after the step's update
            findings.append(found(name, seen[1][0], step, **seen[1][1]))
    return findings


def grown_over_time(look: Look, limits: Limits) -> tuple[str, dict[str, Any]] | None:
    """The gradient that reaches the first time step, over that of the last."""
    for layer in look.layers:
        if layer.over_time is None or len(layer.over_time) < 3:
            continue
        times = host(layer.over_time)
        largest, last = float(times.max()), float(times[-1])
        if not np.isfinite(largest) or (last > 0 and largest > limits["gradient_over_time"] * last):
            time = int(times.argmax())
            return str(layer), {"gradient_rms": largest, "at_time": time, "at_last_time": last}
    return None


def over_depth(look: Look) -> tuple[LayerLook, float, LayerLook, float] | None:
    """(first weighted layer, rms of the gradient that reaches it, last weighted layer, its rms)."""
    if any("normalizes" in layer.traits for layer in look.layers):
        return None  # behind a normalization the weights' scale divides the gradient, and says nothing
    weighted = [layer for layer in look.layers if layer.weights() and layer.dout is not None]
    if len(weighted) < 3:
        return None
    first, last = rms(weighted[0].dout), rms(weighted[-1].dout)
    return (weighted[0], first, weighted[-1], last) if last > 0 else None


def grown_over_depth(look: Look, limits: Limits) -> tuple[str, dict[str, Any]] | None:
    depth = over_depth(look)
    if depth is None or not depth[1] > limits["gradient_over_depth"] * depth[3]:
        return None
    return str(depth[0]), {"gradient_rms": depth[1], "of_last_layer": depth[3]}


def shrunk_over_depth(look: Look, limits: Limits) -> tuple[str, dict[str, Any]] | None:
    for layer in look.layers:
        if layer.over_time is not None and len(layer.over_time) >= 3:
            times = host(layer.over_time)
            if times[-1] > 0 and times[0] * limits["gradient_over_depth"] < times[-1]:
                return str(layer), {"gradient_rms_at_first_time": float(times[0]), "at_last_time": float(times[-1])}
    depth = over_depth(look)
    if depth is None or not depth[1] * limits["gradient_over_depth"] < depth[3]:
        return None
    return str(depth[0]), {"gradient_rms": depth[1], "of_last_layer": depth[3]}


def lost_updates(look: Look, limits: Limits) -> tuple[str, dict[str, Any]] | None:
    """Parameters that have a gradient and did not change in their last bit, though others of the network did."""
    moved = any(p.ratio_l2 is not None and float(p.ratio_l2) > 0 for layer in look.layers for p in layer.weights())
    if not moved:
        return None
    for layer in look.layers:
        for parameter in layer.weights():
            if float(parameter.lost) > limits["lost_updates"]:
                name = str(parameter.value.dtype)
                return str(layer), {"parameter": parameter.name, "unchanged": float(parameter.lost), "dtype": name}
    return None
