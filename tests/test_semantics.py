"""Presets of systems that no package index has any more, or not in float64: their formulas worked by hand in float64.

Each function is one update as the system's source orders it: f(w, g, state, t, lr) -> w, t counting from 1. The
learning rate changes half-way. Systems that can be run are in test_semantics_peers.py and test_onnx.py.
"""

import numpy as np
import pytest

import kitae
from kitae.semantics import PRESETS

STEPS = 30
# float64 against float64 in another order of operations. float32 errors: some units in the last place a step.
TOLERANCE = {np.float32: {"rtol": 3e-5, "atol": 3e-6}, np.float64: {"rtol": 1e-11, "atol": 1e-13}}
DECAY = 0.1


def coupled(w, g):
    return g + DECAY * w


def sgd(w, g, s, t, lr):
    return w - lr * g


def momentum(w, g, s, t, lr):
    s["v"] = 0.9 * s.get("v", 0) - lr * g
    return w + s["v"]


def nesterov_of_book_1(w, g, s, t, lr):
    v = s.get("v", np.zeros_like(w))
    w = w + 0.9 * 0.9 * v
    w = w - (1 + 0.9) * lr * g
    s["v"] = 0.9 * v - lr * g
    return w


def nesterov_of_book_2(w, g, s, t, lr):
    s["v"] = 0.9 * s.get("v", 0) - lr * g
    w = w + 0.9 * 0.9 * s["v"]
    return w - (1 + 0.9) * lr * g


def nesterov_of_dl4j(w, g, s, t, lr):
    before = s.get("v", np.zeros_like(w))
    s["v"] = 0.9 * before - lr * g
    return w - (0.9 * before + s["v"] * (-0.9 - 1))


def adagrad(eps, initial=0.0):
    def update(w, g, s, t, lr):
        s["h"] = s.get("h", initial) + g * g
        return w - lr * g / (np.sqrt(s["h"]) + eps)

    return update


def rmsprop(rho, eps, initial=0.0):
    def update(w, g, s, t, lr):
        s["h"] = rho * s.get("h", initial) + (1 - rho) * g * g
        return w - lr * g / (np.sqrt(s["h"]) + eps)

    return update


def adadelta(w, g, s, t, lr):
    s["g"] = 0.95 * s.get("g", 0) + 0.05 * g * g
    delta = np.sqrt((s.get("d", 0) + 1e-6) / (s["g"] + 1e-6)) * g
    s["d"] = 0.95 * s.get("d", 0) + 0.05 * delta * delta
    return w - delta


def adam(eps, amsgrad=False):
    def update(w, g, s, t, lr):
        s["m"] = s.get("m", 0) + 0.1 * (g - s.get("m", 0))
        s["v"] = s.get("v", 0) + 0.001 * (g * g - s.get("v", 0))
        s["max"] = np.maximum(s.get("max", 0), s["v"]) if amsgrad else s["v"]
        return w - lr * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * s["m"] / (np.sqrt(s["max"]) + eps)

    return update


def adamax_of_dl4j(w, g, s, t, lr):
    s["m"] = 0.9 * s.get("m", 0) + 0.1 * g
    s["u"] = np.maximum(0.999 * s.get("u", 0), np.abs(g)) + 1e-32
    return w - lr / (1 - 0.9**t) * s["m"] / s["u"]


def adagrad_of_keras(w, g, s, t, lr):
    s["h"] = s.get("h", 0.1) + g * g
    return w - lr * g / np.sqrt(s["h"] + 1e-7)


def rmsprop_of_keras(w, g, s, t, lr):
    s["h"] = 0.9 * s.get("h", 0) + 0.1 * g * g
    return w - lr * g / np.sqrt(s["h"] + 1e-7)


