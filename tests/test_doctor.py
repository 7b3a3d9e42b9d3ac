"""The doctor: measurements against numbers worked by hand, the place of the first NaN, and that it changes nothing."""

from typing import Any

import numpy as np
import pytest

import kitae
from kitae import nn
from kitae.train import Callback, Doctor, Trainer
from kitae.train.doctor import KINDS, THRESHOLDS
from kitae.train.doctor.findings import Limits, found, in_causal_order
from kitae.train.doctor.initialization import gain
from kitae.train.doctor.inputs import look_at_inputs, nonfinite_inputs
from kitae.train.doctor.journal import Journal, LayerLook, Look, ParameterLook, lasting
from kitae.train.doctor.looking import compare, next_look
from kitae.train.doctor.losses import look_at_labels
from kitae.train.doctor.measure import sample
from kitae.train.doctor.rates import ratios


def problem(samples: int = 64) -> tuple[Any, Any]:
    rng = np.random.default_rng(7)
    return rng.standard_normal((samples, 6)).astype(np.float32), rng.integers(0, 3, samples)


def network() -> nn.Sequential:
    kitae.seed(7)
    return nn.Sequential(nn.Dense(8), kitae.BatchNorm(), nn.ReLU(), kitae.Dropout(0.2), nn.Dense(3))


def names(doctor: Doctor) -> list[str]:
    return [finding.name for finding in doctor.findings]


def test_changes_no_bit_of_a_run() -> None:
    x, t = problem()
    runs = []
    for callbacks in ([], [Doctor(every=2, verbose=False)]):
        model = network()
        trainer = Trainer(model, nn.SoftmaxCrossEntropy(), kitae.Adam(lr=1e-2), callbacks=callbacks)
        trainer.fit(x, t, epochs=3, batch_size=16, validation_data=(x, t), seed=1, verbose=0)
        runs.append((trainer.history.history["loss"], {**model.params, **model.buffers}))
    assert runs[0][0] == runs[1][0]
    for name, array in runs[0][1].items():
        np.testing.assert_array_equal(array, runs[1][1][name], err_msg=name)


def test_leaves_no_wrapper_behind() -> None:
    x, t = problem()
    model, loss = network(), nn.SoftmaxCrossEntropy()
    Trainer(model, loss, kitae.SGD(lr=0.1), callbacks=[Doctor(verbose=False)]).fit(x, t, verbose=0)
    for owner in (model, loss, *model.layers):
        assert not {"forward", "backward"} & set(vars(owner))


def test_steps_without_a_look_wrap_only_the_loss() -> None:
    x, t = problem()
    wrapped = []

    class Seen(Callback):
        def on_train_batch_begin(self, batch: int, logs: Any) -> None:
            trainer = self.trainer
            owners = (*trainer.model.layers, trainer.optimizer)
            inside = sum(len({"forward", "backward", "step"} & set(vars(owner))) for owner in owners)
            wrapped.append((inside, "forward" in vars(trainer.loss)))

    callbacks = [Doctor(every=100, verbose=False), Seen()]
    Trainer(network(), nn.SoftmaxCrossEntropy(), kitae.SGD(lr=0.1), callbacks=callbacks).fit(
        x, t, batch_size=16, verbose=0
    )
    assert wrapped == [(11, True), (11, True), (11, True), (0, True)]  # 5 layers twice and the optimizer's step


def test_a_look_ends_with_the_update() -> None:
    """What callbacks do to parameters or the learning rate after a step is no update of it."""
    x, t = problem()

    class Doubling(Callback):
        def on_train_batch_end(self, batch: int, logs: Any) -> None:
            self.trainer.model.params["4.W"] *= 2
            self.trainer.optimizer.lr = 0.5

    doctor = Doctor(verbose=False)
    Trainer(network(), nn.SoftmaxCrossEntropy(), kitae.SGD(lr=0.0), callbacks=[Doubling(), doctor]).fit(
        x, t, batch_size=64, verbose=0
    )
    (look,) = doctor.journal.looks
    assert set(ratios(look).values()) == {0.0}
    assert look.lr == 0.0


