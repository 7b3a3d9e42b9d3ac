"""The doctor: names a training run's trouble and the remedy."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from kitae import _checks
from kitae.train.callback import Callback, Logs
from kitae.train.doctor import activations, batch_statistics, curves, gradients, initialization, inputs, losses, rates
from kitae.train.doctor.findings import Finding, Limits, in_causal_order, numbers
from kitae.train.doctor.journal import Journal
from kitae.train.doctor.network import leaves, restore, saved_buffers
from kitae.train.doctor.watching import Watching

CHECKS = (
    inputs.check_inputs,
    losses.check_losses,
    initialization.check_initialization,
    activations.check_activations,
    gradients.check_gradients,
    rates.check_rates,
    batch_statistics.check_batch_statistics,
    batch_statistics.check_widths,
    curves.check_curves,
)


class Doctor(Callback):
    """Watches a training run and names its trouble: a callback of ``Trainer``, or beside a loop of one's own.

    ::

        doctor = Doctor()
        Trainer(model, loss, optimizer, callbacks=[doctor]).fit(x, t, validation_data=(x_val, t_val))
        doctor.findings  # the cause first

        doctor.examine(model, loss, x, t)  # before training: data, weights, activations, gradients, loss

        doctor.watch(model, loss, optimizer)
        for x, t in batches:
            with doctor.step(x, t):
                loss.forward(model.forward(x), t)
                model.backward(loss.backward())
                optimizer.step()

    every: look at the layers every so many steps; None: at steps 0, 1, 2, 4, 8, ..., later every 500th.
    thresholds: {name: number} instead of those of ``kitae.train.doctor.THRESHOLDS``. verbose: write the findings, if
    any, to standard output at the end of ``fit``, as ``Trainer`` writes its lines.

    A look wraps the layers' ``forward`` and ``backward`` and the optimizer's ``step`` for that step and keeps samples
    of 1024 elements. In the other steps only the loss's ``forward`` is wrapped, until ``fit`` or ``step`` ends: a loss
    that is not finite is seen before the backward pass, and the first infinite or NaN number is looked for at once,
    with its layer, tensor and index; where an exception ended the step, once ``findings`` is read. On a GPU looked-at
    steps wait. Nothing here changes a value of the run. Layers inside others are found by ``children()`` or a list
    ``layers``; activations are told by the class's name (ReLU, Sigmoid, Tanh, Softmax).

    Sources: LeCun et al. 1998 "Efficient BackProp", cs231n's notes on babysitting a training run, Glorot and Bengio
    2010, Pascanu et al. 2013, Arpit et al. 2017; docs/techniques/doctor.md has every threshold and its reason.
    """

    def __init__(
        self, every: int | None = None, *, thresholds: Mapping[str, float] | None = None, verbose: bool = True
    ) -> None:
        op = "train.Doctor"
        self.every = None if every is None else _checks.integer(op, "every", every, low=1, high=2**31 - 1)
        self.verbose = _checks.boolean(op, "verbose", verbose)
        if thresholds is not None and not isinstance(thresholds, Mapping):
            raise _checks.error(TypeError, op, "thresholds", "a dict of names and numbers", thresholds)
        self.limits = Limits(dict(thresholds or {}))
        self._watching: Watching | None = None
        self._examined: list[Finding] = []

    # What it says.

    @property
    def findings(self) -> list[Finding]:
        """All findings so far, the most causal one first, notes last."""
        findings = list(self._examined)
        if self._watching is not None:
            if self._watching.refused() is not None:
                self._watching.interrupted()
            findings += diagnose(self._watching.journal, self.limits)
        unique = {(finding.name, finding.layer): finding for finding in reversed(findings)}
        return in_causal_order(list(unique.values()))

    def report(self) -> str:
        """The findings as a table in plain text, one a row, the cause first."""
        return table(self.findings)

    @property
    def journal(self) -> Journal:
        """What was seen so far: looks, losses, epochs."""
        if self._watching is None:
            raise _checks.error(
                RuntimeError, "train.Doctor", "journal", "a run that was watched", _checks.Words("none yet")
            )
        return self._watching.journal

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Draw loss, learning rate, update ratios, and histograms of activations and gradients; see ``plot_run``."""
        from kitae.train.pictures import plot_run

        return plot_run(self.journal, path)

    # Without a Trainer.

    def examine(self, model: Any, loss: Any, x: Any, t: Any) -> list[Finding]:
        """Look at an untrained model with one batch (better some hundred samples), before any training.

        Runs forward and backward in training mode; buffers are put back afterwards, gradients are overwritten, an
        unbuilt model is built. Returns what was found, which ``findings`` has from then on, too.
        """
        watching = Watching(model, loss, None, None, self.limits)
        if model.params:
            buffers = saved_buffers(watching.network)
        else:
            model.forward(x[:1], training=False)
            watching.network = leaves(model)
            buffers = saved_buffers(watching.network)
        watching.begin_step(x, t)
        try:
            with np.errstate(all="ignore"):
                loss.forward(model.forward(x, training=True), t)
                model.backward(loss.backward())
        except FloatingPointError:
            watching.interrupted()
        else:
            watching.stop()
        finally:
            restore(buffers)
        self._examined = diagnose(watching.journal, self.limits)
        return in_causal_order(self._examined)

    def watch(self, model: Any, loss: Any, optimizer: Any = None) -> "Doctor":
        """Watch this model from now on, in steps that ``step`` encloses. Without the optimizer there is no ``lr``."""
        if self._watching is not None:
            self._watching.interrupted()
        self._watching = Watching(model, loss, optimizer, self.every, self.limits)
        return self

    @contextmanager
    def step(self, x: Any, t: Any) -> Iterator[None]:
        """Around forward, backward and update of one batch."""
        watching = self._watched("step")
        watching.begin_step(x, t)
        try:
            yield
        except BaseException:
            watching.interrupted()
            raise
        watching.stop()

    @contextmanager
    def testing(self) -> Iterator[None]:
        """Around an evaluation, in which no statistic may change."""
        watching = self._watched("testing")
        watching.begin_test()
        yield
        watching.end_test()

    def end_epoch(self, logs: Mapping[str, float]) -> None:
        """After an epoch, with its "loss" and, where there is validation, "val_loss"."""
        self._watched("end_epoch").end_epoch(dict(logs))

    def _watched(self, method: str) -> Watching:
        if self._watching is None:
            expected = "watch(model, loss, optimizer) before"
            raise _checks.error(RuntimeError, f"train.Doctor.{method}", "doctor", expected, _checks.Words("none"))
        return self._watching

    # As a callback.

    def on_train_begin(self, logs: Logs) -> None:
        trainer = self.trainer
        if self._watching is None or self._watching.model is not trainer.model:
            self.watch(trainer.model, trainer.loss, trainer.optimizer)
        watching = self._watched("fit")
        watching.interrupted()  # of an earlier fit
        watching.journal.finished = False

    def on_train_batch_begin(self, batch: int, logs: Logs) -> None:  # no ..._end: each costs time in every step
        assert self._watching is not None
        x, t = self.trainer.batch
        self._watching.begin_step(x, t)

    def on_test_begin(self, logs: Logs) -> None:
        if self._watching is not None:
            self._watching.begin_test()

    def on_test_end(self, logs: Logs) -> None:
        if self._watching is not None:
            self._watching.end_test()

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        self._watched("fit").end_epoch(logs)

    def on_train_end(self, logs: Logs) -> None:
        self._watched("fit").stop()
        self.journal.finished = True
        if self.verbose and self.findings:
            import sys

            sys.stdout.write(self.report() + "\n")
            sys.stdout.flush()


def diagnose(journal: Journal, limits: Limits) -> list[Finding]:
    """Every check of what a journal holds; underfitting is asked where no other trouble explains it."""
    with np.errstate(all="ignore"):
        findings = [*journal.seen, *(finding for check in CHECKS for finding in check(journal, limits))]
        if all(finding.severity == "note" for finding in findings):
            findings += curves.underfit(journal, limits)
    return findings


def table(findings: list[Finding]) -> str:
    if not findings:
        return "no findings"
    header = ("finding", "severity", "layer", "step", "evidence", "remedy")
    rows = [(f.name, f.severity, f.layer or "-", str(f.step), numbers(f.evidence), f.remedy) for f in findings]
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = [header, tuple("-" * width for width in widths), *rows]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)
