"""Presets against the systems themselves: Keras on NumPy, optax on JAX, PyTorch.

Every run has two parameters, a learning rate that changes half-way, and weight decay where the row says so.
"""

import os

import numpy as np
import pytest

import kitae
from kitae.semantics import PRESETS

STEPS = 40
LR, LATER = 2.0**-6, 2.0**-8
DTYPES = [np.float32, np.float64]
# Each step rounds a few times, in an order of each system's own: float64 leaves 1e-12 after 40 steps. In float32 a step
# is wrong by a few units in the last place of max(|w|, step); errors of the state add up.
TOLERANCE = {np.float32: {"rtol": 2e-5, "atol": 2e-6}, np.float64: {"rtol": 1e-11, "atol": 1e-12}}


def data(rng, dtype):
    """Two parameters, and gradients for every step, among them zeros."""
    start = [rng.standard_normal(shape).astype(dtype) for shape in ((7, 5), (11,))]
    grads = [[rng.standard_normal(w.shape).astype(dtype) for w in start] for _ in range(STEPS)]
    for step in grads:
        step[0][0] = 0
    return start, grads


def run_ours(cls, semantics, keywords, start, grads):
    params = [w.copy() for w in start]
    optimizer = cls(params, LR, semantics=semantics, **keywords)
    for number, step in enumerate(grads):
        optimizer.lr = LR if number < STEPS // 2 else LATER
        optimizer.step(step)
    return params


def assert_close(ours, theirs, start, dtype):
    for mine, other, before in zip(ours, theirs, start, strict=True):
        assert not np.array_equal(mine, before)  # something was learned
        np.testing.assert_allclose(mine, other, **TOLERANCE[dtype])


def ids(rows):
    return ["-".join([row[0].__name__, *(f"{k}={v}" for k, v in row[1].items())]) for row in rows]


# Keras


KERAS = [
    (kitae.SGD, {}, "SGD", {}),
    (kitae.SGD, {"weight_decay": 0.1}, "SGD", {"weight_decay": 0.1}),
    (kitae.Momentum, {"momentum": 0.8}, "SGD", {"momentum": 0.8}),
    (kitae.Momentum, {"weight_decay": 0.1}, "SGD", {"momentum": 0.9, "weight_decay": 0.1}),
    (kitae.Nesterov, {}, "SGD", {"momentum": 0.9, "nesterov": True}),
    (kitae.AdaGrad, {}, "Adagrad", {}),
    (kitae.AdaGrad, {"weight_decay": 0.1, "eps": 0.5}, "Adagrad", {"weight_decay": 0.1, "epsilon": 0.5}),
    (kitae.AdaDelta, {}, "Adadelta", {}),
    (kitae.AdaDelta, {"rho": 0.8, "weight_decay": 0.1}, "Adadelta", {"rho": 0.8, "weight_decay": 0.1}),
    (kitae.RMSProp, {}, "RMSprop", {}),
    (kitae.RMSProp, {"momentum": 0.9, "centered": True}, "RMSprop", {"momentum": 0.9, "centered": True}),
    (kitae.RMSProp, {"weight_decay": 0.1, "eps": 0.5}, "RMSprop", {"weight_decay": 0.1, "epsilon": 0.5}),
    (kitae.Adam, {}, "Adam", {}),
    (kitae.Adam, {"weight_decay": 0.1, "eps": 0.1}, "Adam", {"weight_decay": 0.1, "epsilon": 0.1}),
    (kitae.AdamW, {}, "AdamW", {}),
    (kitae.AdamW, {"weight_decay": 0.1, "beta1": 0.5}, "AdamW", {"weight_decay": 0.1, "beta_1": 0.5}),
    (kitae.AMSGrad, {"eps": 0.1}, "Adam", {"amsgrad": True, "epsilon": 0.1}),
    (kitae.AdaMax, {"eps": 0.1, "weight_decay": 0.1}, "Adamax", {"epsilon": 0.1, "weight_decay": 0.1}),
    (kitae.SGD, {"max_norm": 2.0}, "SGD", {"global_clipnorm": 2.0}),
]


