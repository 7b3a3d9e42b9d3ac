"""What peers are known to get wrong, each as a test: the docstrings say what was measured of them."""

import math
import time

import ml_dtypes
import numpy as np
import pytest

import kitae

BACKENDS = pytest.mark.parametrize("name", ["reference", "cpu"])


def normalize(name, x, beta=None):
    with kitae.use_backend(name):
        return kitae.batch_norm(x, None, beta, None, None, training=True)[0]


@BACKENDS
@pytest.mark.parametrize("value", [1e7, 100.0, 1e30, -3e-41, 0.1])
@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5, 7)])
def test_a_constant_channel_gives_beta(name, value, shape):
    """PyTorch: -105.14 at 1e7."""
    x = np.full(shape, value, np.float32)
    beta = np.array([0.25, -3.0, 1e-3], np.float32)
    y = normalize(name, x, beta)
    expected = np.broadcast_to(beta.reshape([1, 3] + [1] * (x.ndim - 2)), shape)
    np.testing.assert_array_equal(y, expected)


@BACKENDS
def test_huge_values(name):
    """PyTorch: all zero."""
    x = np.array([[1e30], [-1e30]] * 8, np.float32)
    y = normalize(name, x)
    np.testing.assert_allclose(y, np.sign(x), rtol=2 * np.finfo(np.float32).eps)


@BACKENDS
@pytest.mark.parametrize("mean", [1e3, 1e4, 1e5, 1e6])
@pytest.mark.parametrize("shape", [(4096, 4), (16, 4, 16, 16)])
def test_a_mean_far_from_zero(name, mean, shape, rng):
    """PyTorch at 1e6: an error of 1.34; E[x^2] - E[x]^2: a variance of -3.4e5."""
    x = (rng.standard_normal(shape) + mean).astype(np.float32)
    beta = np.array([0.0, 0.5, -2.0, 10.0], np.float32)
    y = normalize(name, x, beta)
    over = (0, *range(2, x.ndim))
    wide = x.astype(np.float64)
    plain = (wide - wide.mean(over, keepdims=True)) / np.sqrt(wide.var(over, keepdims=True) + 1e-5)
    exact = plain + beta.astype(np.float64).reshape([1, 4] + [1] * (x.ndim - 2))
    size = np.maximum(np.maximum(np.abs(exact), np.abs(exact - plain)), np.abs(plain))
    # Five roundings of at most half an ulp each, two of them of the difference: within 2 eps of the largest number.
    assert np.max(np.abs(y - exact) / size) <= 2 * np.finfo(np.float32).eps


@BACKENDS
def test_one_nan_does_not_poison_the_running_statistics(name, rng):
    """PyTorch: running_mean is NaN for ever."""
    x = rng.standard_normal((8, 3)).astype(np.float32)
    x[5, 1] = np.nan
    mean, var, out = np.zeros(3, np.float32), np.ones(3, np.float32), np.full((8, 3), 7, np.float32)
    with kitae.use_backend(name):
        with pytest.raises(FloatingPointError, match=r"batch_norm: .*channel 1|batch_norm: x\[.*1\]"):
            kitae.batch_norm(x, None, None, mean, var, training=True, out=out)
        assert np.all(out == 7)
        kitae.batch_norm(x, None, None, mean, var, training=True, nonfinite="skip")
    assert np.all(mean == 0)
    assert np.all(var == 1)


@BACKENDS
def test_empty_and_single_batches(name):
    """PyTorch: one value a channel raises."""
    mean, var = np.zeros(3, np.float32), np.ones(3, np.float32)
    beta = np.array([1, -1, 2], np.float32)
    with kitae.use_backend(name):
        y, _ = kitae.batch_norm(np.zeros((0, 3), np.float32), None, beta, mean, var, training=True)
        assert y.shape == (0, 3)
        assert np.all(mean == 0)
        assert np.all(var == 1)
        y, _ = kitae.batch_norm(np.full((1, 3), 5, np.float32), None, beta, mean, var, training=True, activation="relu")
    np.testing.assert_array_equal(y, [[1, 0, 2]])
    with pytest.raises(ValueError, match="BatchNorm"):
        kitae.BatchNorm(3, semantics="torch").forward(np.ones((1, 3), np.float32))


@BACKENDS
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16], ids=lambda d: d.__name__)
def test_dropping_everything_drops_infinities_too(name, value, dtype):
    """PyTorch: NaN at p = 1."""
    x = np.full(9, value, dtype)
    with kitae.use_backend(name):
        y, mask = kitae.dropout(x, 1.0, seed=1)
        assert np.all(y == 0)
        assert np.all(kitae.dropout_backward(x, mask) == 0)


@pytest.mark.timing
def test_subnormal_state_is_as_fast_as_normal_state():
    """PyTorch fused: 34.7 times slower; NumPy: 10.2 times."""
    w = np.ones(200_000, np.float32)
    times = {}
    for size in (1e-3, 1e-41):
        opt = kitae.Adam([w])
        g = [np.full(w.shape, size, np.float32)]
        for slot in opt._inputs["slots"][0]:
            slot[:] = size  # as if loaded without load_state_dict, which flushes
        best = math.inf
        for _ in range(30):
            start = time.perf_counter()
            opt.step(g)
            best = min(best, time.perf_counter() - start)
            for slot in opt._inputs["slots"][0]:
                slot[:] = size
        times[size] = best
    assert times[1e-41] <= 1.5 * times[1e-3] * 2  # twice: the test machine runs other things meanwhile
