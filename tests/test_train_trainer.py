"""The training loop: bit for bit a loop by hand, Keras's order of calls, resuming, counting, input that it refuses."""

import json
import signal

import numpy as np
import pytest

import kitae
import kitae.nn
from kitae.data import Batches
from kitae.data.batches import permutation
from kitae.train import Callback, Exponential, LambdaCallback, Trainer

N, INPUTS, CLASSES, BATCH = 50, 6, 3, 16  # 4 batches an epoch, the last of 2 samples


class MeanSquares:
    """loss = mean over the batch of sum (x - t)^2, for regression."""

    def forward(self, outputs, targets):
        self._difference = outputs - targets
        return float((self._difference**2).sum()) / len(outputs)

    def backward(self):
        return 2 * self._difference / len(self._difference)


def data(seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((N, INPUTS)).astype(np.float32), rng.integers(0, CLASSES, N)


def network(seed=3):
    """With statistics and a dropout counter: what a resumed run has to carry beside weights."""
    kitae.seed(seed)
    dense = [kitae.nn.Dense(8, inputs=INPUTS), kitae.nn.Dense(CLASSES, inputs=8)]
    return kitae.nn.Sequential(dense[0], kitae.BatchNorm(activation="relu"), kitae.Dropout(0.3), dense[1])


def trainer(model=None, optimizer=None, **keywords):
    model = network() if model is None else model
    optimizer = kitae.Adam(lr=0.01, max_norm=1.0) if optimizer is None else optimizer
    return Trainer(model, "softmax_cross_entropy", optimizer, **keywords)


def fit(of, epochs, **keywords):
    x, y = data()
    return of.fit(x, y, **{"epochs": epochs, "batch_size": BATCH, "seed": 7, "verbose": 0, **keywords})


def arrays(of):
    """Every array that training changes."""
    state = of.optimizer.state_dict()
    slots = {f"{name}{i}": a for name, values in state["slots"].items() for i, a in enumerate(values)}
    return {**of.model.params, **of.model.buffers, **slots}


def assert_same_bits(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].tobytes() == right[name].tobytes(), name


def copies(of):
    return {name: array.copy() for name, array in arrays(of).items()}


# A fit is the loop one would write.


def test_fit_is_the_loop_by_hand():
    x, y = data()
    ours = trainer(metrics=["accuracy"], schedule=Exponential(0.5))
    history = fit(ours, 3)

    model, loss, optimizer = network(), kitae.nn.SoftmaxCrossEntropy(), kitae.Adam(lr=0.01, max_norm=1.0)
    model.forward(x[:1], training=False)
    optimizer.attach(model.params)
    losses, shares = [], []
    for epoch in range(3):
        optimizer.lr = 0.01 * 0.5**epoch
        order = permutation(N, 7, epoch)
        total, right = 0.0, 0
        for start in range(0, N, BATCH):
            rows = order[start : start + BATCH]
            outputs = model.forward(x[rows])
            total += loss.forward(outputs, y[rows]) * len(rows)
            right += int((outputs.argmax(axis=1) == y[rows]).sum())
            model.backward(loss.backward())
            optimizer.step(model.grads)
        losses.append(total / N)
        shares.append(right / N)
    assert ours.history is history
    assert history.epoch == [0, 1, 2]
    assert history.history["loss"] == losses
    # batch means times batch sizes: at most four roundings away from the exact share
    np.testing.assert_allclose(history.history["accuracy"], shares, rtol=1e-15)
    assert history.history["lr"] == [0.01, 0.005, 0.0025]
    by_hand = Trainer(model, loss, optimizer)
    assert_same_bits(arrays(ours), arrays(by_hand))


def test_fit_builds_the_model():
    """From the first batch, as one sample's inference would: no statistics, no dropout counter moved."""
    x, y = data()
    ours = trainer(kitae.nn.Sequential(kitae.nn.Dense(4), kitae.BatchNorm(), kitae.Dropout(), kitae.nn.Dense(CLASSES)))
    assert ours.model.params == {}
    fit(ours, 0)
    assert ours.model.params["0.W"].shape == (INPUTS, 4)
    assert int(ours.model.buffers["2.offset"]) == 0
    np.testing.assert_array_equal(ours.model.buffers["1.running_var"], np.ones(4))
    ours.fit([(x, y)], epochs=1, verbose=0)
    assert int(ours.model.buffers["2.offset"]) == 1


def test_counters():
    ours = trainer(iterations_per_batch=3)
    fit(ours, 2)
    assert (ours.epoch, ours.iteration, ours.samples) == (2, 2 * 4 * 3, 2 * N)
    assert ours.optimizer.steps == 24


def test_fit_again_goes_on():
    once, twice = trainer(), trainer()
    fit(once, 4)
    fit(twice, 1)
    history = fit(twice, 3)
    assert history.epoch == [0, 1, 2, 3]
    assert twice.epoch == 4
    assert history.history == once.history.history
    assert_same_bits(arrays(once), arrays(twice))


def test_regression_with_float_labels():
    """y = x A is learned to the last percent."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 4))
    targets = x @ rng.standard_normal((4, 2))
    ours = Trainer(
        kitae.nn.Dense(2, dtype=np.float64), MeanSquares(), kitae.SGD(lr=0.05), metrics=["mean_absolute_error"]
    )
    history = ours.fit(x, targets, epochs=60, batch_size=16, verbose=0).history
    assert history["loss"][-1] < 1e-4 * history["loss"][0]
    assert history["mean_absolute_error"][-1] < 0.02 * history["mean_absolute_error"][0]


def test_shuffle_off_takes_rows_in_order():
    seen = []
    watch = LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(ours.batch[1]))
    ours = trainer(callbacks=[watch])
    fit(ours, 1, shuffle=False)
    np.testing.assert_array_equal(np.concatenate(seen), data()[1])
    assert [len(labels) for labels in seen] == [16, 16, 16, 2]


def test_shuffle_without_seed_follows_kitae_seed():
    runs = []
    for n in (1, 1, 2):
        ours = trainer()
        kitae.seed(n)
        runs.append(fit(ours, 2, seed=None).history["loss"])
    assert runs[0] == runs[1] != runs[2]


def test_batches_instead_of_arrays():
    x, y = data()
    batches = [(x[s : s + BATCH], y[s : s + BATCH]) for s in range(0, N, BATCH)]
    from_list, from_arrays = trainer(metrics=["accuracy"]), trainer(metrics=["accuracy"])
    from_list.fit(batches, epochs=2, validation_data=batches, verbose=0)
    fit(from_arrays, 2, shuffle=False, validation_data=(x, y))
    assert_same_bits(arrays(from_list), arrays(from_arrays))
    assert from_list.history.history == from_arrays.history.history
    assert from_list.evaluate(batches) == from_arrays.evaluate(x, y, batch_size=BATCH)


def test_memory_mapped(tmp_path):
    x, y = data()
    np.save(tmp_path / "x.npy", x)
    mapped, plain = trainer(), trainer()
    fit(plain, 1)
    mapped.fit(np.load(tmp_path / "x.npy", mmap_mode="r"), y, epochs=1, batch_size=BATCH, seed=7, verbose=0)
    assert_same_bits(arrays(mapped), arrays(plain))


def test_validation_split_is_the_end():
    x, y = data()
    split, given = trainer(metrics=["accuracy"]), trainer(metrics=["accuracy"])
    fit(split, 2, validation_split=0.3)
    given.fit(x[:35], y[:35], epochs=2, batch_size=BATCH, seed=7, verbose=0, validation_data=(x[35:], y[35:]))
    assert list(split.history.history) == ["loss", "accuracy", "val_loss", "val_accuracy", "lr"]
    assert split.history.history == given.history.history


def test_evaluate_and_predict():
    x, y = data()
    ours = trainer(metrics=["accuracy", lambda outputs, targets: float(len(targets))])
    fit(ours, 1)
    before = copies(ours)
    outputs = ours.model.forward(x, training=False)
    np.testing.assert_array_equal(ours.predict(x, batch_size=N), outputs)
    assert ours.predict(x, batch_size=7).shape == (N, CLASSES)
    assert ours.predict([x[:20], x[20:]]).shape == (N, CLASSES)
    results = ours.evaluate(x, y, batch_size=N)
    assert results["loss"] == kitae.nn.SoftmaxCrossEntropy().forward(outputs, y)
    assert results["accuracy"] == (outputs.argmax(axis=1) == y).mean()
    # batches of 16, 16, 16 and 2, each weighted by its size
    assert ours.evaluate(x, y, batch_size=BATCH)["<lambda>"] == (3 * 16 * 16 + 2 * 2) / N
    assert_same_bits(arrays(ours), before)


def test_attached_optimizers():
    """Attached to a dict, a list, or groups: what is bound are the model's gradients, in that structure."""
    x, _ = data()
    results = []
    for structure in ("none", "dict", "list", "groups"):
        model = network()
        model.forward(x[:1], training=False)
        names = list(model.params)
        params = {
            "none": None,
            "dict": model.params,
            "list": list(model.params.values()),
            "groups": [
                {"params": {n: model.params[n] for n in names[:1]}},
                {"params": [model.params[n] for n in names[1:2]]},
                {"params": {n: model.params[n] for n in names[2:]}},
            ],
        }[structure]
        ours = trainer(model, kitae.Adam(params, lr=0.01, max_norm=1.0))
        fit(ours, 2)
        results.append(model.params)
    for other in results[1:]:
        assert_same_bits(results[0], other)


# Callbacks.


class Recorder(Callback):
    def __init__(self, calls):
        self.calls = calls

    def on_train_begin(self, logs):
        self.calls.append("train_begin")

    def on_train_end(self, logs):
        self.calls.append("train_end")

    def on_epoch_begin(self, epoch, logs):
        self.calls.append(f"epoch_begin {epoch}")

    def on_epoch_end(self, epoch, logs):
        self.calls.append(f"epoch_end {epoch}")

    def on_train_batch_begin(self, batch, logs):
        self.calls.append(f"batch_begin {batch}")

    def on_train_batch_end(self, batch, logs):
        self.calls.append(f"batch_end {batch}")

    def on_test_begin(self, logs):
        self.calls.append("test_begin")

    def on_test_end(self, logs):
        self.calls.append("test_end")

    def on_test_batch_begin(self, batch, logs):
        self.calls.append(f"test_batch_begin {batch}")

    def on_test_batch_end(self, batch, logs):
        self.calls.append(f"test_batch_end {batch}")


ONE_EPOCH = """epoch_begin {0}; batch_begin 0; batch_end 0; batch_begin 1; batch_end 1; test_begin; test_batch_begin 0;
 test_batch_end 0; test_end; epoch_end {0}"""


def test_order_of_calls_is_keras():
    calls = []
    x, y = data()
    ours = trainer(callbacks=[Recorder(calls)])
    ours.fit(x[:20], y[:20], epochs=2, batch_size=BATCH, validation_data=(x[:4], y[:4]), verbose=0)
    expected = f"train_begin; {ONE_EPOCH.format(0)}; {ONE_EPOCH.format(1)}; train_end"
    assert calls == [call.strip() for call in expected.split(";")]


def test_order_of_callbacks_and_history():
    """As given, then the history, then those that run last."""
    seen = []

    class Last(Callback):
        runs_last = True

        def on_epoch_end(self, epoch, logs):
            seen.append(("last", len(self.trainer.history.epoch), logs["mine"]))

    class First(Callback):
        def on_epoch_end(self, epoch, logs):
            seen.append(("first", len(self.trainer.history.epoch)))
            logs["mine"] = 5.0

    ours = trainer(callbacks=[Last(), First()])
    fit(ours, 1)
    assert seen == [("first", 0), ("last", 1, 5.0)]
    assert ours.history.history["mine"] == [5.0]


def test_what_callbacks_see():
    seen = []

    class Watch(Callback):
        def on_train_begin(self, logs):
            assert self.model.params
            assert self.trainer.optimizer.groups
            assert logs == {}

        def on_train_batch_end(self, batch, logs):
            of = self.trainer
            assert of.outputs.shape == (len(of.batch[0]), CLASSES)
            seen.append((batch, of.epoch, of.iteration, of.samples, of.loss_value, len(of.batch[1]), logs["loss"]))

    ours = trainer(callbacks=[Watch()])
    fit(ours, 2)
    assert [row[:4] for row in seen[:5]] == [(0, 0, 1, 16), (1, 0, 2, 32), (2, 0, 3, 48), (3, 0, 4, 50), (0, 1, 5, 66)]
    for epoch in (seen[:4], seen[4:]):  # running means over the epoch, weighted by samples
        weights = [row[5] for row in epoch]
        for end in range(1, 5):
            mean = np.average([row[4] for row in epoch[:end]], weights=weights[:end])
            assert epoch[end - 1][6] == pytest.approx(mean, rel=1e-14)  # at most eight roundings


def test_stop_training_ends_the_epoch():
    class Stop(Callback):
        def on_train_batch_end(self, batch, logs):
            self.trainer.stop_training = batch == 1

    ours = trainer(callbacks=[Stop()])
    assert fit(ours, 5).epoch == [0]
    assert (ours.epoch, ours.iteration) == (1, 2)


def test_lambda_callback():
    seen = []
    ours = trainer(callbacks=[LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append((epoch, logs["loss"])))])
    fit(ours, 2)
    assert seen == list(enumerate(ours.history.history["loss"]))