@pytest.mark.requires_keras
@pytest.mark.parametrize("row", KERAS, ids=ids(KERAS))
def test_keras_optimizers(row, rng):
    import keras

    assert keras.backend.backend() == os.environ["KERAS_BACKEND"] == "numpy"
    dtype = np.float32  # that backend has no other: its operations make float32 of float64
    cls, ours, name, theirs = row
    start, grads = data(rng, dtype)
    variables = [keras.Variable(w.copy()) for w in start]
    peer = getattr(keras.optimizers, name)(learning_rate=LR, **theirs)
    peer.build(variables)
    for number, step in enumerate(grads):
        peer.learning_rate = LR if number < STEPS // 2 else LATER
        peer.apply([keras.ops.convert_to_tensor(g) for g in step], variables)
    assert_close(run_ours(cls, "keras", ours, start, grads), [np.asarray(v) for v in variables], start, dtype)


KERAS_DEFAULTS = {
    "SGD": ("SGD", {}),
    "Momentum": ("SGD", {}),
    "Nesterov": ("SGD", {}),
    "AdaGrad": ("Adagrad", {"eps": "epsilon", "initial": "initial_accumulator_value"}),
    "AdaDelta": ("Adadelta", {"rho": "rho", "eps": "epsilon"}),
    "RMSProp": ("RMSprop", {"rho": "rho", "eps": "epsilon", "centered": "centered", "momentum": "momentum"}),
    "Adam": ("Adam", {"beta1": "beta_1", "beta2": "beta_2", "eps": "epsilon"}),
    "AdamW": ("AdamW", {"beta1": "beta_1", "beta2": "beta_2", "eps": "epsilon", "weight_decay": "weight_decay"}),
    "AMSGrad": ("Adam", {"beta1": "beta_1", "beta2": "beta_2", "eps": "epsilon"}),
    "AdaMax": ("Adamax", {"beta1": "beta_1", "beta2": "beta_2", "eps": "epsilon"}),
}


@pytest.mark.requires_keras
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Keras's own, in get_config
@pytest.mark.parametrize("kind", KERAS_DEFAULTS)
def test_keras_defaults(kind):
    import keras

    name, names = KERAS_DEFAULTS[kind]
    config = getattr(keras.optimizers, name)().get_config()
    values = PRESETS["keras"][kind]
    assert values["lr"] == pytest.approx(config["learning_rate"], rel=1e-7)  # kept in float32
    for ours, theirs in names.items():
        assert values[ours] == config[theirs], ours


@pytest.mark.requires_keras
@pytest.mark.parametrize("shape", [(9, 6), (4, 3, 5, 6)])
def test_keras_batch_norm(shape, rng):
    import keras

    dtype = np.float32
    peer = keras.layers.BatchNormalization()
    layer = kitae.BatchNorm(semantics="keras", axis=-1)
    gamma, beta = rng.standard_normal((2, shape[-1])).astype(dtype)
    for number in range(3):
        x = (3 * rng.standard_normal(shape) + 1).astype(dtype)
        if number == 0:
            peer.build(shape)
            peer.gamma.assign(gamma)
            peer.beta.assign(beta)
            layer.build(shape, dtype)
            layer.params["gamma"][:], layer.params["beta"][:] = gamma, beta
        for training in (True, False):
            y = layer.forward(x, training=training)
            tolerance = {"rtol": 1e-5, "atol": 1e-5}  # their moments are sums in float32 of up to 60 values below 10
            np.testing.assert_allclose(y, np.asarray(peer(x, training=training)), **tolerance)
            np.testing.assert_allclose(layer.buffers["running_mean"], np.asarray(peer.moving_mean), **tolerance)
            np.testing.assert_allclose(layer.buffers["running_var"], np.asarray(peer.moving_variance), **tolerance)


# optax


