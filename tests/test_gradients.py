"""Norms and clipping: against exact sums, PyTorch, and the peers' known failures."""

import math

import ml_dtypes
import numpy as np
import pytest

import kitae

BACKENDS = ["reference", "cpu"]


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 4095, 4096, 4097, 100_003])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16], ids=lambda d: d.__name__)
def test_norm_against_an_exact_sum(name, n, dtype, rng):
    g = rng.standard_normal(n).astype(dtype)
    exact = math.sqrt(math.fsum(float(v) ** 2 for v in g))
    with kitae.use_backend(name):
        norm = kitae.global_norm([g])
    assert isinstance(norm, float)
    # Roundings in double: n / 16 additions a lane, the fold, the chunks, the root; far below the promise of 6e-8.
    assert abs(norm - exact) <= (n / 16 + 8) * 2.0**-53 * exact


def test_norm_of_millions_of_float32(rng):
    g = rng.standard_normal(4_200_000).astype(np.float32)
    exact = math.sqrt(np.sum(g.astype(np.longdouble) ** 2))
    assert abs(kitae.global_norm([g]) - exact) <= 6e-8 * exact


@pytest.mark.parametrize("name", BACKENDS)
def test_no_overflow_where_peers_overflow(name):
    with kitae.use_backend(name):
        grads = [np.full(1, 1e19, np.float32) for _ in range(128)]
        norm = kitae.clip_grad_norm(grads, 1.0)
        assert math.isclose(norm, float(np.float32(1e19)) * math.sqrt(128), rel_tol=128 * 2.0**-53)
        np.testing.assert_allclose([g[0] for g in grads], 1 / math.sqrt(128), rtol=1e-6)  # eps of the formula
        half = [np.full(1000, 3000, np.float16)]
        assert kitae.clip_grad_norm(half, 1.0) == 3000 * math.sqrt(1000)
        np.testing.assert_allclose(half[0].astype(float), 1 / math.sqrt(1000), rtol=2.0**-11)
        for size in (1e200, 1e-200, 5e-324):
            assert math.isclose(kitae.global_norm([np.full(4, size), np.full(5, size)]), 3 * size, rel_tol=1e-15)
        mixed = [np.array([3e200]), np.array([4e-200]), np.zeros(3)]
        assert kitae.global_norm(mixed) == 3e200


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("max_norm", [-1.0, 0.0, math.nan, -math.inf])
def test_a_max_norm_that_makes_no_sense_is_refused(name, max_norm):
    g = np.ones(3, np.float32)
    with (
        kitae.use_backend(name),
        pytest.raises(ValueError, match=r"clip_grad_norm: max_norm: expected a number in \(0"),
    ):
        kitae.clip_grad_norm([g], max_norm)
    assert np.all(g == 1)


def test_reference_and_native_have_the_same_bits(rng):
    grads = [
        rng.standard_normal(s).astype(d) for s in (1, 17, (3, 5), 9000) for d in (np.float16, np.float32, np.float64)
    ]
    grads += [np.asfortranarray(rng.standard_normal((130, 97))), rng.standard_normal((40, 60))[::3, ::-2]]
    for call in (
        lambda g: kitae.global_norm(g),
        lambda g: kitae.clip_grad_norm(g, 2.5),
        lambda g: kitae.clip_grad_norm(g, 2.5, per="tensor"),
        lambda g: kitae.clip_grad_norm(g, 2.5, nonfinite="zero"),
        lambda g: kitae.clip_grad_value(g, 0.3),
    ):
        results = []
        for name in BACKENDS:
            copies = [np.array(g, order="K") for g in grads]
            with kitae.use_backend(name):
                results.append((call(copies), copies))
        assert results[0][0] == results[1][0]
        for a, b in zip(results[0][1], results[1][1], strict=True):
            np.testing.assert_array_equal(a, b)


