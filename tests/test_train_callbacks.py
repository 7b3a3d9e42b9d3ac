"""Early stopping, learning-rate callbacks, CSV log: hand-worked runs, and PyTorch's ReduceLROnPlateau."""

import csv
import math

import numpy as np
import pytest

import kitae
import kitae.nn
from kitae.train import (
    Callback,
    Constant,
    CSVLogger,
    EarlyStopping,
    LearningRateScheduler,
    ReduceLROnPlateau,
    TerminateOnNaN,
    Trainer,
)

X = np.linspace(-1, 1, 24, dtype=np.float32).reshape(8, 3)
Y = np.arange(8) % 2


class Given(Callback):
    """Puts given numbers into the logs, as if they had been measured."""

    def __init__(self, name, values):
        self.name, self.values = name, values

    def on_epoch_end(self, epoch, logs):
        logs[self.name] = self.values[epoch]


def network():
    kitae.seed(1)
    return kitae.nn.Sequential(kitae.nn.Dense(4), kitae.BatchNorm(), kitae.Dropout(), kitae.nn.Dense(2))


def run(values, callback, name="val_loss", optimizer=None, epochs=None, others=(), **keywords):
    optimizer = kitae.SGD(lr=1.0) if optimizer is None else optimizer
    callbacks = [Given(name, values), callback, *others]
    trainer = Trainer(network(), "softmax_cross_entropy", optimizer, callbacks=callbacks, **keywords)
    trainer.fit(X, Y, epochs=len(values) if epochs is None else epochs, batch_size=4, seed=0, verbose=0)
    return trainer


@pytest.mark.parametrize(
    ("arguments", "values", "stopped", "best"),
    [
        # the second epoch in a row that is no better than 0.5
        ({"patience": 2}, [0.9, 0.5, 0.6, 0.5, 0.1], 3, 1),
        ({"patience": 2}, [0.9, 0.5, 0.6, 0.4, 0.3], None, 4),
        ({}, [0.9, 0.95, 0.1], 1, 0),
        # by more than 0.1 only
        ({"patience": 2, "min_delta": 0.1}, [0.9, 0.85, 0.82, 0.1], 2, 0),
        ({"patience": 2, "min_delta": 0.1}, [0.9, 0.85, 0.75, 0.7], None, 2),
        ({"patience": 1, "mode": "max"}, [0.1, 0.2, 0.15, 0.9], 2, 1),
        ({"patience": 2}, [math.nan, math.nan, 0.1], 1, None),
        ({"patience": 1, "start_from_epoch": 2}, [0.1, 0.5, 0.4, 0.3, 0.35, 0.2], 4, 3),
        # Prechelt's GL: 100 (0.55 / 0.5 - 1) = 10 per cent, 100 (0.53 / 0.5 - 1) = 6
        ({"criterion": "generalization_loss", "threshold": 7.0}, [0.9, 0.5, 0.53, 0.55, 0.1], 3, 1),
        ({"criterion": "generalization_loss", "threshold": 5.0}, [0.9, 0.5, 0.53, 0.55, 0.1], 2, 1),
        ({"criterion": "generalization_loss"}, [0.0, 0.0, 0.001], 2, 0),
    ],
)
def test_early_stopping(arguments, values, stopped, best):
    callback = EarlyStopping(**arguments)
    trainer = run(values, callback)
    assert callback.stopped_epoch == stopped
    assert callback.best_epoch == best
    assert trainer.history.epoch == list(range(len(values) if stopped is None else stopped + 1))


def test_training_error_on_a_plateau():
    """The first criterion, on what training itself measures: a rate of 0 learns nothing."""
    callback = EarlyStopping(monitor="loss", min_delta=1e-3, patience=3)
    trainer = Trainer(kitae.nn.Dense(2), "softmax_cross_entropy", kitae.SGD(lr=0.0), callbacks=[callback])
    trainer.fit(X, Y, epochs=20, batch_size=4, verbose=0)
    assert trainer.history.epoch == [0, 1, 2, 3]


