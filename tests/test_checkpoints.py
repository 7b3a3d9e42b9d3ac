"""A training run that is cut anywhere and resumed from its checkpoint ends with the bits of one that was not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import kitae
from kitae import nn
from kitae.data import Batches
from kitae.train import Callback, EarlyStopping, ModelCheckpoint, Trainer, load_checkpoint, save_checkpoint

SAMPLES, BATCH = 44, 8  # 6 batches an epoch, the last of 4
SCRIPT = Path(__file__)


def samples(dtype=np.float32):
    rng = np.random.default_rng(0)
    return rng.standard_normal((SAMPLES, 5)).astype(dtype), rng.integers(0, 3, SAMPLES)


def noisy(x, t, *, rng):
    return x + rng.standard_normal(x.shape).astype(x.dtype) / 10, t


class HalveEachEpoch:
    per = "epoch"

    def lr_at(self, step, base_lr):
        return base_lr / 2**step


class WarmUp:
    """With state of its own, which only counting right keeps right."""

    per = "iteration"

    def __init__(self):
        self.calls = 0

    def lr_at(self, step, base_lr):
        self.calls += 1
        return base_lr * min(self.calls / 10, 1)

    def state_dict(self):
        return {"calls": self.calls}

    def load_state_dict(self, d):
        self.calls = d["calls"]


class StopAfter(Callback):
    """A process that ends after so many batches, in the middle of an epoch; what it should save, it has."""

    runs_last = True

    def __init__(self, batches, path=None):
        self.batches, self.path, self.seen = batches, path, 0

    def on_train_batch_end(self, batch, logs):
        self.seen += 1
        if self.seen == self.batches:
            if self.path is not None:
                save_checkpoint(self.path, self.trainer)
            raise KeyboardInterrupt


def make(seed, optimizer="Adam", schedule=None, dtype=np.float32, callbacks=(), batch_size=BATCH):
    """A trainer and its batches. ``seed``: what a new process would draw differently."""
    kitae.seed(seed)
    model = nn.Sequential(nn.Dense(7, dtype=dtype), kitae.BatchNorm(), nn.ReLU(), kitae.Dropout(0.4), nn.Dense(3))
    trainer = Trainer(
        model, nn.SoftmaxCrossEntropy(), getattr(kitae, optimizer)(lr=0.05), schedule=schedule, callbacks=callbacks
    )
    return trainer, Batches(*samples(dtype), batch_size, augment=noisy)


def everything(trainer):
    """All bits of a run, by name."""
    state, optimizer = trainer.state_dict(), trainer.optimizer.state_dict()
    slots = optimizer.pop("slots")
    del state["callbacks"]
    arrays = {**trainer.model.params, **trainer.model.buffers}
    arrays |= {f"{name} {i}": array for name, slot in slots.items() for i, array in enumerate(slot)}
    return {name: (array.dtype.name, array.tobytes().hex()) for name, array in arrays.items()} | {
        "state": json.dumps([state, optimizer], sort_keys=True)
    }


def fit(trainer, batches, epochs, stop=None, **keywords):
    """Train, up to a crash after so many batches where ``stop`` says so."""
    if stop is None:
        trainer.fit(batches, epochs=epochs, verbose=0, **keywords)
    else:
        with pytest.raises(KeyboardInterrupt):
            trainer.fit(batches, epochs=epochs, verbose=0, **keywords)


OPTIMIZERS = [
    name
    for name, value in vars(kitae).items()
    if isinstance(value, type) and hasattr(value, "load_state_dict") and hasattr(value, "bind")
]


class TestResume:
    @pytest.mark.parametrize("optimizer", OPTIMIZERS)
    @pytest.mark.parametrize(
        "schedule", [None, HalveEachEpoch, WarmUp], ids=lambda s: getattr(s, "__name__", "constant")
    )
    def test_seven_steps_of_eighteen(self, tmp_path, optimizer, schedule):
        """Uninterrupted, resumed and cold: the first two are the same, the third is not."""
        options = {"optimizer": optimizer}
        new = (lambda: None) if schedule is None else schedule
        whole, batches = make(1, schedule=new(), **options)
        fit(whole, batches, 3)

        cut, batches = make(1, schedule=new(), callbacks=[StopAfter(7, tmp_path / "f")], **options)
        fit(cut, batches, 3, stop=True)
        resumed, batches = make(2, schedule=new(), callbacks=[StopAfter(10**9)], **options)
        state = cut.callbacks.given[0]
        assert state.seen == 7
        load_checkpoint(tmp_path / "f", resumed)
        assert (resumed.epoch, resumed.iteration, resumed.samples) == (1, 7, 44 + 8)
        fit(resumed, batches, 2)

        cold, batches = make(2, schedule=new(), **options)
        fit(cold, batches, 3)
        assert everything(resumed) == everything(whole)
        assert everything(cold) != everything(whole)

    @pytest.mark.parametrize("stop", range(1, 13))
    def test_after_any_batch_and_at_the_end_of_an_epoch(self, tmp_path, stop):
        whole, batches = make(1)
        fit(whole, batches, 3)
        cut, batches = make(1, callbacks=[StopAfter(stop, tmp_path / "f")])
        fit(cut, batches, 3, stop=True)
        resumed, batches = make(2, callbacks=[StopAfter(10**9)])
        load_checkpoint(tmp_path / "f", resumed)
        fit(resumed, batches, 3 - resumed.epoch)
        assert everything(resumed) == everything(whole)

    def test_between_two_fits_and_arrays_instead_of_batches(self, tmp_path):
        whole, _ = make(1, dtype=np.float64)
        data = samples(np.float64)
        whole.fit(*data, batch_size=8, epochs=4, verbose=0)
        first, _ = make(1, dtype=np.float64)
        first.fit(*data, batch_size=8, epochs=2, verbose=0)
        save_checkpoint(tmp_path / "f", first)
        second, _ = make(2, dtype=np.float64)
        load_checkpoint(tmp_path / "f", second)
        second.fit(*data, batch_size=8, epochs=2, verbose=0)
        assert everything(second) == everything(whole)

    @pytest.mark.timing
    def test_another_process_after_a_kill(self, tmp_path):
        """The first process saves after each batch and is killed in its ninth; the second ends the run."""
        whole, batches = make(1)
        fit(whole, batches, 3)
        killed = subprocess.run([sys.executable, SCRIPT, "first", tmp_path / "f"], capture_output=True, timeout=300)
        assert killed.returncode == -9, killed.stderr
        second = subprocess.run([sys.executable, SCRIPT, "second", tmp_path / "f"], capture_output=True, timeout=300)
        assert second.returncode == 0, second.stderr
        assert json.loads(second.stdout) == json.loads(json.dumps(everything(whole)))
        assert os.listdir(tmp_path) == ["f"]

    def test_best_weights_of_early_stopping(self, tmp_path):
        """Arrays that a callback keeps are a part of the state."""

        def stopping():
            return [EarlyStopping("loss", patience=1, restore_best=True), StopAfter(10**9)]

        whole, batches = make(1, callbacks=stopping())
        fit(whole, batches, 9)
        cut, batches = make(1, callbacks=stopping())
        cut.callbacks.given[1].batches, cut.callbacks.given[1].path = 8, tmp_path / "f"
        fit(cut, batches, 9, stop=True)
        resumed, batches = make(2, callbacks=stopping())
        load_checkpoint(tmp_path / "f", resumed)
        fit(resumed, batches, 9 - resumed.epoch)
        assert everything(resumed) == everything(whole)
        ours, theirs = (trainer.callbacks.given[0].state_dict()["best_arrays"] for trainer in (resumed, whole))
        for kind in ("params", "buffers"):
            for name, array in ours[kind].items():
                assert array.tobytes() == theirs[kind][name].tobytes()

    def test_float16_weights_and_their_masters(self, tmp_path, rng):
        model = type("Model", (), {})()
        model.params = {"W": rng.standard_normal((3, 4)).astype(np.float16)}
        optimizer = kitae.Adam(model.params, lr=1e-4)
        for _ in range(3):
            optimizer.step({"W": rng.standard_normal((3, 4)).astype(np.float16)})
        from kitae import _tensor_file
        from kitae.train import checkpoint

        arrays = {}
        packed = checkpoint._pack("test", "optimizer", optimizer.state_dict(), arrays)
        _tensor_file.write("test", tmp_path / "f", arrays, packed)
        read, document = _tensor_file.read("test", tmp_path / "f")
        other = kitae.Adam({"W": model.params["W"].copy()}, lr=1)
        other.load_state_dict(checkpoint._unpack(document, read))
        ours, theirs = optimizer.state_dict()["slots"], other.state_dict()["slots"]
        assert {name: slot[0].tobytes() for name, slot in ours.items()} == {
            n: s[0].tobytes() for n, s in theirs.items()
        }
        assert set(ours) == {"m", "v", "master"}


class TestRefused:
    @pytest.fixture
    def file(self, tmp_path):
        trainer, batches = make(1)
        fit(trainer, batches, 1)
        save_checkpoint(tmp_path / "f", trainer)
        return tmp_path / "f"

    def refused(self, file, trainer, words):
        before = everything(trainer)
        with pytest.raises(ValueError, match=words):
            load_checkpoint(file, trainer)
        assert everything(trainer) == before

    def trained(self, **options):
        trainer, batches = make(5, **options)
        fit(trainer, batches, 1)
        return trainer

    def test_another_optimizer(self, file):
        self.refused(file, self.trained(optimizer="SGD"), "SGD.load_state_dict: kind: expected 'SGD', got 'Adam'")

    def test_another_model(self, file):
        other = self.trained()
        other.model.layers[4] = nn.Dense(9)
        other.model.layers[4].build((1, 7), np.float32)
        self.refused(file, other, r"train.load_checkpoint: 4.W: expected shape \(7, 9\), dtype float32, got .*\(7, 3\)")

    def test_other_callbacks(self, file):
        """Found after the optimizer's state was written, which is taken back."""
        self.refused(
            file, self.trained(callbacks=[StopAfter(10**9)]), "callbacks: expected states of 1 callbacks, got 0"
        )

    def test_weights_alone(self, tmp_path):
        trainer = self.trained()
        nn.save_weights(trainer.model, tmp_path / "w")
        self.refused(tmp_path / "w", trainer, "expected a file of kitae checkpoint, got '.*': 'kitae weights'")

    @pytest.mark.parametrize("place", [3, 100, 2000, -1])
    def test_damaged(self, file, place):
        content = bytearray(file.read_bytes())
        content[place] ^= 16
        file.write_bytes(content)
        self.refused(file, self.trained(), "kitae.train.load_checkpoint: path: expected")

    def test_not_built(self, tmp_path):
        trainer, _ = make(1)
        with pytest.raises(ValueError, match=r"train\.save_checkpoint: trainer: expected a model that is built"):
            save_checkpoint(tmp_path / "f", trainer)

    def test_state_that_is_not_json(self, tmp_path):
        trainer = self.trained(callbacks=[StopAfter(10**9)])
        trainer.callbacks.given[0].state_dict = lambda: {"function": print}
        with pytest.raises(TypeError, match=r"save_checkpoint: trainer\.callbacks\.0\.function: expected numbers, "):
            save_checkpoint(tmp_path / "f", trainer)
        assert list(tmp_path.iterdir()) == []


