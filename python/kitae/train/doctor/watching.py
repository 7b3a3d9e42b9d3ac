"""A training run watched step by step: what the callback and the hand-written loop have in common."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from kitae import _checks
from kitae.train.doctor.batch_statistics import TestWatch
from kitae.train.doctor.findings import Finding, Limits
from kitae.train.doctor.initialization import look_at_weights
from kitae.train.doctor.inputs import look_at_inputs, nonfinite_inputs
from kitae.train.doctor.journal import Journal
from kitae.train.doctor.looking import Looking, looked_at
from kitae.train.doctor.losses import look_at_labels, look_at_outputs
from kitae.train.doctor.network import Wrapped, leaves
from kitae.train.doctor.nonfinite import bad_gradient, first_not_finite

LABELS_EVERY = 8  # steps: a batch's labels are compared with its outputs more often than layers are looked at


class Watching:
    """``begin_step`` and ``end_step`` around each step, ``begin_test`` and ``end_test`` around each test.

    Between the first two, ``forward`` of model and loss and ``step`` of the optimizer are wrapped on the instances,
    in looked-at steps those of every layer too.
    """

    def __init__(self, model: Any, loss: Any, optimizer: Any, every: int | None, limits: Limits) -> None:
        self.model, self.loss, self.optimizer = model, loss, optimizer
        self.journal = Journal()
        self.network = leaves(model)
        self._every, self._limits = every, limits
        self._wrapped = Wrapped()
        self._looking: Looking | None = None
        self._test: TestWatch | None = None
        self._x: Any = None
        self._value = math.nan
        self._broken = False  # something was not finite: what follows says nothing
        self._samples = 0
        self._loss_kind = type(loss).__name__

    def begin_step(self, x: Any, t: Any) -> None:
        self.interrupt()  # an exception has ended the step before
        journal, step = self.journal, self.journal.steps
        self._x = x
        if self._broken:
            return
        on_cpu = not _checks.is_cupy(x)  # on a GPU the answer would have to be waited for
        if on_cpu or looked_at(step, self._every):
            self._note(nonfinite_inputs(x, t, step))
        if step == 0 and journal.inputs is None:
            journal.inputs = look_at_inputs(x, t)
            journal.batch = len(x)
        if looked_at(step, self._every) and not self._broken:
            self._looking = Looking(self.network, step)
        self._wrapped.wrap(self.model, "forward", self._guarded)
        self._wrapped.wrap(self.loss, "forward", self._around_loss)
        if self.optimizer is not None:
            self._wrapped.wrap(self.optimizer, "step", self._guarded_update)

    def end_step(self) -> None:
        self._wrapped.remove()
        journal = self.journal
        if self._looking is not None:
            rate = None if self.optimizer is None else float(self.optimizer.lr)
            journal.add(self._looking.finish(rate))
            self._looking = None
        journal.losses.append(self._value)
        self._samples += len(self._x)
        self._x = None

    def interrupt(self) -> None:
        """Take every wrapper away."""
        self._wrapped.remove()
        if self._looking is not None:
            self._looking.stop()
            self._looking = None

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

    def _note(self, finding: Finding | None) -> None:
        if finding is not None:
            self.journal.seen.append(finding)
            self._broken = True

    def _guarded(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Layers that refuse what is not finite raise before there is a loss."""

        def forward(*args: Any, **keywords: Any) -> Any:
            try:
                return original(*args, **keywords)
            except FloatingPointError:
                self.interrupt()
                self._find_first()
                raise

        return forward

    def _guarded_update(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **keywords: Any) -> Any:
            try:
                return original(*args, **keywords)
            except FloatingPointError:
                self.interrupt()
                if not self._broken:
                    self._note(bad_gradient(self.network, self.journal.steps))
                raise

        return step

    def _around_loss(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(outputs: Any, targets: Any) -> Any:
            value = original(outputs, targets)
            self._value = float(value)
            self._after_loss(outputs, targets)
            return value

        return forward

    def _after_loss(self, outputs: Any, targets: Any) -> None:
        journal, step = self.journal, self.journal.steps
        if step == 0 and journal.outputs is None:
            with np.errstate(all="ignore"):
                journal.outputs = look_at_outputs(self.loss, self.network, outputs, targets)
                journal.equal = look_at_weights(self.network)
        if not math.isfinite(self._value):
            self._find_first()
        elif self._looking is not None:
            self._looking.before_update()
        if self._looking is not None or step % LABELS_EVERY == 0:
            look = look_at_labels(self._loss_kind, outputs, targets, step, self._limits["memorized_against"])
            if look is not None:
                journal.labels.append(look)

    def _find_first(self) -> None:
        if self._broken:
            return
        wrapped = self._wrapped
        wrapped.remove()
        if self._looking is not None:
            self._looking.stop()
            self._looking = None
        self._note(first_not_finite(self.network, self.model, self._x, self.journal.steps))
