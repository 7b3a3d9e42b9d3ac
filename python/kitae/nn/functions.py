"""Functions of an array that several layers share: plain, without state or backward pass."""

from typing import Any

import numpy as np

from kitae import _dispatch

_LARGE = 40  # from here on the sigmoid is 1 in float64, too, and exp still far from overflow


def sigmoid(x: Any, out: Any = None) -> Any:
    """y = exp(x) / (1 + exp(x)), within a few units in the last place for every x, small results included

    x: any shape and floating dtype, on the CPU or a GPU; y has its dtype; 16-bit is computed in float32. ``out``: an
    array of x's shape and dtype, x itself too. -inf gives 0, inf gives 1, NaN stays; no warning of overflow.
    """
    if out is None:
        out = _dispatch.empty_like(x)
    if x.dtype.itemsize == 2:
        out[...] = sigmoid(x.astype(np.float32))
        return out
    xp = _dispatch.array_module(x)
    xp.minimum(x, x.dtype.type(_LARGE), out=out)
    xp.exp(out, out=out)
    return xp.divide(out, out + 1, out=out)
