"""train.TruncatedBPTT: gradients against PyTorch and finite differences, from a constant state; what is carried on."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import kitae
from kitae import nn
from kitae.train import Trainer, TruncatedBPTT
from mistakes import assert_named
from test_nn_recurrent import GRADIENT_TOLERANCE, numerical_gradient, random, torch_twin

BATCH, TIME, INPUTS, UNITS, CLASSES = 2, 10, 3, 4, 5
# forward = backward, > and <; each with a last segment that is shorter, and one that is not.
LENGTHS = [(4, 4), (2, 5), (3, 4), (4, 1), (5, 3), (1, 1), (20, 20), (3, 50)]


def network(rng, cell=nn.LSTM, **keywords):
    layers = [random(rng, cell(UNITS, return_sequences=True, stateful=True, **keywords), INPUTS)]
    layers += [random(rng, nn.SimpleRNN(UNITS, return_sequences=True, stateful=True), UNITS)]
    model = nn.Sequential(*layers, nn.TimeDistributed(nn.Dense(CLASSES)))
    model.build((1, 1, INPUTS), np.float64)
    for name in ("2.layer.W", "2.layer.b"):
        model.params[name][...] = rng.standard_normal(model.params[name].shape)
    return model


def problem(rng):
    return rng.standard_normal((BATCH, TIME, INPUTS)), rng.integers(0, CLASSES, (BATCH, TIME))


def cross_entropy():
    return nn.TimeDistributedLoss(nn.SoftmaxCrossEntropy())


@pytest.mark.requires_torch
@pytest.mark.parametrize(("forward", "backward"), LENGTHS)
def test_gradients_are_pytorchs_with_a_constant_state(forward, backward, rng):
    """All weights stay as they are, so that every state is that of one pass over the whole sequence."""
    import torch

    model, (x, t) = network(rng), problem(rng)
    lstm, rnn, _ = model.layers
    twins = torch_twin(lstm, "LSTM", "float64"), torch_twin(rnn, "SimpleRNN", "float64")
    W, b = (torch.from_numpy(model.params[f"2.layer.{name}"]).requires_grad_() for name in ("W", "b"))
    theirs_x, theirs_t = torch.from_numpy(x), torch.from_numpy(t)
    seen = 0
    for step in TruncatedBPTT(forward, backward).backpropagate(model, cross_entropy(), x, t):
        start, stop = seen, min(seen + forward, TIME)
        # Steps before this one are constants.
        constant = max(0, start - (backward - forward) if backward >= forward else stop - backward)
        constant = max(constant, start) if backward < forward else constant
        for parameter in (*twins[0].parameters(), *twins[1].parameters(), W, b):
            parameter.grad = None
        states: list = [None, None]
        parts = []
        if constant:
            with torch.no_grad():
                y, states[0] = twins[0](theirs_x[:, :constant])
                y, states[1] = twins[1](y)
            parts.append(y)
        y, _ = twins[0](theirs_x[:, constant:stop], states[0])
        y, _ = twins[1](y, states[1])
        outputs = torch.cat([*parts, y], 1)[:, start:] @ W + b
        value = torch.nn.functional.cross_entropy(outputs.reshape(-1, CLASSES), theirs_t[:, start:stop].reshape(-1))
        value.backward()
        assert step.loss == pytest.approx(value.item(), rel=1e-12)
        assert step.counted == BATCH * (stop - start)
        np.testing.assert_array_equal(step.targets, t[:, start:stop])
        np.testing.assert_allclose(step.outputs, outputs.detach().numpy(), rtol=1e-11, atol=1e-12)
        expected = {"2.layer.W": W.grad, "2.layer.b": b.grad}
        for i, twin in enumerate(twins):
            expected |= {f"{i}.W": twin.weight_ih_l0.grad.T, f"{i}.U": twin.weight_hh_l0.grad.T}
            expected[f"{i}.b"] = twin.bias_ih_l0.grad
        assert list(model.grads) == sorted(expected, key=list(model.params).index)
        for name, gradient in expected.items():
            np.testing.assert_allclose(model.grads[name], gradient.numpy(), rtol=1e-10, atol=1e-12, err_msg=name)
        seen = stop
    assert seen == TIME


@pytest.mark.parametrize(("forward", "backward"), [(4, 4), (2, 5), (4, 2)])
@pytest.mark.parametrize("cell", [nn.SimpleRNN, nn.LSTM, nn.GRU])
def test_gradients_match_finite_differences_from_a_constant_state(cell, forward, backward, rng):
    """The recurrent layer's own, of one layer: the loss of the steps that its gradient may know of."""
    layer = random(rng, cell(UNITS, return_sequences=True, stateful=True), INPUTS)
    x, (start, stop) = rng.standard_normal((BATCH, TIME, INPUTS)), (4, 8) if forward == 4 else (6, 8)
    weights = rng.standard_normal((BATCH, TIME, UNITS))
    twin = cell(UNITS, return_sequences=True)
    twin.build((1, 1, INPUTS), np.float64)
    for name, param in layer.params.items():
        twin.params[name][...] = param
    twin.forward(x)
    constant = stop - backward
    state = twin.state_after(constant)
    own = max(start, constant)

    class Weighted:
        """sum of outputs * weights, so the gradient at each step is known."""

        def forward(self, outputs, targets):
            self.weights = targets
            return float(np.sum(outputs * targets))

        def backward(self):
            return self.weights

    steps = TruncatedBPTT(forward, backward).backpropagate(layer, Weighted(), x, weights)
    for step in steps:
        if step.targets is not None and np.shares_memory(step.targets, weights[:, start:stop]):
            break
    steps.close()

    def loss():
        y = twin.forward(x[:, constant:stop], initial_state=state)
        return float(np.sum(y[:, own - constant :] * weights[:, own:stop]))

    for name, param in twin.params.items():
        expected = numerical_gradient(loss, param)
        np.testing.assert_allclose(layer.grads[name], expected, **GRADIENT_TOLERANCE, err_msg=name)
    assert layer.backward_steps is None