# Resuming.


class SaveAt(Callback):
    """The whole state when this many updates were made, as a checkpoint has it."""

    runs_last = True

    def __init__(self, iteration, event):
        self.iteration, self.saved = iteration, None
        setattr(self, event, self._save)

    def _save(self, number, logs):
        of = self.trainer
        if of.iteration == self.iteration:
            model = {name: array.copy() for name, array in {**of.model.params, **of.model.buffers}.items()}
            self.saved = model, of.optimizer.state_dict(), json.loads(json.dumps(of.state_dict()))


@pytest.mark.parametrize("source", ["arrays", "list", "Batches"])
@pytest.mark.parametrize(
    ("iteration", "event"),
    [(6, "on_train_batch_end"), (8, "on_train_batch_end"), (8, "on_epoch_end"), (12, "on_epoch_end")],
)
def test_resume_bit_for_bit(iteration, event, source):
    x, y = data()
    sources = {
        "arrays": lambda: (x, y),
        "list": lambda: ([(x[s : s + BATCH], y[s : s + BATCH]) for s in range(0, N, BATCH)],),
        "Batches": lambda: (Batches(x, y, BATCH),),  # each with a seed of its own
    }
    given = sources[source]()
    keywords = {"metrics": ["accuracy"], "schedule": Exponential(0.9, per="iteration")}
    run = {"batch_size": BATCH, "validation_data": (x, y), "verbose": 0}

    save = SaveAt(iteration, event)
    whole = trainer(callbacks=[save], **keywords)
    whole.fit(*given, epochs=4, seed=None, **run)

    model, optimizer_state, state = save.saved
    resumed = trainer(network(seed=99), callbacks=[Callback()], **keywords)
    resumed.prepare(x)
    cold = copies(resumed)
    for name, array in {**resumed.model.params, **resumed.model.buffers}.items():
        array[...] = model[name]
    resumed.optimizer.load_state_dict(optimizer_state)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    resumed.fit(*sources[source](), epochs=4 - resumed.epoch, **run)

    assert any((cold[name] != array).any() for name, array in arrays(resumed).items())
    assert_same_bits(arrays(whole), arrays(resumed))
    assert whole.history.history == resumed.history.history
    assert whole.state_dict() | {"callbacks": 0} == resumed.state_dict() | {"callbacks": 0}


