"""The callback that saves while training runs."""

import contextlib
import os
from collections.abc import Mapping
from typing import Any

from kitae import _checks
from kitae.nn.storage import save_weights
from kitae.train.callback import Callback, Logs
from kitae.train.checkpoint import save_checkpoint
from kitae.train.monitor import Monitor

_OP = "train.ModelCheckpoint"


class ModelCheckpoint(Callback):
    """Saves the training state (``save_checkpoint``) after each epoch, or every so many batches.

    ``path``: where to; fields as in Keras are filled in: "{epoch:03d}" (epochs begun so far, from 1), "{iteration}"
    (updates so far), "{val_loss:.3f}" and whatever else the logs have. Without fields each save replaces the last one.
    ``save_best_only``: only where ``monitor`` in the logs is better than at each save before. ``mode``: "min", "max",
    or "auto": "max" for names that end in accuracy, precision, recall or f1. ``save_weights_only``: the model's arrays
    alone (``nn.save_weights``). ``every``: None after each epoch, a number after that many batches, counted in the
    whole run. ``keep``: None or how many of the files saved last stay; older ones are removed once the new one is on
    the disk.

    ``best``: the value of ``monitor`` at the best save; ``files``: paths that were saved and not removed. Both are a
    part of the state that is saved, so a resumed run goes on with them.

    A monitored name that the logs lack raises ValueError (Keras warns and saves nothing). A value that is NaN is never
    better. Otherwise as ``keras.callbacks.ModelCheckpoint``, with ``every`` for ``save_freq``.
    """

    runs_last = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        monitor: str = "val_loss",
        save_best_only: bool = False,
        *,
        save_weights_only: bool = False,
        mode: str = "auto",
        every: int | None = None,
        keep: int | None = None,
    ) -> None:
        self.path = os.fspath(path)
        self._monitor = Monitor(_OP, monitor, mode, 0)
        self.save_best_only = _checks.boolean(_OP, "save_best_only", save_best_only)
        self.save_weights_only = _checks.boolean(_OP, "save_weights_only", save_weights_only)
        self.every = None if every is None else _checks.integer(_OP, "every", every, low=1, high=2**63 - 1)
        self.keep = None if keep is None else _checks.integer(_OP, "keep", keep, low=1, high=2**31 - 1)
        self.files: list[str] = []
        self.batches = 0

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        self.batches += 1
        if self.every is not None and self.batches % self.every == 0:
            self._save(logs)

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        if self.every is None:
            self._save(logs)

    @property
    def best(self) -> float:
        return self._monitor.best

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "files": list(self.files), "batches": self.batches}

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        self._monitor.best, self.files, self.batches = d["best"], list(d["files"]), d["batches"]

    def _save(self, logs: Logs) -> None:
        before = self.best, self.files
        if self.save_best_only and not self._monitor.improved(self._monitor.value(logs)):
            return
        path = self._filled(logs)
        files = [*(file for file in self.files if file != path), path]
        old = files[: -self.keep] if self.keep is not None else []
        # The saved state is that after the save, so it has to be there before.
        self.files = files[len(old) :]
        try:
            if self.save_weights_only:
                save_weights(self.trainer.model, path)
            else:
                save_checkpoint(path, self.trainer)
        except BaseException:
            self._monitor.best, self.files = before
            raise
        for file in old:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(file)

    def _filled(self, logs: Logs) -> str:
        fields = {**logs, "epoch": self.trainer.epoch + 1, "iteration": self.trainer.iteration}
        try:
            return self.path.format(**fields)
        except (KeyError, IndexError, ValueError) as problem:
            expected = f"fields among {', '.join(fields)}"
            raise _checks.error(ValueError, _OP, "path", expected, self.path) from problem
