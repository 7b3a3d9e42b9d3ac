"""Initializations: the published spreads within their sampling error, exact properties, PyTorch's, refusals."""

import math

import numpy as np
import pytest

import kitae
from kitae import nn
from kitae.nn import initializers as init
from mistakes import assert_named

DENSE, CONV = (400, 300), (30, 20, 3, 5)  # fans 400, 300 and 300, 450


def drawn(initializer, shape, seed=1):
    return initializer(shape, np.random.default_rng(seed))


def assert_normal(values, std):
    """Within 5 standard errors: std / sqrt n of the mean, std / sqrt(2 n) of the std, sqrt(96 / n) of the fourth moment
    (105 - 9 is its variance)."""
    n = values.size
    assert abs(values.mean()) < 5 * std / math.sqrt(n)
    assert abs(values.std() - std) < 5 * std / math.sqrt(2 * n)
    assert abs((values**4).mean() / std**4 - 3) < 5 * math.sqrt(96 / n)


def assert_uniform(values, limit):
    """All inside, and the extremes of n values within 20 limit / n of the ends (missed with probability e^-10)."""
    n = values.size
    assert np.abs(values).max() <= limit
    assert values.max() > limit * (1 - 20 / n)
    assert values.min() < -limit * (1 - 20 / n)
    # The fourth moment of U(-1, 1) is 1/5 with variance 1/9 - 1/25 of its square.
    assert abs((values**4).mean() / limit**4 - 1 / 5) < 5 * math.sqrt((1 / 9 - 1 / 25) / n)


# Written as the sources print them, for fans of 400 and 300 (m inputs, n outputs).
M, N = DENSE
NORMAL = {
    "gaussian": 0.01,
    "standard_normal": 1.0,
    "he": math.sqrt(2 / M),
    "kaiming": math.sqrt(2 / M),
    "xavier": math.sqrt(2 / (M + N)),
    "glorot": math.sqrt(2 / (M + N)),
    "xavier_inputs": 1 / math.sqrt(M),
    "xavier_unrooted_sum": math.sqrt(2) / (M + N),
    "lecun": 1 / math.sqrt(M),
}
UNIFORM = {
    "uniform": 0.05,
    "inverse_root_uniform": 1 / math.sqrt(M),
    "normalized_uniform": math.sqrt(6 / (M + N)),
    "xavier_uniform": math.sqrt(6 / (M + N)),
    "glorot_uniform": math.sqrt(6 / (M + N)),
    "he_uniform": math.sqrt(6 / M),
    "kaiming_uniform": math.sqrt(6 / M),
    "lecun_uniform": math.sqrt(3 / M),
}


@pytest.mark.parametrize("name", NORMAL)
def test_normal(name):
    assert_normal(drawn(init.BY_NAME[name], DENSE), NORMAL[name])


@pytest.mark.parametrize("name", UNIFORM)
def test_uniform(name):
    assert_uniform(drawn(init.BY_NAME[name], DENSE), UNIFORM[name])


def test_every_name_is_tested():
    others = {"orthogonal", "sparse", "zeros", "ones"}
    assert set(init.BY_NAME) == {*NORMAL, *UNIFORM, *others}


def test_parameters():
    assert_normal(drawn(init.Gaussian(0.3, mean=2.0), DENSE) - 2.0, 0.3)
    assert_uniform(drawn(init.Uniform(1.0, 5.0), DENSE) - 3.0, 2.0)
    assert_normal(drawn(init.He(gain=0.5), DENSE), 0.5 / math.sqrt(M))
    assert_normal(drawn(init.He(over="outputs"), DENSE), math.sqrt(2 / N))
    assert_uniform(drawn(init.Xavier(gain=2, distribution="uniform"), DENSE), 2 * math.sqrt(6 / (M + N)))


class TestFans:
    def test_dense_and_convolutions(self):
        assert init.fans((400, 300)) == (400, 300)
        assert init.fans(CONV) == (20 * 15, 30 * 15)
        assert init.fans((8, 4, 3)) == (12, 24)
        assert_normal(drawn(init.he, CONV), math.sqrt(2 / 300))
        assert_normal(drawn(init.xavier, CONV), math.sqrt(2 / 750))

    @pytest.mark.requires_torch
    def test_pytorch_agrees(self):
        import torch

        of_torch = torch.nn.init._calculate_fan_in_and_fan_out
        for shape in (CONV, (8, 4, 3), (2, 3, 4, 5, 6)):
            assert init.fans(shape) == of_torch(torch.empty(shape))
        assert init.fans((400, 300)) == of_torch(torch.empty(300, 400))


