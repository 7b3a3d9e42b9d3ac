"""The rectifier as a layer of its own; after a batch norm, ``kitae.BatchNorm(activation="relu")`` does it for free."""

import numpy as np

from kitae.nn import checks
from kitae.nn.scratch import Scratch


class ReLU:
    """y = max(x, 0), dx = dout where x > 0, else 0 (Nair and Hinton 2010)

    Any shape, any floating dtype; y and dx have the dtypes of x and dout. ReLU(-0) = +0, ReLU(NaN) = NaN, and the
    derivative at 0 is 0.
    """

    def __init__(self):
        self.params, self.grads, self.buffers = {}, {}, {}
        self._positive = None
        self._y_memory, self._dx_memory, self._mask_memory = Scratch(), Scratch(), Scratch()

    def forward(self, x, training=True):
        checks.float_array("ReLU.forward", "x", x)
        y = self._y_memory.array(x.shape, x.dtype) if training else np.empty(x.shape, x.dtype)
        np.maximum(x, 0, out=y)
        y += 0  # -0 + 0 = +0; which zero np.maximum(-0, 0) returns depends on the machine
        self._positive = np.greater(x, 0, out=self._mask_memory.array(x.shape, np.bool_))
        return y

    def backward(self, dout):
        positive = checks.after_forward("ReLU.backward", self._positive)
        checks.float_array("ReLU.backward", "dout", dout)
        checks.same_shape("ReLU.backward", "dout", dout, positive.shape, "that of x")
        dx = self._dx_memory.array(dout.shape, dout.dtype)
        dx.fill(0)
        np.copyto(dx, dout, where=positive)  # not a product: an infinite dout times 0 would be NaN
        return dx