def optax_rows():
    """(our class, our keywords, the transformation of a learning rate)."""
    import optax

    def decayed(rate, make):
        return lambda lr: optax.chain(optax.add_decayed_weights(rate), make(lr))

    return [
        (kitae.SGD, {}, optax.sgd),
        (kitae.SGD, {"weight_decay": 0.1}, decayed(0.1, optax.sgd)),
        (kitae.Momentum, {}, lambda lr: optax.sgd(lr, momentum=0.9)),
        (kitae.Nesterov, {"weight_decay": 0.1}, decayed(0.1, lambda lr: optax.sgd(lr, momentum=0.9, nesterov=True))),
        (kitae.AdaGrad, {}, optax.adagrad),
        (kitae.AdaGrad, {"eps": 0.5}, lambda lr: optax.adagrad(lr, eps=0.5)),
        (kitae.AdaDelta, {}, optax.adadelta),
        (kitae.AdaDelta, {"weight_decay": 0.1}, lambda lr: optax.adadelta(lr, weight_decay=0.1)),
        (kitae.RMSProp, {}, optax.rmsprop),
        (kitae.RMSProp, {"eps": 0.5, "eps_inside": False}, lambda lr: optax.rmsprop(lr, eps=0.5, eps_in_sqrt=False)),
        (
            kitae.RMSProp,
            {"centered": True, "momentum": 0.9, "eps": 0.1},
            lambda lr: optax.rmsprop(lr, centered=True, momentum=0.9, eps=0.1),
        ),
        (kitae.Adam, {}, optax.adam),
        (kitae.Adam, {"eps": 0.1, "weight_decay": 0.1}, decayed(0.1, lambda lr: optax.adam(lr, eps=0.1))),
        (kitae.AdamW, {}, optax.adamw),
        (kitae.AdamW, {"weight_decay": 0.1}, lambda lr: optax.adamw(lr, weight_decay=0.1)),
        (kitae.AMSGrad, {"eps": 0.1}, lambda lr: optax.amsgrad(lr, eps=0.1)),
        (kitae.AMSGrad, {"beta2": 0.5, "beta1": 0.0}, lambda lr: optax.amsgrad(lr, b2=0.5, b1=0.0)),
        (kitae.AdaMax, {"eps": 0.1}, lambda lr: optax.adamax(lr, eps=0.1)),
        (
            kitae.SGD,
            {"max_norm": 2.0},
            lambda lr: optax.chain(optax.clip_by_global_norm(2.0), optax.sgd(lr)),
        ),
    ]


