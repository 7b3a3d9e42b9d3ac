"""Freezing, rates by layer, new last layers, frozen statistics; the learning-rate search leaves all as it was."""

import math

import numpy as np
import pytest

import kitae
import kitae.nn
from kitae import train
from kitae.data.batches import permutation
from kitae.train import Trainer


def data():
    rng = np.random.default_rng(5)
    return rng.standard_normal((40, 6)).astype(np.float32), rng.integers(0, 3, 40)


def network():
    kitae.seed(2)
    layers = [kitae.nn.Dense(8), kitae.BatchNorm(activation="relu"), kitae.Dropout(0.2), kitae.nn.Dense(3)]
    model = kitae.nn.Sequential(*layers)
    model.build((1, 6), np.float32)
    return model


def fit(model, optimizer, epochs=2, **keywords):
    trainer = Trainer(model, "softmax_cross_entropy", optimizer, **keywords)
    trainer.fit(*data(), epochs=epochs, batch_size=16, seed=1, verbose=0)
    return trainer


def bits(arrays):
    return {name: array.tobytes() for name, array in arrays.items()}


OPTIMIZERS = {
    "momentum": lambda: kitae.Momentum(lr=0.1, weight_decay=0.1),
    "adam": lambda: kitae.Adam(lr=0.1, weight_decay=0.1, max_norm=0.5),
    "adamw": lambda: kitae.AdamW(lr=0.1, weight_decay=0.1),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_frozen_parameters_keep_their_bits(make):
    """And what trains, trains as if the frozen ones were not in the optimizer."""
    model = network()
    start = bits(model.params)
    assert train.freeze(model, "0.*", "1.g*") == ["0.W", "0.b", "1.gamma"]
    fit(model, make())
    end = bits(model.params)
    assert [name for name in end if end[name] == start[name]] == ["0.W", "0.b", "1.gamma"]

    alone = network()
    optimizer = make()
    optimizer.attach({name: alone.params[name] for name in ("1.beta", "3.W", "3.b")})
    fit(alone, optimizer)
    assert bits(alone.params) == end


def test_unfreeze_goes_on_with_state():
    """Gradual unfreezing: the head's state is kept, the body's starts at its first step."""
    model = network()
    train.freeze(model, "0.*")
    trainer = fit(model, kitae.Adam(lr=0.01))
    head = trainer.optimizer.state_dict()["slots"]["m"][4].copy()
    assert train.unfreeze(model, "*") == list(model.params)
    assert train.frozen_names(model) == frozenset()
    start = bits(model.params)
    trainer.fit(*data(), epochs=1, batch_size=40, shuffle=False, verbose=0)
    assert bits(model.params)["0.W"] != start["0.W"]
    gradient = model.grads["3.W"]
    m = trainer.optimizer.state_dict()["slots"]["m"][4]
    # one update after `head`: m = 0.9 m + 0.1 g, three float32 roundings
    np.testing.assert_allclose(m, 0.9 * head + 0.1 * gradient, rtol=1e-5, atol=1e-7)


def test_trainable_gradients_in_a_loop_of_ones_own():
    model, optimizer = network(), kitae.SGD(lr=0.1)
    train.freeze(model, "3.*")
    optimizer.attach(model.params)
    loss = kitae.nn.SoftmaxCrossEntropy()
    x, y = data()
    start = bits(model.params)
    loss.forward(model.forward(x), y)
    model.backward(loss.backward())
    optimizer.step(train.trainable_gradients(model))
    end = bits(model.params)
    assert [name for name in end if end[name] == start[name]] == ["3.W", "3.b"]


def test_parameter_groups():
    model = network()
    groups = train.parameter_groups(model, {"0.*": 1e-2, "*.W": 0.5, "*": 1.0}, lr=0.1)
    assert [list(group["params"]) for group in groups] == [["0.W", "0.b"], ["3.W"], ["1.gamma", "1.beta", "3.b"]]
    assert [group["lr"] for group in groups] == [0.1 * 1e-2, 0.05, 0.1]
    start = {name: array.copy() for name, array in model.params.items()}
    fit(model, kitae.SGD(groups), epochs=0)
    x, y = data()
    trainer = Trainer(model, "softmax_cross_entropy", kitae.SGD(groups))
    trainer.fit([(x, y)], epochs=1, verbose=0)
    for name, rate in (("0.W", 0.001), ("3.W", 0.05), ("3.b", 0.1)):
        # w - lr g in float32: two roundings
        expected = start[name] - rate * model.grads[name]
        np.testing.assert_allclose(model.params[name], expected, rtol=3e-7, atol=1e-7)


def test_frozen_statistics():
    """The running statistics normalize in training too, and stay; gamma and beta learn."""
    model = network()
    fit(model, kitae.SGD(lr=0.1))
    norm = model.layers[1]
    buffers = bits(norm.buffers)
    assert train.freeze_statistics(model) == 1
    x = np.random.default_rng(0).standard_normal((9, 8)).astype(np.float32) * 3
    np.testing.assert_array_equal(norm.forward(x, training=True), norm.forward(x, training=False))
    gamma = norm.params["gamma"].copy()
    fit(model, kitae.SGD(lr=0.1))
    assert bits(norm.buffers) == buffers
    assert (norm.params["gamma"] != gamma).any()
    train.freeze_statistics(model, frozen=False)
    norm.forward(x, training=True)
    assert bits(norm.buffers) != buffers


def test_inside_blocks():
    """Names and layers are found inside of composite layers."""

    def block():
        return kitae.nn.Sequential(kitae.nn.Dense(4), kitae.BatchNorm())

    norms = [block(), block()]
    model = kitae.nn.Sequential(kitae.nn.Residual(norms[0]), kitae.nn.Branches(norms[1], kitae.nn.Dense(3)))
    model.build((1, 4), np.float32)
    assert train.freeze_statistics(model) == 2
    assert all(block.layers[1].frozen_statistics for block in norms)
    names = [name for name in model.params if name.startswith("0.")]
    assert train.freeze(model, "0.*") == names
    assert len(names) == 4


def test_backward_through_frozen_statistics():
    """dx = gamma dout / sqrt(running_var + eps): the statistics are constants."""
    norm = kitae.BatchNorm(2, dtype=np.float64)
    norm.frozen_statistics = True
    norm.params["gamma"][...] = [2.0, 3.0]
    norm.buffers["running_var"][...] = [3.99999, 0.24999]  # plus eps, 1e-5: 4 and 0.25
    norm.forward(np.ones((3, 2)), training=True)
    np.testing.assert_allclose(
        norm.backward(np.ones((3, 2))), [[1.0, 6.0]] * 3, rtol=1e-12
    )  # a few roundings of double


def test_replace_last_layers():
    old = network()
    fit(old, kitae.SGD(lr=0.1))
    start = bits(old.params)
    new = train.replace_last_layers(old, 1, [kitae.nn.Dense(4), kitae.nn.ReLU(), kitae.nn.Dense(2)])
    assert new.layers[:3] == old.layers[:3]
    assert new.forward(data()[0]).shape == (40, 2)
    assert bits(old.params) == start
    assert new.params["0.W"] is old.params["0.W"]
    assert new.params["3.W"].shape == (8, 4)


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (
            lambda m: train.freeze(m, "9.*"),
            ValueError,
            r"train.freeze: patterns\[0\]: expected one that matches any of",
        ),
        (lambda m: train.freeze(m, "0.*", 3), TypeError, r"train.freeze: patterns\[1\]"),
        (lambda m: train.unfreeze(m, "x"), ValueError, r"train.unfreeze: patterns\[0\]"),
        (lambda m: train.freeze(kitae.nn.Dense(3), "*"), ValueError, "train.freeze: model: expected a built model"),
        (lambda m: train.parameter_groups(m, {"0.*": 1.0}, lr=0.1), ValueError, "a pattern that matches '1.gamma'"),
        (lambda m: train.parameter_groups(m, {"*": 1, "0.*": 0.1}, lr=0.1), ValueError, "factors: expected patterns"),
        (lambda m: train.parameter_groups(m, {"*": -1}, lr=0.1), ValueError, r"factors\['\*'\]"),
        (lambda m: train.parameter_groups(m, ["*"], lr=0.1), TypeError, "factors: expected a dict"),
        (
            lambda m: train.replace_last_layers(m, 5, []),
            ValueError,
            r"train.replace_last_layers: n: .* \[1, 4\], got 5",
        ),
        (lambda m: train.replace_last_layers(kitae.nn.ReLU(), 1, []), TypeError, "train.replace_last_layers: model"),
    ],
)
def test_bad_input(call, kind, words):
    model = network()
    with pytest.raises(kind, match=words):
        call(model)
    assert train.frozen_names(model) == frozenset()


