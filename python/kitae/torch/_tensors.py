"""PyTorch's tensors as NumPy or CuPy arrays over the same memory; those of the CPU a list in one call."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch

from kitae import _checks, _dispatch
from kitae._checks import Rejected
from kitae.torch import _gpu

try:
    EXCHANGE = _dispatch.cpu().Exchange(torch.Tensor)
except AttributeError:
    raise _checks.no_exchange(torch.__version__) from None


def arrays(op: str, argument: str, tensors: list[Any]) -> list[Any]:
    """The tensors' memory as arrays; None stays None. Nothing is copied. ``argument`` names the whole list."""
    try:
        return _arrays(tensors)
    except Rejected as rejected:
        place = rejected.index
        raise _checks.tensor_refused(op, f"{argument}[{place}]", rejected.reason, tensors[place]) from None


def named_arrays(op: str, names: Sequence[str], tensors: list[Any]) -> list[Any]:
    """The same for arguments that each have a name."""
    try:
        for place, tensor in enumerate(tensors):  # of a list, those in C order are not asked
            if tensor is not None and tensor.is_neg():
                raise Rejected("tensors", "negated", place)
        return _arrays(tensors)
    except Rejected as rejected:
        place = rejected.index
        raise _checks.tensor_refused(op, names[place], rejected.reason, tensors[place]) from None


def _arrays(tensors: list[Any]) -> list[Any]:
    if not any(map(_gpu.holds, tensors[:1])):
        try:
            return EXCHANGE.arrays(tensors)
        except Rejected as rejected:
            if not _gpu.holds(tensors[rejected.index]):
                raise
    made = []
    for place, tensor in enumerate(tensors):
        try:
            made.append(_gpu.view(tensor) if _gpu.holds(tensor) else EXCHANGE.arrays([tensor])[0])
        except Rejected as rejected:
            raise Rejected("tensors", rejected.reason, place) from None
    return made


def holds(tensors: list[Any], arrays: list[Any]) -> bool:
    """Whether each array still is the memory of its tensor. Rejected where a tensor has none."""
    place = EXCHANGE.first_other(tensors, arrays)
    if place < 0 or type(arrays[place]) is np.ndarray:
        return place < 0
    return all(
        array is now or (type(array) is np.ndarray and EXCHANGE.first_other([tensor], [array]) < 0)
        for tensor, array, now in zip(tensors, arrays, _arrays(tensors), strict=True)
    )


_NOWHERE = nullcontext()


def stream_of(array: Any) -> AbstractContextManager[None]:
    """Where work on an array is queued: PyTorch's current stream of its device; on the CPU nothing is queued."""
    return _NOWHERE if type(array) is np.ndarray else _gpu.stream(array.device.id)


def bytes_of(bits: Any) -> Any:
    """A uint8 tensor's memory."""
    return _gpu.view(bits) if _gpu.holds(bits) else bits.numpy()


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
