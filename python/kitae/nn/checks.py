"""What the layers of this package accept."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from kitae import _checks, _dispatch


def float_array(op: str, argument: str, value: Any, ndim: int | None = None) -> None:
    """Refuse what is no array of this device, of a floating dtype and of ``ndim`` dimensions."""
    _dispatch.backend_for(value, op, argument)
    dtype = value.dtype
    if not ((dtype.kind == "f" and dtype.itemsize <= 8) or dtype.name == "bfloat16"):
        raise _checks.error(TypeError, op, argument, f"dtype {_checks.FLOATS}", _dtype(value))
    if not dtype.isnative:
        raise _checks.error(TypeError, op, argument, "native byte order", _dtype(value))
    if ndim is not None and value.ndim != ndim:
        raise _checks.error(ValueError, op, argument, f"{ndim} dimensions", value)


def shape(op: str, argument: str, value: NDArray[Any], expected: tuple[int, ...], meaning: str) -> None:
    if value.shape != expected:
        raise _checks.error(ValueError, op, argument, f"shape {expected}, {meaning}", value)


def after_forward(op: str, state: Any) -> Any:
    """The state that ``forward`` left for ``backward``."""
    if state is None:
        raise RuntimeError(f"kitae.{op}: expected a forward pass before each backward pass, got none")
    return state


def parameter_dtype(op: str, requested: DTypeLike | None, of_input: DTypeLike) -> np.dtype[Any]:
    """The dtype of a layer's parameters: the one asked for, else the input's, float32 for 16-bit inputs."""
    if requested is None:
        dtype = np.dtype(of_input)
        return np.dtype(np.float32) if dtype.itemsize == 2 else dtype
    dtype = np.dtype(requested)
    if dtype not in (np.float32, np.float64):
        raise _checks.error(TypeError, op, "dtype", "float32 or float64", _checks.Words(dtype))
    return dtype


def _dtype(array: NDArray[Any]) -> _checks.Words:
    return _checks.Words(f"dtype {_checks.dtype_name(array)}")