# The learning-rate search.


def everything(model, optimizer):
    state = optimizer.state_dict() if optimizer.groups else {"slots": {}, "steps": 0, "groups": []}
    slots = {f"{n}{i}": a for n, values in state["slots"].items() for i, a in enumerate(values)}
    return bits({**model.params, **model.buffers, **slots}), state["steps"], state["groups"]


def search(name, model, optimizer, **keywords):
    x, y = data()
    return getattr(train, name)(model, "softmax_cross_entropy", optimizer, x, y, batch_size=8, **keywords)


@pytest.mark.parametrize("name", ["learning_rate_range_test", "compare_learning_rates"])
@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("nonfinite", ["raise", "propagate"])
def test_search_leaves_everything(name, attached, nonfinite):
    model, optimizer = network(), kitae.Adam(lr=0.01, max_norm=1.0, nonfinite=nonfinite)
    if attached:
        fit(model, optimizer)
    before, generator = everything(model, optimizer), optimizer.lr
    with np.errstate(all="ignore"):
        search(name, model, optimizer, **({"high": 1e30} if "range" in name else {"rates": (1e30, 1e-3)}))
    assert everything(model, optimizer) == before
    assert optimizer.lr == generator
    assert bool(optimizer.groups) is attached
    fit(model, optimizer)  # it still works