class TestModelCheckpoint:
    def fitted(self, tmp_path, losses, **options):
        """Epochs whose validation loss is as given."""

        class Given(Callback):
            def on_epoch_end(self, epoch, logs):
                logs["val_loss"], logs["val_accuracy"] = losses[epoch], losses[epoch]

        saver = ModelCheckpoint(tmp_path / "{epoch:02d}-{val_loss:.1f}", **options)
        trainer, batches = make(1, callbacks=[Given(), saver])
        fit(trainer, batches, len(losses))
        return sorted(path.name for path in tmp_path.iterdir()), saver

    def test_every_epoch(self, tmp_path):
        names, saver = self.fitted(tmp_path, [3.0, 2.0, 4.0])
        assert names == ["01-3.0", "02-2.0", "03-4.0"]
        assert saver.best == float("inf")

    def test_best_only(self, tmp_path):
        names, saver = self.fitted(tmp_path, [float("nan"), 3.0, 3.0, 4.0, 2.0, float("nan")], save_best_only=True)
        assert names == ["02-3.0", "05-2.0"]
        assert saver.best == 2.0

    def test_best_is_the_largest_accuracy(self, tmp_path):
        names, _ = self.fitted(tmp_path, [3.0, 2.0, 4.0], save_best_only=True, monitor="val_accuracy")
        assert names == ["01-3.0", "03-4.0"]

    def test_mode_wins_over_the_name(self, tmp_path):
        names, _ = self.fitted(tmp_path, [3.0, 4.0, 2.0], save_best_only=True, monitor="val_accuracy", mode="min")
        assert names == ["01-3.0", "03-2.0"]

    def test_keep(self, tmp_path):
        names, saver = self.fitted(tmp_path, [3.0, 2.0, 4.0, 1.0], keep=2)
        assert names == ["03-4.0", "04-1.0"]
        assert [Path(file).name for file in saver.files] == names

    def test_every_so_many_batches(self, tmp_path):
        saver = ModelCheckpoint(tmp_path / "{iteration}", every=4)
        trainer, batches = make(1, callbacks=[saver])
        fit(trainer, batches, 2)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["12", "4", "8"]

    def test_weights_only(self, tmp_path):
        trainer, batches = make(1, callbacks=[ModelCheckpoint(tmp_path / "f", save_weights_only=True)])
        fit(trainer, batches, 1)
        nn.load_weights(trainer.model, tmp_path / "f")

    @pytest.mark.parametrize("every", [None, 4])
    def test_resumed_from_its_own_file(self, tmp_path, every):
        """History, best value and list of files go on as if nothing had been."""

        def savers(folder):
            (tmp_path / folder).mkdir(exist_ok=True)
            return [ModelCheckpoint(tmp_path / folder / "{iteration}", every=every, keep=2), StopAfter(10**9)]

        data = samples()
        whole, batches = make(1, callbacks=savers("whole"))
        fit(whole, batches, 3, validation_data=data)
        cut, batches = make(1, callbacks=savers("cut"))
        cut.callbacks.given[1].batches = 9
        fit(cut, batches, 3, stop=True, validation_data=data)
        saver = cut.callbacks.given[0]
        resumed, batches = make(2, callbacks=savers("cut"))
        load_checkpoint(saver.files[-1], resumed)
        fit(resumed, batches, 3 - resumed.epoch, validation_data=data)
        assert everything(resumed) == everything(whole)
        ours, theirs = (
            [os.path.basename(file) for file in trainer.callbacks.given[0].files] for trainer in (resumed, whole)
        )
        assert ours == theirs
        assert sorted(os.listdir(tmp_path / "cut")) == sorted(os.listdir(tmp_path / "whole"))

    def test_monitored_name_that_is_not_there(self, tmp_path):
        trainer, batches = make(1, callbacks=[ModelCheckpoint(tmp_path / "f", save_best_only=True)])
        with pytest.raises(ValueError, match="monitor: expected 'val_loss' among the logs, got logs with 'loss', 'lr'"):
            fit(trainer, batches, 1)

    def test_field_that_is_not_there(self, tmp_path):
        trainer, batches = make(1, callbacks=[ModelCheckpoint(tmp_path / "{val_loss}")])
        with pytest.raises(ValueError, match="path: expected fields among loss, lr, epoch, iteration, got"):
            fit(trainer, batches, 1)

    @pytest.mark.parametrize(
        ("options", "kind"),
        [
            ({"monitor": 3}, TypeError),
            ({"save_best_only": 1}, TypeError),
            ({"mode": "largest"}, ValueError),
            ({"every": 0}, ValueError),
            ({"every": "epoch"}, TypeError),
            ({"keep": 0}, ValueError),
        ],
    )
    def test_bad_options(self, options, kind):
        with pytest.raises(kind, match=f"kitae.train.ModelCheckpoint: {next(iter(options))}: expected"):
            ModelCheckpoint("f", **options)


class Kill(Callback):
    runs_last = True

    def on_train_batch_begin(self, batch, logs):
        if self.trainer.iteration == 8:
            os.kill(os.getpid(), 9)


def main(part, path):
    """What another process does."""
    if part == "first":
        trainer, batches = make(1, callbacks=[ModelCheckpoint(path, every=1), Kill()])
        trainer.fit(batches, epochs=3, verbose=0)
    else:
        trainer, batches = make(2, callbacks=[ModelCheckpoint(path, every=10**9), StopAfter(10**9)])
        load_checkpoint(path, trainer)
        trainer.fit(batches, epochs=2, verbose=0)
        print(json.dumps(everything(trainer)))


if __name__ == "__main__":
    main(*sys.argv[1:])
