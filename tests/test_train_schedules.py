"""Schedules: PyTorch's rates value by value, Keras's formula, hand-worked numbers, and what a trainer makes of them."""

import math

import numpy as np
import pytest

import kitae
import kitae.nn
import kitae.train
from kitae.train import (
    Constant,
    Cosine,
    CosineRestarts,
    Exponential,
    InverseTime,
    Linear,
    Map,
    MultiStep,
    OneCycle,
    Polynomial,
    Sequence,
    Step,
    WarmUp,
)

BASE = 0.3
STEPS = 400

# Ours, PyTorch's name and arguments, steps to compare: PyTorch's cosine turns round at its end, its cycle raises.
PEERS = {
    "step": (Step(30, 0.7), "StepLR", {"step_size": 30, "gamma": 0.7}, STEPS),
    "multi_step": (
        MultiStep([200, 7, 8, 90], 0.5),
        "MultiStepLR",
        {"milestones": [7, 8, 90, 200], "gamma": 0.5},
        STEPS,
    ),
    "exponential": (Exponential(0.98), "ExponentialLR", {"gamma": 0.98}, STEPS),
    "polynomial": (Polynomial(250, 1.7), "PolynomialLR", {"total_iters": 250, "power": 1.7}, STEPS),
    "linear": (Linear(120, 0.2, 0.9), "LinearLR", {"start_factor": 0.2, "end_factor": 0.9, "total_iters": 120}, STEPS),
    "linear_default": (Linear(5), "LinearLR", {}, STEPS),
    "cosine": (Cosine(300, 0.01), "CosineAnnealingLR", {"T_max": 300, "eta_min": 0.01}, 300),
    "cosine_restarts": (
        CosineRestarts(10, 2, 0.001),
        "CosineAnnealingWarmRestarts",
        {"T_0": 10, "T_mult": 2, "eta_min": 0.001},
        STEPS,
    ),
    "cosine_restarts_equal": (CosineRestarts(37), "CosineAnnealingWarmRestarts", {"T_0": 37}, STEPS),
    "one_cycle": (OneCycle(STEPS), "OneCycleLR", {"max_lr": BASE, "total_steps": STEPS}, STEPS),
    "one_cycle_other": (
        OneCycle(333, 0.05, rise=0.45, start_divisor=7.0, end_divisor=50.0),
        "OneCycleLR",
        {"max_lr": 0.05, "total_steps": 333, "pct_start": 0.45, "div_factor": 7.0, "final_div_factor": 50.0},
        333,
    ),
}


def torch_rates(make, steps):
    import torch

    optimizer = torch.optim.SGD([torch.zeros(1)], lr=BASE)
    scheduler = make(torch.optim.lr_scheduler, optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(rates) < steps:
            scheduler.step()
    return rates


@pytest.mark.requires_torch
@pytest.mark.parametrize("name", PEERS)
def test_pytorch_rates(name):
    schedule, peer, arguments, steps = PEERS[name]
    expected = torch_rates(lambda module, optimizer: getattr(module, peer)(optimizer, **arguments), steps)
    rates = [schedule.lr_at(step, BASE) for step in range(steps)]
    # PyTorch multiplies step after step, so it is the one that drifts: one rounding a step, each within eps / 2.
    np.testing.assert_allclose(rates, expected, rtol=steps * 2.3e-16, atol=steps * 2.3e-16 * BASE)


@pytest.mark.requires_torch
@pytest.mark.filterwarnings("ignore:The epoch parameter in:UserWarning")  # PyTorch's own call within SequentialLR
def test_pytorch_sequence():
    def make(module, optimizer):
        parts = [module.LinearLR(optimizer, 0.1, 1.0, 20), module.ExponentialLR(optimizer, 0.9)]
        return module.SequentialLR(optimizer, parts, milestones=[20])

    schedule = Sequence([Linear(20, 0.1), Exponential(0.9)], [20])
    rates = [schedule.lr_at(step, BASE) for step in range(200)]
    np.testing.assert_allclose(rates, torch_rates(make, 200), rtol=1e-13)  # as above, 200 roundings of eps / 2


def test_inverse_time_is_keras_formula():
    """InverseTimeDecay: initial / (1 + decay_rate * step / decay_steps), floor if staircase."""
    assert InverseTime(0.5).lr_at(2, 0.1) == 0.1 / 2
    assert InverseTime(0.5, 4).lr_at(6, 0.1) == 0.1 / 1.75
    assert InverseTime(0.5, 4, staircase=True).lr_at(6, 0.1) == 0.1 / 1.5


def test_polynomial_ends_at_its_end():
    """keras.optimizers.schedules.PolynomialDecay: (0.1 - 0.02) * (1 - 5 / 10)^2 + 0.02 = 0.04."""
    schedule = Polynomial(10, 2.0, end=0.02)
    assert schedule.lr_at(5, 0.1) == pytest.approx(0.04, rel=1e-15)
    assert schedule.lr_at(10, 0.1) == schedule.lr_at(1000, 0.1) == 0.02


@pytest.mark.parametrize(
    ("schedule", "last"), [(Cosine(50, 0.01), 0.01), (Linear(50), BASE), (OneCycle(50), BASE / 25e4)]
)
def test_rate_stays_after_the_end(schedule, last):
    assert schedule.lr_at(50, BASE) == pytest.approx(last, rel=1e-12)
    assert schedule.lr_at(10**6, BASE) == schedule.lr_at(50, BASE)


def test_map_of_iterations():
    schedule = Map({10: 0.01, 3: 0.05})
    assert schedule.per == "iteration"
    assert [schedule.lr_at(step, BASE) for step in (0, 2, 3, 9, 10, 99)] == [BASE, BASE, 0.05, 0.05, 0.01, 0.01]


def test_warm_up():
    schedule = WarmUp(Step(2, 0.5), 4)
    rates = [schedule.lr_at(step, 1.0) for step in range(8)]
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 0.5, 0.5]
    assert WarmUp(None, 2).per == "iteration"
    assert [Constant(0.5).lr_at(step, 1.0) for step in (0, 9)] == [0.5, 0.5]