def by_hand(model, optimizer, x, t, forward):
    loss, values = cross_entropy(), []
    for layer in model.layers[:2]:
        layer.reset_state()
    for x_segment, t_segment in TruncatedBPTT(forward).segments(x, t):
        values.append(loss.forward(model.forward(x_segment), t_segment) * x_segment.shape[1])
        model.backward(loss.backward())
        optimizer.step(model.grads)
    return sum(values) / x.shape[1]


def test_train_batch_is_the_loop_by_hand(rng):
    seed = int(rng.integers(2**31))
    models = [network(np.random.default_rng(seed)) for _ in range(2)]
    optimizers = kitae.Adam(models[0].params, lr=0.01), kitae.Adam(lr=0.01)
    for _ in range(3):
        x, t = problem(rng)
        expected = by_hand(models[0], optimizers[0], x, t, 4)
        value = TruncatedBPTT(4, 4).train_batch(models[1], cross_entropy(), optimizers[1], x, t)
        assert value == pytest.approx(expected, rel=1e-14)
    assert optimizers[1].steps == 9
    for name, param in models[0].params.items():
        np.testing.assert_array_equal(models[1].params[name], param)


def test_overlapping_passes_begin_in_states_of_the_weights_of_then(rng):
    """backward > forward, with updates: the states carried are those computed before the update."""
    seed = int(rng.integers(2**31))
    model, twin = (network(np.random.default_rng(seed)) for _ in range(2))
    x, t = problem(rng)
    optimizer, loss = kitae.SGD(model.params, lr=0.5), cross_entropy()
    TruncatedBPTT(2, 5).train_batch(model, loss, optimizer, x, t)
    layers, other = twin.layers[:2], kitae.SGD(twin.params, lr=0.5)
    for layer in layers:
        layer.stateful = False
    states = [(np.zeros((BATCH, UNITS)),) * len(layer.states) for layer in layers]
    for start in range(0, TIME, 2):
        window, following = max(0, start - 3), max(0, start - 1)
        for layer, state in zip(layers, states, strict=True):
            layer.set_state(*state)
        outputs = twin.forward(x[:, window : start + 2])
        loss.forward(outputs[:, start - window :], t[:, start : start + 2])
        states = [layer.state_after(following - window) for layer in layers]
        dout = np.zeros_like(outputs)
        dout[:, start - window :] = loss.backward()
        twin.backward(dout)
        other.step(twin.grads)
    for name, param in twin.params.items():
        np.testing.assert_allclose(model.params[name], param, rtol=1e-12, atol=1e-14, err_msg=name)


