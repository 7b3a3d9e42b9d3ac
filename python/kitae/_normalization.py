"""What batch, layer and weight normalization share above the kernels."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kitae import _checks, _dispatch

NONFINITE_CODES = {name: code for code, name in enumerate(_checks.NONFINITE)}
FLOAT64 = np.dtype(np.float64)  # NumPy makes one of every np.float64 that it is given
PARAMETER_DTYPES = (np.dtype(np.float32), FLOAT64)


def read_only(array: Any) -> Any:
    """A NumPy array made read-only; CuPy has none, so a copy."""
    if type(array) is not np.ndarray:
        return array.copy()
    array.flags.writeable = False
    return array


def without_nonfinite(op: str, x: NDArray[Any]) -> NDArray[Any]:
    """x, or where it has infinite or NaN elements a copy with 0 in their place; on a GPU always a copy."""
    if x.dtype.kind not in "fV":
        return x  # the backend refuses it, in words
    finite = _dispatch.array_module(x).isfinite(x)
    if isinstance(x, np.ndarray) and finite.all():  # on a GPU nobody waits for the answer
        return x
    clean = copy_in_order(x)
    clean[~finite] = 0
    return clean


def copy_in_order(x: NDArray[Any]) -> NDArray[Any]:
    """Without gaps, in x's memory order."""
    return np.array(x, order="K") if isinstance(x, np.ndarray) else x.copy(order="K")


def copy_in_order_of(x: NDArray[Any], array: Any) -> NDArray[Any]:
    """A copy of ``array`` with x's memory order."""
    copy = _dispatch.empty_like(x)
    copy[...] = array
    return copy


def parameter_dtype(op: str, dtype: Any) -> np.dtype:
    try:
        converted = np.dtype(dtype)
    except TypeError:
        converted = np.dtype(object)  # no dtype at all (to NumPy, None is float64)
    if converted not in PARAMETER_DTYPES:
        raise _checks.error(TypeError, op, "dtype", "float32 or float64", _checks.Words(str(dtype)))
    return converted
