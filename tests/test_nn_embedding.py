"""nn.Embedding, nn.TimeDistributed and its loss, the shared sigmoid."""

import ml_dtypes
import mpmath
import numpy as np
import pytest

import kitae
from kitae import nn
from kitae.nn.functions import sigmoid
from mistakes import assert_named
from test_nn_recurrent import GRADIENT_TOLERANCE, numerical_gradient


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sigmoid_is_accurate_everywhere(dtype, rng):
    x = np.concatenate([np.linspace(-80, 80, 1001), rng.standard_normal(1000)]).astype(dtype)
    exact = np.array([float(1 / (1 + mpmath.exp(-mpmath.mpf(float(v))))) for v in x])
    # exp errs by at most two units, the sum and the division by a half each.
    assert np.max(np.abs(sigmoid(x).astype(float) - exact) / np.spacing(exact.astype(dtype)).astype(float)) <= 4
    edges = np.array([-np.inf, -1e30, 1e30, np.inf, np.nan, 0], dtype)
    np.testing.assert_array_equal(sigmoid(edges, out=edges), [0, 0, 1, 1, np.nan, 0.5])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_sigmoid_of_16_bits_is_rounded_once(dtype):
    x = np.linspace(-9, 9, 50).astype(dtype)
    y = sigmoid(x)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, sigmoid(x.astype(np.float32)).astype(dtype))
    assert sigmoid(np.float64(0).reshape(())) == 0.5


class TestEmbedding:
    def test_forward_and_the_sum_of_repeated_ids(self, rng):
        layer = nn.Embedding(3, 5, dtype=float)
        ids = np.array([[4, 0, 4], [4, 1, 0]])
        y = layer.forward(ids)
        np.testing.assert_array_equal(y, layer.params["W"][ids])
        assert layer.backward(np.arange(18.0).reshape(2, 3, 3)) is None
        # Rows 0, 2 and 3 of six are id 4's; 1 and 5 id 0's; 4 is id 1's.
        np.testing.assert_array_equal(
            layer.grads["W"], [[18, 20, 22], [12, 13, 14], [0, 0, 0], [0, 0, 0], [15, 18, 21]]
        )

    def test_gradient_matches_finite_differences(self, rng):
        layer, ids, weights = (
            nn.Embedding(2, 4, dtype=float),
            rng.integers(0, 4, (3, 5)),
            rng.standard_normal((3, 5, 2)),
        )

        def loss():
            return float(np.sum(layer.forward(ids) * weights))

        loss()
        layer.backward(weights)
        np.testing.assert_allclose(layer.grads["W"], numerical_gradient(loss, layer.params["W"]), **GRADIENT_TOLERANCE)

    @pytest.mark.parametrize("shape", [(), (7,), (2, 3), (2, 3, 4), (0, 3)])
    @pytest.mark.parametrize("dtype", [np.uint8, np.int64])
    def test_any_shape_of_ids_and_a_new_gradient_each_time(self, shape, dtype, rng):
        layer = nn.Embedding(2, 300)
        layer.build((1,), np.int64)
        (array,) = layer.grads.values()
        for _ in range(2):
            ids = rng.integers(0, 200, shape).astype(dtype)
            y = layer.forward(ids)
            dout = rng.standard_normal(y.shape).astype(np.float32)
            layer.backward(dout)
            expected = np.zeros((300, 2))
            np.add.at(expected, ids.astype(int), dout)
            np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-6)
            assert y.shape == (*shape, 2)
            assert not np.shares_memory(y, layer.params["W"])
        assert layer.grads["W"] is array

    def test_ids_may_change_after_forward(self):
        layer, ids = nn.Embedding(1, 3), np.array([2, 2])
        layer.forward(ids)
        ids[:] = 0
        layer.backward(np.ones((2, 1), np.float32))
        np.testing.assert_array_equal(layer.grads["W"], [[0], [0], [2]])

    def test_vocabulary_of_the_first_batch(self):
        layer = nn.Embedding(2)
        layer.forward(np.array([[3, 1]]))
        assert layer.params["W"].shape == (4, 2)
        with pytest.raises(ValueError, match="ids from 0 to 3, the vocabulary, got values from 0 to 4"):
            layer.forward(np.array([[0, 4]]))

    def test_initial_weights(self):
        kitae.seed(2)
        layer = nn.Embedding(100, 100)
        layer.build((1,), np.int64)
        assert layer.params["W"].dtype == np.float32
        # 10000 draws: their standard deviation is within 3 %, four sigma.
        assert layer.params["W"].std() == pytest.approx(1, rel=0.03)
        small = nn.Embedding(100, 100, init="gaussian")
        small.build((1,), np.int64)
        assert small.params["W"].std() == pytest.approx(0.01, rel=0.03)


