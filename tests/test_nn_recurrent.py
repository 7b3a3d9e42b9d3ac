"""nn.SimpleRNN, LSTM, GRU: finite differences, PyTorch, the papers' equations, state, messages."""

import math

import numpy as np
import pytest

import kitae
from kitae import nn
from mistakes import assert_named

# Central differences in float64 err by step^2 (1e-12) and rounding / step (1e-16 * |loss| / 1e-6).
GRADIENT_TOLERANCE = {"rtol": 1e-6, "atol": 1e-8}
LAYERS = {
    "SimpleRNN": nn.SimpleRNN,
    "LSTM": nn.LSTM,
    "GRU": nn.GRU,
    "GRU, reset before": lambda *args, **keywords: nn.GRU(*args, reset_after=False, **keywords),
}
every_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)


def random(rng, layer, inputs, dtype=np.float64):
    """``layer`` built, with weights and biases that are all different from 0 and large enough to matter."""
    layer.build((1, 1, inputs), dtype)
    for param in layer.params.values():
        param[...] = 0.6 * rng.standard_normal(param.shape)
    return layer


def numerical_gradient(loss, array, step=1e-6):
    """Central differences of ``loss()`` with respect to each element of ``array``, changed in place."""
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        kept = array[index]
        array[index] = kept + step
        above = loss()
        array[index] = kept - step
        below = loss()
        array[index] = kept
        gradient[index] = (above - below) / (2 * step)
    return gradient


@every_layer
@pytest.mark.parametrize("return_sequences", [True, False])
@pytest.mark.parametrize(("batch", "time"), [(3, 4), (1, 3), (2, 1), (1, 1)])
def test_gradients_match_finite_differences(make, return_sequences, batch, time, rng):
    """Of inputs, every parameter and the initial state, through the outputs and the final state."""
    layer = random(rng, make(3, return_sequences=return_sequences), 2)
    x = rng.standard_normal((batch, time, 2))
    start = tuple(rng.standard_normal((batch, 3)) for _ in layer.states)
    weights = rng.standard_normal((batch, time, 3) if return_sequences else (batch, 3))
    of_state = tuple(rng.standard_normal((batch, 3)) for _ in layer.states)

    def loss():
        value = np.sum(layer.forward(x, initial_state=start) * weights)
        return float(value + sum(np.sum(s * w) for s, w in zip(layer.state, of_state, strict=True)))

    loss()
    dx = layer.backward(weights, dstate=of_state)
    gradients = {name: grad.copy() for name, grad in layer.grads.items()}
    dstate = layer.dstate
    np.testing.assert_allclose(dx, numerical_gradient(loss, x), **GRADIENT_TOLERANCE)
    for name, param in layer.params.items():
        np.testing.assert_allclose(gradients[name], numerical_gradient(loss, param), **GRADIENT_TOLERANCE, err_msg=name)
    for gradient, state in zip(dstate, start, strict=True):
        np.testing.assert_allclose(gradient, numerical_gradient(loss, state), **GRADIENT_TOLERANCE)


# PyTorch.


def torch_twin(layer, name, dtype):
    """PyTorch's layer with our weights, as the docstrings say."""
    import torch

    inputs, units = layer.params["W"].shape[0], layer.units
    twin = {"SimpleRNN": torch.nn.RNN, "LSTM": torch.nn.LSTM, "GRU": torch.nn.GRU}[name](
        inputs, units, batch_first=True, dtype=getattr(torch, dtype)
    )
    p = {key: torch.from_numpy(value) for key, value in layer.params.items()}
    with torch.no_grad():
        twin.weight_ih_l0.copy_(p["W"].T)
        twin.weight_hh_l0.copy_(p["U"].T)
        twin.bias_ih_l0.copy_(p["b"])
        twin.bias_hh_l0.zero_()
        if name == "GRU":
            twin.bias_hh_l0[2 * units :] = p["b_recurrent"]
    return twin


