"""A number among an epoch's logs, and whether it got better."""

import math
from typing import Any

from kitae import _checks
from kitae.train.callback import Logs

HIGHER_IS_BETTER = ("accuracy", "precision", "recall", "f1")


class Monitor:
    """Watches ``logs[name]``: better means lower ("min") or higher ("max") by more than ``min_delta`` than the best.

    mode "auto" is "max" for names that end in accuracy, precision, recall or f1, else "min". NaN is never better.
    """

    def __init__(self, op: str, name: Any, mode: Any, min_delta: Any) -> None:
        if not isinstance(name, str):
            raise _checks.error(TypeError, op, "monitor", 'a name in logs, such as "val_loss"', name)
        _checks.one_of(op, "mode", mode, ("auto", "min", "max"))
        self.op, self.name = op, name
        self.sign = -1 if mode == "max" or (mode == "auto" and name.endswith(HIGHER_IS_BETTER)) else 1
        self.min_delta = _checks.number(op, "min_delta", min_delta, low=0)
        self.best = self.sign * math.inf

    def value(self, logs: Logs) -> float:
        if self.name not in logs:
            got = _checks.Words(f"logs with {', '.join(map(repr, logs))}")
            raise _checks.error(ValueError, self.op, "monitor", f"{self.name!r} among the logs", got)
        return float(logs[self.name])

    def improved(self, value: float) -> bool:
        """Whether ``value`` is better than the best, which it then becomes."""
        better = self.sign * value < self.sign * self.best - self.min_delta
        if better:
            self.best = value
        return better
