"""Numbers of an array, taken from a sample of it: a look must cost little beside a training step."""

from typing import Any

import numpy as np

SAMPLE = 1024  # elements: the relative error of a standard deviation is 1 / sqrt(2 * 1024) = 2 %


def sample(array: Any, count: int = SAMPLE) -> Any:
    """A copy of about ``count`` elements, evenly spread in memory, on the array's device."""
    if array.flags.c_contiguous:
        flat = array.reshape(-1)
    elif array.flags.f_contiguous:
        flat = array.T.reshape(-1)
    else:
        flat = array.ravel()
    stride = -(-flat.size // count) if flat.size else 1
    return flat[:: stride | 1 if stride > 1 else 1].copy()  # odd: even strides would see the same few columns


def host(array: Any) -> Any:
    """A NumPy array in float32 or wider; from a GPU this waits."""
    array = array.get() if hasattr(array, "get") else array
    return array.astype(np.float32) if array.dtype.itemsize < 4 or array.dtype.kind not in "fc" else array


def rms(array: Any) -> float:
    values = host(array).astype(np.float64)
    return float(np.sqrt(np.mean(values * values))) if values.size else 0.0


def std(array: Any) -> float:
    values = host(array)
    return float(np.std(values, dtype=np.float64)) if values.size else 0.0


def unit_axis(ndim: int) -> int:
    """The axis of a weight array that counts units: the last of (inputs, units), the first of a convolution's."""
    return 1 if ndim == 2 else 0


def fan_in(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape)) // shape[unit_axis(len(shape))] if shape else 1


def first_nonfinite(array: Any) -> tuple[int, ...] | None:
    """The index of the first infinite or NaN element, or None; waits for a GPU."""
    values = host(array)
    bad = np.flatnonzero(~np.isfinite(values).reshape(-1))
    return tuple(int(i) for i in np.unravel_index(bad[0], values.shape)) if bad.size else None


def is_float(array: Any) -> bool:
    dtype = getattr(array, "dtype", None)
    return dtype is not None and (dtype.kind == "f" or dtype.name == "bfloat16")