class TestTimeDistributed:
    def test_every_step_alone(self, rng):
        layer, x, dout = nn.TimeDistributed(nn.Dense(2)), rng.standard_normal((3, 4, 5)), rng.standard_normal((3, 4, 2))
        y, dx = layer.forward(x), layer.backward(dout)
        grads, total = {name: grad.copy() for name, grad in layer.grads.items()}, 0
        for step in range(4):
            np.testing.assert_allclose(layer.layer.forward(x[:, step]), y[:, step], rtol=1e-13, atol=1e-15)
            np.testing.assert_allclose(layer.layer.backward(dout[:, step]), dx[:, step], rtol=1e-13, atol=1e-15)
            total = total + layer.layer.grads["W"]
        np.testing.assert_allclose(grads["layer.W"], total, rtol=1e-12, atol=1e-14)

    def test_names_in_a_network(self, rng):
        network = nn.Sequential(nn.Embedding(3, 6), nn.LSTM(4, return_sequences=True), nn.TimeDistributed(nn.Dense(2)))
        network.forward(rng.integers(0, 6, (2, 3)))
        assert list(network.params) == list(network.grads) == ["0.W", "1.W", "1.U", "1.b", "2.layer.W", "2.layer.b"]
        assert network.backward(np.ones((2, 3, 2), np.float32)) is None

    def test_build_and_images(self):
        layer = nn.TimeDistributed(nn.ReLU())
        x = np.arange(-12.0, 12).reshape(2, 3, 2, 2)
        np.testing.assert_array_equal(layer.forward(x), np.maximum(x, 0))
        dense = nn.TimeDistributed(nn.Dense(2))
        dense.build((4, 5, 3), np.float64)
        assert dense.params["layer.W"].shape == (3, 2)


class TestTimeDistributedLoss:
    def test_mean_over_batch_and_time(self, rng):
        loss, single = nn.TimeDistributedLoss(nn.SoftmaxCrossEntropy()), nn.SoftmaxCrossEntropy()
        outputs, targets = rng.standard_normal((2, 3, 4)), rng.integers(0, 4, (2, 3))
        value, doutputs = loss.forward(outputs, targets), loss.backward()
        steps = [(single.forward(outputs[:, i], targets[:, i]), single.backward()) for i in range(3)]
        assert value == pytest.approx(np.mean([v for v, _ in steps]), rel=1e-14)
        for i, (_, d) in enumerate(steps):
            np.testing.assert_allclose(doutputs[:, i], d / 3, rtol=1e-14)
        assert loss.count == 6
        one_hot = np.eye(4)[targets]
        assert loss.forward(outputs, one_hot) == value

    @pytest.mark.requires_torch
    def test_ignored_steps_of_pytorch(self, rng):
        import torch

        outputs, targets = rng.standard_normal((4, 3, 5)), rng.integers(0, 5, (4, 3))
        targets[0, 1:] = targets[2, :2] = -1
        loss = nn.TimeDistributedLoss(nn.SoftmaxCrossEntropy(), ignore=-1)
        theirs = torch.from_numpy(outputs).requires_grad_()
        expected = torch.nn.functional.cross_entropy(
            theirs.reshape(-1, 5), torch.from_numpy(targets).reshape(-1), ignore_index=-1
        )
        expected.backward()
        assert loss.forward(outputs, targets) == pytest.approx(expected.item(), rel=1e-14)
        assert loss.count == 8
        np.testing.assert_allclose(loss.backward(), theirs.grad.numpy(), rtol=1e-13, atol=1e-17)

    def test_gradients_stay_at_their_steps(self, rng):
        outputs, targets = rng.standard_normal((1, 3, 4)), np.array([[-1, 2, -1]])
        loss, single = nn.TimeDistributedLoss(nn.SoftmaxCrossEntropy(), ignore=-1), nn.SoftmaxCrossEntropy()
        assert loss.forward(outputs, targets) == single.forward(outputs[:, 1], targets[:, 1])
        doutputs = loss.backward()
        np.testing.assert_array_equal(doutputs[:, 1], single.backward())
        assert not doutputs[:, ::2].any()

    def test_everything_ignored(self):
        loss = nn.TimeDistributedLoss(nn.SoftmaxCrossEntropy(), ignore=-1)
        assert loss.forward(np.ones((2, 3, 4)), np.full((2, 3), -1)) == 0.0
        assert loss.count == 0
        np.testing.assert_array_equal(loss.backward(), np.zeros((2, 3, 4)))


