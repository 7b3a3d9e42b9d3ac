"""Progress on the terminal: a bar, or a line an epoch."""

import sys
import time
from typing import Any

from kitae import _checks
from kitae.train.callback import Callback, Logs

CHOICES = "'auto', 0 (nothing), 1 (a bar) or 2 (a line an epoch)"


def reporter(op: str, verbose: Any) -> Callback | None:
    """The callback that shows progress. "auto": a bar on a terminal where tqdm is installed, else lines."""
    if isinstance(verbose, bool) or verbose not in ("auto", 0, 1, 2):
        kind = ValueError if isinstance(verbose, (int, str)) and not isinstance(verbose, bool) else TypeError
        raise _checks.error(kind, op, "verbose", CHOICES, verbose)
    if verbose == 0:
        return None
    if verbose == 2 or (verbose == "auto" and not sys.stderr.isatty()):
        return Lines()
    try:
        from tqdm import tqdm
    except ImportError:
        if verbose == "auto":
            return Lines()
        raise _checks.missing_package("train (a progress bar)", "tqdm", "kitae[train]") from None
    return Bar(tqdm)


def in_words(logs: Logs) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in logs.items() if isinstance(value, (int, float)))


class Lines(Callback):
    """``epoch 3/30  1.2 s  loss 0.31  val_loss 0.35  lr 0.001`` on standard output after each epoch."""

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        seconds = time.perf_counter() - self._start
        sys.stdout.write(f"epoch {epoch + 1}/{self.trainer.last_epoch}  {seconds:.1f} s  {in_words(logs)}\n")
        sys.stdout.flush()


class Bar(Callback):
    """A bar of an epoch's batches on standard error, which stays with the epoch's results."""

    def __init__(self, tqdm: Any) -> None:
        self._tqdm = tqdm
        self._bar: Any = None

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        self.close()
        total, words = self.trainer.batches_per_epoch, f"epoch {epoch + 1}/{self.trainer.last_epoch}"
        self._bar = self._tqdm(total=total, initial=self.trainer.position, desc=words, unit="batch")

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        self._bar.update()

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        self._bar.set_postfix_str(in_words(logs))
        self.close()

    def close(self) -> None:
        """Leave the terminal tidy, also after an exception."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
