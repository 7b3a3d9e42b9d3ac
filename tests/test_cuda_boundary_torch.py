"""kitae.torch on CUDA tensors, with kernels that run on the host: PyTorch's tensors stand for CUDA tensors, CuPy is an
imitation. Kernels of CPU and GPU give the same bits, so each path has to give what the CPU's tensors give."""

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import imitation_cupy
import simulated
from imitation_cupy import Device, Stream

pytestmark = pytest.mark.requires_torch

STREAM = 0x50


@pytest.fixture
def torch() -> ModuleType:
    import torch

    return torch


@pytest.fixture
def face(torch: ModuleType) -> ModuleType:
    import kitae.torch

    return kitae.torch


@pytest.fixture
def cuda(torch: ModuleType, face: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """From here on every tensor is on device 0, where PyTorch's current stream is STREAM."""
    from kitae.torch import _gpu

    module = simulated.require(simulated.ON_HOST)
    with imitation_cupy.backend(monkeypatch, module):
        monkeypatch.setattr(_gpu, "holds", lambda value: isinstance(value, torch.Tensor))
        monkeypatch.setattr(_gpu, "_current_stream", lambda device: STREAM)
        monkeypatch.setattr(_gpu, "tensor_of", lambda array: torch.from_numpy(array.get()))
        monkeypatch.setattr(_gpu, "_views", {})
        monkeypatch.setattr(torch.Tensor, "get_device", lambda self: 0)
        yield module


def network(torch: ModuleType, face: ModuleType, seed: int) -> Any:
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), face.BatchNorm2d(8), torch.nn.ReLU(), face.Dropout(0.3), torch.nn.Flatten(),
        torch.nn.Linear(8 * 36, 16), face.BatchNorm1d(16, affine=False), torch.nn.Linear(16, 4),
    )  # fmt: skip


OPTIMIZERS: dict[str, Callable[[Any, Any], Any]] = {
    "SGD": lambda face, params: face.SGD(params, lr=0.1, momentum=0.9, dampening=0.1),
    "SGD plain": lambda face, params: face.SGD(params, lr=0.1, weight_decay=0.01),
    "Adam": lambda face, params: face.Adam(params, amsgrad=True),
    "AdamW": lambda face, params: face.AdamW(params, maximize=True),
    "RMSprop": lambda face, params: face.RMSprop(params, centered=True, momentum=0.5),
    "Adagrad": lambda face, params: face.Adagrad(params, lr_decay=0.1),
    "Adadelta": lambda face, params: face.Adadelta(params),
}


def train(torch: ModuleType, face: ModuleType, optimizer: Callable[[Any, Any], Any], steps: int) -> list[np.ndarray]:
    """Norms, then parameters, buffers and state after some steps; channels_last convolutions, one input with gaps."""
    model = network(torch, face, 3).to(memory_format=torch.channels_last)
    chosen = optimizer(face, model.parameters())
    results = []
    for step in range(steps):
        x = torch.randn(5, 3, 8, 8).to(memory_format=torch.channels_last)
        x = torch.randn(5, 3, 8, 16)[..., ::2] if step == 1 else x
        chosen.zero_grad(set_to_none=step % 2 == 0)
        torch.nn.functional.cross_entropy(model(x), torch.arange(5) % 4).backward()
        results.append(face.clip_grad_norm_(model.parameters(), 0.5))
        face.clip_grad_value_(model.parameters(), 0.1)
        chosen.step()
    state = [value for own in chosen.state.values() for value in own.values()]
    return [tensor.detach().numpy().copy() for tensor in (*results, *model.state_dict().values(), *state)]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_training_has_the_cpus_bits(torch, face, name, request):
    expected = train(torch, face, OPTIMIZERS[name], 3)
    module = request.getfixturevalue("cuda")
    before = module.launched()[0]
    got = train(torch, face, OPTIMIZERS[name], 3)
    launches, device, stream = module.launched()
    assert launches > before
    assert (device, stream) == (0, STREAM)
    assert (Device.current, Stream.current) in ((0, {}), (0, {0: 0}))  # given back
    assert len(got) == len(expected)
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs, strict=True)


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_other_dtypes(torch, face, dtype, request):
    def once() -> list[Any]:
        torch.manual_seed(1)
        x = torch.randn(6, 5, 4).to(getattr(torch, dtype)).requires_grad_()
        layer, drop = face.BatchNorm1d(5).to(x.dtype), face.Dropout(0.4)
        y = drop(layer(x))
        y.backward(torch.ones_like(y))
        optimizer = face.Adam(layer.parameters())
        optimizer.step()
        return [y, x.grad, *layer.parameters(), *layer.buffers()]

    expected = once()
    request.getfixturevalue("cuda")
    for ours, theirs in zip(once(), expected, strict=True):
        assert torch.equal(ours, theirs)
        assert ours.dtype == theirs.dtype


def test_a_plan_follows_its_tensors(torch, face, cuda):
    """A parameter whose memory was exchanged, and state that was loaded, are found again."""
    parameter = torch.nn.Parameter(torch.ones(6))
    optimizer = face.SGD([parameter], lr=0.5, momentum=0.5)
    for _ in range(2):
        parameter.grad = torch.ones(6)
        optimizer.step()
    parameter.data = torch.full((6,), 10.0)
    optimizer.state[parameter]["momentum_buffer"] = torch.full((6,), 4.0)
    optimizer.step()  # v = 0.5 * 4 + 1
    assert parameter.tolist() == [8.5] * 6
    assert optimizer.state[parameter]["momentum_buffer"].tolist() == [3.0] * 6


def test_the_views_that_are_kept_are_bounded(torch, face, cuda, monkeypatch):
    from kitae.torch import _gpu

    monkeypatch.setattr(_gpu, "_MOST_VIEWS", 4)
    parameters = [torch.nn.Parameter(torch.ones(3)) for _ in range(7)]
    optimizer = face.SGD(parameters, lr=1.0)
    for _ in range(3):
        for parameter in parameters:
            parameter.grad = torch.ones(3)
        optimizer.step()
    assert [parameter.tolist() for parameter in parameters] == [[-2.0] * 3] * 7
    assert len(_gpu._views) <= 4


def test_infinite_gradients(torch, face, cuda):
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.grad = torch.tensor([1.0, float("inf"), 2.0])
    with pytest.raises(RuntimeError, match="clip_grad_norm"):
        face.clip_grad_norm_([parameter], 1.0, error_if_nonfinite=True)
    assert parameter.grad.tolist() == [1.0, float("inf"), 2.0]
    assert face.clip_grad_norm_([parameter], 1.0).item() == float("inf")


def test_tensors_that_are_refused(torch, face, cuda):
    for make, words in [
        (lambda x: x.to_sparse(), "strided tensor in memory"),
        (lambda x: x.long(), "dtype float32"),
        (lambda x: torch.complex(x, x).conj().imag, "minus sign"),
    ]:
        with pytest.raises((ValueError, TypeError), match=rf"kitae\.torch\.Dropout: input: .*{words}"):
            face.Dropout()(make(torch.ones(4, 3)))
