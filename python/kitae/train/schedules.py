"""Learning-rate schedules: the rate as a function of the step and the base rate, without state."""

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Mapping
from collections.abc import Sequence as Listed
from typing import Any

from kitae import _checks

MAX_STEP = 2**62


class Schedule(ABC):
    """Base of the schedules: ``lr_at(step, base_lr)``, the rate of a step counted from 0.

    per: "epoch" or "iteration" (updates): what the steps are, and so every count among a schedule's own numbers.
    workers: with data-parallel training on n workers an epoch has an n-th of the iterations, so every count of
    iterations is divided by n; counts of epochs stay. Both are keywords of every schedule but those that hold others,
    which take theirs.

    A subclass defines ``rate(step, base_lr)``. Steps past a schedule's end keep its last rate.
    """

    def __init__(self, *, per: str = "epoch", workers: int = 1) -> None:
        op = self.op
        self.per: str = _checks.one_of(op, "per", per, ("epoch", "iteration"))
        self.workers = _checks.integer(op, "workers", workers, low=1, high=2**31 - 1)
        self._stride = self.workers if self.per == "iteration" else 1

    @property
    def op(self) -> str:
        return f"train.{type(self).__name__}"

    @abstractmethod
    def rate(self, step: int, base_lr: float) -> float:
        """The rate at a step as counted by a single worker."""

    def lr_at(self, step: int, base_lr: float) -> float:
        return self.rate(step * self._stride, base_lr)

    def _count(self, argument: str, value: Any, low: int = 1) -> int:
        return _checks.integer(self.op, argument, value, low=low, high=MAX_STEP)

    def _factor(self, argument: str, value: Any) -> float:
        return _checks.number(self.op, argument, value, low=0)