@pytest.mark.requires_torch
class TestPyTorch:
    """PyTorch's spreads, measured on its own draws of 120,000 values: 5 of both sampling errors."""

    @pytest.mark.parametrize(
        ("ours", "theirs", "arguments"),
        [
            (init.He(), "kaiming_normal_", {"nonlinearity": "relu"}),
            (init.He(gain=math.sqrt(2 / (1 + 0.2**2))), "kaiming_normal_", {"a": 0.2, "nonlinearity": "leaky_relu"}),
            (init.He(over="outputs"), "kaiming_normal_", {"mode": "fan_out", "nonlinearity": "relu"}),
            (init.He(distribution="uniform"), "kaiming_uniform_", {"nonlinearity": "relu"}),
            (init.Xavier(), "xavier_normal_", {}),
            (init.Xavier(gain=5 / 3, distribution="uniform"), "xavier_uniform_", {"gain": 5 / 3}),
        ],
    )
    @pytest.mark.parametrize("shape", [DENSE, (300, 40, 10)])
    def test_spread(self, ours, theirs, arguments, shape):
        import torch

        torch.manual_seed(1)
        tensor = torch.empty(shape[::-1] if len(shape) == 2 else shape, dtype=torch.float64)
        peer = getattr(torch.nn.init, theirs)(tensor, **arguments).numpy()
        values = drawn(ours, shape)
        assert values.std() == pytest.approx(peer.std(), rel=5 * math.sqrt(2) / math.sqrt(2 * values.size))
        # A normal distribution's fourth moment is 3 of its squared variance, a uniform one's 1.8.
        assert (values**4).mean() / values.std() ** 4 == pytest.approx(
            (peer**4).mean() / peer.std() ** 4, abs=5 * math.sqrt(2 * 96 / values.size)
        )

    def test_default_of_linear(self):
        import torch

        torch.manual_seed(1)
        peer = torch.nn.Linear(M, N).weight.detach().numpy()
        # Extremes of 120,000 values: within 20 / n of the ends.
        assert np.abs(peer).max() == pytest.approx(
            np.abs(drawn(init.inverse_root_uniform, DENSE)).max(), rel=20 / peer.size
        )


class TestOrthogonal:
    @pytest.mark.parametrize("shape", [(30, 30), (50, 20), (20, 50), (16, 3, 5, 2), (4, 9, 2)])
    def test_rows_or_columns_are_orthonormal(self, shape):
        w = drawn(init.Orthogonal(1.5), shape)
        assert w.shape == shape
        matrix = w.reshape(shape[0], -1)
        short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
        # Householder's QR is orthogonal to a few eps.
        np.testing.assert_allclose(short @ short.T, 1.5**2 * np.eye(len(short)), atol=1e-14)

    def test_signs_are_even(self):
        rng = np.random.default_rng(3)
        signs = [init.Orthogonal()((1, 1), rng)[0, 0] for _ in range(400)]
        assert set(signs) == {-1.0, 1.0}
        assert abs(sum(signs)) < 5 * math.sqrt(400)
        # Traces of evenly drawn orthogonal matrices have mean 0 and variance 1 (Diaconis and Shahshahani 1994).
        traces = [np.trace(init.Orthogonal()((6, 6), rng)) for _ in range(400)]
        assert abs(np.mean(traces)) < 5 / math.sqrt(400)
        assert abs(np.var(traces) - 1) < 5 * math.sqrt(2 / 400)


class TestSparse:
    @pytest.mark.parametrize(("shape", "units"), [((200, 40), 1), ((40, 20, 2, 5), 0)])
    def test_each_unit_has_its_number(self, shape, units):
        w = drawn(init.Sparse(15, std=2.0), shape)
        assert w.shape == shape
        by_unit = np.moveaxis(w, units, 0).reshape(40, 200)
        np.testing.assert_array_equal((by_unit != 0).sum(axis=1), 15)
        assert_normal(by_unit[by_unit != 0], 2.0)
        # Places are even: 600 of them among 200 inputs, a Poisson-like count of mean 3 each.
        counts = (by_unit != 0).sum(axis=0)
        assert counts.max() < 3 + 6 * math.sqrt(3)
        assert len({tuple(np.flatnonzero(unit)) for unit in by_unit}) == 40

    def test_fewer_inputs_than_asked_for(self):
        assert (drawn(init.Sparse(15), (4, 6)) != 0).all()