def test_interrupt_between_steps(ctrl_c):
    """Ctrl-C in the middle of a step: the step is finished, history and counters fit, and the next fit goes on."""

    class Press(kitae.nn.Layer):
        def forward(self, x, training=True):
            if training and ours.iteration == 5:
                ctrl_c()
            return x

        def backward(self, dout):
            return dout

    whole = trainer()
    fit(whole, 3)
    ours = trainer(kitae.nn.Sequential(*network().layers, Press()))
    with pytest.raises(KeyboardInterrupt):
        fit(ours, 3)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert (ours.epoch, ours.iteration, ours.optimizer.steps, ours.samples) == (1, 6, 6, 82)
    assert ours.history.epoch == [0]
    fit(ours, 2)
    assert ours.history.history == whole.history.history
    assert_same_bits(arrays(whole), arrays(ours))


def test_state_of_another_trainer_is_refused():
    ours = trainer(callbacks=[Callback()])
    fit(ours, 1)
    before = ours.state_dict()
    for bad, kind, words in [
        ([1], TypeError, "load_state_dict: d: expected a dict"),
        ({}, ValueError, "load_state_dict: d: expected version 1"),
        ({**before, "version": 2}, ValueError, "version 2"),
        ({**before, "callbacks": []}, ValueError, "callbacks: expected states of 1 callbacks, got 0"),
    ]:
        with pytest.raises(kind, match=words):
            ours.load_state_dict(bad)
        assert ours.state_dict() == before


