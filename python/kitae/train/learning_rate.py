"""Callbacks that set the learning rate."""

from collections.abc import Callable, Mapping
from typing import Any

from kitae import _checks
from kitae.train.callback import Callback, Logs
from kitae.train.monitor import Monitor

# PyTorch's: a rate that would change by no more stays.
SMALLEST_CHANGE = 1e-8


def refuse_schedule(op: str, trainer: Any) -> None:
    if trainer.schedule is not None:
        raise _checks.error(ValueError, op, "schedule", "a trainer without one, as both set the rate", trainer.schedule)


class LearningRateScheduler(Callback):
    """lr = schedule(epoch, lr) before each epoch; every group keeps its ratio to the first. Keras's callback.

    For rates that are functions of the step alone, the trainer's ``schedule=`` needs no such callback; beside one this
    raises ValueError.
    """

    def __init__(self, schedule: Callable[[int, float], float]) -> None:
        if not callable(schedule):
            raise _checks.error(
                TypeError, "train.LearningRateScheduler", "schedule", "a function of (epoch, lr)", schedule
            )
        self.schedule = schedule

    def on_train_begin(self, logs: Logs) -> None:
        refuse_schedule("train.LearningRateScheduler", self.trainer)

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        groups = self.trainer.optimizer.groups
        old = groups[0]["lr"]
        new = _checks.number("train.LearningRateScheduler", "schedule(epoch, lr)", self.schedule(epoch, old), low=0)
        for group in groups:
            group["lr"] = new if old in (0.0, group["lr"]) else group["lr"] / old * new


class ReduceLROnPlateau(Callback):
    """lr *= factor, for each group, when ``monitor`` has not improved for more than ``patience`` epochs.

    Better means by more than min_delta (absolute); mode as in ``EarlyStopping``. For ``cooldown`` epochs after a
    reduction none counts as bad. No group's rate falls below min_lr.

    Arguments and their defaults are Keras's, values those of PyTorch's ReduceLROnPlateau with threshold_mode="abs" and
    threshold=min_delta: PyTorch reduces after the bad epoch number patience + 1, Keras after number ``patience``;
    PyTorch leaves a rate that would change by 1e-8 or less. PyTorch's default threshold is relative, 1e-4 of the best.

    Beside a trainer's ``schedule=``, which sets the rate too, it raises ValueError. A monitor that is not among the
    logs raises ValueError.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        *,
        mode: str = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
    ) -> None:
        op = self._op = "train.ReduceLROnPlateau"
        self._monitor = Monitor(op, monitor, mode, min_delta)
        self.factor = _checks.number(op, "factor", factor, low=0, high=1, open_high=True)
        self.patience = _checks.integer(op, "patience", patience, low=0, high=2**31 - 1)
        self.cooldown = _checks.integer(op, "cooldown", cooldown, low=0, high=2**31 - 1)
        self.min_lr = _checks.number(op, "min_lr", min_lr, low=0)
        self.bad_epochs = self.cooling = 0

    def on_train_begin(self, logs: Logs) -> None:
        refuse_schedule(self._op, self.trainer)

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        better = self._monitor.improved(self._monitor.value(logs))
        self.bad_epochs = 0 if better else self.bad_epochs + 1
        if self.cooling > 0:
            self.cooling -= 1
            self.bad_epochs = 0
        if self.bad_epochs > self.patience:
            self._reduce()
            self.cooling, self.bad_epochs = self.cooldown, 0

    def _reduce(self) -> None:
        for group in self.trainer.optimizer.groups:
            new = max(group["lr"] * self.factor, self.min_lr)
            if group["lr"] - new > SMALLEST_CHANGE:
                group["lr"] = new

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._monitor.best, "bad_epochs": self.bad_epochs, "cooling": self.cooling}

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        self._monitor.best, self.bad_epochs, self.cooling = d["best"], d["bad_epochs"], d["cooling"]