def test_one_long_sequence_in_batches(rng):
    seed = int(rng.integers(2**31))
    models = [network(np.random.default_rng(seed)) for _ in range(3)]
    x, t = problem(rng)
    for model, cuts, reset in zip(models, ([0, 10], [0, 4, 10], [0, 4, 10]), (False, False, True), strict=True):
        optimizer = kitae.SGD(model.params, lr=0.1)
        for start, stop in pairwise(cuts):
            TruncatedBPTT(2, reset=reset).train_batch(
                model, cross_entropy(), optimizer, x[:, start:stop], t[:, start:stop]
            )
    for name, param in models[0].params.items():
        np.testing.assert_array_equal(models[1].params[name], param)
    assert not np.array_equal(models[2].params["0.W"], models[0].params["0.W"])


def test_segments_are_views():
    x, t = np.arange(24.0).reshape(2, 6, 2), np.arange(12).reshape(2, 6)
    found = list(TruncatedBPTT(4).segments(x, t))
    assert [(a.shape, b.shape) for a, b in found] == [((2, 4, 2), (2, 4)), ((2, 2, 2), (2, 2))]
    assert all(np.shares_memory(a, x) and np.shares_memory(b, t) for a, b in found)
    np.testing.assert_array_equal(found[1][1], [[4, 5], [10, 11]])


def test_segments_without_a_target_only_carry_the_state(rng):
    model, (x, t) = network(rng), problem(rng)
    t[:, :4] = -1
    t[0, 5] = -1
    loss, optimizer = nn.TimeDistributedLoss(nn.SoftmaxCrossEntropy(), ignore=-1), kitae.Adam(lr=0.0)
    value = TruncatedBPTT(4).train_batch(model, loss, optimizer, x, t)
    assert optimizer.steps == 2
    for layer in model.layers[:2]:
        layer.reset_state()
    # No weight has moved (lr 0), so the mean over all steps is that of one pass.
    assert value == pytest.approx(loss.forward(model.forward(x), t), rel=1e-13)
    assert loss.count == 11
    t[:] = -1
    assert TruncatedBPTT(4).train_batch(model, loss, optimizer, x, t) == 0.0
    assert optimizer.steps == 2


def test_ids_and_layers_inside_layers(rng):
    inner = nn.Sequential(nn.Embedding(UNITS, 6, dtype=float), nn.GRU(UNITS, return_sequences=True, stateful=True))
    model, ids = nn.Sequential(inner, nn.TimeDistributed(nn.Dense(6))), rng.integers(0, 6, (BATCH, TIME))
    optimizer = kitae.Adam(lr=0.05)
    losses = [TruncatedBPTT(3).train_batch(model, cross_entropy(), optimizer, ids, (ids + 1) % 6) for _ in range(60)]
    assert losses[-1] < 0.1 < 1 < losses[0]  # the successor is to be learned, of six: log 6 = 1.8 at the start


def test_backward_steps_are_given_back_when_backward_fails(rng):
    model, (x, t) = network(rng), problem(rng)

    class Failing:
        def forward(self, outputs, targets):
            return 0.0

        def backward(self):
            return np.zeros((1, 1, 1))

    with pytest.raises(ValueError, match="dout"):
        next(TruncatedBPTT(4, 2).backpropagate(model, Failing(), x, t))
    assert model.layers[0].backward_steps is None


X, T = np.ones((2, 6, 3)), np.zeros((2, 6), int)


def train(*layers, x=X, t=T):
    return TruncatedBPTT(2).train_batch(nn.Sequential(*layers), cross_entropy(), kitae.SGD(lr=0.1), x, t)