# Sums of about ten terms of size 1, seven steps: tens of units in the last place, of numbers up to 10.
TORCH_TOLERANCE = {"float32": {"rtol": 2e-6, "atol": 2e-6}, "float64": {"rtol": 1e-12, "atol": 1e-12}}


@pytest.mark.requires_torch
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["SimpleRNN", "LSTM", "GRU"])
def test_numbers_of_pytorch(name, dtype, rng):
    import torch

    layer = random(rng, LAYERS[name](6, return_sequences=True), 4, dtype)
    twin = torch_twin(layer, name, dtype)
    x, dout = (rng.standard_normal((5, 7, n)).astype(dtype) for n in (4, 6))
    start = tuple(rng.standard_normal((5, 6)).astype(dtype) for _ in layer.states)
    theirs_x = torch.from_numpy(x).requires_grad_()
    theirs_start = tuple(torch.from_numpy(s[np.newaxis]).requires_grad_() for s in start)
    y, final = twin(theirs_x, theirs_start if name == "LSTM" else theirs_start[0])
    y.backward(torch.from_numpy(dout))

    def same(mine, tensor):
        np.testing.assert_allclose(mine, tensor.detach().numpy(), **TORCH_TOLERANCE[dtype])

    same(layer.forward(x, initial_state=start), y)
    for mine, tensor in zip(layer.state, final if name == "LSTM" else (final,), strict=True):
        same(mine, tensor[0])
    same(layer.backward(dout), theirs_x.grad)
    same(layer.grads["W"], twin.weight_ih_l0.grad.T)
    same(layer.grads["U"], twin.weight_hh_l0.grad.T)
    same(layer.grads["b"], twin.bias_ih_l0.grad)
    if name == "GRU":
        same(layer.grads["b_recurrent"], twin.bias_hh_l0.grad[12:])
    for mine, tensor in zip(layer.dstate, theirs_start, strict=True):
        same(mine, tensor.grad[0])
    assert {array.dtype.name for array in (*layer.state, *layer.grads.values())} == {dtype}


# Equations and numbers by hand.


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


@pytest.mark.parametrize("reset_after", [True, False])
def test_gru_is_the_equation_in_both_forms(reset_after, rng):
    """Gate by gate and sample by sample, the products as written in Cho et al. (2014), equations 5 to 8."""
    layer = random(rng, nn.GRU(3, return_sequences=True, reset_after=reset_after), 2)
    W, U, b = (layer.params[name] for name in ("W", "U", "b"))
    (Wr, Wz, Wn), (Ur, Uz, Un), (br, bz, bn) = (np.split(array, 3, axis=-1) for array in (W, U, b))
    x = rng.standard_normal((2, 4, 2))
    y = layer.forward(x)
    for sample in range(2):
        h = np.zeros(3)
        for step in range(4):
            v = x[sample, step]
            r, z = sigmoid(v @ Wr + h @ Ur + br), sigmoid(v @ Wz + h @ Uz + bz)
            recurrent = r * (h @ Un + layer.params["b_recurrent"]) if reset_after else (r * h) @ Un
            h = z * h + (1 - z) * np.tanh(v @ Wn + recurrent + bn)
            np.testing.assert_allclose(y[sample, step], h, rtol=1e-13, atol=1e-15)
    assert ("b_recurrent" in layer.params) == reset_after


# What is asked is the meaning of the weights; Keras's NumPy backend computes these layers in float32.
KERAS_TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}


@pytest.mark.requires_keras
@pytest.mark.parametrize("reset_after", [True, False])
def test_gru_of_keras(reset_after, rng):
    import keras

    layer = random(rng, nn.GRU(3, return_sequences=True, reset_after=reset_after), 2)
    twin = keras.layers.GRU(3, return_sequences=True, reset_after=reset_after, dtype="float64")
    twin.build((2, 5, 2))
    order = np.r_[3:6, 0:3, 6:9]  # theirs is z, r, n
    bias = layer.params["b"][order]
    if reset_after:
        bias = np.stack([bias, np.r_[np.zeros(6), layer.params["b_recurrent"]]])
    twin.set_weights([layer.params["W"][:, order], layer.params["U"][:, order], bias])
    x = rng.standard_normal((2, 5, 2))
    np.testing.assert_allclose(layer.forward(x), keras.ops.convert_to_numpy(twin(x)), **KERAS_TOLERANCE)