IDS = np.array([[0, 1], [2, 0]])


def embedded():
    layer = nn.Embedding(3, 4)
    layer.forward(IDS)
    return layer


def spread():
    layer = nn.TimeDistributed(nn.Dense(2))
    layer.forward(np.ones((2, 3, 4)))
    return layer


def loss(**keywords):
    return nn.TimeDistributedLoss(nn.SoftmaxCrossEntropy(), **keywords)


OUT = np.ones((2, 2, 3))
MISTAKES = {
    "units": (lambda: nn.Embedding(0, 3), ValueError, ["nn.Embedding", "units", "0"]),
    "vocabulary": (lambda: nn.Embedding(3, 2.5), TypeError, ["nn.Embedding", "vocabulary", "integer", "2.5"]),
    "init": (lambda: nn.Embedding(3, 2, init="x"), ValueError, ["nn.Embedding", "init", "'gaussian'", "'x'"]),
    "init shape": (lambda: nn.Embedding(3, 4, init=lambda s, r: np.ones(2)).forward(IDS), ValueError, ["(4, 3)"]),
    "dtype": (lambda: nn.Embedding(3, 2, dtype=int), TypeError, ["nn.Embedding", "dtype", "int64"]),
    "build": (lambda: nn.Embedding(3).build((2, 2), int), ValueError, ["nn.Embedding.build", "vocabulary", "None"]),
    "ids list": (lambda: embedded().forward([[0]]), TypeError, ["Embedding.forward", "ids", "numpy.ndarray"]),
    "ids float": (lambda: embedded().forward(OUT), TypeError, ["ids", "integer dtype", "float64"]),
    "ids bool": (lambda: embedded().forward(IDS > 0), TypeError, ["ids", "integer dtype", "bool"]),
    "ids high": (lambda: embedded().forward(IDS + 2), ValueError, ["ids", "0 to 3", "2 to 4"]),
    "ids low": (lambda: nn.Embedding(2).forward(IDS - 1), ValueError, ["ids", "from 0 on", "-1 to 1"]),
    "no forward": (lambda: nn.Embedding(3).backward(OUT), RuntimeError, ["nn.Embedding.backward", "forward"]),
    "dout": (lambda: embedded().backward(OUT[:1]), ValueError, ["Embedding.backward", "dout", "(1, 2, 3)"]),
    "dout dtype": (lambda: embedded().backward(OUT), TypeError, ["dout", "float32", "float64"]),
    "layer": (lambda: nn.TimeDistributed(nn.Dense), TypeError, ["nn.TimeDistributed", "layer", "forward", "type"]),
    "x": (lambda: spread().forward(OUT[0]), ValueError, ["nn.TimeDistributed.forward", "x", "time", "(2, 3)"]),
    "no forward 2": (lambda: nn.TimeDistributed(nn.ReLU()).backward(OUT), RuntimeError, ["TimeDistributed.backward"]),
    "dout 2": (lambda: spread().backward(OUT), ValueError, ["TimeDistributed.backward", "dout", "(2, 3)", "(2, 2, 3)"]),
    "loss": (lambda: nn.TimeDistributedLoss(3), TypeError, ["nn.TimeDistributedLoss", "loss", "targets", "3"]),
    "ignore": (lambda: loss(ignore=0.5), TypeError, ["nn.TimeDistributedLoss", "ignore", "integer", "0.5"]),
    "outputs": (lambda: loss().forward(OUT[0, 0], IDS), ValueError, ["outputs", "time", "(3,)"]),
    "targets": (lambda: loss().forward(OUT, IDS[:1]), ValueError, ["targets", "(2, 2)", "(1, 2)"]),
    "one-hot": (lambda: loss(ignore=0).forward(OUT, OUT), ValueError, ["targets", "ignore", "(2, 2, 3)"]),
    "twice": (lambda: [a := loss(), a.forward(OUT, IDS), a.backward(), a.backward()], RuntimeError, ["Loss.backward"]),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(mistake):
    assert_named(*MISTAKES[mistake], "kitae.nn.")


def test_refused_ids_leave_the_pass_before(rng):
    layer = embedded()
    with pytest.raises(ValueError, match="vocabulary"):
        layer.forward(IDS + 2)
    layer.backward(np.ones((2, 2, 3), np.float32))
    np.testing.assert_array_equal(layer.grads["W"][:, 0], [2, 1, 1, 0])
