"""The reference's side of the boundary: the refusals of csrc/bindings/array.h, storage and arithmetic types."""

from typing import Any

import numpy as np

from kitae._checks import Rejected

STORAGE = ("float16", "bfloat16", "float32", "float64")


def array_argument(array: Any, argument: str, *, write: bool = False, index: int = -1) -> np.ndarray:
    """``array`` itself if it is one that the kernels take, else Rejected."""
    if type(array) is not np.ndarray and type(array) is not np.memmap:
        raise Rejected(argument, "type", index)
    if array.dtype.name not in STORAGE:
        raise Rejected(argument, "dtype", index)
    if not array.dtype.isnative:
        raise Rejected(argument, "byte_order", index)
    if not array.flags.aligned:
        raise Rejected(argument, "aligned", index)
    if write and not array.flags.writeable:
        raise Rejected(argument, "writeable", index)
    if write and repeats_elements(array):
        raise Rejected(argument, "repeats", index)
    return array


def repeats_elements(array: np.ndarray) -> bool:
    """Whether two indices may name the same memory (a broadcast or sliding-window view)."""
    reach = array.itemsize
    for stride, length in sorted((abs(s), n) for s, n in zip(array.strides, array.shape, strict=True) if n > 1):
        if stride < reach:
            return array.size > 0
        reach += stride * (length - 1)
    return False


def compute_type(dtype: np.dtype) -> type:
    """The type in which a storage type's arithmetic is done."""
    return np.float64 if dtype == np.float64 else np.float32


def widen(array: np.ndarray, kind: type | None = None) -> np.ndarray:
    """The values in the arithmetic type: a new array, C order."""
    return np.array(array, dtype=kind or compute_type(array.dtype), order="C")


def store(target: np.ndarray, values: np.ndarray) -> None:
    """Round once to the target's dtype, in place."""
    with np.errstate(over="ignore", invalid="ignore"):
        target[...] = values.astype(target.dtype)


def flush(values: np.ndarray) -> np.ndarray:
    """Below the smallest normal number: +0."""
    return np.where(np.abs(values) < np.finfo(values.dtype).tiny, values.dtype.type(0), values)
