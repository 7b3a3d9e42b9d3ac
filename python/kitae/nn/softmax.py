"""The softmax as a layer."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kitae import _checks, _dispatch
from kitae.nn import checks
from kitae.nn.layer import Layer


class Softmax(Layer):
    """y = exp(x) / sum of exp(x), dx = y (dout - sum of dout y), the sums along ``axis``

    x: any floating dtype and at least one element along ``axis`` (default: the last); y has the dtype of x, dx that of
    dout; 16-bit is computed in float32. The largest element of each sum is subtracted first, so large x do not
    overflow; -inf gives 0; infinite maxima and NaN give NaN. y is kept for ``backward``. A wrong type or dtype raises
    TypeError, a wrong shape ValueError.

    In front of a cross entropy leave this layer out and take ``SoftmaxCrossEntropy``, which works on the logits.
    """

    def __init__(self, axis: int = -1) -> None:
        super().__init__()
        self.axis = _checks.integer("nn.Softmax", "axis", axis, low=-64, high=63)
        self._kept: NDArray[Any] | None = None

    def forward(self, x: NDArray[Any], training: bool = True) -> NDArray[Any]:
        op = "nn.Softmax.forward"
        checks.float_array(op, "x", x)
        axis = _checks.integer(op, "axis", self.axis, low=-x.ndim, high=x.ndim - 1)
        if x.shape[axis] == 0:
            raise _checks.error(ValueError, op, "x", f"at least one element along axis {axis}", x)
        xp = _dispatch.array_module(x)
        y = x.astype(checks.parameter_dtype(op, None, x.dtype))
        with np.errstate(invalid="ignore"):  # inf - inf
            y -= xp.max(y, axis=axis, keepdims=True)
        xp.exp(y, out=y)
        y /= xp.sum(y, axis=axis, keepdims=True)
        self._kept = y = y.astype(x.dtype, copy=False)
        return y

    def backward(self, dout: NDArray[Any]) -> NDArray[Any]:
        op = "nn.Softmax.backward"
        y = checks.after_forward(op, self._kept)
        checks.float_array(op, "dout", dout)
        checks.shape(op, "dout", dout, y.shape, "that of x")
        xp = _dispatch.array_module(dout)
        wide = np.result_type(*(checks.parameter_dtype(op, None, array.dtype) for array in (y, dout)))
        y = y.astype(wide, copy=False)
        dx = dout.astype(wide)
        dx -= xp.sum(dx * y, axis=self.axis, keepdims=True)
        dx *= y
        return dx.astype(dout.dtype, copy=False)