@pytest.mark.requires_keras
@pytest.mark.parametrize("name", ["SimpleRNN", "LSTM"])
def test_weights_of_keras_have_the_same_order(name, rng):
    import keras

    layer = random(rng, LAYERS[name](3, return_sequences=True), 2)
    twin = getattr(keras.layers, name)(3, return_sequences=True, dtype="float64")
    twin.build((2, 5, 2))
    twin.set_weights([layer.params[key] for key in ("W", "U", "b")])
    x = rng.standard_normal((2, 5, 2))
    np.testing.assert_allclose(layer.forward(x), keras.ops.convert_to_numpy(twin(x)), **KERAS_TOLERANCE)


def test_one_step_by_hand():
    """Weights 0: gates are sigmoid(0) = 1/2, but the forget gate sigmoid(1); candidates are tanh(0) = 0."""
    x, ones = np.ones((1, 1, 2)), np.ones((1, 1))
    zeros = {"init": lambda shape, rng: np.zeros(shape), "recurrent_init": lambda shape, rng: np.zeros(shape)}
    lstm = nn.LSTM(1, **zeros)
    h = lstm.forward(x, initial_state=(ones, 3 * ones))
    c = 3 / (1 + math.exp(-1))
    np.testing.assert_allclose([h[0, 0], lstm.state[1][0, 0]], [math.tanh(c) / 2, c], rtol=1e-15)
    assert nn.GRU(1, **zeros).forward(x, initial_state=3 * ones) == 1.5
    rnn = nn.SimpleRNN(
        1, init=lambda shape, rng: np.full(shape, 0.25), recurrent_init=lambda shape, rng: np.ones(shape)
    )
    np.testing.assert_allclose(rnn.forward(x, initial_state=ones), math.tanh(1.5), rtol=1e-15)


@every_layer
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_inputs_saturate_without_warnings(make, dtype):
    layer = make(3, return_sequences=True, dtype=dtype)
    x = np.array([-3e4, 3e4, 0.0], dtype).reshape(1, 3, 1)
    y = layer.forward(x)
    assert np.isfinite(y).all()
    assert np.abs(y).max() <= 1 + 2 * np.finfo(dtype).eps
    assert np.isfinite(layer.backward(np.ones_like(y))).all()


# State.


def make_fresh(layer, make):
    """Another layer with the same weights, at the start."""
    fresh = make(layer.units, return_sequences=layer.return_sequences)
    fresh.params = layer.params
    fresh.grads = {name: np.zeros_like(param) for name, param in layer.params.items()}
    return fresh


@every_layer
def test_stateful_layers_go_on_where_they_ended(make, rng):
    whole, halves = (
        random(np.random.default_rng(3), make(3, return_sequences=True, stateful=s), 2) for s in (False, True)
    )
    x = rng.standard_normal((2, 6, 2))
    y = whole.forward(x)
    parts = [halves.forward(x[:, :2]), halves.forward(x[:, 2:])]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), y, rtol=1e-13, atol=1e-15)
    for mine, other in zip(halves.state, whole.state, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-13, atol=1e-15)
    np.testing.assert_array_equal(whole.forward(x), y)  # not stateful: from zeros again
    halves.reset_state()
    assert halves.state is None
    np.testing.assert_array_equal(halves.forward(x[:, :2]), parts[0])
    # Another number of sequences: not those of the pass before.
    np.testing.assert_array_equal(halves.forward(x[:1]), make_fresh(halves, make).forward(x[:1]))


