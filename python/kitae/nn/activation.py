"""What element-wise activations share."""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from kitae import _dispatch
from kitae.nn import checks
from kitae.nn.layer import Layer

#: Elements worked on at a time: with a few temporaries in float64 they stay in a level-2 cache.
_BLOCK = 8192


class Activation(Layer):
    """y = f(x), dx = dout f'(x), element by element; any shape and floating dtype, on the CPU or a GPU.

    y has the dtype of x, dx that of dout; 16-bit is computed in float32. One array is kept for ``backward``: x or y,
    by reference, so it must not change before. A wrong type or dtype raises TypeError, a wrong shape ValueError.

    A subclass says what is kept (``keeps_output``), between which ends y lies (``bounds``), and writes
    ``_value(xp, x, out)``, out = f(x), and ``_derivative(xp, kept, out)``, out = f'(x), for float32 and float64 arrays
    of one shape and dtype.
    """

    keeps_output: ClassVar[bool] = True
    #: The ends of the range of f, where it has some on both sides.
    bounds: ClassVar[tuple[float, float] | None] = None

    def __init__(self) -> None:
        super().__init__()
        self._kept: NDArray[Any] | None = None

    def forward(self, x: NDArray[Any], training: bool = True) -> NDArray[Any]:
        checks.float_array(f"nn.{type(self).__name__}.forward", "x", x)
        xp, y = _dispatch.array_module(x), _dispatch.empty_like(x)

        def values(x: Any, y: Any) -> None:
            wide = _computed_in(x)
            if wide == x.dtype:
                self._value(xp, x, y)
            else:
                x = x.astype(wide)
                self._value(xp, x, out := _dispatch.empty_like(x))
                y[...] = out

        in_blocks(values, x, y)
        self._kept = y if self.keeps_output else x
        return y

    def backward(self, dout: NDArray[Any]) -> NDArray[Any]:
        op = f"nn.{type(self).__name__}.backward"
        kept = checks.after_forward(op, self._kept)
        checks.float_array(op, "dout", dout)
        checks.shape(op, "dout", dout, kept.shape, "that of x")
        xp, dx = _dispatch.array_module(dout), _dispatch.empty_like(dout)

        def gradients(kept: Any, dout: Any, dx: Any) -> None:
            wide = np.result_type(_computed_in(kept), _computed_in(dout))
            kept = kept.astype(wide, copy=False)
            out = dx if dx.dtype == wide else _dispatch.empty_like(kept)
            self._derivative(xp, kept, out)
            xp.multiply(out, dout.astype(wide, copy=False), out=out)
            if out is not dx:
                dx[...] = out

        in_blocks(gradients, kept, dout, dx)
        return dx

    def _value(self, xp: Any, x: Any, out: Any) -> None:
        raise NotImplementedError

    def _derivative(self, xp: Any, kept: Any, out: Any) -> None:
        raise NotImplementedError


def _computed_in(array: Any) -> np.dtype[Any]:
    return np.dtype(np.float32) if array.dtype.itemsize == 2 else array.dtype


def in_blocks(function: Callable[..., None], *arrays: Any) -> None:
    """``function(*arrays)``, which writes into some of them element by element, over parts that fit a cache.

    On the CPU the passes over memory that an expression makes then run in the cache, and its temporaries are small.
    """
    size = arrays[0].size
    if arrays[0].ndim == 0:  # functions of NumPy make scalars of 0-d arrays, which can't be written into
        arrays = tuple(array.reshape(1) for array in arrays)
    if size <= _BLOCK or not all(type(a) is np.ndarray and a.flags.c_contiguous for a in arrays):
        function(*arrays)
        return
    flat = [array.reshape(-1) for array in arrays]
    for start in range(0, size, _BLOCK):
        function(*(array[start : start + _BLOCK] for array in flat))
