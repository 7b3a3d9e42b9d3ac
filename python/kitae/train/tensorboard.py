"""Scalars and histograms for TensorBoard."""

import os
from typing import Any

from kitae import _checks
from kitae.train.callback import Callback, Logs
from kitae.train.doctor.measure import host
from kitae.train.doctor.network import leaves

OP = "train.TensorBoard"


class TensorBoard(Callback):
    """Writes event files that TensorBoard reads, under Keras's names, by tensorboardX.

    In ``logdir``/train: "epoch_loss", "epoch_accuracy" and the other metrics, "epoch_learning_rate", one value an
    epoch; in ``logdir``/validation: "epoch_loss" and so on of the validation data, and "evaluation_loss_vs_iterations"
    and so on over updates. With ``update_freq`` ("batch", or every so many batches) also "batch_loss" and so on, means
    over the epoch so far, over updates. histograms_every: every so many epochs histograms of the parameters, "0/W" for
    the "W" of layer "0", and of their gradients, "0/W/gradient", of the epoch's last step.

    An epoch's step is its number from 0. Without tensorboardX the constructor raises ImportError. Histograms of CuPy
    arrays wait for the GPU. Differs from Keras: no graph, no profile, no images; the gradients are new.
    """

    def __init__(
        self,
        logdir: str | os.PathLike[str],
        *,
        histograms_every: int | None = None,
        update_freq: str | int = "epoch",
    ) -> None:
        if not isinstance(logdir, (str, os.PathLike)):
            raise _checks.error(TypeError, OP, "logdir", "a path", logdir)
        self.logdir = os.fspath(logdir)
        self.histograms_every = (
            None
            if histograms_every is None
            else _checks.integer(OP, "histograms_every", histograms_every, low=1, high=2**31 - 1)
        )
        if isinstance(update_freq, str):
            _checks.one_of(OP, "update_freq", update_freq, ("epoch", "batch"))
            self._batches = 1 if update_freq == "batch" else None
        else:
            self._batches = _checks.integer(OP, "update_freq", update_freq, low=1, high=2**31 - 1)
        try:
            import tensorboardX
        except ImportError:
            raise _checks.missing_package("train.TensorBoard", "tensorboardX", "kitae[train]") from None
        self._make = tensorboardX.SummaryWriter
        self._writers: dict[str, Any] = {}

    def writer(self, part: str) -> Any:
        """tensorboardX's SummaryWriter of "train" or "validation", for values of one's own."""
        if part not in self._writers:
            self._writers[part] = self._make(os.path.join(self.logdir, part))
        return self._writers[part]

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        if self._batches is not None and (batch + 1) % self._batches == 0:
            for name, value in logs.items():
                self.writer("train").add_scalar(f"batch_{name}", value, self.trainer.iteration)

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        for name, value in logs.items():
            if name.startswith("val_"):
                validation = self.writer("validation")
                validation.add_scalar(f"epoch_{name[4:]}", value, epoch)
                validation.add_scalar(f"evaluation_{name[4:]}_vs_iterations", value, self.trainer.iteration)
            else:
                self.writer("train").add_scalar(
                    "epoch_learning_rate" if name == "lr" else f"epoch_{name}", value, epoch
                )
        if self.histograms_every is not None and epoch % self.histograms_every == 0:
            self._write_histograms(epoch)
        self._flush()

    def on_train_end(self, logs: Logs) -> None:
        """Closes the files; a further ``fit`` opens new ones beside them, which TensorBoard joins."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _write_histograms(self, epoch: int) -> None:
        writer = self.writer("train")
        for leaf in leaves(self.model):
            for name, array in leaf.layer.params.items():
                tag = f"{leaf.name}/{name}".lstrip("/")
                writer.add_histogram(tag, host(array), epoch)
                gradient = leaf.layer.grads.get(name)
                if gradient is not None:
                    writer.add_histogram(f"{tag}/gradient", host(gradient), epoch)

    def _flush(self) -> None:
        for writer in self._writers.values():
            writer.flush()
