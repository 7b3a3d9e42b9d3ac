"""What a training loop calls along the way."""

from collections.abc import Callable, Iterable
from typing import Any

from kitae import _checks

Logs = dict[str, Any]


class Callback:
    """Base of what ``Trainer`` calls along the way; the names are Keras's. Override what you need.

    Order of calls in ``fit``::

        on_train_begin
          for each epoch:    on_epoch_begin
            for each batch:    on_train_batch_begin, on_train_batch_end
            with validation:   on_test_begin, (on_test_batch_begin, on_test_batch_end) ..., on_test_end
                             on_epoch_end
        on_train_end

    epoch: counted from 0 over all calls of ``fit``; batch: from 0 within the epoch. logs: a dict: "loss" and metrics by
    name, as means over the epoch so far at a batch's end; at an epoch's end also "val_loss" and so on, and "lr", the
    rate of the latest update. Where a ``*_begin`` has nothing to tell, logs is empty. Set ``self.trainer.stop_training
    = True`` to end training after the current batch (its epoch then ends as usual). An exception ends training at once,
    without ``on_train_end``.

    ``trainer`` is set before the first call and has ``model``, ``loss``, ``optimizer``, ``epoch``, ``iteration``
    (updates so far), ``samples`` (seen so far), ``batch`` (x and targets of the current step), ``outputs``,
    ``loss_value`` (of this step), ``history``, ``stop_training``. Methods that nobody overrides cost nothing.

    Callbacks with state that a resumed run needs have ``state_dict()`` and ``load_state_dict(d)``, which the trainer's
    own call. ``runs_last = True`` puts a callback behind the others and the history, so that it sees what they left: a
    checkpoint has to.

    Differs from Keras: ``trainer`` beside ``model``; no methods for predict; logs hold Python floats.
    """

    trainer: Any = None
    runs_last = False

    @property
    def model(self) -> Any:
        return None if self.trainer is None else self.trainer.model

    def on_train_begin(self, logs: Logs) -> None:
        """Before the first epoch of a ``fit``; the model is built and the optimizer attached."""

    def on_train_end(self, logs: Logs) -> None:
        """After the last epoch of a ``fit``; logs are those of that epoch."""

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        """Before the first batch of an epoch."""

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """After the validation of an epoch."""

    def on_train_batch_begin(self, batch: int, logs: Logs) -> None:
        """Before a batch's forward pass."""

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """After a batch's last update."""

    def on_test_begin(self, logs: Logs) -> None:
        """Before an evaluation."""

    def on_test_end(self, logs: Logs) -> None:
        """After an evaluation; logs hold its results, without "val_"."""

    def on_test_batch_begin(self, batch: int, logs: Logs) -> None:
        """Before a batch's forward pass in an evaluation."""

    def on_test_batch_end(self, batch: int, logs: Logs) -> None:
        """After a batch's forward pass in an evaluation."""


EVENTS = tuple(name for name in vars(Callback) if name.startswith("on_"))


class CallbackList:
    """Callbacks in the order of their calls: as given, ``history``, then those that run last."""

    def __init__(self, callbacks: Iterable[Callback], history: Callback | None = None) -> None:
        given = list(callbacks)
        for i, callback in enumerate(given):
            if not isinstance(callback, Callback):
                raise _checks.error(
                    TypeError, "train.Trainer", f"callbacks[{i}]", "an instance of kitae.train.Callback", callback
                )
        self.given = given
        first = [callback for callback in given if not callback.runs_last]
        last = [callback for callback in given if callback.runs_last]
        self.callbacks = [*first, *([] if history is None else [history]), *last]

    def set_trainer(self, trainer: Any) -> None:
        for callback in self.callbacks:
            callback.trainer = trainer

    def listeners(self, event: str) -> list[Callable[..., None]]:
        """The methods to call for ``event``: those that somebody overrides."""
        methods = [getattr(callback, event) for callback in self.callbacks]
        return [method for method in methods if getattr(method, "__func__", method) is not getattr(Callback, event)]

    def call(self, event: str, *arguments: Any) -> None:
        for method in self.listeners(event):
            method(*arguments)


class LambdaCallback(Callback):
    """A callback made of functions: ``LambdaCallback(on_epoch_end=lambda epoch, logs: print(epoch, logs["loss"]))``.

    Keywords are the methods of ``Callback``; each takes that method's arguments. An unknown name or what can't be
    called raises TypeError.
    """

    def __init__(self, **functions: Callable[..., None]) -> None:
        for name, function in functions.items():
            if name not in EVENTS:
                expected = "a method of Callback: " + ", ".join(EVENTS)
                raise _checks.error(TypeError, "train.LambdaCallback", name, expected, _checks.Words("no such method"))
            if not callable(function):
                raise _checks.error(TypeError, "train.LambdaCallback", name, "a function", function)
            setattr(self, name, function)