def test_a_test_within_a_run_is_no_step() -> None:
    """Validation calls the same loss; its value must not pass for a step's."""
    x, t = problem()
    doctor, losses = Doctor(verbose=False), []

    class Noting(Callback):
        def on_train_batch_end(self, batch: int, logs: Any) -> None:
            losses.append(self.trainer.loss_value)

    trainer = Trainer(network(), nn.SoftmaxCrossEntropy(), kitae.SGD(lr=0.1), callbacks=[doctor, Noting()])
    trainer.fit(x, t, batch_size=16, epochs=2, validation_data=(3 * x, t), verbose=0)
    assert doctor.journal.losses == losses


def test_examine_puts_buffers_back() -> None:
    x, t = problem()
    model = network()
    model.forward(x[:1], training=False)
    before = {name: array.copy() for name, array in model.buffers.items()}
    assert Doctor().examine(model, nn.SoftmaxCrossEntropy(), x, t) == []
    for name, array in model.buffers.items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


def test_a_loop_by_hand_sees_what_the_callback_sees() -> None:
    x, t = problem()
    callback, by_hand = Doctor(verbose=False), Doctor()
    optimizer = kitae.SGD(lr=0.1)
    Trainer(network(), nn.SoftmaxCrossEntropy(), optimizer, callbacks=[callback]).fit(
        x, t, epochs=5, batch_size=64, shuffle=False, seed=1, verbose=0
    )
    model, loss = network(), nn.SoftmaxCrossEntropy()
    model.forward(x[:1], training=False)
    optimizer = kitae.SGD(model.params, lr=0.1)
    by_hand.watch(model, loss, optimizer)
    for _ in range(5):
        with by_hand.step(x, t):
            loss.forward(model.forward(x), t)
            model.backward(loss.backward())
            optimizer.step(model.grads)
    assert by_hand.journal.losses == callback.journal.losses
    assert [look.step for look in by_hand.journal.looks] == [0, 1, 2, 4]
    for mine, theirs in zip(by_hand.journal.looks, callback.journal.looks, strict=True):
        for layer, other in zip(mine.layers, theirs.layers, strict=True):
            np.testing.assert_array_equal(layer.output, other.output)
            np.testing.assert_array_equal(layer.dout, other.dout)


def test_update_ratio_by_hand() -> None:
    """Update (0, 0.3, -0.4, 0) on (3, 0, 0, 4): norms 0.5 and 5, absolute sums 0.7 and 7."""
    noted = ParameterLook("W", 2, (2, 2), None, gradient=np.array([0.0, 1.0, 1.0, 1.0]))
    before = np.array([3.0, 0.0, 0.0, 4.0])
    compare(noted, before, np.array([3.0, 0.3, -0.4, 4.0]))
    assert noted.ratio_l2 == pytest.approx(0.1, rel=1e-15)  # double arithmetic on numbers of one digit
    assert noted.ratio_mean == pytest.approx(0.1, rel=1e-15)
    assert noted.lost == pytest.approx(1 / 3, rel=1e-15)  # the last has a gradient and did not move


def test_a_ratio_of_overflowed_norms_is_infinite() -> None:
    """A NaN would compare as nothing, and hide the largest learning rates."""
    weights = ParameterLook("W", 2, (1, 2), None, gradient=np.ones(2, np.float32))
    compare(weights, np.full(2, 1e30, np.float32), np.full(2, -1e30, np.float32))
    look = Look(0, [LayerLook("0", "Dense", None, frozenset(), parameters={"W": weights})])
    assert ratios(look) == {"0 Dense": np.inf}


def test_gain_by_hand() -> None:
    """Weights of -0.5 and 0.5 in equal numbers have deviation 0.5; 16 inputs make it 2. A 3x3 convolution of 4
    channels has 36."""
    values = np.array([-0.5, 0.5] * 8)
    assert gain(ParameterLook("W", 2, (16, 5), values)) == pytest.approx(2.0, rel=1e-15)
    assert gain(ParameterLook("W", 4, (8, 4, 3, 3), values)) == pytest.approx(3.0, rel=1e-15)


def test_labels_by_hand() -> None:
    """log ratios 0, 1 and 3: the label is right; has 37 % and 5 % of the prediction's probability."""
    logits = np.array([[2.0, 0.0], [0.0, 1.0], [0.0, 3.0]], np.float32)
    look = look_at_labels("SoftmaxCrossEntropy", logits, np.array([0, 0, 0]), 5, 0.1)
    assert look is not None
    assert (look.samples, look.right, look.against) == (3, 1 / 3, 1 / 3)


