"""A training run watched step by step: what the callback and the hand-written loop have in common."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from kitae.train.doctor.batch_statistics import TestWatch
from kitae.train.doctor.findings import Finding, Limits
from kitae.train.doctor.initialization import look_at_weights
from kitae.train.doctor.inputs import look_at_inputs, nonfinite_inputs
from kitae.train.doctor.journal import Journal
from kitae.train.doctor.looking import Looking, next_look
from kitae.train.doctor.losses import look_at_labels, look_at_outputs
from kitae.train.doctor.network import Wrapped, leaves
from kitae.train.doctor.nonfinite import bad_gradient, first_not_finite

LABELS_EVERY = 16  # steps: a batch's labels are compared with its outputs more often than layers are looked at


class Watching:
    """``begin_step`` and ``end_step`` around each step, ``begin_test`` and ``end_test`` around each test.

    Between the first two, ``forward`` of the loss is wrapped on the instance, in looked-at steps ``forward`` and
    ``backward`` of every layer too. A step costs that and a comparison or two.
    """

    def __init__(self, model: Any, loss: Any, optimizer: Any, every: int | None, limits: Limits) -> None:
        self.model, self.loss, self.optimizer = model, loss, optimizer
        self.journal = Journal()
        self.network = leaves(model)
        self._every, self._limits = every, limits
        self._wrapped = Wrapped()
        self._looking: Looking | None = None
        self._next_look = 0
        self._test: TestWatch | None = None
        self._batch: Any = None  # while a step lasts
        self._value = math.nan
        self._broken = False  # something was not finite: what follows says nothing
        self._samples = 0
        self._loss_kind = type(loss).__name__

    def begin_step(self, x: Any, t: Any) -> None:
        if self._batch is not None:
            self.interrupted()
        self._batch, self._value = (x, t), math.nan
        if self._broken:
            return
        step = self.journal.steps
        if step >= self._next_look:
            self._begin_look(x, t, step)
        self._wrapped.wrap(self.loss, "forward", self._around_loss)

    def end_step(self) -> None:
        self._wrapped.remove()
        journal = self.journal
        if self._looking is not None:
            rate = None if self.optimizer is None else float(self.optimizer.lr)
            journal.add(self._looking.finish(rate))
            self._looking = None
        journal.losses.append(self._value)
        self._samples += len(self._batch[0])
        self._batch = None

    def interrupted(self) -> None:
        """An exception has ended the step."""
        finding = self.refused()
        self._remove()
        self._batch = None
        self._note(finding)

    def refused(self) -> Finding | None:
        """What is not finite in a step that has begun and not ended: layers and optimizers that refuse it raise."""
        if self._batch is None or self._broken:
            return None
        if math.isfinite(self._value):
            return bad_gradient(self.network, self.journal.steps)
        finding = self._first(self._batch)
        return None if finding.evidence.get("tensor") == "loss" else finding

    def begin_test(self) -> None:
        self._test = TestWatch(self.network)

    def end_test(self) -> None:
        if self._test is not None and not any(f.name == "leaked_batch_norm_statistics" for f in self.journal.seen):
            leak = self._test.leak(self.journal.steps)
            if leak is not None:
                self.journal.seen.append(leak)
        self._test = None

    def end_epoch(self, logs: dict[str, Any]) -> None:
        journal = self.journal
        journal.epochs.append({name: float(value) for name, value in logs.items() if isinstance(value, (int, float))})
        journal.epoch_ends.append(journal.steps)
        if journal.samples is None:
            journal.samples = self._samples
            journal.parameters = sum(int(p.size) for leaf in self.network for p in leaf.layer.params.values())

    def _begin_look(self, x: Any, t: Any, step: int) -> None:
        self._next_look = next_look(step, self._every)
        self._note(nonfinite_inputs(x, t, step))
        if self.journal.inputs is None:
            self.journal.inputs = look_at_inputs(x, t)
            self.journal.batch = len(x)
        if not self._broken:
            self._looking = Looking(self.network, step)

    def _note(self, finding: Finding | None) -> None:
        if finding is not None:
            self.journal.seen.append(finding)
            self._broken = True

    def _around_loss(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(outputs: Any, targets: Any) -> Any:
            value = original(outputs, targets)
            self._value = loss = float(value)
            if self._looking is not None or self.journal.steps % LABELS_EVERY == 0 or not math.isfinite(loss):
                self._after_loss(outputs, targets)
            return value

        return forward

    def _after_loss(self, outputs: Any, targets: Any) -> None:
        journal, step = self.journal, self.journal.steps
        if journal.outputs is None:
            with np.errstate(all="ignore"):
                journal.outputs = look_at_outputs(self.loss, self.network, outputs, targets)
                journal.equal = look_at_weights(self.network)
        if not math.isfinite(self._value):
            if not self._broken:
                self._remove()
                self._note(self._first(self._batch))
            return
        if self._looking is not None:
            self._looking.before_update()
        look = look_at_labels(self._loss_kind, outputs, targets, step, self._limits["memorized_against"])
        if look is not None:
            journal.labels.append(look)

    def _first(self, batch: Any) -> Finding:
        x, t = batch
        step = self.journal.steps
        return nonfinite_inputs(x, t, step) or first_not_finite(self.network, self.model, x, step)

    def _remove(self) -> None:
        """Take every wrapper away."""
        self._wrapped.remove()
        if self._looking is not None:
            self._looking.stop()
            self._looking = None
