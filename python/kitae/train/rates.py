"""The learning rates of an optimizer's groups, by a schedule."""

from typing import Any

from kitae import _checks


class Rates:
    """Sets each group's rate: the schedule's for the highest base rate, the others in proportion to theirs."""

    def __init__(self, op: str, optimizer: Any, schedule: Any) -> None:
        if schedule is not None and (isinstance(schedule, type) or not callable(getattr(schedule, "lr_at", None))):
            expected = "a schedule, an object with lr_at(step, base_lr) and per"
            raise _checks.error(TypeError, op, "schedule", expected, schedule)
        self.per = (
            None if schedule is None else _checks.one_of(op, "schedule.per", schedule.per, ("epoch", "iteration"))
        )
        self.optimizer = optimizer
        self.schedule: Any = schedule
        self.bases: list[float] = []

    def take_bases(self) -> None:
        """Remember the groups' rates as they are, at the first time."""
        if self.schedule is not None and len(self.bases) != len(self.optimizer.groups):
            self.bases = [group["lr"] for group in self.optimizer.groups]

    def set(self, step: int) -> None:
        highest = max(self.bases)
        rate = self.schedule.lr_at(step, highest)
        for group, base in zip(self.optimizer.groups, self.bases, strict=True):
            group["lr"] = rate if base == highest else rate * (base / highest)

    def current(self) -> float:
        """The highest rate among the groups."""
        return max(group["lr"] for group in self.optimizer.groups)