@every_layer
def test_state_after_some_steps_is_where_another_pass_can_begin(make, rng):
    layer = random(rng, make(3, return_sequences=True), 2)
    x = rng.standard_normal((2, 5, 2))
    y = layer.forward(x)
    final, middle, first = layer.state, layer.state_after(3), layer.state_after(0)
    assert not any(state.any() for state in first)
    np.testing.assert_array_equal(layer.state_after(5), final)
    np.testing.assert_array_equal(middle[0], y[:, 2])
    layer.set_state(*middle)
    again = layer.forward(x[:, 3:])
    np.testing.assert_allclose(again, y[:, 3:], rtol=1e-13, atol=1e-15)
    np.testing.assert_array_equal(layer.forward(x), y)  # set_state was for one pass
    np.testing.assert_array_equal(layer.forward(x[:, 3:], initial_state=middle), again)


@every_layer
@pytest.mark.parametrize("return_sequences", [True, False])
def test_backward_steps_makes_what_was_before_constant(make, return_sequences, rng):
    layer = random(rng, make(3, return_sequences=return_sequences), 2)
    x = rng.standard_normal((2, 6, 2))
    dout = rng.standard_normal((2, 6, 3) if return_sequences else (2, 3))
    layer.forward(x)
    middle = layer.state_after(4)
    layer.backward_steps = 2
    dx = layer.backward(dout)
    gradients = {name: grad.copy() for name, grad in layer.grads.items()}
    assert not any(d.any() for d in layer.dstate)
    layer.forward(x[:, 4:], initial_state=middle)
    np.testing.assert_allclose(dx[:, 4:], layer.backward(dout[:, 4:] if return_sequences else dout), rtol=1e-12)
    assert not dx[:, :4].any()
    for name, grad in layer.grads.items():
        np.testing.assert_allclose(gradients[name], grad, rtol=1e-12, atol=1e-14)


# What every layer promises.


@every_layer
def test_gradient_arrays_exist_from_build_and_are_overwritten_in_place(make, rng):
    layer = make(3)
    layer.build((5, 4, 2), np.float64)
    arrays, shapes = dict(layer.grads), {name: p.shape for name, p in layer.params.items()}
    assert {name: grad.shape for name, grad in arrays.items()} == shapes
    x, dout, seen = rng.standard_normal((5, 4, 2)), np.ones((5, 3)), []
    for _ in range(2):
        layer.forward(x)
        layer.backward(dout)
        assert all(layer.grads[name] is array for name, array in arrays.items())
        seen.append({name: array.copy() for name, array in arrays.items()})
    for name in arrays:
        np.testing.assert_array_equal(seen[0][name], seen[1][name])
        assert seen[0][name].any()


@every_layer
@pytest.mark.parametrize("return_sequences", [True, False])
@pytest.mark.parametrize("time", [1, 4])
def test_results_are_the_callers(make, return_sequences, time, rng):
    layer, x = make(3, return_sequences=return_sequences, stateful=True), rng.standard_normal((2, time, 2))
    x_before, arrays = x.copy(), []
    for training in (True, False):
        y = layer.forward(x, training=training)
        dout = np.ones_like(y)
        arrays += [y, layer.backward(dout), *layer.state, *layer.dstate, *layer.state_after(1), dout]
    arrays += [x, *layer.params.values(), *layer.grads.values()]
    assert not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[i + 1 :])
    np.testing.assert_array_equal(x, x_before)


@every_layer
def test_a_pass_of_another_shape_and_back(make, rng):
    """Memory is kept from pass to pass: what lies in it must not show."""
    layer = random(rng, make(3, return_sequences=True), 2)
    x, dout = rng.standard_normal((4, 5, 2)), rng.standard_normal((4, 5, 3))
    y, dx = layer.forward(x), layer.backward(dout)
    part_y, part_dx = layer.forward(x[:2, :3]), layer.backward(dout[:2, :3])
    np.testing.assert_allclose(part_y, y[:2, :3], rtol=1e-13, atol=1e-15)
    assert part_dx.shape == (2, 3, 2)
    np.testing.assert_array_equal(layer.forward(x), y)
    np.testing.assert_array_equal(layer.backward(dout), dx)


