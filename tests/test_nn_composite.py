"""Layers made of layers: names, shared arrays, blocks against their equations, buffers that loading writes into."""

from typing import Any

import numpy as np
import pytest

import kitae
from kitae import nn
from kitae.nn.composite import walk
from mistakes import assert_named

RNG = np.random.default_rng(11)


def normal(*shape):
    return RNG.standard_normal(shape)


def central_differences(value, array, step=1e-6):
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        kept = array[index]
        array[index] = kept + step
        above = value()
        array[index] = kept - step
        gradient[index] = (above - value()) / (2 * step)
        array[index] = kept
    return gradient


# Central differences in float64 err by step^2 (1e-12) and rounding / step (1e-16 * |value| / 1e-6).
DIFFERENCES = {"rtol": 1e-6, "atol": 1e-8}


def assert_gradients(network, x, weight):
    """backward(weight) is the gradient of sum(weight * y) for x and every parameter."""

    def value():
        return float(np.sum(network.forward(x) * weight))

    value()
    dx = network.backward(weight).copy()
    grads = {name: grad.copy() for name, grad in network.grads.items()}
    np.testing.assert_allclose(dx, central_differences(value, x), **DIFFERENCES)
    assert list(grads) == list(network.params)
    for name, param in network.params.items():
        np.testing.assert_allclose(grads[name], central_differences(value, param), **DIFFERENCES, err_msg=name)


def dense(units, inputs):
    return nn.Dense(units, inputs=inputs, dtype=np.float64)


class TestResidual:
    @pytest.mark.parametrize("activation", ["relu", None])
    @pytest.mark.parametrize("projected", [False, True])
    def test_is_the_equation_and_its_gradient(self, activation, projected):
        shortcut = nn.Dense(3, inputs=4, bias=False, dtype=float) if projected else None
        units = 3 if projected else 4
        block = nn.Residual(nn.Sequential(dense(5, 4), nn.ReLU(), dense(units, 5)), shortcut, activation)
        x, p = normal(6, 4), block.params
        hidden = np.maximum(x @ p["body.0.W"] + p["body.0.b"], 0)
        expected = hidden @ p["body.2.W"] + p["body.2.b"] + (x @ p["shortcut.W"] if projected else x)
        if activation:
            expected = np.maximum(expected, 0)
        # Sums of five products of size 1, twice.
        np.testing.assert_allclose(block.forward(x), expected, atol=1e-14)
        assert_gradients(block, x, normal(6, units))

    def test_outputs_and_gradients_of_the_body_are_left_alone(self):
        class Keeper(nn.Layer):
            def forward(self, x, training=True):
                self.y = x * 2
                self.copy = self.y.copy()
                return self.y

            def backward(self, dout):
                self.dx = dout * 2
                self.dx_copy = self.dx.copy()
                return self.dx

        body = Keeper()
        block = nn.Residual(body)
        block.forward(normal(3, 3))
        block.backward(normal(3, 3))
        np.testing.assert_array_equal(body.y, body.copy)
        np.testing.assert_array_equal(body.dx, body.dx_copy)

    def test_an_identity_body_doubles(self):
        block, x = nn.Residual(nn.Sequential(), activation=None), normal(2, 3)
        kept = x.copy()
        np.testing.assert_array_equal(block.forward(x), 2 * kept)
        np.testing.assert_array_equal(block.backward(x), 2 * kept)
        np.testing.assert_array_equal(x, kept)


class TestBranches:
    def test_is_the_equation_and_its_gradient(self):
        block = nn.Branches(dense(2, 4), nn.Sequential(dense(3, 4), nn.ReLU(), dense(1, 3)), nn.Sequential())
        x, p = normal(5, 4), block.params
        second = np.maximum(x @ p["1.0.W"] + p["1.0.b"], 0) @ p["1.2.W"] + p["1.2.b"]
        expected = np.concatenate([x @ p["0.W"] + p["0.b"], second, x], axis=1)
        np.testing.assert_allclose(block.forward(x), expected, atol=1e-14)
        assert_gradients(block, x, normal(5, 7))

    @pytest.mark.parametrize("axis", [0, 1, 2, -1])
    def test_any_axis(self, axis):
        block, x, dout_shape = nn.Branches(nn.ReLU(), nn.Sequential(), axis=axis), normal(2, 3, 4), [2, 3, 4]
        np.testing.assert_array_equal(block.forward(x), np.concatenate([np.maximum(x, 0), x], axis=axis))
        dout_shape[axis] *= 2
        first, second = np.split(dout := normal(*dout_shape), 2, axis=axis)
        np.testing.assert_array_equal(block.backward(dout), np.where(x > 0, first, 0) + second)

    def test_each_branch_gets_its_part_in_one_piece(self):
        class Looks(nn.ReLU):
            def backward(self, dout):
                self.contiguous = dout.flags.c_contiguous
                return super().backward(dout)

        branches = Looks(), Looks()
        block = nn.Branches(*branches)
        block.forward(normal(3, 4))
        block.backward(normal(3, 8))
        assert [branch.contiguous for branch in branches] == [True, True]


