"""PyTorch's CUDA tensors as CuPy arrays over the same memory, computed on PyTorch's current stream."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from kitae import _dispatch
from kitae._checks import Rejected

# A view names memory and does not own it: it is looked up again by what the tensor says at every call. More than a
# large network has tensors, a few megabytes of them; then all are forgotten.
_MOST_VIEWS = 1 << 16
_views: dict[Any, Any] = {}

_NUMPY_NAMES = {torch.float32: "float32", torch.float64: "float64", torch.float16: "float16", torch.uint8: "uint8"}


def holds(value: Any) -> bool:
    """Whether this is a CUDA tensor."""
    return isinstance(value, torch.Tensor) and value.is_cuda


def view(tensor: Any) -> Any:
    """The tensor's memory; the same object as long as address, dtype, shape and strides are the same.

    Raises Rejected(reason) for what has no such memory.
    """
    try:
        address = tensor.data_ptr()
        key = address, tensor.dtype, tensor.shape, tensor.stride(), tensor.get_device()
    except RuntimeError:
        raise Rejected("tensors", "memory") from None  # sparse; a fake tensor
    if tensor.is_neg():
        raise Rejected("tensors", "negated")
    found = _views.get(key)
    if found is None:
        if len(_views) == _MOST_VIEWS:
            _views.clear()
        found = _views[key] = _made(tensor, *key)
    return found


def _made(tensor: Any, address: int, kind: Any, shape: Any, steps: Any, device: int) -> Any:
    if kind == torch.bfloat16:
        from ml_dtypes import bfloat16

        dtype = np.dtype(bfloat16)
    elif kind in _NUMPY_NAMES:
        dtype = np.dtype(_NUMPY_NAMES[kind])
    else:
        raise Rejected("tensors", "dtype")
    cupy = _dispatch.cupy_for(tensor)
    empty = 0 in shape
    if address == 0 and not empty:
        raise Rejected("tensors", "memory")
    reach = 0 if empty else 1 + sum((length - 1) * step for length, step in zip(shape, steps, strict=True))
    memory = cupy.cuda.UnownedMemory(address, reach * dtype.itemsize, None, device)
    strides = tuple(step * dtype.itemsize for step in steps)
    return cupy.ndarray(tuple(shape), dtype=dtype, memptr=cupy.cuda.MemoryPointer(memory, 0), strides=strides)


def tensor_of(array: Any) -> Any:
    """The tensor over an array that CuPy owns, without a copy."""
    return torch.from_dlpack(array)


def _current_stream(device: int) -> int:
    return torch.cuda.current_stream(device).cuda_stream


@contextmanager
def stream(device: int) -> Iterator[None]:
    """CuPy's current stream of a device is PyTorch's."""
    cupy = sys.modules["cupy"]
    pointer = _current_stream(device)
    with cupy.cuda.Device(device), cupy.cuda.ExternalStream(pointer, device) if pointer else cupy.cuda.Stream.null:
        yield