def test_inputs_by_hand() -> None:
    x = np.zeros((200, 3))
    x[:, 0] = 5.0
    x[::2, 1] = 2.0
    look = look_at_inputs(x, np.zeros(200))
    assert (look.low, look.high, look.constant, look.constant_nonzero) == (0.0, 5.0, (0, 2), (0,))
    assert look.rms == pytest.approx(3.0, rel=1e-15)  # sqrt((25 + 2 + 0) / 3)


def test_looks_lie_densely_at_first() -> None:
    steps = [0]
    while steps[-1] < 1000:
        steps.append(next_look(steps[-1], None))
    assert steps == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1012]
    assert [next_look(step, 5) for step in (0, 1, 2, 5)] == [1, 2, 5, 10]


def test_lasting_needs_three_in_a_row() -> None:
    looks = [Look(step, []) for step in range(6)]
    assert lasting(looks, lambda look: "yes" if look.step in (0, 1, 3, 4, 5) else None) == (looks[3], "yes")
    assert lasting(looks, lambda look: "yes" if look.step in (0, 1, 3, 4) else None) is None
    assert lasting(looks[:1], lambda look: "yes") == (looks[0], "yes")


def test_samples_are_spread_over_columns() -> None:
    """An even stride through 64 columns would meet few of them."""
    array = np.tile(np.arange(64), (1024, 1))
    assert set(sample(array)) == set(range(64))
    assert set(sample(np.asfortranarray(array))) == set(range(64))


def test_order_is_causal() -> None:
    late, early = found("zero_weights", None, 5), found("weights_too_small", None, 0)
    note, cause = found("constant_features", None, 0), found("nan_in_inputs", None, 5)
    assert in_causal_order([note, late, cause, early]) == [early, cause, late, note]


def test_sample_and_feature_of_a_nan_in_the_data() -> None:
    x, t = problem()
    x[11, 4] = np.nan
    finding = nonfinite_inputs(x, t, 3)
    assert finding is not None
    assert (finding.name, finding.step) == ("nan_in_inputs", 3)
    assert (finding.evidence["sample_of_batch"], finding.evidence["feature"]) == (11, 4)


def plain(units: int = 4) -> tuple[Any, Any, Any]:
    kitae.seed(3)
    model, loss = nn.Sequential(nn.Dense(units), nn.ReLU(), nn.Dense(3)), nn.SoftmaxCrossEntropy()
    x, _ = problem()
    model.forward(x[:1], training=False)
    return model, loss, kitae.SGD(model.params, lr=0.1)


def step(doctor: Doctor, model: Any, loss: Any, optimizer: Any, change: Any = None) -> None:
    x, t = problem()
    with np.errstate(all="ignore"), doctor.step(x, t):
        loss.forward(model.forward(x), t)
        model.backward(loss.backward())
        if change is not None:
            change()
        optimizer.step(model.grads)


def non_finite(doctor: Doctor) -> tuple[Any, ...]:
    (finding,) = (f for f in doctor.findings if f.name == "non_finite")
    return finding.layer, finding.evidence["tensor"], finding.evidence["index"], finding.step


def test_first_nan_in_a_parameter() -> None:
    model, loss, optimizer = plain()
    doctor = Doctor().watch(model, loss, optimizer)
    step(doctor, model, loss, optimizer)
    model.params["2.W"][3, 1] = np.nan
    step(doctor, model, loss, optimizer)
    assert non_finite(doctor) == ("2 Dense", "parameter W", (3, 1), 1)


def test_first_nan_in_a_gradient() -> None:
    """The gradient of step 1 makes the parameter NaN; the loss shows it at step 2."""
    model, loss, optimizer = plain()
    doctor = Doctor().watch(model, loss, optimizer)
    step(doctor, model, loss, optimizer)

    def spoil() -> None:
        model.grads["0.W"][2, 3] = np.inf

    step(doctor, model, loss, optimizer, spoil)
    step(doctor, model, loss, optimizer)
    assert non_finite(doctor) == ("0 Dense", "gradient of W", (2, 3), 1)


