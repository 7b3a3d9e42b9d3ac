"""One row per op: its inputs, its call, its value in wider arithmetic, its tolerance and the bytes it must move.

The same row drives the correctness test on every backend, the finite-difference gradient check and the benchmark.
"""

from . import (
    averaging,
    convolution,
    dropout,
    gradients,
    layer_normalization,
    normalization,
    optimizers,
    weight_normalization,
)
from .row import Case, Expected, Gradient, Inputs, Results, Size, Tolerance, Traffic, allowed_error, dtype_named

CASES: tuple[Case, ...] = (
    *normalization.CASES,
    *layer_normalization.CASES,
    *weight_normalization.CASES,
    *dropout.CASES,
    *optimizers.CASES,
    *averaging.CASES,
    *gradients.CASES,
    *convolution.CASES,
)


def case_named(name: str) -> Case:
    for case in CASES:
        if case.name == name:
            return case
    raise KeyError(f"case: expected one of {[case.name for case in CASES]}, got {name!r}")


__all__ = [
    "CASES",
    "Case",
    "Expected",
    "Gradient",
    "Inputs",
    "Results",
    "Size",
    "Tolerance",
    "Traffic",
    "allowed_error",
    "case_named",
    "dtype_named",
]