class TestConstant:
    @pytest.mark.parametrize("name", ["zeros", "ones"])
    def test_weights_are_refused_with_the_reason(self, name):
        layer = nn.Dense(3, init=name)
        with pytest.raises(ValueError, match=r"kitae\.nn\.initializers\.Constant: shape: .*symmetry.*\(4, 3\)"):
            layer.forward(np.ones((2, 4)))
        assert layer.params == {}

    def test_the_reason_is_true(self):
        """Two layers of equal weights, trained: all units of the first stay one and the same."""
        network = nn.Sequential(
            nn.Dense(5, init=lambda shape, rng: np.full(shape, 0.1)), nn.Tanh(),
            nn.Dense(3, init=lambda shape, rng: np.full(shape, 0.1)),
        )  # fmt: skip
        rng, loss = np.random.default_rng(0), nn.SoftmaxCrossEntropy()
        x, labels = rng.standard_normal((30, 4)), rng.integers(0, 3, 30)
        network.build(x.shape, x.dtype)
        optimizer = kitae.Adam(network.params, 0.1)
        for _ in range(20):
            loss.forward(network.forward(x), labels)
            network.backward(loss.backward())
            optimizer.step(network.grads)
        weights = network.params["0.W"]
        assert np.abs(weights - 0.1).max() > 0.1
        np.testing.assert_allclose(weights, np.broadcast_to(weights[:, :1], weights.shape), rtol=1e-12)

    def test_biases(self):
        np.testing.assert_array_equal(nn.Dense(3, inputs=2, bias_init=0.1).params["b"], np.full(3, 0.1, np.float32))
        np.testing.assert_array_equal(nn.Dense(3, inputs=2, bias_init="ones").params["b"], [1, 1, 1])
        np.testing.assert_array_equal(nn.Dense(3, inputs=2).params["b"], [0, 0, 0])
        drawn_biases = nn.Dense(3, inputs=2, bias_init=init.Gaussian(5.0)).params["b"]
        assert len(set(drawn_biases.tolist())) == 3


def test_layers_take_names_and_objects():
    for initializer in ("orthogonal", init.Orthogonal()):
        w = nn.Dense(20, inputs=20, init=initializer, dtype=np.float64).params["W"]
        np.testing.assert_allclose(w.T @ w, np.eye(20), atol=1e-14)


def test_a_generator_fixes_the_values():
    for initializer in init.BY_NAME.values():
        if not isinstance(initializer, init.Constant):
            np.testing.assert_array_equal(drawn(initializer, (6, 5)), drawn(initializer, (6, 5)))
            assert (drawn(initializer, (6, 5)) != drawn(initializer, (6, 5), seed=2)).any()


MISTAKES = {
    "std": (lambda: init.Gaussian(0), ValueError, ["initializers.Gaussian", "std", "(0, inf)", "0"]),
    "range": (lambda: init.Uniform(1.0, 1.0), ValueError, ["initializers.Uniform", "high", "(1, inf)", "1.0"]),
    "gain": (lambda: init.He(gain="2"), TypeError, ["initializers.He", "gain", "'2'"]),
    "distribution": (lambda: init.Xavier(distribution="even"), ValueError, ["Xavier", "'uniform'", "'even'"]),
    "over": (lambda: init.LeCun(over="fan_in"), ValueError, ["LeCun", "over", "'inputs'", "'fan_in'"]),
    "nonzero": (lambda: init.Sparse(0), ValueError, ["Sparse", "nonzero", "0"]),
    "orthogonal": (lambda: init.Orthogonal(-1), ValueError, ["Orthogonal", "gain", "-1"]),
    "vector": (lambda: drawn(init.he, (5,)), ValueError, ["fans", "shape", "(inputs, units)", "(5,)"]),
    "class": (lambda: nn.Dense(3, init=init.He), TypeError, ["nn.Dense", "init", "He()", "type"]),
    "bias name": (lambda: nn.Dense(3, bias_init="zero"), ValueError, ["nn.Dense", "bias_init", "'zeros'", "'zero'"]),
    "bias NaN": (lambda: nn.Dense(3, bias_init=math.nan), ValueError, ["nn.Dense", "bias_init", "nan"]),
    "bias by fans": (lambda: nn.Dense(3, inputs=2, bias_init="he"), ValueError, ["fans", "shape", "(3,)"]),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(mistake):
    assert_named(*MISTAKES[mistake], "kitae.nn.")