class TestNames:
    def test_nested(self):
        network = nn.Sequential(
            nn.Dense(4),
            nn.Sequential(nn.ReLU()),
            nn.Residual(nn.Sequential(nn.Dense(4), kitae.BatchNorm())),
            nn.Branches(nn.Dense(1), nn.Sequential(nn.Dense(2), nn.ReLU(), nn.Dense(3, bias=False))),
        )
        network.build((10, 3), np.float32)
        assert list(network.params) == [
            "0.W", "0.b", "2.body.0.W", "2.body.0.b", "2.body.1.gamma", "2.body.1.beta", "3.0.W", "3.0.b", "3.1.0.W",
            "3.1.0.b", "3.1.2.W",
        ]  # fmt: skip
        assert list(network.grads) == list(network.params)
        assert list(network.buffers) == ["2.body.1.running_mean", "2.body.1.running_var"]
        assert [name for name, _ in walk(network)] == [
            "0", "1.0", "2.body.0", "2.body.1", "3.0", "3.1.0", "3.1.1", "3.1.2",
        ]  # fmt: skip
        assert [name for name, _ in network.children()] == ["0", "1", "2", "3"]

    def test_writing_into_params_and_buffers_reaches_the_layers(self):
        norm, dropout = kitae.BatchNorm(2), kitae.Dropout(0.5, seed=3)
        network = nn.Sequential(nn.Sequential(norm), dropout)
        network.params["0.0.gamma"][...] = [2, 3]
        network.buffers["0.0.running_mean"][...] = [4, 5]
        network.buffers["1.offset"][...] = 6
        np.testing.assert_array_equal(norm.params["gamma"], [2, 3])
        np.testing.assert_array_equal(norm.buffers["running_mean"], [4, 5])
        x = np.ones((9, 7), np.float32)
        np.testing.assert_array_equal(dropout.forward(x), kitae.dropout(x, 0.5, seed=3, offset=6)[0])
        assert network.buffers["1.offset"] == 7

    def test_save_and_load(self, tmp_path):
        def make():
            body = nn.Sequential(nn.Dense(4), kitae.BatchNorm(), kitae.Dropout(0.5))
            return nn.Sequential(nn.Residual(body), nn.Branches(nn.Dense(1), nn.Dense(2)))

        model, x = make(), normal(5, 4)
        for _ in range(3):
            model.forward(x)
        model.save(tmp_path / "weights")
        copy = make()  # of other weights and another seed, not built
        assert not any(copy.load(tmp_path / "weights"))
        arrays, copies = ({**network.params, **network.buffers} for network in (model, copy))
        assert list(arrays) == list(copies)
        for name, array in arrays.items():
            np.testing.assert_array_equal(copies[name], array)
        assert copy.buffers["0.body.2.offset"] == 3
        np.testing.assert_array_equal(copy.forward(x), model.forward(x))  # the same mask, too

    @pytest.mark.parametrize("transposed", [False, True])
    def test_an_array_shared_across_depths_appears_once(self, transposed):
        first, second, third = dense(4, 4), dense(4, 4), dense(4, 4)
        for other in (second, third):
            other.params["W"] = first.params["W"].T if transposed else first.params["W"]
        network = nn.Sequential(nn.Residual(nn.Sequential(first, nn.ReLU(), second)), third)
        assert list(network.params) == ["0.body.0.W", "0.body.0.b", "0.body.2.b", "1.b"]
        assert_gradients(network, normal(3, 4), normal(3, 4))
        assert_gradients(network, normal(3, 4), normal(3, 4))  # the sum starts anew at each backward pass

    def test_sharing_is_noticed_whenever_it_begins_and_ends(self):
        first, second = dense(4, 4), dense(4, 4)
        network = nn.Sequential(nn.Residual(first), second)
        own = second.params["W"]
        for weights in (own, first.params["W"].T, own.copy(), first.params["W"]):
            second.params["W"] = weights
            assert_gradients(network, normal(3, 4), normal(3, 4))

    def test_a_frozen_layer_has_no_gradient(self):
        network = nn.Sequential(nn.Dense(3), kitae.BatchNorm(trainable=False))
        network.forward(normal(5, 2))
        network.backward(normal(5, 3))
        assert [name for name, grad in network.grads.items() if grad is None] == ["1.gamma", "1.beta"]


