"""Checks of the untrained weights: symmetry, zeros, scale."""

from typing import Any

import numpy as np

from kitae.train.doctor.findings import Finding, Limits, found
from kitae.train.doctor.journal import Journal, LayerLook, ParameterLook
from kitae.train.doctor.measure import fan_in, std, unit_axis
from kitae.train.doctor.network import Leaf


def look_at_weights(network: list[Leaf]) -> list[tuple[str, str, bool]]:
    """(layer, parameter, whether all are 0) of each weight array whose units are all equal."""
    equal = []
    for leaf in network:
        if leaf.normalizes:
            continue
        for name, array in leaf.layer.params.items():
            if array.ndim >= 2 and array.shape[unit_axis(array.ndim)] > 1 and units_equal(array):
                equal.append((str(leaf), name, not bool(array.any())))
    return equal


def units_equal(array: Any) -> bool:
    """Whether every unit has the weights of the first."""
    first = array[:, :1] if array.ndim == 2 else array[:1]
    return bool((array == first).all())


def gain(parameter: ParameterLook) -> float:
    """std(W) sqrt(inputs): 1 keeps a signal's scale, 1.41 does through a ReLU."""
    return std(parameter.value) * float(np.sqrt(fan_in(parameter.shape)))


def check_initialization(journal: Journal, limits: Limits) -> list[Finding]:
    if not journal.looks or journal.looks[0].step > 0:
        return []
    layers = journal.looks[0].layers
    weighted = [layer for layer in layers if layer.weights()]
    return symmetric(journal, weighted) + out_of_scale(layers, weighted, limits)


def symmetric(journal: Journal, weighted: list[LayerLook]) -> list[Finding]:
    """Zeros in the last layer alone are a known good start: they keep no hidden unit from differing."""
    hidden = [entry for entry in journal.equal if weighted and entry[0] != str(weighted[-1])]
    findings = []
    for name, zero in (("zero_weights", True), ("equal_weights", False)):
        places = [(layer, parameter) for layer, parameter, is_zero in hidden if is_zero == zero]
        if places:
            findings.append(found(name, places[0][0], 0, parameter=places[0][1], layers=len(places)))
    return findings


def out_of_scale(layers: list[LayerLook], weighted: list[LayerLook], limits: Limits) -> list[Finding]:
    if any("normalizes" in layer.traits for layer in layers):
        return []
    gains = [
        (str(layer), gain(parameter))
        for layer in weighted
        if not {"recurrent", "embedding"} & layer.traits
        for parameter in layer.weights()
    ]
    if not gains:
        return []
    largest = max(gains, key=lambda entry: entry[1])
    if largest[1] > limits["weight_gain"]:
        return [found("weights_too_large", largest[0], 0, std_times_root_of_inputs=largest[1])]
    hidden = [value for _, value in gains[:-1] if value > 0]
    product = float(np.prod(hidden)) if hidden else 1.0
    if product < limits["weight_gain_product"]:
        smallest = min(gains[:-1], key=lambda entry: entry[1])
        return [
            found(
                "weights_too_small", smallest[0], 0, std_times_root_of_inputs=smallest[1], product_over_layers=product
            )
        ]
    return []