def test_first_nan_in_an_activation() -> None:
    """Weights of 3e38 overflow in the first product."""
    model, loss, optimizer = plain()
    model.params["0.W"][...] = 0
    model.params["0.W"][:, 2] = 3e38
    x, t = problem()
    x[...] = 1
    doctor = Doctor().watch(model, loss, optimizer)
    with np.errstate(all="ignore"), doctor.step(x, t):
        loss.forward(model.forward(x), t)
    assert non_finite(doctor) == ("0 Dense", "activation", (0, 2), 0)


def test_looking_for_the_first_nan_leaves_buffers_alone() -> None:
    """The batch is passed once more; batch norm's statistics and dropout's count are those of one pass."""
    x, t = problem()
    buffers = []
    for watched in (False, True):
        model, loss = network(), nn.SoftmaxCrossEntropy()
        model.forward(x[:1], training=False)
        model.params["4.W"][:, 0] = 3e38
        doctor = Doctor().watch(model, loss)
        with np.errstate(all="ignore"):
            if watched:
                with doctor.step(x, t):
                    loss.forward(model.forward(x), t)
                assert non_finite(doctor)[:2] == ("4 Dense", "activation")
            else:
                loss.forward(model.forward(x), t)
        buffers.append({name: array.copy() for name, array in model.buffers.items() if "seed" not in name})
    for name, array in buffers[0].items():
        np.testing.assert_array_equal(array, buffers[1][name], err_msg=name)


def test_first_nan_where_a_layer_refuses_it() -> None:
    """Batch norm raises before there is a loss."""
    x, t = problem()
    x[5, 1] = np.inf
    doctor = Doctor(verbose=False)
    trainer = Trainer(network(), nn.SoftmaxCrossEntropy(), kitae.SGD(lr=0.1), callbacks=[doctor])
    with pytest.raises(FloatingPointError), np.errstate(all="ignore"):
        trainer.fit(x, t, batch_size=64, shuffle=False, verbose=0)
    assert names(doctor)[0] == "nan_in_inputs"
    assert doctor.findings[0].evidence["sample_of_batch"] == 5


def test_first_nan_where_the_optimizer_refuses_it() -> None:
    model, loss, _ = plain()
    optimizer = kitae.SGD(model.params, lr=0.1, max_norm=1.0)
    doctor = Doctor().watch(model, loss, optimizer)

    def spoil() -> None:
        model.grads["2.W"][0, 1] = np.nan

    with pytest.raises(FloatingPointError):
        step(doctor, model, loss, optimizer, spoil)
    assert non_finite(doctor) == ("2 Dense", "gradient of W", (0, 1), 0)


def test_statistics_that_change_in_a_test() -> None:
    x, _ = problem()
    model, loss = network(), nn.SoftmaxCrossEntropy()
    model.forward(x)
    doctor = Doctor().watch(model, loss)
    with doctor.testing():
        model.forward(x, training=False)
    assert names(doctor) == []
    with doctor.testing():
        model.forward(x, training=True)
    assert names(doctor) == ["leaked_batch_norm_statistics"]


def test_batch_norm_on_a_tiny_batch() -> None:
    x, t = problem(4)
    assert [f.name for f in Doctor().examine(network(), nn.SoftmaxCrossEntropy(), x, t)] == ["batch_too_small"]


def test_equal_weights() -> None:
    model = nn.Sequential(nn.Dense(5, init=lambda shape, rng: np.full(shape, 0.3)), nn.Tanh(), nn.Dense(3))
    x, t = problem()
    (finding,) = Doctor().examine(model, nn.SoftmaxCrossEntropy(), x, t)
    assert (finding.name, finding.layer) == ("equal_weights", "0 Dense")


def test_zeros_in_the_last_layer_alone_are_fine() -> None:
    model = nn.Sequential(nn.Dense(5), nn.Tanh(), nn.Dense(3, init=lambda shape, rng: np.zeros(shape)))
    x, t = problem()
    assert Doctor().examine(model, nn.SoftmaxCrossEntropy(), x, t) == []


def test_targets_that_the_output_cannot_reach() -> None:
    model = nn.Sequential(nn.Dense(5), nn.Tanh(), nn.Dense(1), nn.Tanh())
    x, _ = problem()
    t = np.linspace(-3, 3, 64, dtype=np.float32).reshape(-1, 1)
    (finding,) = Doctor().examine(model, nn.MeanSquaredError(), x, t)
    assert finding.name == "targets_out_of_range"
    assert finding.evidence["share_outside"] == pytest.approx(42 / 64)  # |t| > 1: 21 of 32 on each side