class Constant(Schedule):
    """lr = factor * base_lr"""

    def __init__(self, factor: float = 1.0, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.factor = self._factor("factor", factor)

    def rate(self, step: int, base_lr: float) -> float:
        return base_lr * self.factor


class Exponential(Schedule):
    """lr = base_lr * gamma^step; 0.98 an epoch is a usual choice. PyTorch's ExponentialLR."""

    def __init__(self, gamma: float = 0.98, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.gamma = self._factor("gamma", gamma)

    def rate(self, step: int, base_lr: float) -> float:
        return base_lr * self.gamma**step


class Step(Schedule):
    """lr = base_lr * gamma^floor(step / size). PyTorch's StepLR."""

    def __init__(self, size: int, gamma: float = 0.1, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.size, self.gamma = self._count("size", size), self._factor("gamma", gamma)

    def rate(self, step: int, base_lr: float) -> float:
        return base_lr * self.gamma ** (step // self.size)


class MultiStep(Schedule):
    """lr = base_lr * gamma^(number of milestones <= step). PyTorch's MultiStepLR."""

    def __init__(self, milestones: Listed[int], gamma: float = 0.1, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.milestones = sorted(self._count(f"milestones[{i}]", m, low=0) for i, m in enumerate(milestones))
        self.gamma = self._factor("gamma", gamma)

    def rate(self, step: int, base_lr: float) -> float:
        return base_lr * self.gamma ** bisect_right(self.milestones, step)


class InverseTime(Schedule):
    """lr = base_lr / (1 + decay * step / size); staircase: floor(step / size). Keras's InverseTimeDecay."""

    def __init__(self, decay: float, size: int = 1, *, staircase: bool = False, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.decay, self.size = self._factor("decay", decay), self._count("size", size)
        self.staircase = _checks.boolean(self.op, "staircase", staircase)

    def rate(self, step: int, base_lr: float) -> float:
        return base_lr / (1 + self.decay * (step // self.size if self.staircase else step / self.size))


class Polynomial(Schedule):
    """lr = (base_lr - end) * (1 - step / total)^power + end, ``end`` from ``total`` steps on.

    PyTorch's PolynomialLR (end 0) and Keras's PolynomialDecay.
    """

    def __init__(self, total: int, power: float = 1.0, *, end: float = 0.0, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.total = self._count("total", total)
        self.power, self.end = self._factor("power", power), self._factor("end", end)

    def rate(self, step: int, base_lr: float) -> float:
        left = 1 - min(step, self.total) / self.total
        return (base_lr - self.end) * left**self.power + self.end


class Linear(Schedule):
    """lr = base_lr * (start + (end - start) * min(step, total) / total). PyTorch's LinearLR, with its start of 1/3."""

    def __init__(self, total: int, start: float = 1 / 3, end: float = 1.0, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.total = self._count("total", total)
        self.start, self.end = self._factor("start", start), self._factor("end", end)

    def rate(self, step: int, base_lr: float) -> float:
        return base_lr * (self.start + (self.end - self.start) * min(step, self.total) / self.total)


class Cosine(Schedule):
    """lr = low + (base_lr - low) * (1 + cos(pi * step / total)) / 2, ``low`` from ``total`` steps on.

    Loshchilov and Hutter 2017, equation 5, without restarts. PyTorch's CosineAnnealingLR rises again after its T_max
    steps; here the rate stays.
    """

    def __init__(self, total: int, low: float = 0.0, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.total, self.low = self._count("total", total), self._factor("low", low)

    def rate(self, step: int, base_lr: float) -> float:
        return _cosine(base_lr, self.low, min(step, self.total) / self.total)


class CosineRestarts(Schedule):
    """``Cosine`` over ``first`` steps, then again from base_lr over ``multiply`` times as many, and so on.

    Loshchilov and Hutter 2017 (T_0 and T_mult). PyTorch's CosineAnnealingWarmRestarts.
    """

    def __init__(self, first: int, multiply: int = 1, low: float = 0.0, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.first, self.multiply = self._count("first", first), self._count("multiply", multiply)
        self.low = self._factor("low", low)

    def rate(self, step: int, base_lr: float) -> float:
        length = self.first
        if self.multiply == 1:
            step %= length
        while step >= length:
            step, length = step - length, length * self.multiply
        return _cosine(base_lr, self.low, step / length)


class OneCycle(Schedule):
    """Up by a cosine from peak / start_divisor to peak over a share ``rise`` of ``total`` steps, then down by a cosine
    to peak / start_divisor / end_divisor; rise * total has to be more than 1.

    peak: a rate, or None for base_lr. Smith and Topin 2018. PyTorch's OneCycleLR with its defaults, without its cycling
    of momentum; past ``total``, where that raises, the rate stays.
    """

    def __init__(
        self,
        total: int,
        peak: float | None = None,
        *,
        rise: float = 0.3,
        start_divisor: float = 25.0,
        end_divisor: float = 1e4,
        per: str = "iteration",
        workers: int = 1,
    ) -> None:
        super().__init__(per=per, workers=workers)
        self.total = self._count("total", total, low=2)
        self.peak = None if peak is None else self._factor("peak", peak)
        self.rise = _checks.number(self.op, "rise", rise, low=0, high=1, open_low=True, open_high=True)
        if self.rise * self.total <= 1:
            raise _checks.error(ValueError, self.op, "rise", f"more than one step, 1 / {self.total}", self.rise)
        self.start_divisor = _checks.number(self.op, "start_divisor", start_divisor, low=0, open_low=True)
        self.end_divisor = _checks.number(self.op, "end_divisor", end_divisor, low=0, open_low=True)

    def rate(self, step: int, base_lr: float) -> float:
        peak = base_lr if self.peak is None else self.peak
        start = peak / self.start_divisor
        last, top = self.total - 1, self.rise * self.total - 1
        step = min(step, last)
        if step <= top:
            return _cosine(start, peak, step / top)
        return _cosine(peak, start / self.end_divisor, (step - top) / (last - top))


class Map(Schedule):
    """The rates of ``rates``, {step: lr}: each from its step on, base_lr before the first. DL4J's map of iterations."""

    def __init__(self, rates: Mapping[int, float], *, per: str = "iteration", workers: int = 1) -> None:
        super().__init__(per=per, workers=workers)
        if not isinstance(rates, Mapping):
            raise _checks.error(TypeError, self.op, "rates", "a dict {step: lr}", rates)
        pairs = sorted((self._count("rates", step, low=0), self._factor("rates", lr)) for step, lr in rates.items())
        self.steps, self.rates = [step for step, _ in pairs], [lr for _, lr in pairs]

    def rate(self, step: int, base_lr: float) -> float:
        number = bisect_right(self.steps, step)
        return self.rates[number - 1] if number else base_lr


class Sequence(Schedule):
    """``schedules[0]`` up to ``milestones[0]``, then ``schedules[1]`` from its own step 0, and so on.

    One milestone fewer than schedules; all of one ``per`` and ``workers``, which are this one's. PyTorch's
    SequentialLR.
    """

    def __init__(self, schedules: Listed[Schedule], milestones: Listed[int]) -> None:
        if not schedules or not all(isinstance(schedule, Schedule) for schedule in schedules):
            raise _checks.error(TypeError, self.op, "schedules", "a list of schedules", schedules)
        first = schedules[0]
        super().__init__(per=first.per, workers=first.workers)
        for i, schedule in enumerate(schedules):
            if (schedule.per, schedule.workers) != (first.per, first.workers):
                expected = f"per={first.per!r}, workers={first.workers}, as schedules[0] has"
                got = _checks.Words(f"per={schedule.per!r}, workers={schedule.workers}")
                raise _checks.error(ValueError, self.op, f"schedules[{i}]", expected, got)
        self.schedules = list(schedules)
        self.milestones = [self._count(f"milestones[{i}]", m) for i, m in enumerate(milestones)]
        if len(self.milestones) != len(schedules) - 1 or self.milestones != sorted(set(self.milestones)):
            expected = f"{len(schedules) - 1} rising counts of steps"
            raise _checks.error(ValueError, self.op, "milestones", expected, _checks.Words(repr(list(milestones))))

    def rate(self, step: int, base_lr: float) -> float:
        number = bisect_right(self.milestones, step)
        start = self.milestones[number - 1] if number else 0
        return self.schedules[number].rate(step - start, base_lr)


class WarmUp(Schedule):
    """lr = after(0) * (step + 1) / steps for the first ``steps`` steps, then ``after`` from its own step 0.

    schedule: the one that comes after; None is a constant rate, per iteration. per and workers are that schedule's.
    Goyal et al. 2017, "gradual warmup", section 2.2.
    """

    def __init__(self, schedule: Schedule | None, steps: int) -> None:
        after = Constant(per="iteration") if schedule is None else schedule
        if not isinstance(after, Schedule):
            raise _checks.error(TypeError, self.op, "schedule", "a schedule", after)
        super().__init__(per=after.per, workers=after.workers)
        self.after, self.steps = after, self._count("steps", steps)

    def rate(self, step: int, base_lr: float) -> float:
        if step < self.steps:
            return self.after.rate(0, base_lr) * ((step + 1) / self.steps)
        return self.after.rate(step - self.steps, base_lr)


def _cosine(start: float, end: float, part: float) -> float:
    """From start to end along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * part)) / 2
