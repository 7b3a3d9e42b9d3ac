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


def image_shape(axes: int, channels: int | str = "in_channels") -> str:
    """The words for the shape of a batch of images, or of signals."""
    return f"(batch, {channels}, {'height, width' if axes == 2 else 'length'})"


def per_axis(op: str, argument: str, value: Any, axes: int, *, low: int) -> tuple[int, ...]:
    """An integer for every spatial axis, or a list of one for each."""
    if isinstance(value, (list, tuple)):
        if len(value) != axes:
            expected = f"an integer, or {axes} of them"
            raise _checks.error(ValueError, op, argument, expected, _checks.Words(f"{len(value)} entries"))
        each = enumerate(value)
        return tuple(_checks.integer(op, f"{argument}[{i}]", n, low=low, high=2**31 - 1) for i, n in each)
    return (_checks.integer(op, argument, value, low=low, high=2**31 - 1),) * axes


def padding(op: str, value: Any, axes: int) -> tuple[int, ...] | str:
    if isinstance(value, str):
        return str(_checks.one_of(op, "padding", value, ("same", "valid")))
    return per_axis(op, "padding", value, axes, low=0)


def in_dtype_of(op: str, argument: str, array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """``array`` in the weights' dtype: values of a narrower one fit exactly."""
    if array.dtype.itemsize > dtype.itemsize:
        raise _checks.error(TypeError, op, argument, f"dtype {dtype}, that of W, or a narrower one", array)
    return array.astype(dtype, copy=False)


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