LAST = {"stateful": True, "return_sequences": False}
MISTAKES = {
    "forward": (lambda: TruncatedBPTT(0), ValueError, ["TruncatedBPTT", "forward", "integer", "0"]),
    "backward": (lambda: TruncatedBPTT(3, 2.0), TypeError, ["TruncatedBPTT", "backward", "integer", "2.0"]),
    "reset": (lambda: TruncatedBPTT(3, reset=1), TypeError, ["TruncatedBPTT", "reset", "True or False", "1"]),
    "x": (lambda: TruncatedBPTT(3).segments([[1]], T), TypeError, ["TruncatedBPTT.segments", "x", "list"]),
    "x flat": (lambda: TruncatedBPTT(3).segments(X[0, 0], T), ValueError, ["x", "(batch, time, ...)", "(3,)"]),
    "t": (lambda: TruncatedBPTT(3).segments(X, T[:, :5]), ValueError, ["t", "(2, 6)", "(2, 5)"]),
    "no steps": (lambda: TruncatedBPTT(3).segments(X[:, :0], T[:, :0]), ValueError, ["x", "time step", "(2, 0, 3)"]),
    "no layer": (lambda: train(nn.Dense(2)), ValueError, ["backpropagate", "model", "recurrent layer", "none"]),
    "stateless": (lambda: train(nn.GRU(2)), ValueError, ["model", "stateful=True", "nn.GRU(2) with stateful=False"]),
    "last step": (lambda: train(nn.GRU(5, **LAST)), ValueError, ["model", "2 steps (return_sequences=True)", "(2, 5)"]),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(mistake):
    assert_named(*MISTAKES[mistake], "kitae.train.TruncatedBPTT")


def test_a_trainer_makes_an_update_a_segment(rng: np.random.Generator) -> None:
    """The same bits as batch by batch by hand; the rate's schedule counts updates."""
    x, t = rng.standard_normal((12, 7, 3)), rng.standard_normal((12, 7, 2))

    def parts() -> tuple[Any, Any, Any]:
        kitae.seed(3)
        model = nn.Sequential(nn.SimpleRNN(4, return_sequences=True, stateful=True), nn.TimeDistributed(nn.Dense(2)))
        return model, nn.TimeDistributedLoss(nn.MeanSquaredError()), TruncatedBPTT(3, 3)

    model, loss, bptt = parts()
    model.forward(x[:1], training=False)
    optimizer = kitae.SGD(model.params, 0.1)
    by_hand = [
        bptt.train_batch(model, loss, optimizer, x[start : start + 4], t[start : start + 4]) for start in (0, 4, 8)
    ]
    other, loss, bptt = parts()
    trainer = Trainer(other, loss, kitae.SGD(lr=0.1), tbptt=bptt)
    history = trainer.fit(x, t, batch_size=4, shuffle=False, verbose=0)
    assert trainer.iteration == 9  # three batches of three segments
    np.testing.assert_allclose(history.history["loss"], [np.mean(by_hand)], rtol=1e-12)
    for name, array in model.params.items():
        np.testing.assert_array_equal(other.params[name], array)
    with pytest.raises(TypeError, match=r"kitae.train.Trainer: tbptt: expected None or a kitae.train.TruncatedBPTT"):
        Trainer(other, loss, kitae.SGD(lr=0.1), tbptt=3)


def test_validation_neither_sees_nor_moves_the_state_of_training(rng: np.random.Generator) -> None:
    """One long sequence in batches: as without validation; and the loss of validation is that from zeros."""
    x, t = rng.standard_normal((8, 6, 3)), rng.standard_normal((8, 6, 2))

    def fitted(**keywords: Any) -> tuple[Trainer, Any]:
        kitae.seed(3)
        model = nn.Sequential(nn.LSTM(4, return_sequences=True, stateful=True), nn.TimeDistributed(nn.Dense(2)))
        loss = nn.TimeDistributedLoss(nn.MeanSquaredError())
        trainer = Trainer(model, loss, kitae.SGD(lr=0.1), tbptt=TruncatedBPTT(3, reset=False))
        return trainer, trainer.fit(x, t, batch_size=4, shuffle=False, verbose=0, epochs=2, **keywords)

    alone, _ = fitted()
    trainer, history = fitted(validation_data=(x[:4], t[:4]))
    for name, array in alone.model.params.items():
        np.testing.assert_array_equal(trainer.model.params[name], array)
    for ours, wanted in zip(trainer.model.layers[0].state, alone.model.layers[0].state, strict=True):
        np.testing.assert_array_equal(ours, wanted)
    alone.model.layers[0].reset_state()
    from_zeros = alone.loss.forward(alone.model.forward(x[:4], training=False), t[:4])
    np.testing.assert_allclose(history.history["val_loss"][-1], from_zeros, rtol=1e-12)
