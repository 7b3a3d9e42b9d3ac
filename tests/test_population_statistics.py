"""precise_batch_norm: exact statistics of every layer's inputs, whatever the cut into batches; all of them or none."""

import numpy as np
import pytest

import kitae
from kitae import nn
from kitae.train import precise_batch_norm


def network(dtype=np.float64, **keywords):
    kitae.seed(3)
    layers = nn.Sequential(
        nn.Dense(12, dtype=dtype), kitae.BatchNorm(activation="relu", dtype=dtype, **keywords),
        nn.Sequential(nn.Dense(9, dtype=dtype), kitae.BatchNorm(activation="relu", dtype=dtype, **keywords)),
        nn.Dense(5, dtype=dtype), kitae.BatchNorm(dtype=dtype, **keywords), nn.Dense(3, dtype=dtype),
    )  # fmt: skip
    layers.build((1, 7), dtype)
    return layers


def samples(rng, count=101):
    return rng.standard_normal((count, 7)) * 3 + 5


def cut(x, sizes):
    return np.split(x, np.cumsum(sizes)[:-1])


def statistics(model):
    return {name: array.copy() for name, array in model.buffers.items()}


def batch_norm_inputs(model, x):
    """The inputs of every batch norm, by NumPy in float64 with each layer's exact statistics."""
    for layer in model.layers:
        if isinstance(layer, nn.Sequential):
            x = yield from batch_norm_inputs(layer, x)
        elif isinstance(layer, kitae.BatchNorm):
            yield layer, x
            variance = x.var(0, ddof=1 if layer.unbiased else 0)
            x = (x - x.mean(0)) / np.sqrt(variance + layer.eps) * layer.params["gamma"] + layer.params["beta"]
            if layer.activation == "relu":
                x = np.maximum(x, 0)
        else:
            x = x @ layer.params["W"] + layer.params["b"]
    return x


@pytest.mark.parametrize("unbiased", [True, False])
def test_the_statistics_of_all_samples(unbiased, rng):
    model, x = network(unbiased=unbiased), samples(rng)
    precise_batch_norm(model, cut(x, [40, 40, 21]))
    checked = 0
    for layer, value in batch_norm_inputs(model, x):
        np.testing.assert_allclose(layer.buffers["running_mean"], value.mean(0), rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(layer.buffers["running_var"], value.var(0, ddof=int(unbiased)), rtol=1e-12)
        checked += 1
    assert checked == 3


@pytest.mark.parametrize("sizes", [[101], [1] * 101, [100, 1], [7, 0, 50, 44], [33, 67, 1]])
def test_the_same_for_any_cut_and_order(sizes, rng):
    x = samples(rng)
    models = network(), network()
    precise_batch_norm(models[0], [x[:60], x[60:]])
    precise_batch_norm(models[1], [(batch, None) for batch in cut(x[rng.permutation(101)], sizes)])
    for name, array in models[0].buffers.items():
        np.testing.assert_allclose(models[1].buffers[name], array, rtol=1e-12, atol=1e-12, err_msg=name)


def test_it_is_not_the_mean_of_the_batches_variances(rng):
    """Sorted data: within a batch hardly anything varies."""
    layer = kitae.BatchNorm(1, unbiased=False, dtype=np.float64)
    x = np.sort(rng.standard_normal((64, 1)), axis=0)
    precise_batch_norm(layer, np.split(x, 16))
    np.testing.assert_allclose(layer.buffers["running_var"], x.var(), rtol=1e-13)
    assert np.mean([part.var() for part in np.split(x, 16)]) < 0.05 * x.var()


def test_a_large_mean_costs_no_digits():
    layer = kitae.BatchNorm(1, unbiased=False, dtype=np.float64)
    x = 1e8 + np.arange(6.0).reshape(6, 1)
    precise_batch_norm(layer, [x[:1], x[1:3], x[3:]])
    np.testing.assert_allclose(layer.buffers["running_mean"], 1e8 + 2.5, rtol=1e-15)
    np.testing.assert_allclose(layer.buffers["running_var"], 35 / 12, rtol=1e-7)  # delta knows 1e8 to 1.5e-8


def test_images_float32_and_the_arrays_stay(rng):
    layer = kitae.BatchNorm(4)
    buffers = dict(layer.buffers)
    x = rng.standard_normal((10, 4, 5, 6)).astype(np.float32)
    precise_batch_norm(layer, [x[:3], x[3:]])
    assert all(layer.buffers[name] is array for name, array in buffers.items())
    assert layer.buffers["running_mean"].dtype == np.float32
    wide = x.astype(np.float64)
    np.testing.assert_allclose(layer.buffers["running_mean"], wide.mean((0, 2, 3)), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(layer.buffers["running_var"], wide.var((0, 2, 3), ddof=1), rtol=2e-7)
    assert "forward" not in vars(layer)


def test_one_pass_measures_with_the_statistics_that_are_there(rng):
    model, x = network(), samples(rng)
    passes = []

    class Batches:
        def __iter__(self):
            passes.append(1)
            return iter([x])

    precise_batch_norm(model, Batches())
    assert len(passes) == 3
    once = statistics(model)
    precise_batch_norm(model, iter([x]), passes=1)
    for name, array in once.items():
        np.testing.assert_allclose(model.buffers[name], array, rtol=1e-12, atol=1e-13)
    passes.clear()
    precise_batch_norm(model, Batches(), passes=20)
    assert len(passes) < 5  # stops where nothing changes any more


class Interrupting:
    """Runs well twice, then fails."""

    def __init__(self, x, error):
        self.x, self.error, self.passes = x, error, 0

    def __iter__(self):
        self.passes += 1
        yield self.x
        if self.passes == 3:
            raise self.error


def test_all_or_nothing(rng):
    model, x = network(), samples(rng)
    before, output = statistics(model), model.forward(x, training=False)
    for error in (KeyboardInterrupt(), OSError("disk")):
        with pytest.raises(type(error)):
            precise_batch_norm(model, Interrupting(x, error))
        after = statistics(model)
        for name, array in before.items():
            assert after[name].tobytes() == array.tobytes()
        np.testing.assert_array_equal(model.forward(x, training=False), output)
    x[3, 2] = np.nan
    with pytest.raises(FloatingPointError):
        precise_batch_norm(model, [x])
    for name, array in before.items():
        assert model.buffers[name].tobytes() == array.tobytes()


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: precise_batch_norm(3, []), TypeError, "model: expected an object with forward"),
        (lambda: precise_batch_norm(network(), 3), TypeError, "batches: expected an iterable of batches"),
        (lambda: precise_batch_norm(network(), []), ValueError, "batches: expected at least one sample, got none"),
        (lambda: precise_batch_norm(network(), [[1.0]]), TypeError, "batches: expected a numpy.ndarray"),
        (lambda: precise_batch_norm(network(), iter([])), ValueError, "batches: expected batches that can be gone"),
        (lambda: precise_batch_norm(network(), [], passes=0), ValueError, r"passes: expected an integer in \[1"),
        (lambda: precise_batch_norm(kitae.BatchNorm(), []), ValueError, "model: expected a network that has been run"),
    ],
)
def test_wrong_arguments(call, kind, message):
    with pytest.raises(kind, match=f"kitae.train.precise_batch_norm: {message}"):
        call()


def test_a_model_without_batch_norm_is_left_alone(rng):
    assert precise_batch_norm(nn.Sequential(nn.Dense(3)), [samples(rng)]) is None