@pytest.mark.parametrize(("width", "expected"), [(3, ["autoencoder_width"]), (8, []), (20, ["autoencoder_width"])])
def test_width_of_an_autoencoder(width: int, expected: list[str]) -> None:
    x = np.random.default_rng(1).standard_normal((64, 20)).astype(np.float32)
    model = nn.Sequential(nn.Dense(width, init="xavier"), nn.Tanh(), nn.Dense(20))
    assert [f.name for f in Doctor().examine(model, nn.MeanSquaredError(), x, x)] == expected


def test_vanishing_gradients_over_depth() -> None:
    kitae.seed(1)
    model = nn.Sequential(
        *[part for _ in range(10) for part in (nn.Dense(8, init="xavier"), nn.Sigmoid())], nn.Dense(3)
    )
    x, t = problem()
    assert "vanishing_gradients" in [f.name for f in Doctor().examine(model, nn.SoftmaxCrossEntropy(), x, t)]


def test_underflow_of_updates() -> None:
    """Updates of 1e-9 of a parameter are lost in float32, whose spacing is 1e-7 of it."""
    weights = ParameterLook("W", 2, (2, 3), np.ones(6, np.float32), ratio_l2=1e-9, lost=0.8)
    layer = LayerLook("0", "Dense", None, frozenset(), parameters={"W": weights})
    from kitae.train.doctor.gradients import check_gradients

    journal = Journal(looks=[Look(0, [layer])])
    assert [f.name for f in check_gradients(journal, Limits())] == ["underflow"]


def test_report_is_a_table() -> None:
    x, t = problem(4)
    doctor = Doctor()
    assert doctor.report() == "no findings"
    doctor.examine(network(), nn.SoftmaxCrossEntropy(), x, t)
    header, line, row = doctor.report().splitlines()
    assert header.split()[:4] == ["finding", "severity", "layer", "step"]
    assert set(line) == {"-", " "}
    assert row.startswith("batch_too_small  warning   1 BatchNorm  0     values a channel 4")


def test_report_at_the_end_of_fit(capsys: pytest.CaptureFixture[str]) -> None:
    x, t = problem()
    for verbose in (False, True):
        trainer = Trainer(network(), nn.SoftmaxCrossEntropy(), kitae.SGD(lr=1e-9), callbacks=[Doctor(verbose=verbose)])
        trainer.fit(x, t, epochs=10, batch_size=16, verbose=0)
        assert ("learning_rate_too_low" in capsys.readouterr().out) == verbose


def test_thresholds_of_ones_own() -> None:
    x, t = problem(4)
    doctor = Doctor(thresholds={"small_batch": 2})
    assert doctor.examine(network(), nn.SoftmaxCrossEntropy(), x, t) == []


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"kitae.train.Doctor: every: expected an integer in \[1, "):
        Doctor(every=0)
    with pytest.raises(ValueError, match=r"thresholds: expected names of input_rms.*, got 'nonsense'"):
        Doctor(thresholds={"nonsense": 1})
    with pytest.raises(TypeError, match="thresholds: expected a dict"):
        Doctor(thresholds=[1])  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match=r"expected watch\(model, loss, optimizer\) before, got none"):
        Doctor().end_epoch({})
    with pytest.raises(RuntimeError, match="journal: expected a run that was watched, got none yet"):
        Doctor().journal  # noqa: B018


def test_another_callback_may_read_findings_in_a_step() -> None:
    class Reader(Callback):
        def on_train_batch_begin(self, batch: int, logs: Any) -> None:
            assert doctor.findings == []

        on_train_batch_end = on_train_batch_begin

    x, t = problem()
    doctor = Doctor(verbose=False)
    trainer = Trainer(network(), nn.SoftmaxCrossEntropy(), kitae.SGD(lr=0.1), callbacks=[doctor, Reader()])
    trainer.fit(x, t, batch_size=16, verbose=0)
    assert len(doctor.journal.losses) == 4


def test_every_kind_and_threshold_is_documented() -> None:
    from pathlib import Path

    page = (Path(__file__).resolve().parents[1] / "docs" / "techniques" / "doctor.md").read_text()
    for name in (*KINDS, *THRESHOLDS):
        assert f"`{name}`" in page, name