BOOK = {"SGD": sgd, "Momentum": momentum, "AdaGrad": adagrad(1e-7), "RMSProp": rmsprop(0.99, 1e-7), "Adam": adam(1e-7)}
FORMULAS = {
    "dlfs": {**BOOK, "Nesterov": nesterov_of_book_1},
    "dlfs2": {**BOOK, "Nesterov": nesterov_of_book_2},
    "dezero": {"SGD": sgd, "Momentum": momentum, "AdaGrad": adagrad(1e-8), "AdaDelta": adadelta, "Adam": adam(1e-8)},
    "chainer": {
        "SGD": sgd,
        "Momentum": momentum,
        "Nesterov": nesterov_of_book_2,
        "AdaGrad": adagrad(1e-8),
        "AdaDelta": adadelta,
        "RMSProp": rmsprop(0.99, 1e-8),
        "Adam": adam(1e-8),
        "AdamW": adam(1e-8),
        "AMSGrad": adam(1e-8, amsgrad=True),
    },
    "dl4j": {
        "SGD": sgd,
        "Nesterov": nesterov_of_dl4j,
        "AdaGrad": adagrad(1e-6, initial=1e-6),
        "AdaDelta": adadelta,
        "RMSProp": rmsprop(0.95, 1e-8, initial=1e-8),
        "Adam": adam(1e-8),
        "AMSGrad": adam(1e-8, amsgrad=True),
        "AdaMax": adamax_of_dl4j,
    },
    "keras": {
        "SGD": sgd,
        "Momentum": momentum,
        "Nesterov": nesterov_of_book_1,
        "AdaGrad": adagrad_of_keras,
        "RMSProp": rmsprop_of_keras,
        "Adam": adam(1e-7),
        "AdamW": adam(1e-7),
        "AMSGrad": adam(1e-7, amsgrad=True),
    },
}
ROWS = [(semantics, kind) for semantics, formulas in FORMULAS.items() for kind in formulas]
NO_RATE = {("dezero", "AdaDelta"), ("chainer", "AdaDelta"), ("dl4j", "AdaDelta")}
RATES = {
    **{("dlfs", kind): 0.01 for kind in FORMULAS["dlfs"]},
    **{("dlfs2", kind): 0.01 for kind in FORMULAS["dlfs2"]},
    ("dlfs", "Adam"): 0.001,
    ("dlfs2", "Adam"): 0.001,
    ("dezero", "SGD"): 0.01,
    ("dezero", "Momentum"): 0.01,
    ("dezero", "AdaGrad"): 0.001,
    ("dezero", "Adam"): 0.001,
    ("chainer", "SGD"): 0.01,
    ("chainer", "Momentum"): 0.01,
    ("chainer", "Nesterov"): 0.01,
    ("chainer", "AdaGrad"): 0.001,
    ("chainer", "RMSProp"): 0.01,
    ("chainer", "Adam"): 0.001,
    ("chainer", "AdamW"): 0.001,
    ("chainer", "AMSGrad"): 0.001,
    ("dl4j", "SGD"): 0.001,
    ("dl4j", "Nesterov"): 0.1,
    ("dl4j", "AdaGrad"): 0.1,
    ("dl4j", "RMSProp"): 0.1,
    ("dl4j", "Adam"): 0.001,
    ("dl4j", "AMSGrad"): 0.001,
    ("dl4j", "AdaMax"): 0.001,
    ("keras", "SGD"): 0.01,
    ("keras", "Momentum"): 0.01,
    ("keras", "Nesterov"): 0.01,
    **{("keras", kind): 0.001 for kind in ("AdaGrad", "RMSProp", "Adam", "AdamW", "AMSGrad")},
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("decay", [0.0, DECAY])
@pytest.mark.parametrize(("semantics", "kind"), ROWS)
def test_formula(semantics, kind, decay, dtype, rng):
    update, state = FORMULAS[semantics][kind], {}
    lr = 1.0 if (semantics, kind) in NO_RATE else RATES[semantics, kind]
    w = rng.standard_normal(40).astype(dtype)
    expected = w.astype(np.float64)
    # Keras's AdamW decays by default.
    given = None if not decay and (semantics, kind) != ("keras", "AdamW") else decay
    optimizer = getattr(kitae, kind)(w, semantics=semantics, weight_decay=given)
    assert optimizer.lr == lr
    for t in range(1, STEPS + 1):
        if t == STEPS // 2 and (semantics, kind) not in NO_RATE:
            lr = optimizer.lr = lr / 4
        g = rng.standard_normal(w.shape).astype(dtype)
        g[0] = 0.0
        optimizer.step(g)
        gradient, before = g.astype(np.float64), expected
        if decay and kind == "AdamW" and semantics == "chainer":
            # Subtracted together with the update: eta * (step + rate * w), eta 1.
            expected = update(before, gradient, state, t, lr) - DECAY * before
        elif decay and semantics in ("dl4j", "keras"):
            expected = update(before, gradient, state, t, lr) - lr * DECAY * before
        else:
            expected = update(before, coupled(before, gradient) if decay else gradient, state, t, lr)
    np.testing.assert_allclose(w, expected, **TOLERANCE[dtype])


def test_every_class_of_these_systems_has_a_formula():
    others = {"BatchNorm", "Dropout"}
    for semantics in ("dlfs", "dlfs2", "dezero", "chainer", "dl4j"):
        assert set(FORMULAS[semantics]) == set(PRESETS[semantics]) - others


@pytest.mark.parametrize("initial", [1e-8, 0.25])
def test_rmsprop_of_dl4j_starts_at_its_eps(initial):
    w = np.zeros(3)
    optimizer = kitae.RMSProp(w, 1.0, eps=initial, semantics="dl4j")
    optimizer.step(np.ones(3))
    np.testing.assert_allclose(w, -1 / (np.sqrt(0.95 * initial + 0.05) + initial), rtol=1e-14)


# Clipping: the form of PyTorch and of the books adds 1e-6 to the norm, the others add nothing.


@pytest.mark.parametrize("semantics", PRESETS)
def test_clipping(semantics):
    """Every optimizer clips as SGD does, or where there is none as a first step of Momentum (lr 1, outside)."""
    w, g = np.zeros(4), np.full(4, 1e-4)  # a norm of 2e-4: 1e-6 is 0.5 % of it
    cls = kitae.Momentum if semantics == "onnx" else kitae.SGD
    cls(w, 1.0, max_norm=1e-4, semantics=semantics).step(g)
    extra = 1e-6 if semantics in ("paper", "torch", "dlfs", "dlfs2", "dezero") else 0.0
    np.testing.assert_allclose(w, -g * 1e-4 / (2e-4 + extra), rtol=1e-14)
    optimizers = [values for kind, values in PRESETS[semantics].items() if kind not in ("BatchNorm", "Dropout")]
    assert {values["clip_eps"] for values in optimizers} == {extra}


# Batch norm


def batch_norm_by_hand(x, mean, var, *, eps, decay, unbiased, training):
    """(y, running mean, running variance) for gamma 1, beta 0, of x (n, channels)."""
    if not training:
        return (x - mean) / np.sqrt(var + eps), mean, var
    n, batch_mean, batch_var = len(x), x.mean(axis=0), x.var(axis=0)
    running_var = batch_var * n / max(n - 1, 1) if unbiased else batch_var
    y = (x - batch_mean) / np.sqrt(batch_var + eps)
    return y, decay * mean + (1 - decay) * batch_mean, decay * var + (1 - decay) * running_var


BATCH_NORM = {  # eps, weight of the old value, unbiased, variance at first
    "paper": (1e-5, 0.9, True, 1.0),
    "dlfs": (10e-7, 0.9, False, 0.0),
    "dezero": (2e-5, 0.9, True, 1.0),
    "chainer": (2e-5, 0.9, True, 1.0),
    "keras": (1e-3, 0.99, False, 1.0),
    "torch": (1e-5, 0.9, True, 1.0),
    "onnx": (float(np.float32(1e-5)), float(np.float32(0.9)), False, 1.0),
    "dl4j": (1e-5, 0.9, False, 1.0),
}


@pytest.mark.parametrize("rows", [1, 2, 7])
@pytest.mark.parametrize("semantics", BATCH_NORM)
def test_batch_norm(semantics, rows, rng):
    eps, decay, unbiased, first = BATCH_NORM[semantics]
    layer = kitae.BatchNorm(semantics=semantics)
    mean, var = np.zeros(5), np.full(5, first)
    for number in range(3):
        x = 0.01 * rng.standard_normal((rows, 5)) + number  # small: eps shows
        if rows == 1 and semantics == "torch":
            with pytest.raises(ValueError, match="more than one value a channel"):
                layer.forward(x)
            return
        for training in (True, False):
            y, mean, var = batch_norm_by_hand(x, mean, var, eps=eps, decay=decay, unbiased=unbiased, training=training)
            np.testing.assert_allclose(layer.forward(x, training=training), y, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(layer.buffers["running_mean"], mean, rtol=1e-12)
        np.testing.assert_allclose(layer.buffers["running_var"], var, rtol=1e-9)


@pytest.mark.parametrize("semantics", BATCH_NORM)
def test_batch_norm_of_images_and_of_nan(semantics):
    layer = kitae.BatchNorm(semantics=semantics)
    x = np.arange(96.0).reshape(4, 2, 3, 4)
    layer.forward(x)
    assert layer.params["gamma"].shape == ((24,) if semantics == "dlfs" else (2,))
    x[0, 0] = np.nan
    if semantics == "paper":
        with pytest.raises(FloatingPointError):
            layer.forward(x)
    else:
        assert np.isnan(layer.forward(x)[:, 0]).all()


def test_every_batch_norm_is_tested():
    assert {name for name in PRESETS if "BatchNorm" in PRESETS[name]} == set(BATCH_NORM)


def test_batch_norm_of_book_1_has_a_channel_an_element(rng):
    layer, flat = kitae.BatchNorm(semantics="dlfs"), kitae.BatchNorm(semantics="dlfs")
    x, dout = rng.standard_normal((2, 6, 2, 3, 4))
    y = layer.forward(x)
    assert y.shape == x.shape
    assert layer.params["gamma"].shape == (24,)
    np.testing.assert_allclose(y, (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 10e-7), rtol=1e-10, atol=1e-12)
    flat.forward(x.reshape(6, 24))
    np.testing.assert_array_equal(layer.backward(dout), flat.backward(dout.reshape(6, 24)).reshape(x.shape))
    np.testing.assert_array_equal(layer.grads["gamma"], flat.grads["gamma"])
    transposed = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(layer.forward(transposed), y)
    residual = rng.standard_normal(x.shape)
    np.testing.assert_allclose(layer.forward(x, residual=residual), y + residual, rtol=1e-13, atol=1e-15)
    assert [gradient.shape for gradient in layer.backward(dout)] == [x.shape, x.shape]
    with pytest.raises(ValueError, match="BatchNorm: axis: expected 1"):
        kitae.BatchNorm(axis=-1, semantics="dlfs")


# Dropout


@pytest.mark.parametrize("semantics", [name for name in PRESETS if "Dropout" in PRESETS[name]])
def test_dropout(semantics, monkeypatch):
    """NumPy's generator is replaced by numbers on, above and below the rate."""
    drawn = np.array([[0.25, 0.1, 0.9, 0.25 + 2.0**-50]])
    monkeypatch.setattr(np.random, "rand", lambda *shape: drawn)
    layer = kitae.Dropout(0.25, rng="numpy", semantics=semantics)
    x = np.array([[3.0, 5.0, 7.0, 9.0]])
    keeps_equal = semantics in ("chainer", "onnx")
    kept = np.array([[keeps_equal, False, True, True]])
    if semantics in ("dlfs", "dlfs2"):
        np.testing.assert_array_equal(layer.forward(x), x * kept)
        np.testing.assert_array_equal(layer.forward(x, training=False), x * 0.75)
    else:
        np.testing.assert_allclose(layer.forward(x), x * kept / 0.75, rtol=1e-15)
        np.testing.assert_array_equal(layer.forward(x, training=False), x)


# What is missing, and the step count of ONNX


@pytest.mark.parametrize(
    ("kind", "semantics", "having"),
    [
        ("AdaDelta", "dlfs", "'paper', 'dezero', 'chainer', 'keras', 'torch', 'dl4j', 'optax'"),
        ("NormalizedGD", "torch", "'paper'"),
        ("BatchNorm", "optax", "'paper', 'dlfs', 'dezero', 'chainer', 'keras', 'torch', 'onnx', 'dl4j'"),
        ("Dropout", "optax", "'paper', 'dlfs', 'dlfs2', 'dezero', 'chainer', 'keras', 'torch', 'onnx', 'dl4j'"),
        ("SGD", "onnx", "'paper', 'dlfs', 'dlfs2', 'dezero', 'chainer', 'keras', 'torch', 'dl4j', 'optax'"),
    ],
)
def test_a_missing_class_names_the_presets_that_have_it(kind, semantics, having):
    message = f"kitae.{kind}: semantics: expected one of {having} (the others have no {kind}), got '{semantics}'"
    with pytest.raises(ValueError, match="^" + message.replace("(", r"\(").replace(")", r"\)") + "$"):
        getattr(kitae, kind)(semantics=semantics)


@pytest.mark.parametrize("name", ["reference", "cpu"])
def test_adam_of_onnx_counts_from_zero_also_after_loading(name, rng):
    grads = rng.standard_normal((6, 3))
    whole, cut = np.ones(3), np.ones(3)
    with kitae.use_backend(name):
        optimizer = kitae.Adam(whole, semantics="onnx")
        first = kitae.Adam(cut, semantics="onnx")
        for number, g in enumerate(grads):
            if number == 3:
                second = kitae.Adam(cut, semantics="onnx")
                second.load_state_dict(first.state_dict())
                first = second
            optimizer.step(g)
            first.step(g)
            assert optimizer.steps == first.steps == number + 1
    np.testing.assert_array_equal(whole, cut)


@pytest.mark.parametrize("cls", [kitae.Momentum, kitae.Nesterov])
def test_dampening_starts_with_the_second_step(cls):
    w = np.zeros(1)
    optimizer = cls(w, 1.0, momentum=0.5, dampening=0.75, semantics="torch")
    optimizer.step(np.array([4.0]))
    velocity = optimizer.state_dict()["slots"]["velocity"][0]
    np.testing.assert_array_equal(velocity, [4.0])
    optimizer.step(np.array([4.0]))
    np.testing.assert_array_equal(optimizer.state_dict()["slots"]["velocity"][0], [0.5 * 4 + 0.25 * 4])