@pytest.mark.requires_optax
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("number", range(19))
def test_optax(number, dtype, rng):
    import jax
    import optax

    rows = optax_rows()
    assert len(rows) == 19
    cls, ours, make = rows[number]
    start, grads = data(rng, dtype)
    with jax.enable_x64(True):
        schedule = optax.piecewise_constant_schedule(LR, {STEPS // 2: LATER / LR})
        peer = make(schedule)
        params = [jax.numpy.asarray(w) for w in start]
        state = peer.init(params)
        update = jax.jit(peer.update)
        for step in grads:
            updates, state = update([jax.numpy.asarray(g) for g in step], state, params)
            params = optax.apply_updates(params, updates)
        theirs = [np.asarray(p) for p in params]
    assert theirs[0].dtype == dtype
    assert_close(run_ours(cls, "optax", ours, start, grads), theirs, start, dtype)


@pytest.mark.requires_optax
@pytest.mark.parametrize(
    ("kind", "name", "names"),
    [
        ("AdaGrad", "adagrad", {"eps": "eps", "initial": "initial_accumulator_value"}),
        ("AdaDelta", "adadelta", {"rho": "rho", "eps": "eps", "weight_decay": "weight_decay"}),
        ("RMSProp", "rmsprop", {"rho": "decay", "eps": "eps", "eps_inside": "eps_in_sqrt", "initial": "initial_scale"}),
        ("Adam", "adam", {"beta1": "b1", "beta2": "b2", "eps": "eps"}),
        ("AdamW", "adamw", {"beta1": "b1", "beta2": "b2", "eps": "eps", "weight_decay": "weight_decay"}),
        ("AMSGrad", "amsgrad", {"beta1": "b1", "beta2": "b2", "eps": "eps"}),
        ("AdaMax", "adamax", {"beta1": "b1", "beta2": "b2", "eps": "eps"}),
    ],
)
def test_optax_defaults(kind, name, names):
    import inspect

    import optax

    defaults = inspect.signature(getattr(optax, name)).parameters
    for ours, theirs in names.items():
        assert PRESETS["optax"][kind][ours] == defaults[theirs].default, ours


# PyTorch


TORCH = [
    (kitae.SGD, {"weight_decay": 0.1}, "SGD", {"weight_decay": 0.1}),
    (
        kitae.Momentum,
        {"weight_decay": 0.1, "dampening": 0.3},
        "SGD",
        {"momentum": 0.9, "weight_decay": 0.1, "dampening": 0.3},
    ),
    (kitae.Nesterov, {"weight_decay": 0.1}, "SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    (kitae.AdaGrad, {}, "Adagrad", {}),
    (kitae.AdaGrad, {"weight_decay": 0.1, "lr_decay": 0.05}, "Adagrad", {"weight_decay": 0.1, "lr_decay": 0.05}),
    (kitae.AdaDelta, {"weight_decay": 0.1}, "Adadelta", {"weight_decay": 0.1}),
    (kitae.RMSProp, {}, "RMSprop", {}),
    (
        kitae.RMSProp,
        {"weight_decay": 0.1, "momentum": 0.9, "centered": True, "eps": 0.1},
        "RMSprop",
        {"weight_decay": 0.1, "momentum": 0.9, "centered": True, "eps": 0.1},
    ),
    (kitae.Adam, {"eps": 0.1, "weight_decay": 0.1}, "Adam", {"eps": 0.1, "weight_decay": 0.1}),
    (kitae.AdamW, {}, "AdamW", {}),
    (kitae.AMSGrad, {"eps": 0.1}, "Adam", {"amsgrad": True, "eps": 0.1}),
    (kitae.AdaMax, {"eps": 0.1, "weight_decay": 0.1}, "Adamax", {"eps": 0.1, "weight_decay": 0.1}),
]


@pytest.mark.requires_torch
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("row", TORCH, ids=ids(TORCH))
def test_torch(row, dtype, rng):
    import torch

    cls, ours, name, theirs = row
    start, grads = data(rng, dtype)
    params = [torch.nn.Parameter(torch.from_numpy(w.copy())) for w in start]
    peer = getattr(torch.optim, name)(params, lr=LR, **theirs)
    for number, step in enumerate(grads):
        peer.param_groups[0]["lr"] = LR if number < STEPS // 2 else LATER
        for parameter, g in zip(params, step, strict=True):
            parameter.grad = torch.from_numpy(g)
        peer.step()
    assert_close(run_ours(cls, "torch", ours, start, grads), [p.detach().numpy() for p in params], start, dtype)


@pytest.mark.requires_torch
@pytest.mark.parametrize(
    ("kind", "name", "names"),
    [
        ("SGD", "SGD", {"lr": "lr"}),
        ("Momentum", "SGD", {"lr": "lr", "dampening": "dampening"}),
        ("Nesterov", "SGD", {"lr": "lr"}),
        (
            "AdaGrad",
            "Adagrad",
            {"lr": "lr", "eps": "eps", "initial": "initial_accumulator_value", "lr_decay": "lr_decay"},
        ),
        ("AdaDelta", "Adadelta", {"lr": "lr", "rho": "rho", "eps": "eps"}),
        ("RMSProp", "RMSprop", {"lr": "lr", "rho": "alpha", "eps": "eps", "momentum": "momentum"}),
        ("Adam", "Adam", {"lr": "lr", "eps": "eps"}),
        ("AdamW", "AdamW", {"lr": "lr", "eps": "eps", "weight_decay": "weight_decay"}),
        ("AMSGrad", "Adam", {"lr": "lr", "eps": "eps"}),
        ("AdaMax", "Adamax", {"lr": "lr", "eps": "eps"}),
    ],
)
def test_torch_defaults(kind, name, names):
    import torch

    extra = {"momentum": 0.9} if name == "SGD" and kind != "SGD" else {}
    defaults = getattr(torch.optim, name)([torch.zeros(1)], **extra).defaults
    for ours, theirs in names.items():
        assert PRESETS["torch"][kind][ours] == defaults[theirs], ours
    if "beta1" in PRESETS["torch"][kind]:
        assert (PRESETS["torch"][kind]["beta1"], PRESETS["torch"][kind]["beta2"]) == defaults["betas"]


@pytest.mark.requires_torch
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(9, 6), (4, 3, 5, 6)])
def test_torch_batch_norm(shape, dtype, rng):
    import torch

    module = {2: torch.nn.BatchNorm1d, 4: torch.nn.BatchNorm2d}[len(shape)]
    peer = module(shape[1], dtype=getattr(torch, np.dtype(dtype).name))
    layer = kitae.BatchNorm(semantics="torch")
    for _ in range(3):
        x = (3 * rng.standard_normal(shape) + 1).astype(dtype)
        for training in (True, False):
            peer.train(training)
            y = layer.forward(x, training=training)
            tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype is np.float32 else {"rtol": 1e-12, "atol": 1e-12}
            np.testing.assert_allclose(y, peer(torch.from_numpy(x)).detach().numpy(), **tolerance)
            np.testing.assert_allclose(layer.buffers["running_mean"], peer.running_mean.numpy(), **tolerance)
            np.testing.assert_allclose(layer.buffers["running_var"], peer.running_var.numpy(), **tolerance)