def test_range_test_is_a_ramp_of_training():
    """Rates in a constant ratio; each loss is that of a loop by hand."""
    model = network()
    result = search("learning_rate_range_test", model, kitae.SGD(lr=1.0), low=1e-3, high=0.1, steps=12)
    np.testing.assert_allclose(result.lrs, np.geomspace(1e-3, 0.1, 12), rtol=1e-14)  # a power and a product
    x, y = data()
    loss, optimizer = kitae.nn.SoftmaxCrossEntropy(), kitae.SGD(model.params, lr=1.0)
    losses = []
    for step in range(12):
        order = permutation(40, 0, step // 5)
        rows = order[step % 5 * 8 :][:8]
        losses.append(loss.forward(model.forward(x[rows]), y[rows]))
        model.backward(loss.backward())
        optimizer.lr = result.lrs[step]
        optimizer.step(model.grads)
    assert result.losses == losses
    # the bias-corrected moving mean, by hand: two terms
    assert result.smoothed[1] == pytest.approx((0.09 * losses[0] + 0.1 * losses[1]) / 0.19, rel=1e-14)
    assert not result.diverged


def test_suggestion_is_where_the_loss_falls_fastest():
    lrs = [10.0**k for k in range(-5, 1)]
    result = train.RangeTest(lrs, [], [2.0, 1.9, 1.2, 0.6, 0.5, 3.0], False)
    # central differences a decade: at 1e-3 (0.6 - 1.9) / 2 = -0.65, the steepest before the minimum at 1e-1
    assert result.suggestion == lrs[2]
    assert math.isnan(train.RangeTest(lrs[:3], [], [1.0, 1.1, 1.2], False).suggestion)


@pytest.mark.parametrize("max_norm", [None, 1.0])
def test_divergence_ends_the_test(max_norm):
    with np.errstate(all="ignore"):
        result = search("learning_rate_range_test", network(), kitae.SGD(lr=1.0, max_norm=max_norm), high=1e8)
    assert result.diverged
    assert 2 < len(result.lrs) == len(result.losses) == len(result.smoothed) < 100
    assert np.isfinite(result.losses).all()


def test_compare_learning_rates():
    model = network()
    histories = search("compare_learning_rates", model, kitae.Adam(), rates=(1e-1, 1e-3, 1e-6), finer=1, epochs=2)
    coarse = {rate: histories[rate].history["loss"][-1] for rate in (1e-6, 1e-3, 1e-1)}
    best = min(coarse, key=coarse.get)
    assert best == 1e-1
    assert list(histories) == [1e-6, 1e-3, pytest.approx(1e-2), 1e-1]
    alone = Trainer(model, "softmax_cross_entropy", kitae.Adam(lr=1e-3))
    alone.fit(*data(), epochs=2, batch_size=8, seed=0, verbose=0)
    assert histories[1e-3].history == alone.history.history


@pytest.mark.parametrize(
    ("keywords", "words"),
    [({"low": 0.0}, "low"), ({"low": 1.0, "high": 1.0}, "high"), ({"steps": 1}, "steps"), ({"high": math.inf}, "high")],
)
def test_bad_range(keywords, words):
    model = network()
    start = bits(model.params)
    with pytest.raises(ValueError, match=f"train.learning_rate_range_test: {words}: expected"):
        search("learning_rate_range_test", model, kitae.SGD(lr=1.0), **keywords)
    assert bits(model.params) == start