SHARED = nn.ReLU()
MISTAKES = {
    "body": (lambda: nn.Residual(3), TypeError, ["nn.Residual", "body", "a layer", "3"]),
    "body twice": (lambda: nn.Residual(SHARED, SHARED), ValueError, ["nn.Residual", "shortcut", "stands before"]),
    "deep twice": (
        lambda: nn.Sequential(SHARED, nn.Residual(nn.Sequential(nn.Dense(2), SHARED))), ValueError,
        ["nn.Sequential", "layers[1]", "once", "stands before"],
    ),
    "activation": (lambda: nn.Residual(nn.ReLU(), activation="tanh"), ValueError, ["activation", "'relu'", "'tanh'"]),
    "width": (
        lambda: nn.Residual(nn.Dense(3)).forward(np.ones((2, 4))), ValueError,
        ["nn.Residual.forward", "body(x)", "(2, 4)", "no shortcut", "(2, 3)"],
    ),
    "broadcast": (
        lambda: nn.Residual(nn.Dense(1), nn.Dense(4)).forward(np.ones((2, 4))), ValueError,
        ["body(x)", "(2, 4)", "shortcut(x)", "(2, 1)"],
    ),
    "no branch": (lambda: nn.Branches(), ValueError, ["nn.Branches", "branches", "at least one", "none"]),
    "branch": (lambda: nn.Branches(nn.ReLU), TypeError, ["nn.Branches", "branches[0]", "a layer", "type"]),
    "axis": (
        lambda: nn.Branches(nn.ReLU(), axis=2).forward(np.ones((2, 3))), ValueError,
        ["nn.Branches.forward", "axis", "[-2, 1]", "2"],
    ),
    "join": (
        lambda: nn.Branches(nn.Dense(3), nn.Dense(4), axis=0).forward(np.ones((2, 3))), ValueError,
        ["branches[1](x)", "(2, 3)", "all axes but 0", "(2, 4)"],
    ),
    "dout": (
        lambda: [b := nn.Branches(nn.ReLU()), b.forward(np.ones((2, 3))), b.backward(np.ones((2, 4)))], ValueError,
        ["nn.Branches.backward", "dout", "length 3 along axis 1", "(2, 4)"],
    ),
    "no forward": (lambda: nn.Branches(nn.ReLU()).backward(np.ones(3)), RuntimeError, ["nn.Branches.backward"]),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(mistake):
    assert_named(*MISTAKES[mistake], "kitae.nn.")


@pytest.mark.parametrize("first", [lambda: nn.Dense(5), lambda: nn.Sequential(nn.Dense(5), nn.ReLU())])
def test_a_first_layers_input_gradient_is_left_out(rng: np.random.Generator, first: Any) -> None:
    """The parameters' gradients keep their bits; layers that can't leave it out are called as ever."""
    model, x = nn.Sequential(first(), nn.Tanh(), nn.Dense(2)), rng.standard_normal((3, 4))
    dout = rng.standard_normal((3, 2))
    model.forward(x)
    assert model.backward(dout).shape == x.shape
    expected = {name: grad.copy() for name, grad in model.grads.items()}
    for grad in model.grads.values():
        grad.fill(np.nan)
    assert model.backward(dout, input_gradient=False) is None
    for name, grad in model.grads.items():
        np.testing.assert_array_equal(grad, expected[name])
    other = nn.Sequential(nn.ReLU(), nn.Dense(2))
    other.forward(x)
    assert other.backward(dout, input_gradient=False) is None
