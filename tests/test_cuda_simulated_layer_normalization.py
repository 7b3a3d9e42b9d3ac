"""Layer and weight norm's CUDA kernels on the host, beside their rows: flags, extremes, layers on CuPy arrays."""

from types import ModuleType

import numpy as np
import pytest

import kitae
from kitae.bench.cases.row import dtype_named
from shifted_channels import CONSTANT, SEQUENCES, channels_about_shifts
from test_backends_agree import assert_same_bits
from test_cuda_boundary import cuda as cupy_module
from test_cuda_boundary import on_device
from test_cuda_simulated import cuda
from test_cuda_simulated_normalization import DTYPES

__all__ = ["cuda", "cupy_module"]  # fixtures

NONFINITE_SAMPLE = 4  # csrc/cuda/findings.h


def test_raise_writes_nothing_and_waits_for_check(cuda: ModuleType, rng: np.random.Generator) -> None:
    for dtype in (np.float32, np.float64):
        x = rng.standard_normal((70, 33)).astype(dtype)
        x[41, 5], x[50, 2] = np.inf, np.nan
        out = np.full_like(x, 7)
        assert cuda.check() is None
        kitae.layer_norm(x, None, None, out=out)
        assert cuda.check() == (NONFINITE_SAMPLE, 41)
        assert (out == 7).all()


@pytest.mark.parametrize("rule", ["zero", "propagate"])
def test_other_rules_as_the_reference(rule: str, cuda: ModuleType, rng: np.random.Generator) -> None:
    x, dout = (rng.standard_normal((70, 33)).astype(np.float32) for _ in range(2))
    x[41, 5], x[50, 2] = np.inf, np.nan
    results = []
    for backend in ("reference", "cpu"):
        with kitae.use_backend(backend):
            y, saved = kitae.layer_norm(x, None, None, nonfinite=rule)
            results.append((y, *kitae.layer_norm_backward(dout, saved)))
    for one, other in zip(*results, strict=True):
        assert_same_bits(one, other, rule)
    assert cuda.check() is None


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_sums_are_taken_from(dtype: str, cuda: ModuleType, rng: np.random.Generator) -> None:
    for outer, inner in SEQUENCES:
        x = channels_about_shifts(outer * inner, rng).astype(dtype_named(dtype))
        gamma, beta = rng.standard_normal((2, x.shape[1]))
        dout = rng.standard_normal(x.shape).astype(x.dtype)
        results = []
        for backend in ("reference", "cpu"):
            with kitae.use_backend(backend):
                y, saved = kitae.layer_norm(x, gamma, beta, nonfinite="propagate")
                results.append((y, saved.mean, saved.inv_std, *kitae.layer_norm_backward(dout, saved)))
        for one, other in zip(*results, strict=True):
            assert_same_bits(one, other, f"{x.shape[1]} columns")
        constant = beta if dtype == "float64" else beta.astype(np.float32)
        assert (results[1][0][CONSTANT] == constant.astype(x.dtype)).all()


@pytest.mark.parametrize("scale", [1e300, 1e-300, 1e170])
def test_float64_sums_that_overflow(scale: float, cuda: ModuleType, rng: np.random.Generator) -> None:
    x, dout = rng.standard_normal((9, 40)) * scale, rng.standard_normal((9, 40))
    x[3] /= scale  # some rows and columns don't
    x[:, 7] /= scale
    results = []
    for backend in ("reference", "cpu"):
        with kitae.use_backend(backend):
            y, saved = kitae.layer_norm(x, None, None, eps=0.0)
            w, of_weights = kitae.weight_norm(x, np.ones(40))
            gradients = (*kitae.layer_norm_backward(dout, saved), *kitae.weight_norm_backward(dout, of_weights))
            results.append((y, w, of_weights.norms, *gradients))
    for one, other in zip(*results, strict=True):
        assert_same_bits(one, other, str(scale))


def test_layer_norm_layer_on_cupy_arrays(cupy_module: ModuleType, rng: np.random.Generator) -> None:
    x, dout = (rng.standard_normal((20, 30)).astype(np.float32) for _ in range(2))
    host, device = kitae.LayerNorm(), kitae.LayerNorm()
    for _ in range(2):  # built by the first pass
        expected = host.forward(x), host.backward(dout), *host.grads.values()
        results = device.forward(on_device(x)), device.backward(on_device(dout)), *device.grads.values()
        for one, other in zip(expected, results, strict=True):
            assert_same_bits(other.get(), one, "on the device")
    device.forward(on_device(np.full_like(x, np.nan)))
    with pytest.raises(FloatingPointError, match=r"layer_norm: x: .* got others in sample 0 \(found on the GPU"):
        kitae.check()


def test_weight_norm_layer_on_cupy_arrays(cupy_module: ModuleType, rng: np.random.Generator) -> None:
    """The wrapper alone: a dense layer's matrix product is CuPy's."""
    weight, dw = (rng.standard_normal((20, 30)).astype(np.float32) for _ in range(2))

    class Weights:
        def __init__(self, array: object, gradient: object) -> None:
            self.params, self.grads, self.buffers = {"W": array}, {"W": gradient}, {}

        def forward(self, x: object, training: bool = True) -> object:
            return self.params["W"]

        def backward(self, dout: object) -> object:
            return dout

    host = kitae.WeightNorm(Weights(weight.copy(), dw))
    device = kitae.WeightNorm(Weights(on_device(weight), on_device(dw)))
    for name in ("v", "g"):
        assert_same_bits(device.params[name].get(), host.params[name], name)
    assert_same_bits(device.forward(None).get(), host.forward(None), "W")
    host.backward(None)
    device.backward(None)
    for name in ("v", "g"):
        assert_same_bits(device.grads[name].get(), host.grads[name], name)
