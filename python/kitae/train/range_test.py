"""Searching the learning rate: the range test, and rates side by side."""

import copy
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kitae import _checks
from kitae.train.callback import Callback, Logs
from kitae.train.history import History
from kitae.train.schedules import Schedule
from kitae.train.snapshot import copy_arrays, put_back
from kitae.train.trainer import Trainer

DIVERGED = 4.0  # times the lowest smoothed loss
SMOOTHING = 0.9  # weight of the old mean


@dataclass
class RangeTest:
    """``lrs`` and ``losses`` (of each minibatch before its update, at that rate), ``smoothed`` (their moving mean, bias
    corrected), ``diverged`` (whether the test ended early)."""

    lrs: list[float]
    losses: list[float]
    smoothed: list[float]
    diverged: bool

    @property
    def suggestion(self) -> float:
        """The rate where the smoothed loss falls fastest per decade, before its minimum; NaN where it never falls."""
        lowest = int(np.argmin(self.smoothed))
        if lowest < 1:
            return math.nan
        slopes = np.gradient(np.array(self.smoothed[: lowest + 1]), np.log10(self.lrs[: lowest + 1]))
        return self.lrs[int(np.argmin(slopes))] if slopes.min() < 0 else math.nan

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Draw the losses over the rates, with the suggestion; matplotlib's Figure, saved where a path is given."""
        from kitae.train.curves import plot_range_test

        return plot_range_test(self, path)


class _Ramp(Schedule):
    """lr = low * (high / low)^(step / (steps - 1)), whatever the base rate."""

    def __init__(self, low: float, high: float, steps: int) -> None:
        super().__init__(per="iteration")
        self.low, self.high, self.steps = low, high, steps

    def rate(self, step: int, base_lr: float) -> float:
        return self.low * (self.high / self.low) ** (step / (self.steps - 1))


class _Restore(Callback):
    """Takes copies when training begins; ``put_back`` writes them back. Optionally sets the highest rate."""

    def __init__(self, source: Any, rate: float | None = None) -> None:
        self._source, self._rate = source, rate
        self._source_state = source.state_dict() if hasattr(source, "state_dict") else None
        self._arrays: dict[str, Any] | None = None
        self._optimizer_state: dict[str, Any] = {}

    def on_train_begin(self, logs: Logs) -> None:
        self._arrays = copy_arrays(self.model)
        self._optimizer_state = self.trainer.optimizer.state_dict()
        if self._rate is not None:
            _scale(self.trainer.optimizer, self._rate)

    def put_back(self) -> None:
        if self._arrays is not None:
            put_back(self.model, self._arrays)
            self.trainer.optimizer.load_state_dict(self._optimizer_state)
        if self._source_state is not None:
            self._source.load_state_dict(self._source_state)


class _Recorder(Callback):
    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.result = RangeTest([], [], [], False)
        self._mean = 0.0

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        result, loss = self.result, self.trainer.loss_value
        if not math.isfinite(loss):
            result.diverged = self.trainer.stop_training = True
            return
        result.lrs.append(max(group["lr"] for group in self.trainer.optimizer.groups))
        result.losses.append(loss)
        self._mean = SMOOTHING * self._mean + (1 - SMOOTHING) * loss
        result.smoothed.append(self._mean / (1 - SMOOTHING ** len(result.losses)))
        result.diverged = result.smoothed[-1] > DIVERGED * min(result.smoothed)
        self.trainer.stop_training = result.diverged or len(result.losses) == self.steps


def _fit_and_restore(
    model: Any,
    loss: Any,
    optimizer: Any,
    x: Any,
    y: Any,
    *,
    rate: float | None = None,
    schedule: Any = None,
    callbacks: Sequence[Callback] = (),
    **fit: Any,
) -> tuple[History, bool]:
    """Train, then put everything back; the history, and whether all stayed finite."""
    # An unattached optimizer stays so: its copy is trained with.
    lent = optimizer if getattr(optimizer, "groups", True) else copy.deepcopy(optimizer)
    restore = _Restore(x, rate)
    trainer = Trainer(model, loss, lent, schedule=schedule, callbacks=[restore, *callbacks])
    finite = True
    try:
        trainer.fit(x, y, **fit)
    except FloatingPointError:  # the kernels refuse what is not finite
        finite = False
    finally:
        restore.put_back()
    return trainer.history, finite


