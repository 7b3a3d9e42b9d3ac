"""The rectifier as a layer of its own; after a batch norm, ``kitae.BatchNorm(activation="relu")`` does it for free."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kitae.nn import checks
from kitae.nn.scratch import Scratch


class ReLU:
    """y = max(x, 0), dx = dout where x > 0, else 0 (Nair and Hinton 2010)

    Any shape, any floating dtype; y and dx have the dtypes of x and dout. ReLU(-0) = +0, ReLU(NaN) = NaN, and the
    derivative at 0 is 0. A wrong type or dtype raises TypeError, a wrong shape ValueError.
    """

    def __init__(self) -> None:
        self.params: dict[str, NDArray[Any]] = {}
        self.grads: dict[str, NDArray[Any]] = {}
        self.buffers: dict[str, NDArray[Any]] = {}
        self._positive: NDArray[np.bool_] | None = None
        self._y_memory, self._dx_memory, self._mask_memory = Scratch(), Scratch(), Scratch()

    def forward(self, x: NDArray[Any], training: bool = True) -> NDArray[Any]:
        checks.float_array("nn.ReLU.forward", "x", x)
        y = self._y_memory.array(x.shape, x.dtype) if training else np.empty(x.shape, x.dtype)
        zero = x.dtype.type(0)
        np.maximum(x, zero, out=y)
        y += zero  # -0 + 0 = +0; which zero np.maximum(-0, 0) returns depends on the machine
        self._positive = np.greater(x, zero, out=self._mask_memory.array(x.shape, np.bool_))
        return y

    def backward(self, dout: NDArray[Any]) -> NDArray[Any]:
        positive = checks.after_forward("nn.ReLU.backward", self._positive)
        checks.float_array("nn.ReLU.backward", "dout", dout)
        checks.shape("nn.ReLU.backward", "dout", dout, positive.shape, "that of x")
        dx = self._dx_memory.array(dout.shape, dout.dtype)
        dx.fill(0)
        np.copyto(dx, dout, where=positive)  # not a product: an infinite dout times 0 would be NaN
        return dx
