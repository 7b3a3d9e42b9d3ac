"""The rectifier as a layer of its own; after a batch norm, ``kitae.BatchNorm(activation="relu")`` does it for free."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kitae import _dispatch
from kitae.nn import checks
from kitae.nn.layer import Layer


class ReLU(Layer):
    """y = max(x, 0), dx = dout where x > 0, else 0 (Nair and Hinton 2010)

    Any shape, any floating dtype; y and dx have the dtypes of x and dout. ReLU(-0) = +0, ReLU(NaN) = NaN, and the
    derivative at 0 is 0. A wrong type or dtype raises TypeError, a wrong shape ValueError.
    """

    def __init__(self) -> None:
        super().__init__()
        self._positive: NDArray[np.bool_] | None = None

    def forward(self, x: NDArray[Any], training: bool = True) -> NDArray[Any]:
        checks.float_array("nn.ReLU.forward", "x", x)
        xp, zero = _dispatch.array_module(x), x.dtype.type(0)
        y = xp.maximum(x, zero, out=_dispatch.empty_like(x))
        y += zero  # -0 + 0 = +0; which zero np.maximum(-0, 0) returns depends on the machine
        self._positive = xp.greater(x, zero)
        return y

    def backward(self, dout: NDArray[Any]) -> NDArray[Any]:
        positive = checks.after_forward("nn.ReLU.backward", self._positive)
        checks.float_array("nn.ReLU.backward", "dout", dout)
        checks.shape("nn.ReLU.backward", "dout", dout, positive.shape, "that of x")
        xp = _dispatch.array_module(dout)
        dx = xp.zeros_like(dout)
        xp.copyto(dx, dout, where=positive)  # not a product: an infinite dout times 0 would be NaN
        return dx
