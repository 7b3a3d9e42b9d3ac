"""Batch normalization as modules of torch.nn."""

from typing import Any

import torch

from kitae import _checks
from kitae.normalization import Saved, _backward, _forward
from kitae.torch import _tensors

_NAMES = ("input", "output", "weight", "bias", "running_mean", "running_var")


def _normalize(
    op: str,
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, Saved]:
    """(y, x or its dense copy, what backward needs beside x and weight)."""
    y = torch.empty_like(x)
    if y.stride() != x.stride():  # gaps or repeated elements: no memory order to keep
        x = x.contiguous()
        y = torch.empty_like(x)
    source, out, gamma, beta, mean, var = _tensors.named_arrays(
        op, _NAMES, [x, y, weight, bias, running_mean, running_var]
    )
    keep = 1.0 - momentum
    arguments = (source, gamma, beta, mean, var, training, 1, eps, keep, True, None, 0.01, None, "propagate", out)
    with _tensors.stream_of(source):
        _, saved = _forward(op, *arguments)
    saved._x = saved._gamma = None  # autograd keeps the tensors
    return y, x, saved


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        op: str,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        running_mean: torch.Tensor | None,
        running_var: torch.Tensor | None,
        training: bool,
        momentum: float,
        eps: float,
    ) -> torch.Tensor:
        y, x, saved = _normalize(op, x, weight, bias, running_mean, running_var, training, momentum, eps)
        ctx.save_for_backward(x, weight)
        ctx.op, ctx.saved = op, saved
        ctx.has_bias = bias is not None
        return y

    @staticmethod
    @torch.compiler.disable
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        x, weight = ctx.saved_tensors
        call = lambda *tensors: _gradients(ctx.op, ctx.saved, *tensors)  # noqa: E731  what Once repeats
        if _tensors.with_gradient(*gradients, x, weight):
            dx, dweight, dbias = _tensors.Once.apply(ctx.op, call, *gradients, x, weight)
        else:
            dx, dweight, dbias = call(*gradients, x, weight)
        has_weight = weight is not None
        return None, dx, dweight if has_weight else None, dbias if ctx.has_bias else None, *(None,) * 5


def _gradients(
    op: str, saved: Saved, gradient: torch.Tensor, x: torch.Tensor, weight: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    dx = torch.empty_like(x)
    kind = weight.dtype if weight is not None else torch.float64 if x.dtype == torch.float64 else torch.float32
    dweight, dbias = torch.empty((2, x.shape[1]), dtype=kind, device=x.device)
    names = ("gradient", "input", "weight", "gradient", "weight", "bias")
    dout, saved._x, saved._gamma, *out = _tensors.named_arrays(op, names, [gradient, x, weight, dx, dweight, dbias])
    try:
        with _tensors.stream_of(dout):
            _backward(op, dout, saved, *out)
    finally:
        saved._x = saved._gamma = None
    return dx, dweight, dbias


class _Forward(torch.nn.modules.batchnorm._BatchNorm):
    """``y = weight * (x - mean) / sqrt(variance + eps) + bias``, as torch.nn.BatchNorm computes it, by kitae's kernel.

    Everything but ``forward`` is PyTorch's: constructor, ``momentum`` (the weight of the new value; None: a cumulative
    average), ``affine``, ``track_running_stats``, ``num_batches_tracked``, state dict. Input float32, float64, float16
    or bfloat16 on the CPU or a CUDA device, contiguous or channels_last (kept, nothing is copied; an input with gaps is
    copied inside).
    Weights float32, float64, or the input's dtype.

    Differs from PyTorch: sums in double, around each channel's first element wherever 0 would lose something, so that a
    constant channel gives exactly its bias and large means lose nothing; no second derivatives (a RuntimeError);
    momentum outside [0, 1] is refused.
    """

    @torch.compiler.disable
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        op = f"torch.{type(self).__name__}"
        self._check_input_dim(input)
        if input.shape[1] != self.num_features:
            got = _checks.Words(f"shape {tuple(input.shape)}")
            raise _checks.error(ValueError, op, "input", f"{self.num_features} channels", got)
        mean, var = self.running_mean, self.running_var
        training = self.training or (mean is None and var is None)
        if training and input.numel() == input.shape[1] != 0:
            got = _checks.Words(f"shape {tuple(input.shape)}")
            raise _checks.error(ValueError, op, "input", "more than 1 value per channel when training", got)
        momentum = 0.0 if self.momentum is None else self.momentum
        if self.training and not self.track_running_stats:
            mean = var = None
        elif self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                momentum = 1.0 / float(self.num_batches_tracked)
        if not 0 <= momentum <= 1:
            raise _checks.error(ValueError, op, "momentum", "a number in [0, 1], or None", momentum)
        arguments = (op, input, self.weight, self.bias, mean, var, training, momentum, self.eps)
        if _tensors.with_gradient(input, self.weight, self.bias):
            return _BatchNorm.apply(*arguments)
        return _normalize(*arguments)[0]


class BatchNorm1d(_Forward, torch.nn.BatchNorm1d):
    __doc__ = (_Forward.__doc__ or "") + "\n    Input (N, C) or (N, C, L).\n    "


class BatchNorm2d(_Forward, torch.nn.BatchNorm2d):
    __doc__ = (_Forward.__doc__ or "") + "\n    Input (N, C, H, W).\n    "


class BatchNorm3d(_Forward, torch.nn.BatchNorm3d):
    __doc__ = (_Forward.__doc__ or "") + "\n    Input (N, C, D, H, W).\n    "