def test_workers_divide_counts_of_iterations():
    alone = Step(12, 0.5, per="iteration")
    four = Step(12, 0.5, per="iteration", workers=4)
    assert [four.lr_at(step, 1.0) for step in range(9)] == [alone.lr_at(4 * step, 1.0) for step in range(9)]
    assert [four.lr_at(step, 1.0) for step in (2, 3, 5, 6)] == [1.0, 0.5, 0.5, 0.25]
    epochs = Step(12, 0.5, workers=4)
    assert epochs.lr_at(11, 1.0) == 1.0  # an epoch stays an epoch


def trained(schedule, optimizer, epochs=3, **keywords):
    """The learning rates of every update of a small run: 3 updates an epoch."""
    seen = []

    class Watch(kitae.train.Callback):
        def on_train_batch_end(self, batch, logs):
            seen.append([group["lr"] for group in self.trainer.optimizer.groups])

    kitae.seed(0)
    model = kitae.nn.Sequential(kitae.nn.Dense(4, inputs=3), kitae.nn.Dense(2, inputs=4))
    if callable(optimizer):
        optimizer = optimizer(model)
    x = np.linspace(-1, 1, 18, dtype=np.float32).reshape(6, 3)
    trainer = kitae.train.Trainer(
        model, "softmax_cross_entropy", optimizer, schedule=schedule, callbacks=[Watch()], **keywords
    )
    trainer.fit(x, np.arange(6) % 2, epochs=epochs, batch_size=2, verbose=0)
    return seen, trainer


def test_trainer_steps_by_epoch_and_by_iteration():
    by_epoch, trainer = trained(Exponential(0.5), kitae.SGD(lr=1.0))
    assert by_epoch == [[1.0]] * 3 + [[0.5]] * 3 + [[0.25]] * 3
    assert trainer.history.history["lr"] == [1.0, 0.5, 0.25]
    by_iteration, trainer = trained(Exponential(0.5, per="iteration"), kitae.SGD(lr=1.0), epochs=1)
    assert by_iteration == [[1.0], [0.5], [0.25]]
    assert trainer.history.history["lr"] == [0.25]


def test_several_updates_a_minibatch_are_several_iterations():
    seen, trainer = trained(Exponential(0.5, per="iteration"), kitae.SGD(lr=1.0), epochs=1, iterations_per_batch=2)
    assert seen == [[0.5], [0.125], [0.03125]]  # after the second update of each batch
    assert (trainer.epoch, trainer.iteration, trainer.samples) == (1, 6, 6)


@pytest.mark.parametrize("schedule", [Exponential(0.5, per="iteration"), Map({0: 1.0, 1: 0.5, 2: 0.25})])
def test_groups_keep_their_ratio(schedule):
    """The rate is that of the group with the highest base rate, in any order of groups."""

    def optimizer(model):
        params = model.params
        body = {name: params[name] for name in ("0.W", "0.b")}
        head = {name: params[name] for name in ("1.W", "1.b")}
        return kitae.SGD([{"params": body, "lr": 0.01}, {"params": head, "lr": 1.0}])

    seen, _ = trained(schedule, optimizer, epochs=1)
    assert seen == [[0.01, 1.0], [0.005, 0.5], [0.0025, 0.25]]


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda: Step(0), ValueError, "train.Step: size: expected an integer in"),
        (lambda: Step(2.0), TypeError, "train.Step: size"),
        (lambda: Exponential(-0.1), ValueError, "train.Exponential: gamma"),
        (lambda: Exponential(math.nan), ValueError, "train.Exponential: gamma"),
        (lambda: Exponential(per="batch"), ValueError, "train.Exponential: per: expected one of 'epoch', 'iteration'"),
        (lambda: Exponential(workers=0), ValueError, "train.Exponential: workers"),
        (lambda: Exponential(0.9, every="epoch"), TypeError, "every"),
        (lambda: MultiStep([3, -1]), ValueError, r"train.MultiStep: milestones\[1\]"),
        (lambda: OneCycle(1), ValueError, "train.OneCycle: total"),
        (lambda: OneCycle(2, rise=0.5), ValueError, "train.OneCycle: rise"),
        (lambda: Map([0.1]), TypeError, "train.Map: rates: expected a dict"),
        (lambda: Map({0: -1.0}), ValueError, "train.Map: rates"),
        (lambda: Sequence([], []), TypeError, "train.Sequence: schedules"),
        (lambda: Sequence([Constant(), Constant(per="iteration")], [1]), ValueError, r"train.Sequence: schedules\[1\]"),
        (lambda: Sequence([Constant(), Constant()], []), ValueError, "train.Sequence: milestones: expected 1 rising"),
        (lambda: WarmUp(0.1, 3), TypeError, "train.WarmUp: schedule"),
        (lambda: WarmUp(None, 0), ValueError, "train.WarmUp: steps"),
    ],
)
def test_bad_input(make, kind, words):
    with pytest.raises(kind, match=words):
        make()


def test_trainer_refuses_what_is_no_schedule():
    model, optimizer = kitae.nn.Dense(2), kitae.SGD(lr=1.0)
    for schedule in (0.5, Exponential, lambda step: 1.0):
        with pytest.raises(TypeError, match=r"train.Trainer: schedule: expected a schedule"):
            kitae.train.Trainer(model, "softmax_cross_entropy", optimizer, schedule=schedule)