def test_same_bits_for_any_number_of_threads(rng):
    grads = [rng.standard_normal(n).astype(np.float32) for n in (100_000, 7, 16384, 50_001)]
    results = []
    for threads in (1, 2, 3, 4, 7, 8, 16):
        kitae.set_num_threads(threads)
        copies = [g.copy() for g in grads]
        results.append((kitae.clip_grad_norm(copies, 1.0), copies))
    for norm, copies in results[1:]:
        assert norm == results[0][0]
        for a, b in zip(copies, results[0][1], strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.requires_torch
@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_torch_clips_alike(max_norm, rng):
    import torch

    grads = [rng.standard_normal(s).astype(np.float32) for s in [(30, 20), (7,), (1,)]]
    tensors = [torch.nn.Parameter(torch.zeros(g.shape)) for g in grads]
    for tensor, g in zip(tensors, grads, strict=True):
        tensor.grad = torch.from_numpy(g.copy())
    theirs = float(torch.nn.utils.clip_grad_norm_(tensors, max_norm))
    ours = kitae.clip_grad_norm(grads, max_norm)
    assert math.isclose(ours, theirs, rel_tol=2e-6)  # theirs is summed in float32
    for tensor, g in zip(tensors, grads, strict=True):
        np.testing.assert_allclose(g, tensor.grad.numpy(), rtol=2e-6)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nonfinite_rules(name, value):
    def grads():
        return [np.ones(3, np.float32), np.array([1, value, 1, 1], np.float32)]

    with kitae.use_backend(name):
        g = grads()
        with pytest.raises(FloatingPointError, match=r"clip_grad_norm: grads\[1\]: expected finite elements, got 1"):
            kitae.clip_grad_norm(g, 1.0)
        np.testing.assert_array_equal(g[0], np.ones(3))
        kitae.clip_grad_norm(g, 1.0, nonfinite="skip")
        np.testing.assert_array_equal(g[0], np.ones(3))
        assert kitae.clip_grad_norm(g, 10.0, nonfinite="zero") == math.sqrt(6)
        np.testing.assert_array_equal(g[1], [1, 0, 1, 1])
        g = grads()
        kitae.clip_grad_norm(g, 1.0, nonfinite="propagate")
        np.testing.assert_array_equal(g[0], np.zeros(3) if np.isinf(value) else np.full(3, np.nan))
        assert math.isnan(g[1][1])


@pytest.mark.parametrize("name", BACKENDS)
def test_an_array_listed_twice_is_clipped_once(name):
    g = np.full(4, 2, np.float32)
    other = np.full(9, 2, np.float32)
    with kitae.use_backend(name):
        assert kitae.clip_grad_norm([g, other, g], 1e9) == math.sqrt(4 * 13)
        kitae.clip_grad_norm([g, other, g], math.sqrt(13.0), eps=0)
        np.testing.assert_array_equal(g, np.ones(4))
        np.testing.assert_array_equal(other, np.ones(9))
        memory = np.ones(10, np.float32)
        with pytest.raises(ValueError, match=r"grads\[1\]: expected memory of its own"):
            kitae.clip_grad_norm([memory[:6], memory[5:]], 1.0)


@pytest.mark.parametrize("name", BACKENDS)
def test_clip_value(name):
    g = np.array([-3, -0.5, 0.0, 0.5, 3, np.nan, np.inf, -np.inf], np.float32)
    with kitae.use_backend(name):
        kitae.clip_grad_value([g, None], 1.0)
    np.testing.assert_array_equal(g, [-1, -0.5, 0, 0.5, 1, np.nan, 1, -1])
    for limit in (0, -1, math.nan):
        with pytest.raises(ValueError, match="clip_grad_value: limit"):
            kitae.clip_grad_value([g], limit)


@pytest.mark.parametrize("name", BACKENDS)
def test_per_tensor_norms(name):
    grads = [np.full(4, 2, np.float64), None, np.full(9, 1 / 3)]
    with kitae.use_backend(name):
        norms = kitae.clip_grad_norm(grads, 2.0, eps=0, per="tensor")
    assert norms == [4.0, 0.0, 1.0]
    np.testing.assert_array_equal(grads[0], np.ones(4))
    np.testing.assert_array_equal(grads[2], np.full(9, 1 / 3))


def test_views_are_clipped_where_they_lie(rng):
    whole = rng.standard_normal((6, 8)).astype(np.float32)
    before = whole.copy()
    kitae.clip_grad_value([whole[::2, 1::3]], 0.1)
    expected = before.copy()
    expected[::2, 1::3] = np.clip(before[::2, 1::3], np.float32(-0.1), np.float32(0.1))
    np.testing.assert_array_equal(whole, expected)


@pytest.mark.parametrize(
    ("grads", "kind", "message"),
    [
        ((g for g in [np.ones(2)]), TypeError, "expected an array, or a list, tuple or dict of arrays"),
        ([np.ones(2, np.int32)], TypeError, r"grads\[0\]: expected dtype float32"),
        ([np.ones(2), "x"], TypeError, r"grads\[1\]: expected a numpy.ndarray"),
        (5.0, TypeError, "expected a numpy.ndarray"),
    ],
)
def test_wrong_gradients_are_refused(grads, kind, message):
    with pytest.raises(kind, match=message):
        kitae.clip_grad_norm(grads, 1.0)
    assert kitae.clip_grad_norm([], 1.0) == 0.0
    assert kitae.global_norm({}) == 0.0
