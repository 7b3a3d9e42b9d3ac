"""Do two runs agree bit for bit?"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from kitae.demo.training import Run


@dataclass
class Comparison:
    """``differences``: one line for each array or loss that differs, in the order of the network."""

    arrays: int
    numbers: int
    losses: int
    differences: list[str]

    @property
    def agree(self) -> bool:
        return not self.differences


def compare(left: Run, right: Run) -> Comparison:
    """All parameters, running statistics, dropout counters and optimizer slots, every loss and accuracy, as bits."""
    states = left.contender.state(), right.contender.state()
    differences = [f"{name}: only in one of the two" for name in sorted(states[0].keys() ^ states[1].keys())]
    numbers = 0
    for name in filter(states[1].__contains__, states[0]):
        a, b = (np.asarray(state[name]) for state in states)
        numbers += a.size
        if not same_bits(a, b):
            differences.append(f"{name}: {describe_difference(a, b)}")
    for kind in ("losses", "accuracies"):
        a, b = (np.asarray(getattr(run, kind)) for run in (left, right))
        if not same_bits(a, b):
            differences.append(f"{kind}: {describe_difference(a, b)}")
    return Comparison(len(states[0]), numbers, len(left.losses), differences)


def same_bits(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    return (a.dtype, a.shape) == (b.dtype, b.shape) and a.tobytes() == b.tobytes()


def describe_difference(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> str:
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return f"{a.dtype} of shape {a.shape} and {b.dtype} of shape {b.shape}"
    where = np.flatnonzero(a.ravel().view(f"V{a.itemsize}") != b.ravel().view(f"V{b.itemsize}"))
    first = where[0]
    return f"{len(where)} of {a.size} values, first at {first}: {a.flat[first]} and {b.flat[first]}"
