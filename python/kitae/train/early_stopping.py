"""When to stop: two criteria, and NaN."""

import math
from collections.abc import Mapping
from typing import Any

from kitae import _checks
from kitae.train.callback import Callback, Logs
from kitae.train.monitor import Monitor
from kitae.train.snapshot import copy_arrays, put_back

OP = "train.EarlyStopping"
PATIENCE, GENERALIZATION_LOSS = "patience", "generalization_loss"


class EarlyStopping(Callback):
    """Stops training when a number of the logs no longer improves.

    Criterion 1, training error on a plateau: ``EarlyStopping(monitor="loss", min_delta=1e-3, patience=5)``.
    Criterion 2, validation error turning up: ``EarlyStopping(monitor="val_loss", patience=5)``, the default monitor; or
    ``criterion="generalization_loss"``: stop as soon as GL = 100 (E / E_best - 1) > threshold (per cent), E being the
    validation error and E_best its lowest so far (Prechelt 1998, section 2.2, the class GL).

    "patience" stops after the epoch that is the ``patience``-th in a row without improvement; better means lower by
    more than min_delta (mode "min"), higher ("max"), "auto" knowing accuracy, precision, recall and f1 as higher.
    restore_best: at the end of training, stopped early or not, put back parameters and buffers (running statistics,
    dropout counters) of the best epoch; the optimizer's state stays that of the last. start_from_epoch: epochs before
    it are not looked at, neither for the best.

    ``stopped_epoch``: the epoch (from 0) that was the last, or None; ``best``, ``best_epoch``: the best value, its
    epoch. Each ``fit`` starts anew, except one that continues a restored state. A monitor that is not among the logs
    raises ValueError at the first epoch's end.

    Differs from Keras: buffers are restored with the weights by all means; a missing monitor is an error, not a
    warning; ``patience=0`` is 1 here as there. PyTorch has no such class.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        *,
        min_delta: float = 0.0,
        patience: int = 0,
        mode: str = "auto",
        restore_best: bool = False,
        criterion: str = PATIENCE,
        threshold: float = 5.0,
        start_from_epoch: int = 0,
    ) -> None:
        self._arguments = (OP, monitor, mode, min_delta)
        self._monitor = Monitor(*self._arguments)
        self.patience = _checks.integer(OP, "patience", patience, low=0, high=2**31 - 1)
        self.restore_best = _checks.boolean(OP, "restore_best", restore_best)
        self.criterion = _checks.one_of(OP, "criterion", criterion, (PATIENCE, GENERALIZATION_LOSS))
        self.threshold = _checks.number(OP, "threshold", threshold, low=0)
        self.start_from_epoch = _checks.integer(OP, "start_from_epoch", start_from_epoch, low=0, high=2**31 - 1)
        if criterion == GENERALIZATION_LOSS and self._monitor.sign < 0:
            raise _checks.error(ValueError, OP, "monitor", "an error, which is better when lower", monitor)
        self._restored = False
        self._reset()

    def _reset(self) -> None:
        self._monitor = Monitor(*self._arguments)
        self.waited = 0
        self.best_epoch: int | None = None
        self.stopped_epoch: int | None = None
        self._best_arrays: dict[str, Any] | None = None

    @property
    def best(self) -> float:
        return self._monitor.best

    def on_train_begin(self, logs: Logs) -> None:
        if not self._restored:
            self._reset()
        self._restored = False

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        value = self._monitor.value(logs)
        if epoch < self.start_from_epoch:
            return
        if self._monitor.improved(value):
            self.waited, self.best_epoch = 0, epoch
            if self.restore_best:
                self._best_arrays = copy_arrays(self.model)
        else:
            self.waited += 1
        if self._stops(value):
            self.stopped_epoch = epoch
            self.trainer.stop_training = True

    def _stops(self, value: float) -> bool:
        if self.criterion == PATIENCE:
            return self.waited >= max(self.patience, 1)
        # 100 (E / E_best - 1) > threshold without the division: the best error may be 0
        return 100 * (value - self.best) > self.threshold * self.best or math.isnan(value)

    def on_train_end(self, logs: Logs) -> None:
        if self._best_arrays is not None:
            put_back(self.model, self._best_arrays)

    def state_dict(self) -> dict[str, Any]:
        return {
            "best": self._monitor.best,
            "best_epoch": self.best_epoch,
            "waited": self.waited,
            "best_arrays": self._best_arrays,
        }

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        self._reset()
        self._monitor.best, self.best_epoch, self.waited = d["best"], d["best_epoch"], d["waited"]
        self._best_arrays = d["best_arrays"]
        self._restored = True


class TerminateOnNaN(Callback):
    """Stops training after a batch whose loss is infinite or NaN."""

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        if not math.isfinite(self.trainer.loss_value):
            self.trainer.stop_training = True