def learning_rate_range_test(
    model: Any,
    loss: Any,
    optimizer: Any,
    x: Any,
    y: Any = None,
    *,
    low: float = 1e-7,
    high: float = 10.0,
    steps: int = 100,
    batch_size: int = 32,
    seed: int = 0,
) -> RangeTest:
    """Train ``steps`` minibatches while the rate rises from ``low`` to ``high`` by a constant factor, and watch the
    loss.

    A good rate lies where the loss falls fast, well below the one where it rises again. Arguments as in ``Trainer``;
    groups of the optimizer keep their ratio, the highest has the rate. The test ends early when the smoothed loss is
    four times its minimum, or anything is not finite. Shuffling is by ``seed``. Smith 2015, "Cyclical learning rates",
    section 3.3, whose rate rises linearly.

    Afterwards parameters, buffers, the optimizer's state and rates are what they were, bit for bit; a model that was
    not built is built. Wrong values raise ValueError.
    """
    op = "train.learning_rate_range_test"
    low = _checks.number(op, "low", low, low=0, open_low=True)
    high = _checks.number(op, "high", high, low=low, open_low=True)
    steps = _checks.integer(op, "steps", steps, low=2, high=2**31 - 1)
    recorder = _Recorder(steps)
    fit = {"epochs": steps, "batch_size": batch_size, "seed": seed, "verbose": 0}
    ramp = _Ramp(low, high, steps)
    _, finite = _fit_and_restore(model, loss, optimizer, x, y, schedule=ramp, callbacks=[recorder], **fit)
    recorder.result.diverged |= not finite
    if not recorder.result.losses:
        got = _checks.Words("one that is infinite or NaN")
        raise _checks.error(ValueError, op, "loss", "a finite loss at the first minibatch", got)
    return recorder.result


def compare_learning_rates(
    model: Any,
    loss: Any,
    optimizer: Any,
    x: Any,
    y: Any = None,
    *,
    rates: Sequence[float] = (1e-1, 1e-3, 1e-6),
    finer: int = 0,
    epochs: int = 1,
    **fit: Any,
) -> dict[float, History]:
    """Train from the same start with each rate, coarse ones side by side first: {rate: history}, in rising order.

    finer: so many times more, a rate half way (in the logarithm) to each neighbour of the best, the one of the lowest
    last "val_loss", without validation "loss", is tried too. fit: keywords of ``Trainer.fit``; the seed is 0 unless
    given, so all see the same minibatches. A run in which something is not finite ends there; with no epoch finished
    its history is empty. Restores model and optimizer as ``learning_rate_range_test`` does.
    """
    op = "train.compare_learning_rates"
    tried = [_checks.number(op, f"rates[{i}]", rate, low=0, open_low=True) for i, rate in enumerate(rates)]
    if not tried:
        raise _checks.error(ValueError, op, "rates", "at least one rate", _checks.Words("none"))
    finer = _checks.integer(op, "finer", finer, low=0, high=64)
    histories: dict[float, History] = {}
    fit = {"seed": 0, "verbose": 0, **fit}
    for _ in range(finer + 1):
        for rate in tried:
            histories[rate], _ = _fit_and_restore(model, loss, optimizer, x, y, rate=rate, epochs=epochs, **fit)
        tried = _between(histories)
    return dict(sorted(histories.items()))


def _between(histories: dict[float, History]) -> list[float]:
    """Half way from the best rate to its neighbours."""
    ordered = sorted(histories)
    best = min(ordered, key=lambda rate: _score(histories[rate]))
    place = ordered.index(best)
    return [math.sqrt(best * ordered[i]) for i in (place - 1, place + 1) if 0 <= i < len(ordered)]


def _score(history: History) -> float:
    values = history.history.get("val_loss", history.history.get("loss"))
    return values[-1] if values and math.isfinite(values[-1]) else math.inf


def _scale(optimizer: Any, rate: float) -> None:
    """Give the group with the highest rate this one, the others in proportion."""
    highest = max(group["lr"] for group in optimizer.groups)
    for group in optimizer.groups:
        group["lr"] = rate if group["lr"] == highest else rate * (group["lr"] / highest)
