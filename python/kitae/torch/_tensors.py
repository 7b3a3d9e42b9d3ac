"""PyTorch's CPU tensors as NumPy arrays over the same memory, a list in one call."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from kitae import _checks, _dispatch
from kitae._checks import Rejected

try:
    EXCHANGE = _dispatch.cpu().Exchange(torch.Tensor)
except AttributeError:
    raise _checks.no_exchange(torch.__version__) from None


def arrays(op: str, argument: str, tensors: list[Any]) -> list[Any]:
    """The tensors' memory as arrays; None stays None. Nothing is copied. ``argument`` names the whole list."""
    try:
        return EXCHANGE.arrays(tensors)
    except Rejected as rejected:
        place = rejected.index
        raise _checks.tensor_refused(op, f"{argument}[{place}]", rejected.reason, tensors[place]) from None


def named_arrays(op: str, names: Sequence[str], tensors: list[Any]) -> list[Any]:
    """The same for arguments that each have a name."""
    try:
        for place, tensor in enumerate(tensors):  # of a list, those in C order are not asked
            if tensor is not None and tensor.is_neg():
                raise Rejected("tensors", "negated", place)
        return EXCHANGE.arrays(tensors)
    except Rejected as rejected:
        place = rejected.index
        raise _checks.tensor_refused(op, names[place], rejected.reason, tensors[place]) from None


def memory_order(array: np.ndarray) -> list[int] | None:
    """The axes as they lie in memory, outermost first; None: in C order already."""
    if array.flags.c_contiguous:
        return None
    return sorted(range(array.ndim), key=lambda axis: -array.strides[axis])


def transposed(array: np.ndarray, order: list[int] | None) -> np.ndarray:
    return array if order is None else array.transpose(order)


def with_gradient(*tensors: Any) -> bool:
    """Whether autograd will ask for a gradient."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


class Once(torch.autograd.Function):
    """The gradients of a backward pass, which can't be differentiated again: the kernels have no second derivative."""

    @staticmethod
    def forward(ctx: Any, op: str, backward: Any, *tensors: Any) -> Any:
        ctx.op = op
        return backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise _checks.second_derivative(ctx.op)