# Progress.


def test_a_line_an_epoch(capsys):
    ours = trainer()
    fit(ours, 2, verbose="auto")  # no terminal here
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert [line.split()[:2] for line in lines] == [["epoch", "1/2"], ["epoch", "2/2"]]
    assert f"loss {ours.history.history['loss'][1]:.4g}" in lines[1]
    assert err == ""
    fit(ours, 1, verbose=0)
    assert capsys.readouterr() == ("", "")


def test_bar(capsys):
    ours = trainer()
    fit(ours, 2, verbose=1)
    out, err = capsys.readouterr()
    assert out == ""
    for words in ("epoch 1/2", "epoch 2/2", "4/4", f"loss={ours.history.history['loss'][1]:.4g}"[5:]):
        assert words in err


# What is refused.


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"model": kitae.nn.Dense}, TypeError, "train.Trainer: model: expected a layer"),
        ({"loss": "softmax"}, ValueError, "train.Trainer: loss: expected one of 'softmax_cross_entropy'"),
        ({"loss": lambda outputs, targets: 0.0}, TypeError, "train.Trainer: loss: expected a loss"),
        ({"optimizer": kitae.SGD}, TypeError, "train.Trainer: optimizer: expected an optimizer"),
        ({"metrics": "accuracy"}, TypeError, "train.Trainer: metrics: expected a list"),
        ({"metrics": ["acc"]}, ValueError, r"train.Trainer: metrics\[0\]: expected one of 'accuracy'"),
        ({"metrics": [3]}, TypeError, r"train.Trainer: metrics\[0\]"),
        ({"callbacks": [print]}, TypeError, r"train.Trainer: callbacks\[0\]: expected an instance of"),
        ({"iterations_per_batch": 0}, ValueError, "train.Trainer: iterations_per_batch"),
        ({"momentum": 0.9}, TypeError, "momentum"),
    ],
)
def test_bad_trainer(change, kind, words):
    arguments = {"model": network(), "loss": "softmax_cross_entropy", "optimizer": kitae.SGD(lr=0.1), **change}
    with pytest.raises(kind, match=words):
        Trainer(**arguments)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"x": [[1.0]]}, TypeError, "train.Trainer.fit: x: expected a numpy.ndarray"),
        ({"y": None}, TypeError, "train.Trainer.fit: y: expected a numpy.ndarray"),
        ({"y": np.zeros(N - 1, int)}, ValueError, "train.Trainer.fit: y: expected 50 rows"),
        ({"x": np.zeros((0, 3)), "y": np.zeros(0, int)}, ValueError, "x: expected at least one sample"),
        ({"x": [], "y": None}, ValueError, "x: expected at least one batch, got none"),
        ({"x": 3, "y": None}, TypeError, "x: expected an array"),
        ({"epochs": -1}, ValueError, "fit: epochs"),
        ({"epochs": 2.0}, TypeError, "fit: epochs"),
        ({"batch_size": 0}, ValueError, "fit: batch_size"),
        ({"shuffle": "yes"}, TypeError, "fit: shuffle"),
        ({"seed": -1}, ValueError, "fit: seed"),
        ({"verbose": 3}, ValueError, "fit: verbose: expected 'auto', 0"),
        ({"verbose": True}, TypeError, "fit: verbose"),
        ({"validation_split": 1.0}, ValueError, "fit: validation_split"),
        ({"validation_split": 0.99}, ValueError, "validation_split: expected a fraction that leaves"),
        ({"validation_split": 0.5, "validation_data": data()}, ValueError, "validation_split: expected 0 beside"),
        ({"sample_weight": np.ones(N)}, TypeError, "sample_weight"),
    ],
)
def test_bad_fit(change, kind, words):
    x, y = data()
    ours = trainer(kitae.nn.Dense(CLASSES))
    with pytest.raises(kind, match=words):
        ours.fit(**{"x": x, "y": y, "verbose": 0, **change})
    assert (ours.epoch, ours.iteration, ours.history.epoch) == (0, 0, [])
    assert ours.model.params == {}


def test_a_generator_is_one_pass():
    x, y = data()
    with pytest.raises(ValueError, match=r"at least one batch an epoch \(an iterator gives a single pass\)"):
        trainer().fit(((x, y) for _ in range(2)), epochs=2, verbose=0)


def test_optimizer_of_another_model():
    other = {"w": np.zeros(3, np.float32)}
    with pytest.raises(ValueError, match=r"train.Trainer: optimizer: expected an optimizer attached to arrays"):
        fit(trainer(optimizer=kitae.SGD(other, lr=0.1)), 1)


def test_model_without_parameters():
    with pytest.raises(ValueError, match=r"train.Trainer: model: expected a layer with parameters"):
        fit(trainer(kitae.nn.Sequential(kitae.nn.ReLU())), 1)


def test_lambda_callback_refuses():
    with pytest.raises(TypeError, match=r"train.LambdaCallback: on_batch_end: expected a method of Callback"):
        LambdaCallback(on_batch_end=print)
    with pytest.raises(TypeError, match=r"train.LambdaCallback: on_epoch_end: expected a function"):
        LambdaCallback(on_epoch_end=3)