def test_accuracy_is_better_when_higher():
    callback = EarlyStopping(monitor="val_accuracy", patience=1)
    run([0.1, 0.2, 0.15], callback, name="val_accuracy")
    assert (callback.best, callback.stopped_epoch) == (0.2, 2)


@pytest.mark.parametrize("values", [[0.9, 0.5, 0.6, 0.7, 0.1], [0.9, 0.5, 0.6]])  # stopped early, and not
def test_best_weights_and_buffers_are_restored(values):
    kept = {}

    class Keep(Callback):
        def on_epoch_end(self, epoch, logs):
            kept[epoch] = {n: a.tobytes() for n, a in {**self.model.params, **self.model.buffers}.items()}

    trainer = run(values, EarlyStopping(patience=2, restore_best=True), others=[Keep()])
    left = {n: a.tobytes() for n, a in {**trainer.model.params, **trainer.model.buffers}.items()}
    assert {"0.W", "1.running_mean", "1.running_var", "2.offset"} <= left.keys()
    assert left == kept[1]
    assert all(
        left[name] != kept[len(trainer.history.epoch) - 1][name] for name in ("0.W", "1.running_mean", "2.offset")
    )


def test_early_stopping_resumes():
    """Best value, patience used up and best weights are carried over."""
    values = [0.9, 0.5, 0.6, 0.7, 0.1]
    whole = EarlyStopping(patience=2, restore_best=True)
    expected = run(values, whole).model.params

    saved = {}

    class Save(Callback):
        runs_last = True

        def on_epoch_end(self, epoch, logs):
            if epoch == 2:
                saved.update(self.trainer.state_dict(), callbacks=self.trainer.state_dict()["callbacks"][:2])
                saved["arrays"] = {n: a.copy() for n, a in {**self.model.params, **self.model.buffers}.items()}

    run(values, EarlyStopping(patience=2, restore_best=True), epochs=3, others=[Save()])
    again = EarlyStopping(patience=2, restore_best=True)
    resumed = run(values, again, epochs=0)
    for name, array in {**resumed.model.params, **resumed.model.buffers}.items():
        array[...] = saved["arrays"][name]
    del saved["arrays"]
    resumed.load_state_dict(saved)
    resumed.fit(X, Y, epochs=2, batch_size=4, verbose=0)
    assert again.stopped_epoch == whole.stopped_epoch == 3
    for name, array in expected.items():
        assert array.tobytes() == resumed.model.params[name].tobytes()


def test_terminate_on_nan():
    x = X.copy()
    x[5] = np.inf
    trainer = Trainer(kitae.nn.Dense(2), "softmax_cross_entropy", kitae.SGD(lr=0.1), callbacks=[TerminateOnNaN()])
    with np.errstate(invalid="ignore"):
        trainer.fit(x, Y, epochs=5, batch_size=2, shuffle=False, verbose=0)
    assert (trainer.iteration, trainer.epoch) == (3, 1)


PLATEAUS = {
    "falling": [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3],
    "flat": [1.0] * 12,
    "noisy": [1.0, 0.8, 0.85, 0.81, 0.9, 0.7, 0.71, 0.72, 0.73, 0.74, 0.69, 0.75, 0.75, 0.75, 0.75],
    "by less than min_delta": [1.0 - 0.004 * i for i in range(12)],
}


@pytest.mark.requires_torch
@pytest.mark.parametrize("values", PLATEAUS.values(), ids=PLATEAUS)
@pytest.mark.parametrize("patience", [0, 1, 3])
@pytest.mark.parametrize("cooldown", [0, 2])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_reduce_on_plateau_is_pytorchs(values, patience, cooldown, mode):
    import torch

    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode, 0.3, patience, threshold=0.01, threshold_mode="abs", cooldown=cooldown, min_lr=0.05
    )
    if mode == "max":
        values = [-value for value in values]
    expected = []
    for value in values:
        expected.append(optimizer.param_groups[0]["lr"])
        scheduler.step(value)
    callback = ReduceLROnPlateau(
        factor=0.3, patience=patience, cooldown=cooldown, mode=mode, min_delta=0.01, min_lr=0.05
    )
    assert run(values, callback).history.history["lr"] == expected