@every_layer
def test_empty_batch(make):
    layer = make(3, return_sequences=True)
    assert layer.forward(np.empty((0, 4, 2), np.float32)).shape == (0, 4, 3)
    assert layer.backward(np.empty((0, 4, 3), np.float32)).shape == (0, 4, 2)
    assert not any(grad.any() for grad in layer.grads.values())


@every_layer
def test_dtypes(make, rng):
    x = rng.standard_normal((2, 3, 2))
    for given, asked, expected in (("f2", None, "f4"), ("f4", None, "f4"), ("f8", None, "f8"), ("f4", "f8", "f8")):
        layer = make(3, dtype=asked)
        y = layer.forward(x.astype(given))
        dx = layer.backward(y.astype(given))
        arrays = [y, dx, *layer.state, *layer.params.values(), *layer.grads.values()]
        assert {array.dtype for array in arrays} == {np.dtype(expected)}


def test_initial_weights():
    kitae.seed(5)
    layer = nn.LSTM(40)
    layer.build((1, 1, 60), np.float64)
    for gate in np.split(layer.params["U"], 4, axis=1):
        np.testing.assert_allclose(gate.T @ gate, np.eye(40), atol=1e-13)
    for gate in np.split(layer.params["W"], 4, axis=1):
        # Xavier: variance 2 / (inputs + units). 2400 draws: their standard deviation is within 6 %, four sigma.
        assert gate.std() == pytest.approx(math.sqrt(2 / 100), rel=0.06)
    np.testing.assert_array_equal(layer.params["b"], np.repeat([0, 1, 0, 0], 40))
    bias = nn.LSTM(2, forget_bias=0)
    bias.build((1, 1, 3), np.float32)
    assert not bias.params["b"].any()
    kitae.seed(5)
    again = nn.LSTM(40)
    again.build((1, 1, 60), np.float64)
    np.testing.assert_array_equal(again.params["W"], layer.params["W"])


def test_exploding_gradients_are_clipped(rng):
    layer = nn.SimpleRNN(4, recurrent_init=lambda shape, generator: 3 * np.eye(4), return_sequences=True)
    layer.forward(np.zeros((1, 30, 2)))
    layer.backward(np.ones((1, 30, 4)))
    norm = kitae.clip_grad_norm(layer.grads, 1.0, eps=0.0)
    assert norm > 1e12  # h stays 0, so each step back multiplies by 3
    assert kitae.global_norm(layer.grads) == pytest.approx(1, rel=1e-12)


# Messages.

X = np.ones((2, 4, 3), np.float32)


def after(*passes, **keywords):
    layer = nn.LSTM(2, return_sequences=True, **keywords)
    for x in passes:
        layer.forward(x)
    return layer


def returned():
    layer = after(X)
    layer.backward(np.ones((2, 4, 2), "f4"))
    return layer


def set_for_two():
    layer = after(stateful=True)
    layer.set_state(X[:, 0, :2], X[:, 0, :2])
    return layer


