"""Gradient clipping of torch.nn.utils."""

import types
import warnings
from collections.abc import Iterable
from typing import Any, TypeAlias

import torch

import kitae
from kitae import _checks
from kitae.torch import _gpu, _tensors

Tensors: TypeAlias = torch.Tensor | Iterable[torch.Tensor]


def clip_grad_norm_(
    parameters: Tensors,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> torch.Tensor:
    """``torch.nn.utils.clip_grad_norm_``: scale gradients in place so that their global norm is at most ``max_norm``.

    ``factor = max_norm / (norm + 1e-6)``; where it is below 1, ``g *= factor``, rounded once. Returns the norm before,
    a 0-d tensor: float64 for float64 gradients, else float32. ``foreach`` changes nothing.

    Differs from PyTorch: the norm is summed in double in a fixed order, and does not overflow (128 gradients of 1e19
    have a norm; PyTorch's is inf, and zeroes them); with ``error_if_nonfinite`` nothing is written before the
    RuntimeError; ``max_norm <= 0`` is a ValueError (PyTorch zeroes, or turns signs); ``norm_type`` other than 2 is
    refused. Gradients are float32, float64, float16 or bfloat16 on the CPU or on one CUDA device, where the norm is a
    tensor there and is not waited for unless ``error_if_nonfinite``.
    """
    op = "torch.clip_grad_norm_"
    max_norm = _checks.number(op, "max_norm", max_norm, low=0, open_low=True, infinite=True)
    if norm_type != 2:
        expected = "2 (torch.nn.utils.clip_grad_norm_ has the others)"
        raise _checks.error(ValueError, op, "norm_type", expected, norm_type)
    grads, arrays = _gradients(op, parameters)
    kind = torch.float64 if any(grad.dtype == torch.float64 for grad in grads) else torch.float32
    if not arrays:
        return torch.tensor(0.0, device="cpu")
    try:
        with _tensors.stream_of(arrays[0]):
            norm = kitae.clip_grad_norm(arrays, max_norm, nonfinite="raise" if error_if_nonfinite else "propagate")
        if error_if_nonfinite:
            kitae.check()  # a GPU has not answered yet
    except FloatingPointError as error:
        raise RuntimeError(str(error)) from None
    torch.autograd.graph.increment_version(grads)
    if isinstance(norm, float):
        return torch.tensor(norm, dtype=kind, device="cpu")
    with _tensors.stream_of(norm):
        return _gpu.tensor_of(norm).to(kind)


def clip_grad_value_(parameters: Tensors, clip_value: float, foreach: bool | None = None) -> None:
    """``torch.nn.utils.clip_grad_value_``: ``g = min(max(g, -clip_value), clip_value)`` in place; NaN stays NaN.

    ``foreach`` changes nothing. Differs from PyTorch: ``clip_value <= 0`` is a ValueError.
    """
    op = "torch.clip_grad_value_"
    clip_value = _checks.number(op, "clip_value", clip_value, low=0, open_low=True, infinite=True)
    grads, arrays = _gradients(op, parameters)
    if not arrays:
        return
    with _tensors.stream_of(arrays[0]):
        kitae.clip_grad_value(arrays, clip_value)
    torch.autograd.graph.increment_version(grads)


def _gradients(op: str, parameters: Any) -> tuple[list[torch.Tensor], list[Any]]:
    if isinstance(parameters, torch.Tensor):
        listed = [parameters]
    else:
        listed = list(parameters)
        if not listed and isinstance(parameters, types.GeneratorType):
            words = "an empty generator; no gradient is clipped"
            warnings.warn(f"kitae.{op}: parameters: expected tensors, got {words}", stacklevel=3)
    grads = [parameter.grad for parameter in listed if parameter.grad is not None]
    return grads, _tensors.arrays(op, "gradients", grads)