def test_learning_rate_scheduler():
    trainer = run([0.0] * 4, LearningRateScheduler(lambda epoch, lr: lr if epoch < 2 else lr * 0.5))
    assert trainer.history.history["lr"] == [1.0, 1.0, 0.5, 0.25]


@pytest.mark.parametrize(("rates", "expected"), [((1.0, 0.1), [0.5, 0.05]), ((0.0, 0.1), [0.5, 0.5])])
def test_learning_rate_scheduler_keeps_ratios(rates, expected):
    """To the first group's rate; a first rate of 0 has none."""
    model = network()
    model.build((1, 3), np.float32)
    names = list(model.params)
    groups = [{"params": {n: model.params[n] for n in part}} for part in (names[:2], names[2:])]
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate
    callbacks = [LearningRateScheduler(lambda epoch, lr: 0.5)]
    trainer = Trainer(model, "softmax_cross_entropy", kitae.SGD(groups), callbacks=callbacks)
    trainer.fit(X, Y, epochs=1, verbose=0)
    assert [group["lr"] for group in trainer.optimizer.groups] == expected


def test_csv_logger(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("old\n")
    trainer = run([0.5, 0.25], CSVLogger(path))
    trainer.fit(X, Y, epochs=0, verbose=0)  # as every fit, replaces the file
    trainer = run([0.5, 0.25], CSVLogger(path))
    run([0.75], CSVLogger(path, append=True))
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["epoch", "loss", "lr", "val_loss"]
    assert [row["epoch"] for row in rows] == ["0", "1", "0"]
    assert [float(row["val_loss"]) for row in rows] == [0.5, 0.25, 0.75]
    assert [float(row["loss"]) for row in rows[:2]] == trainer.history.history["loss"]


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda: EarlyStopping(3), TypeError, "train.EarlyStopping: monitor: expected a name in logs"),
        (lambda: EarlyStopping(patience=-1), ValueError, "train.EarlyStopping: patience"),
        (lambda: EarlyStopping(min_delta=-0.1), ValueError, "train.EarlyStopping: min_delta"),
        (lambda: EarlyStopping(mode="up"), ValueError, "train.EarlyStopping: mode: expected one of"),
        (lambda: EarlyStopping(criterion="UP"), ValueError, "train.EarlyStopping: criterion"),
        (lambda: EarlyStopping("val_accuracy", criterion="generalization_loss"), ValueError, "better when lower"),
        (lambda: ReduceLROnPlateau(factor=1.0), ValueError, "train.ReduceLROnPlateau: factor"),
        (lambda: ReduceLROnPlateau(cooldown=0.5), TypeError, "train.ReduceLROnPlateau: cooldown"),
        (lambda: LearningRateScheduler(0.1), TypeError, "train.LearningRateScheduler: schedule"),
        (lambda: CSVLogger(3), TypeError, "train.CSVLogger: path"),
        (lambda: CSVLogger("log.csv", separator=""), ValueError, "train.CSVLogger: separator"),
    ],
)
def test_bad_input(make, kind, words):
    with pytest.raises(kind, match=words):
        make()


@pytest.mark.parametrize("callback", [EarlyStopping(), ReduceLROnPlateau()])
def test_missing_monitor(callback):
    with pytest.raises(
        ValueError, match="monitor: expected 'val_loss' among the logs, got logs with 'loss', 'lr', 'other'"
    ):
        run([0.5], callback, name="other")


@pytest.mark.parametrize("callback", [ReduceLROnPlateau(), LearningRateScheduler(lambda epoch, lr: lr)])
def test_two_who_set_the_rate(callback):
    with pytest.raises(ValueError, match="schedule: expected a trainer without one"):
        run([0.5], callback, schedule=Constant())


@pytest.mark.parametrize("value", [-1.0, math.nan, "fast"])
def test_bad_scheduled_rate(value):
    with pytest.raises((TypeError, ValueError), match=r"LearningRateScheduler: schedule\(epoch, lr\)"):
        run([0.5], LearningRateScheduler(lambda epoch, lr: value))