MISTAKES = {
    "units": (lambda: nn.LSTM(0), ValueError, ["nn.LSTM", "units", "integer", "0"]),
    "return_sequences": (lambda: nn.GRU(3, return_sequences=1), TypeError, ["nn.GRU", "return_sequences", "True", "1"]),
    "stateful": (lambda: nn.SimpleRNN(3, stateful="no"), TypeError, ["nn.SimpleRNN", "stateful", "'no'"]),
    "reset_after": (lambda: nn.GRU(3, reset_after=None), TypeError, ["nn.GRU", "reset_after", "None"]),
    "forget_bias": (lambda: nn.LSTM(3, forget_bias=math.nan), ValueError, ["nn.LSTM", "forget_bias", "nan"]),
    "init": (lambda: nn.LSTM(3, recurrent_init="orth"), ValueError, ["recurrent_init", "'orthogonal'", "'orth'"]),
    "init shape": (lambda: nn.LSTM(3, init=lambda shape, rng: np.ones(3)).forward(X), ValueError, ["(3, 3)", "(3,)"]),
    "dtype": (lambda: nn.LSTM(3, dtype=np.int64), TypeError, ["nn.LSTM", "dtype", "float32", "int64"]),
    "build": (lambda: nn.LSTM(3).build((2, 3), "f4"), ValueError, ["nn.LSTM.build", "shape", "time", "(2, 3)"]),
    "x list": (lambda: nn.LSTM(3).forward([[[1.0]]]), TypeError, ["nn.LSTM.forward", "x", "numpy.ndarray", "list"]),
    "x flat": (lambda: nn.LSTM(3).forward(X[0]), ValueError, ["nn.LSTM.forward", "x", "3 dimensions", "(4, 3)"]),
    "x ids": (lambda: nn.LSTM(3).forward(np.ones((2, 3, 4), int)), TypeError, ["x", "float32", "int64"]),
    "x without steps": (lambda: nn.LSTM(3).forward(X[:, :0]), ValueError, ["x", "time step", "(2, 0, 3)"]),
    "x width": (lambda: after(X).forward(X[:, :, :2]), ValueError, ["x", "(batch, time, 3)", "(2, 4, 2)"]),
    "x wide": (lambda: after(X).forward(X.astype("f8")), TypeError, ["x", "float32", "float64"]),
    "batch": (lambda: set_for_two().forward(X[:1]), ValueError, ["x", "batch of 2", "set_state", "of 1"]),
    "one state": (lambda: after().set_state(X[:, 0, :2]), ValueError, ["nn.LSTM.set_state", "2 arrays, h, c", "1"]),
    "state units": (lambda: after().set_state(X[:, 0], X[:, 0]), ValueError, ["state h", "(2, 2)", "(2, 3)"]),
    "state batch": (lambda: after().forward(X, initial_state=(X[0, :3, :2],) * 2), ValueError, ["initial_state h"]),
    "state wide": (lambda: after().forward(X, initial_state=(np.ones((2, 2)),) * 2), TypeError, ["float64"]),
    "state_after": (lambda: after(X).state_after(5), ValueError, ["nn.LSTM.state_after", "steps", "[0, 4]", "5"]),
    "state_after first": (lambda: after().state_after(0), RuntimeError, ["nn.LSTM.state_after", "forward"]),
    "no forward": (lambda: after().backward(X), RuntimeError, ["nn.LSTM.backward", "forward"]),
    "backward twice": (lambda: returned().backward(np.ones((2, 4, 2), "f4")), RuntimeError, ["backward", "forward"]),
    "dout": (lambda: after(X).backward(X), ValueError, ["dout", "(2, 4, 2)", "(2, 4, 3)"]),
    "dout dtype": (lambda: after(X).backward(np.ones((2, 4, 2))), TypeError, ["dout", "float32", "float64"]),
    "dstate": (lambda: after(X).backward(X[..., :2], dstate=X[:, 0]), ValueError, ["dstate", "2 arrays", "1"]),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(mistake):
    assert_named(*MISTAKES[mistake], "kitae.nn.")


def test_a_refused_pass_changes_nothing(rng):
    layer = random(rng, nn.GRU(2, return_sequences=True, stateful=True), 3)
    y = layer.forward(X.astype("f8"))
    before = [array.copy() for array in (*layer.state, *layer.params.values(), *layer.grads.values())]
    for x in (X[:, :0].astype("f8"), X[:, :, :1].astype("f8"), X[0].astype("f8")):
        with pytest.raises(ValueError, match=r"nn\.GRU\.forward"):
            layer.forward(x)
    with pytest.raises(ValueError, match="dout"):
        layer.backward(y[:1])
    after = [*layer.state, *layer.params.values(), *layer.grads.values()]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert layer.backward(y).any()  # the pass before is still there
