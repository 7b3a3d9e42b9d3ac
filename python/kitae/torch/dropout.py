"""Dropout as a module of torch.nn."""

from typing import Any

import torch

from kitae import _checks, _dispatch
from kitae.dropout import _bytes_of_bits, _explain, _keep_scale, _threshold
from kitae.torch import _tensors

_OP = "torch.Dropout"


def _call(backward: bool, source: Any, out: Any, bits: Any, order: Any, p: float, seed: int) -> None:
    """``out = mask * source / (1 - p)``, the elements numbered as they lie in memory."""
    x, y = _tensors.transposed(source, order), _tensors.transposed(out, order)
    argument = "gradient" if backward else "input"
    backend = _dispatch.backend_for(x, _OP, argument)
    call = backend.dropout_backward if backward else backend.dropout_forward
    try:
        with _tensors.stream_of(x):
            call(x, y, _tensors.bytes_of(bits), _threshold(p), _keep_scale(p, "inverted"), seed, 0)
    except _checks.Rejected as rejected:
        raise _explain(_OP, rejected, x, argument, y) from None


def _drop(x: torch.Tensor, p: float, inplace: bool) -> tuple[torch.Tensor, torch.Tensor, Any, int]:
    """(y, the mask's bits, the memory order that numbers the elements, the seed)."""
    y = x if inplace else torch.empty_like(x)
    source, out = _tensors.named_arrays(_OP, ("input", "output"), [x, y])
    order = _tensors.memory_order(source)
    bits = torch.empty(_bytes_of_bits(source.size), dtype=torch.uint8, device=x.device)
    seed = int(torch.empty((), dtype=torch.int64, device="cpu").random_())
    _call(False, source, out, bits, order, p, seed)
    return y, bits, order, seed


def _refuse_leaf(x: torch.Tensor) -> None:
    """Autograd would notice after the memory was overwritten."""
    base = x if x._base is None else x._base
    if base.is_leaf and base.requires_grad:
        got = _checks.Words("a leaf that requires grad, or a view of one")
        raise _checks.error(RuntimeError, _OP, "input", "with inplace=True a tensor that may be overwritten", got)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, p: float, inplace: bool) -> torch.Tensor:
        if inplace:
            ctx.mark_dirty(x)
        y, bits, ctx.order, ctx.seed = _drop(x, p, inplace)
        ctx.save_for_backward(bits)
        ctx.p = p
        return y

    @staticmethod
    @torch.compiler.disable
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (bits,) = ctx.saved_tensors
        (gradient,) = gradients

        def masked(gradient: torch.Tensor) -> torch.Tensor:
            dx = torch.empty_like(gradient)
            source, out = _tensors.named_arrays(_OP, ("gradient", "output"), [gradient, dx])
            _call(True, source, out, bits, ctx.order, ctx.p, ctx.seed)
            return dx

        if _tensors.with_gradient(gradient):
            return _Masked.apply(gradient, masked), None, None
        return masked(gradient), None, None


class _Masked(torch.autograd.Function):
    """The backward pass is linear: its derivative is itself."""

    @staticmethod
    def forward(ctx: Any, gradient: torch.Tensor, masked: Any) -> torch.Tensor:
        ctx.masked = masked
        return masked(gradient)

    @staticmethod
    @torch.compiler.disable
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (gradient,) = gradients
        again = _Masked.apply if torch.is_grad_enabled() else lambda gradient, masked: masked(gradient)
        return again(gradient, ctx.masked), None


class Dropout(torch.nn.Dropout):
    """``torch.nn.Dropout(p=0.5, inplace=False)``: ``y = x / (1 - p)`` where kept, 0 where dropped; identity in eval.

    The rate is exact to 2**-32, the scale ``1 / (1 - p)`` in double, rounded once; 1 bit an element is kept for the
    backward pass, which can be differentiated again.

    Differs from PyTorch: another random stream. Each training pass draws one int64 from PyTorch's default generator
    (``torch.empty((), dtype=torch.int64).random_()``), the seed of the pass's Philox stream; so ``torch.manual_seed``,
    ``torch.get_rng_state`` and checkpointing repeat masks, which do not depend on the number of threads. The elements
    are numbered as they lie in memory. A dropped infinity or NaN becomes 0 (PyTorch: NaN).
    """

    @torch.compiler.disable
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0:
            return input
        if _tensors.with_gradient(input):
            if self.inplace:
                _refuse_leaf(input)
            return _Dropout.apply(input, self.p, self.inplace)
        y, *_ = _drop(input, self.p, self.inplace)
        if self.inplace:
            torch.autograd.graph.increment_version(input)
        return y
