"""Epochs as lines of a file."""

import csv
import os
from typing import Any

from kitae import _checks
from kitae.train.callback import Callback, Logs


class CSVLogger(Callback):
    """Writes "epoch" (from 0) and the logs of each epoch as a line of a CSV file, at once.

    append: go on with a file that has lines already, whose columns then stay; otherwise the first epoch's keys are the
    columns and an existing file is replaced when training begins. Keys without a column are left out, missing ones stay
    empty. Numbers are written so that reading them gives the same floats.
    """

    def __init__(self, path: str | os.PathLike[str], *, separator: str = ",", append: bool = False) -> None:
        op = "train.CSVLogger"
        if not isinstance(path, (str, os.PathLike)):
            raise _checks.error(TypeError, op, "path", "a path", path)
        if not isinstance(separator, str) or len(separator) != 1:
            kind = ValueError if isinstance(separator, str) else TypeError
            raise _checks.error(kind, op, "separator", "a single character", separator)
        self.path, self.separator = os.fspath(path), separator
        self.append = _checks.boolean(op, "append", append)
        self._columns: list[str] | None = None

    def on_train_begin(self, logs: Logs) -> None:
        self._columns = None
        if self.append and os.path.exists(self.path):
            with open(self.path, newline="") as file:
                self._columns = next(csv.reader(file, delimiter=self.separator), None)
        elif not self.append:
            open(self.path, "w").close()

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        if self._columns is None:
            self._columns = ["epoch", *logs]
            self._write(self._columns)
        values = {"epoch": epoch, **logs}
        self._write([values.get(column, "") for column in self._columns])

    def _write(self, cells: list[Any]) -> None:
        with open(self.path, "a", newline="") as file:
            csv.writer(file, delimiter=self.separator).writerow(cells)
