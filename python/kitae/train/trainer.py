"""The training loop."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

from kitae import _checks, _dispatch
from kitae.nn.layer import backward_for_parameters
from kitae.nn.losses import loss as find_loss
from kitae.nn.recurrent import states_set_aside
from kitae.train import binding, feeding
from kitae.train import metrics as _metrics
from kitae.train.callback import Callback, CallbackList, Logs
from kitae.train.history import History
from kitae.train.interrupts import DeferredInterrupt
from kitae.train.means import Means, WholeSet
from kitae.train.progress import Bar, reporter
from kitae.train.rates import Rates
from kitae.train.truncated_bptt import TruncatedBPTT

OP = "train.Trainer"


class Trainer:
    """Trains a model: ``Trainer(model, loss, optimizer).fit(x, y, epochs=10, batch_size=32)``.

    model: any layer: ``forward(x, training)``, ``backward(dout)``, ``params``, ``grads`` (overwritten in place),
    ``buffers``. loss: an object with ``forward(outputs, targets) -> float``, the mean over the batch, and ``backward()
    -> dout``; or a name that ``kitae.nn.loss`` knows: "softmax_cross_entropy", "sigmoid_cross_entropy",
    "mean_squared_error", "reconstruction_cross_entropy". optimizer: one of kitae's, attached to arrays of
    ``model.params`` or not yet; the first ``fit`` attaches it.
    schedule: an object with ``lr_at(step, base_lr)`` and ``per`` (kitae.train.Exponential and others); base rates are
    those that the optimizer's groups have at the first ``fit``, and groups keep their ratio.
    metrics: names ("accuracy", "binary_accuracy", "mean_absolute_error", "precision", "recall", "f1") or functions of
    (outputs, targets), the key in logs being their ``__name__``.
    callbacks: instances of ``Callback``. iterations_per_batch: updates made with each minibatch, as DL4J's
    ``iterations(n)``. tbptt: a ``TruncatedBPTT``, for networks of recurrent layers with ``stateful=True``: minibatches
    of sequences are cut into segments, each with an update of its own; means are then over time steps.

    Three counters, each over all calls of ``fit``: ``epoch``, passes through the data that were finished (during an
    epoch its number from 0); ``iteration``, updates; ``samples``, samples drawn, each minibatch counted once also where
    it makes several updates.

    Beyond layers, loss and update a step does nothing but count; on a GPU the loss's float is what it waits for. Ctrl-C
    during ``fit`` takes effect between two steps: model, optimizer and history then belong together, and the next
    ``fit`` goes on where this one stopped.

    Differs from Keras: nothing to compile; a second ``fit`` goes on counting epochs, with one history, as with
    ``initial_epoch``. Wrong types raise TypeError, wrong values ValueError.
    """

    def __init__(
        self,
        model: Any,
        loss: Any,
        optimizer: Any,
        *,
        schedule: Any = None,
        metrics: Iterable[Any] = (),
        callbacks: Iterable[Callback] = (),
        iterations_per_batch: int = 1,
        tbptt: TruncatedBPTT | None = None,
    ) -> None:
        if isinstance(model, type) or not all(callable(getattr(model, name, None)) for name in ("forward", "backward")):
            expected = "a layer, an object with forward(x, training=True) and backward(dout)"
            raise _checks.error(TypeError, OP, "model", expected, model)
        if isinstance(optimizer, type) or not all(hasattr(optimizer, name) for name in ("step", "bind", "groups")):
            raise _checks.error(TypeError, OP, "optimizer", "an optimizer, such as kitae.Adam(lr=1e-3)", optimizer)
        if isinstance(metrics, str):
            raise _checks.error(TypeError, OP, "metrics", "a list of metrics", metrics)
        self.model = model
        self.loss = find_loss(loss, OP)
        self.optimizer = optimizer
        self.metrics = [_metrics.find(OP, f"metrics[{i}]", metric) for i, metric in enumerate(metrics)]
        self.history = History()
        self.callbacks = CallbackList(callbacks, self.history)
        self.iterations_per_batch = _checks.integer(
            OP, "iterations_per_batch", iterations_per_batch, low=1, high=2**31 - 1
        )
        if tbptt is not None and not isinstance(tbptt, TruncatedBPTT):
            raise _checks.error(TypeError, OP, "tbptt", "None or a kitae.train.TruncatedBPTT", tbptt)
        self.tbptt = tbptt
        self.epoch = self.iteration = self.samples = 0
        self.position = 0  # batches of the current epoch that were begun
        self.last_epoch = 0  # where the current fit ends
        self.batches_per_epoch: int | None = None
        self.batch: Any = None
        self.outputs: Any = None
        self.loss_value = float("nan")
        self.stop_training = False
        self._rates = Rates(OP, optimizer, schedule)
        self._means = Means(self.metrics)
        self._seed: int | None = None  # of the shuffling, where fit was given none
        self._source: Any = None  # batches of the latest fit
        self._batches_state: Any = None  # of the source that the next fit makes
        self._within_epoch = self._epoch_ended = False

    @property
    def schedule(self) -> Any:
        return self._rates.schedule

    def prepare(self, x: Any) -> None:
        """Build the model for samples like those of ``x``, attach the optimizer and bind the gradients.

        Does nothing to what is built and attached already. ``fit`` calls it; before a checkpoint is loaded into a new
        model, call it yourself.
        """
        self.model.forward(x[:1], training=False)
        binding.bind(OP, self.optimizer, self.model)
        self._rates.take_bases()

    def fit(
        self,
        x: Any,
        y: Any = None,
        *,
        batch_size: int = 32,
        epochs: int = 1,
        validation_data: Any = None,
        validation_split: float = 0.0,
        shuffle: bool = True,
        seed: int | None = None,
        verbose: Any = "auto",
    ) -> History:
        """Train for ``epochs`` more epochs and return the history.

        x, y: arrays with a sample a row, memory-mapped too; or x alone, an iterable of (x, y) minibatches
        (``kitae.data.Batches``, or your own), one pass an epoch (``batch_size``, ``shuffle`` and ``seed`` are then not
        used). The last minibatch may be smaller. validation_data: (x, y), or an iterable of minibatches, evaluated
        after each epoch. validation_split: instead, that share of the samples from the end, taken before shuffling.
        shuffle: a new order each epoch, from ``seed`` and the epoch's number; None draws a seed from ``kitae.seed``'s
        generator. verbose: "auto" (a bar on a terminal, otherwise a line an epoch), 0 nothing, 1 a bar, 2 lines.

        The rest of an epoch that was interrupted, or restored by ``load_state_dict``, counts as one of ``epochs``.
        """
        op = f"{OP}.fit"
        epochs = _checks.integer(op, "epochs", epochs, low=0, high=2**31 - 1)
        shuffle = _checks.boolean(op, "shuffle", shuffle)
        seed = None if seed is None else _checks.integer(op, "seed", seed, low=0, high=2**64 - 1)
        share = _checks.number(op, "validation_split", validation_split, low=0, high=1, open_high=True)
        progress = reporter(op, verbose)
        if share:
            if validation_data is not None:
                raise _checks.error(ValueError, op, "validation_split", "0 beside validation_data", share)
            (x, y), validation_data = feeding.split_off_end(op, x, y, share)
        if seed is None:
            seed = self._seed = feeding.draw_seed() if self._seed is None else self._seed
        source = feeding.batches_of(op, x, y, batch_size, shuffle=shuffle, seed=seed, epoch=self.epoch)
        validation = None if validation_data is None else self._validation(op, validation_data, batch_size)
        callbacks = CallbackList([*self.callbacks.given, *([progress] if progress else [])], self.history)
        try:
            sample = x if feeding.is_array(x) else None
            self._fit(op, source, sample, validation, epochs, callbacks)
        finally:
            if isinstance(progress, Bar):
                progress.close()
        return self.history

    def evaluate(self, x: Any, y: Any = None, *, batch_size: int = 128) -> dict[str, float]:
        """{"loss": ..., metrics by name}: means over the samples of arrays or of an iterable of (x, y) minibatches.

        Every layer runs with ``training=False``; recurrent layers start from zeros and have their own state back
        afterwards. Metrics of the whole set (precision, recall, f1) are taken of all
        outputs at once, which are kept for that.
        """
        self.callbacks.set_trainer(self)
        batches = feeding.batches_of(f"{OP}.evaluate", x, y, batch_size)
        return self._evaluate(f"{OP}.evaluate", batches, self.callbacks)

    def predict(self, x: Any, *, batch_size: int = 128) -> Any:
        """The model's outputs (``training=False``) for the rows of an array, or for an iterable of minibatches of x."""
        op = f"{OP}.predict"
        size = _checks.integer(op, "batch_size", batch_size, low=1, high=feeding.MAX_BATCH)
        if feeding.is_array(x):
            feeding.check_arrays(op, x, x)
            inputs: Iterable[Any] = (x[start : start + size] for start in range(0, len(x), size))
        else:
            inputs = feeding.batches_of(op, x, None, size)
        outputs = [self.model.forward(batch, training=False) for batch in inputs]
        if not outputs:
            raise _checks.error(ValueError, op, "x", "at least one batch", _checks.Words("none"))
        return _dispatch.array_module(outputs[0]).concatenate(outputs)

    def state_dict(self) -> dict[str, Any]:
        """Where training is, beside the model's and the optimizer's own state: numbers, lists and strings for JSON,
        and arrays that callbacks keep (the best weights of ``EarlyStopping``).

        Within ``on_epoch_end`` the epoch counts as finished, within ``on_train_batch_end`` the batch; a callback that
        ``runs_last`` finds the others and the history up to date there.
        """
        return {
            "version": 1,
            "epoch": self.epoch + int(self._epoch_ended),
            "iteration": self.iteration,
            "samples": self.samples,
            "position": self.position if self._within_epoch else 0,
            "means": self._means.state_dict() if self._within_epoch else None,
            "batches": self._batches_state if self._source is None else _state_of(self._source),
            "seed": self._seed,
            "base_lrs": list(self._rates.bases),
            "schedule": _state_of(self.schedule),
            "callbacks": [_state_of(callback) for callback in self.callbacks.given],
            "history": self.history.state_dict(),
        }

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` gave, into a trainer of the same model, schedule and callbacks.

        The next ``fit``, on the same data with the same keywords, goes on bit for bit, in the middle of an epoch too,
        once the model's arrays and the optimizer's state are restored as well. Where ``fit`` has an iterable without
        ``load_state_dict``, batches that were seen are skipped.
        """
        op = f"{OP}.load_state_dict"
        if not isinstance(d, Mapping):
            raise _checks.error(TypeError, op, "d", "a dict made by state_dict()", d)
        own = self.state_dict()
        if any(key not in d for key in own) or d["version"] != own["version"]:
            got = _checks.Words(f"version {d.get('version')} with the keys {list(d)}")
            raise _checks.error(ValueError, op, "d", f"version {own['version']} with the keys {list(own)}", got)
        if len(d["callbacks"]) != len(self.callbacks.given):
            got = _checks.Words(f"{len(d['callbacks'])}")
            raise _checks.error(ValueError, op, "callbacks", f"states of {len(self.callbacks.given)} callbacks", got)
        self.epoch, self.iteration, self.samples = d["epoch"], d["iteration"], d["samples"]
        self.position, self._within_epoch = d["position"], d["means"] is not None
        if self._within_epoch:
            self._means.load_state_dict(d["means"])
        self._source, self._batches_state, self._seed = None, d["batches"], d["seed"]
        self._rates.bases = list(d["base_lrs"])
        for part, state in zip((self.schedule, *self.callbacks.given), (d["schedule"], *d["callbacks"]), strict=True):
            if state is not None:
                part.load_state_dict(state)
        self.history.load_state_dict(d["history"])

    def _fit(self, op: str, source: Any, sample: Any, validation: Any, epochs: int, callbacks: CallbackList) -> None:
        rest: Iterator[Any] | None = self._open(op, source, sample)
        self.last_epoch = self.epoch + epochs
        self.batches_per_epoch = feeding.length(source)
        self.stop_training = False
        logs: Logs = {}
        callbacks.set_trainer(self)
        callbacks.call("on_train_begin", {})
        with DeferredInterrupt() as interrupt:
            while self.epoch < self.last_epoch and not self.stop_training:
                batches = iter(source) if rest is None else rest
                logs = self._epoch(op, batches, validation, callbacks, interrupt)
                rest = None
                interrupt.check()
        callbacks.call("on_train_end", logs)

    def _open(self, op: str, source: Any, sample: Any) -> Iterator[Any]:
        """An iterator over what is left of the current epoch. The model is built from ``sample``, the array that the
        source was made of; for a source of the caller's from its first batch."""
        skip = 0
        if self._source is not None and self._within_epoch:  # an interrupted fit of this trainer
            self._batches_state = _state_of(self._source)
        if not hasattr(source, "load_state_dict"):
            skip = self.position if self._within_epoch else 0
        elif self._batches_state is not None and (self._within_epoch or sample is None):
            source.load_state_dict(self._batches_state)
        self._source, self._batches_state = source, None
        batches = iter(source)
        if sample is not None:
            self.prepare(sample)
            return batches
        first = list(islice(batches, skip, skip + 1))
        if first:
            self.prepare(first[0][0])
        elif not self._within_epoch:
            raise _checks.error(ValueError, op, "x", "at least one batch", _checks.Words("none"))
        return chain(first, batches)

    def _epoch(
        self, op: str, batches: Iterator[Any], validation: Any, callbacks: CallbackList, interrupt: DeferredInterrupt
    ) -> Logs:
        if not self._within_epoch:
            self.position = 0
            self._means.reset()
            self._within_epoch = True
        if self._rates.per == "epoch":
            self._rates.set(self.epoch)
        callbacks.call("on_epoch_begin", self.epoch, {})
        self._run(batches, callbacks, interrupt)
        if self.position == 0:
            expected = "at least one batch an epoch (an iterator gives a single pass)"
            raise _checks.error(ValueError, op, "x", expected, _checks.Words("none"))
        self._within_epoch = False
        logs: Logs = self._means.logs()
        if validation is not None:
            results = self._evaluate(op, validation, callbacks)
            logs.update((f"val_{name}", value) for name, value in results.items())
        logs["lr"] = self._rates.current()
        self._epoch_ended = True
        try:
            callbacks.call("on_epoch_end", self.epoch, logs)
        finally:
            self._epoch_ended = False
        self.epoch += 1
        return logs

    def _run(self, batches: Iterator[Any], callbacks: CallbackList, interrupt: DeferredInterrupt) -> None:
        """The loop over minibatches: all that is done a step."""
        model, loss, optimizer, means = self.model, self.loss, self.optimizer, self._means
        begins = callbacks.listeners("on_train_batch_begin")
        ends = callbacks.listeners("on_train_batch_end")
        by_iteration = self._rates.per == "iteration"
        repeats = range(self.iterations_per_batch)
        for self.batch in batches:
            x, targets = self.batch
            for begin in begins:
                begin(self.position, {})
            for _ in repeats:
                if self.tbptt is not None:
                    self._segments(self.tbptt, x, targets, by_iteration)
                    continue
                if by_iteration:
                    self._rates.set(self.iteration)
                self.outputs = model.forward(x, training=True)
                self.loss_value = loss.forward(self.outputs, targets)
                backward_for_parameters(model, loss.backward())
                optimizer.step()
                self.iteration += 1
                means.add(self.loss_value, self.outputs, targets, len(x))
            self.samples += len(x)
            self.position += 1
            if ends:
                logs = means.logs()
                for end in ends:
                    end(self.position - 1, logs)
            if interrupt.pending:
                interrupt.check()
            if self.stop_training:
                break

    def _segments(self, tbptt: TruncatedBPTT, x: Any, targets: Any, by_iteration: bool) -> None:
        """An update for each segment of a batch of sequences."""
        for segment in tbptt.backpropagate(self.model, self.loss, x, targets):
            if by_iteration:
                self._rates.set(self.iteration)
            self.outputs, self.loss_value = segment.outputs, segment.loss
            self.optimizer.step()
            self.iteration += 1
            self._means.add(segment.loss, segment.outputs, segment.targets, segment.counted)

    def _validation(self, op: str, data: Any, batch_size: int) -> Iterable[Any]:
        if isinstance(data, (tuple, list)) and len(data) == 2 and all(map(feeding.is_array, data)):
            return feeding.batches_of(op, data[0], data[1], batch_size)
        return feeding.batches_of(op, data, None, batch_size)

    def _evaluate(self, op: str, batches: Iterable[Any], callbacks: CallbackList) -> dict[str, float]:
        begins, ends = callbacks.listeners("on_test_batch_begin"), callbacks.listeners("on_test_batch_end")
        means, whole = Means(self.metrics), WholeSet(self.metrics)
        callbacks.call("on_test_begin", {})
        with states_set_aside(self.model):
            for number, (x, targets) in enumerate(batches):
                for begin in begins:
                    begin(number, {})
                outputs = self.model.forward(x, training=False)
                means.add(self.loss.forward(outputs, targets), outputs, targets, len(x))
                whole.add(outputs, targets)
                for end in ends:
                    end(number, means.logs())
        if means.samples == 0:
            raise _checks.error(ValueError, op, "x", "at least one sample", _checks.Words("none"))
        results = {**means.logs(), **whole.results()}
        callbacks.call("on_test_end", results)
        return results


def _state_of(part: Any) -> Any:
    """The state of a callback, a schedule or a source of batches that has some."""
    return part.state_dict() if hasattr(part, "state_dict") else None
