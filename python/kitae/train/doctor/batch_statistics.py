"""Checks of batch norm: tests that change the statistics, statistics that lag, batches too small; code widths."""

from typing import Any

import numpy as np

from kitae.train.doctor.findings import Finding, Limits, found
from kitae.train.doctor.journal import Journal, Look, lasting
from kitae.train.doctor.network import Leaf


class TestWatch:
    """Between the start and the end of a test: did a running statistic change, and by how much?"""

    __test__ = False  # pytest's: no test class

    def __init__(self, network: list[Leaf]) -> None:
        self._before = [
            (str(leaf), name, array, array.copy())
            for leaf in network
            if leaf.running
            for name, array in leaf.layer.buffers.items()
            if name.startswith("running_")
        ]

    def leak(self, step: int) -> Finding | None:
        for layer, name, array, before in self._before:
            if not bool((array == before).all()):
                change = float(np.abs(array - before).max())
                return found("leaked_batch_norm_statistics", layer, step, buffer=name, largest_change=change)
        return None


def check_batch_statistics(journal: Journal, limits: Limits) -> list[Finding]:
    findings = []
    for name, looks, test in (
        ("batch_too_small", journal.looks, lambda look: small(look, limits["small_batch"])),
        ("stale_running_statistics", journal.looks[-3:], lambda look: stale(look, limits["stale_statistics"])),
    ):
        seen = lasting(looks, test)
        if seen is not None:
            findings.append(found(name, seen[1][0], seen[0].step, **seen[1][1]))
    return findings


def small(look: Look, limit: float) -> tuple[str, dict[str, Any]] | None:
    for layer in look.layers:
        if layer.values_a_channel is not None and layer.values_a_channel < limit:
            return str(layer), {"values_a_channel": layer.values_a_channel}
    return None


def stale(look: Look, limit: float) -> tuple[str, dict[str, Any]] | None:
    for layer in look.layers:
        if layer.stale is not None and float(layer.stale) > limit:
            return str(layer), {"running_from_batch_mean_in_std": float(layer.stale)}
    return None


def check_widths(journal: Journal, limits: Limits) -> list[Finding]:
    """The narrowest layer of an autoencoder, a network whose targets are its inputs."""
    inputs = journal.inputs
    if inputs is None or not inputs.reconstructs or len(inputs.shape) != 2 or not journal.looks:
        return []
    last = max((i for i, layer in enumerate(journal.looks[0].layers) if layer.weights()), default=0)
    hidden = [(layer.width, str(layer)) for layer in journal.looks[0].layers[:last] if layer.width is not None]
    if not hidden:
        return []
    width, layer = min(hidden)
    share = width / inputs.shape[1]
    if limits["autoencoder_narrow"] <= share <= limits["autoencoder_wide"]:
        return []
    return [found("autoencoder_width", layer, 0, width=width, inputs=inputs.shape[1])]
