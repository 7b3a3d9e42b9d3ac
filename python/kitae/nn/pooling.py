"""Pooling layers, and the step from images to rows."""

import math
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

import kitae
from kitae import _checks, _dispatch
from kitae.nn import checks
from kitae.nn.layer import Layer


class _Pool(Layer):
    """What the pooling layers share; signals are images of height 1."""

    _axes = 2

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        *,
        stride: int | Sequence[int] | None = None,
        padding: int | Sequence[int] | str = 0,
    ) -> None:
        super().__init__()
        op = f"nn.{type(self).__name__}"
        self.kernel_size = checks.per_axis(op, "kernel_size", kernel_size, self._axes, low=1)
        self.stride = self.kernel_size if stride is None else checks.per_axis(op, "stride", stride, self._axes, low=1)
        self.padding = checks.padding(op, padding, self._axes)
        self._saved: kitae.PoolSaved | None = None

    def forward(self, x: NDArray[Any], training: bool = True) -> NDArray[Any]:
        checks.float_array(f"nn.{type(self).__name__}.forward", "x", x, ndim=2 + self._axes)
        if self._axes == 2:
            y, self._saved = self._pool(x, self.kernel_size, stride=self.stride, padding=self.padding)
            return y
        padding = self.padding if isinstance(self.padding, str) else (0, *self.padding)
        y, self._saved = self._pool(x[:, :, None], (1, *self.kernel_size), stride=(1, *self.stride), padding=padding)
        return y[:, :, 0]

    def backward(self, dout: NDArray[Any]) -> NDArray[Any]:
        op = f"nn.{type(self).__name__}.backward"
        saved = checks.after_forward(op, self._saved)
        checks.float_array(op, "dout", dout)
        expected = (*saved.shape[:2], *saved.output[-self._axes :])
        checks.shape(op, "dout", dout, expected, "that of the latest output")
        return self._unpool(dout, saved) if self._axes == 2 else self._unpool(dout[:, :, None], saved)[:, :, 0]

    def _pool(self, x: NDArray[Any], kernel_size: Any, **keywords: Any) -> tuple[NDArray[Any], kitae.PoolSaved]:
        raise NotImplementedError

    def _unpool(self, dout: NDArray[Any], saved: kitae.PoolSaved) -> NDArray[Any]:
        raise NotImplementedError


class MaxPool2D(_Pool):
    """y = the largest element under each window; dx = dout where it was.

    x: (batch, channels, height, width), y: (batch, channels, oh, ow). ``stride``: None is the kernel's size. Arguments,
    NaN and errors as in ``kitae.max_pool``. Source: Boureau, Ponce and LeCun 2010.
    """

    def _pool(self, x: NDArray[Any], kernel_size: Any, **keywords: Any) -> tuple[NDArray[Any], kitae.PoolSaved]:
        return kitae.max_pool(x, kernel_size, **keywords)

    def _unpool(self, dout: NDArray[Any], saved: kitae.PoolSaved) -> NDArray[Any]:
        return kitae.max_pool_backward(dout, saved)


class MaxPool1D(MaxPool2D):
    """``MaxPool2D`` for x (batch, channels, length)."""

    _axes = 1


class AvgPool2D(_Pool):
    """y = the average of each window; dx = dout / count over the windows of an element.

    x: (batch, channels, height, width), y: (batch, channels, oh, ow). ``count_include_pad``: whether padding counts as
    zeros. Arguments and errors as in ``kitae.avg_pool``. Source: LeCun et al. 1989.
    """

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        *,
        stride: int | Sequence[int] | None = None,
        padding: int | Sequence[int] | str = 0,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__(kernel_size, stride=stride, padding=padding)
        self.count_include_pad = _checks.boolean(f"nn.{type(self).__name__}", "count_include_pad", count_include_pad)

    def _pool(self, x: NDArray[Any], kernel_size: Any, **keywords: Any) -> tuple[NDArray[Any], kitae.PoolSaved]:
        return kitae.avg_pool(x, kernel_size, **keywords, count_include_pad=self.count_include_pad)

    def _unpool(self, dout: NDArray[Any], saved: kitae.PoolSaved) -> NDArray[Any]:
        return kitae.avg_pool_backward(dout, saved)


class AvgPool1D(AvgPool2D):
    """``AvgPool2D`` for x (batch, channels, length)."""

    _axes = 1


class GlobalAvgPool2D(Layer):
    """y[n, c] = the average of x[n, c] (Lin, Chen and Yan 2014); dx = dout / (height width).

    x: (batch, channels, height, width) of at least one pixel; y: (batch, channels). Errors as in ``kitae.avg_pool``.
    """

    def __init__(self) -> None:
        super().__init__()
        self._saved: kitae.PoolSaved | None = None

    def forward(self, x: NDArray[Any], training: bool = True) -> NDArray[Any]:
        op = "nn.GlobalAvgPool2D.forward"
        checks.float_array(op, "x", x, ndim=4)
        if 0 in x.shape[2:]:
            raise _checks.error(ValueError, op, "x", "at least one pixel", x)
        y, self._saved = kitae.avg_pool(x, x.shape[2:])
        return y[:, :, 0, 0]

    def backward(self, dout: NDArray[Any]) -> NDArray[Any]:
        op = "nn.GlobalAvgPool2D.backward"
        saved = checks.after_forward(op, self._saved)
        checks.float_array(op, "dout", dout)
        checks.shape(op, "dout", dout, saved.shape[:2], "that of the latest output")
        return kitae.avg_pool_backward(dout[:, :, None, None], saved)


class Flatten(Layer):
    """y = x as rows: (batch, ...) becomes (batch, the product of the others), in the C order of x's indices.

    A view where x's memory allows, else a copy: the output of a convolution lies channel by channel and is copied.
    dx has x's shape, a view of dout where its memory allows. Any floating dtype.
    """

    def __init__(self) -> None:
        super().__init__()
        self._shape: tuple[int, ...] | None = None

    def forward(self, x: NDArray[Any], training: bool = True) -> NDArray[Any]:
        op = "nn.Flatten.forward"
        _dispatch.backend_for(x, op, "x")
        if x.ndim < 2:
            raise _checks.error(ValueError, op, "x", "at least 2 dimensions (batch, ...)", x)
        self._shape = x.shape
        return x.reshape(x.shape[0], math.prod(x.shape[1:]))

    def backward(self, dout: NDArray[Any]) -> NDArray[Any]:
        op = "nn.Flatten.backward"
        shape = checks.after_forward(op, self._shape)
        _dispatch.backend_for(dout, op, "dout")
        checks.shape(op, "dout", dout, (shape[0], math.prod(shape[1:])), "that of the latest output")
        return dout.reshape(shape)
