"""DeZero's ``dropout`` and batch normalization (``dezero/functions.py``) on kitae's kernels."""

from typing import Any

import dezero
import dezero.functions as theirs
import numpy as np
from dezero.core import Function, as_variable

from kitae.dlfs import _masks
from kitae.dlfs._names import not_covered
from kitae.normalization import batch_norm as _batch_norm
from kitae.normalization import batch_norm_backward

__all__ = ["BatchNorm", "batch_norm", "batch_nrom", "dropout"]


class _Masked(Function):
    """``x * mask / scale``; its gradient is the same function, so that it can be differentiated again."""

    def __init__(self, mask: Any, scale: Any) -> None:
        self.mask = mask
        self.scale = scale

    def forward(self, x: Any) -> Any:
        y = _masks.apply(x, self.mask)
        if self.scale is not None:
            y /= self.scale
        return y

    def backward(self, gy: Any) -> Any:
        return _Masked(self.mask, self.scale)(gy)


def dropout(x: Any, dropout_ratio: float = 0.5) -> Any:
    """Training (``dezero.Config.train``): ``y = x * mask / (1 - dropout_ratio)``; else x.

    The mask is drawn by ``numpy.random.rand`` (CuPy's for CuPy arrays), or by kitae's generator after
    ``kitae.dlfs.set_rng("philox")``.
    """
    x = as_variable(x)
    if not dezero.Config.train:
        return x
    if _masks.rng() == "philox":
        return _Masked(_masks.Philox().forward(x.data, dropout_ratio, "inverted")[1], None)(x)
    mask = _masks.draw(x.shape, dropout_ratio, x.data)
    return _Masked(mask, x.dtype.type(1.0 - dropout_ratio))(x)


class BatchNorm(theirs.BatchNorm):
    """``y = gamma * (x - mean) / sqrt(variance + eps) + beta`` for (N, C) and, per channel, (N, C, H, W).

    In training ``avg = decay * avg + (1 - decay) * batch`` in place, the variance times n / max(n - 1, 1). Statistics
    are summed in float64. Where the backward pass itself is differentiated (``create_graph=True``), DeZero's own
    backward computes.
    """

    def forward(self, x: Any, gamma: Any, beta: Any) -> Any:
        dtype = np.result_type(x, gamma, beta)
        x = x.astype(dtype, copy=False)
        y, self._saved = _batch_norm(
            x,
            gamma,
            beta,
            self.avg_mean,
            self.avg_var,
            training=bool(dezero.Config.train),
            eps=self.eps,
            running_decay=self.decay,
            unbiased=True,
            nonfinite="propagate",
        )
        if self._saved.training:
            self.inv_std = self._saved.inv_std.astype(dtype)
        return y

    def backward(self, gy: Any) -> Any:
        if dezero.Config.enable_backprop:
            return super().backward(gy)
        dout = gy.data.astype(self.inputs[0].dtype, copy=False)
        return tuple(as_variable(array) for array in batch_norm_backward(dout, self._saved))


def batch_nrom(x: Any, gamma: Any, beta: Any, mean: Any, var: Any, decay: float = 0.9, eps: float = 2e-5) -> Any:
    """``BatchNorm`` as a function; DeZero spells its name so. ``batch_norm`` is the same."""
    return BatchNorm(mean, var, decay, eps)(x, gamma, beta)


batch_norm = batch_nrom

__getattr__ = not_covered(__name__, "dezero.functions")
