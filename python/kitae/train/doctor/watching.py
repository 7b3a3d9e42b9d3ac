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

LABELS_EVERY, LABELS_FARTHEST = 16, 128  # steps: labels are compared with outputs more often than layers looked at


class Watching:
    """``begin_step`` and ``end_step`` around each step, ``begin_test`` and ``end_test`` around each test.

    ``begin_step`` ends the step before, where nobody did. From the first step to ``stop``, ``forward`` of the loss is
    wrapped on the instance, in looked-at steps ``step`` of the optimizer, ``forward`` and ``backward`` of every layer
    too. Other steps cost a few comparisons.
    """

    def __init__(self, model: Any, loss: Any, optimizer: Any, every: int | None, limits: Limits) -> None:
        self.model, self.loss, self.optimizer = model, loss, optimizer
        self.journal = Journal()
        self.network = leaves(model)
        self._every, self._limits = every, limits
        self._loss_wrapped, self._step_wrapped = Wrapped(), Wrapped()
        self._armed = False
        self._looking: Looking | None = None
        self._next_look = self._next_labels = 0
        self._test: TestWatch | None = None
        self._batch: Any = None  # while a step lasts
        self._value = math.nan
        self._broken = False  # something was not finite: what follows says nothing
        self._samples = 0
        self._loss_kind = type(loss).__name__

    def begin_step(self, x: Any, t: Any) -> None:
        if self._batch is not None:
            self.end_step()
        self._batch, self._value = (x, t), math.nan
        if self._broken:
            return
        if not self._armed:
            self._loss_wrapped.wrap(self.loss, "forward", self._around_loss)
            self._armed = True
        step = len(self.journal.losses)
        if step >= self._next_look:
            self._begin_look(x, t, step)

    def end_step(self) -> None:
        if self._batch is None:
            return
        if self._looking is not None:
            self._end_look()
        self.journal.losses.append(self._value)
        self._samples += len(self._batch[0])
        self._batch = None

    def stop(self) -> None:
        """End the step, and take every wrapper away until the next one."""
        self.end_step()
        self._remove()

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
        self.end_step()
        self._test = TestWatch(self.network)

    def end_test(self) -> None:
        if self._test is not None and not any(f.name == "leaked_batch_norm_statistics" for f in self.journal.seen):
            leak = self._test.leak(self.journal.steps)
            if leak is not None:
                self.journal.seen.append(leak)
        self._test = None

    def end_epoch(self, logs: dict[str, Any]) -> None:
        self.end_step()
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
            if self.optimizer is not None:
                self._step_wrapped.wrap(self.optimizer, "step", self._around_update)

    def _around_update(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **keywords: Any) -> Any:
            result = original(*args, **keywords)
            if self._looking is not None:
                self._end_look()
            return result

        return step

    def _end_look(self) -> None:
        """After the update, before anybody else changes parameters or learning rate."""
        looking, self._looking = self._looking, None
        assert looking is not None
        self._step_wrapped.remove()
        self.journal.add(looking.finish(None if self.optimizer is None else float(self.optimizer.lr)))

    def _note(self, finding: Finding | None) -> None:
        if finding is not None:
            self.journal.seen.append(finding)
            self._broken = True
            self._disarm()

    def _around_loss(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(outputs: Any, targets: Any) -> Any:
            value = original(outputs, targets)
            if self._batch is None:  # a test's
                return value
            self._value = loss = float(value)
            due = self._looking is not None or len(self.journal.losses) >= self._next_labels
            if due or not math.isfinite(loss):
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
        if step >= self._next_labels:
            self._next_labels = step + min(LABELS_FARTHEST, max(LABELS_EVERY, step // 8))

    def _first(self, batch: Any) -> Finding:
        x, t = batch
        step = self.journal.steps
        return nonfinite_inputs(x, t, step) or first_not_finite(self.network, self.model, x, step)

    def _disarm(self) -> None:
        self._loss_wrapped.remove()
        self._armed = False

    def _remove(self) -> None:
        """Take every wrapper away."""
        self._disarm()
        self._step_wrapped.remove()
        if self._looking is not None:
            self._looking.stop()
            self._looking = None
