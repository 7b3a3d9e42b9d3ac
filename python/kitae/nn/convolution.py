"""Convolutional layers: windows as columns, and a matrix product."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

import kitae
from kitae import _checks, _dispatch, _random
from kitae.convolution import geometry_of
from kitae.nn import checks, initializers
from kitae.nn.layer import Layer

# Columns of a few samples at a time stay in the cache between being made and multiplied (4 MiB: forward and backward
# 10 to 30 % faster than columns of the whole batch, and no memory grows with the batch; with less, NumPy's threads and
# ours take the cores from each other too often). A GPU wants few large products.
_BYTES_AT_ONCE = 1 << 22
_BYTES_AT_ONCE_ON_GPU = 1 << 28
# Products of fewer multiplications than this are made without packing by NumPy's library (OpenBLAS): the weights'
# gradient of a few channels is then three times as fast sample by sample.
_SMALL_PRODUCT = 10**6

Padding = int | Sequence[int] | str


class Conv2D(Layer):
    """y[n, k, o, p] = b[k] + sum over c, i, j of W[k, c, i, j] x[n, c, o sh - ph + i dh, p sw - pw + j dw]

    x: (batch, in_channels, height, width); W: (channels, in_channels, kh, kw); b: (channels,), left out with
    ``bias=False``; y: (batch, channels, oh, ow). backward: dW and db sum over the batch, dx has x's memory order.
    kernel_size, stride, padding, dilation: as in ``kitae.im2col``.

    ``init``: a name or a function as for ``nn.Dense``, for a matrix (in_channels kh kw, channels): He's standard
    deviation is sqrt(2 / (in_channels kh kw)). The generator is the one that ``kitae.seed`` seeds. Biases start at 0.
    dtypes, building and errors: as ``nn.Dense``; ``in_channels`` builds at once.

    y lies in memory channel by channel (C order of (channels, batch, oh, ow)), as the matrix product writes it and
    batch norm likes it; so does dx where x did. Columns are made for a few samples at a time, and again in the backward
    pass, not kept. A ``dout`` that does not lie channel by channel is copied.

    Source: LeCun et al. 1989; columns: Chellapilla, Puri and Simard 2006. W has the shape of PyTorch's and the book's;
    differs from PyTorch in the default initialization (He's normal one) and in the memory order of y.
    """

    _axes = 2
    can_skip_input_gradient = True

    def __init__(
        self,
        channels: int,
        kernel_size: int | Sequence[int],
        *,
        stride: int | Sequence[int] = 1,
        padding: Padding = 0,
        dilation: int | Sequence[int] = 1,
        init: str | initializers.Initializer = "he",
        bias: bool = True,
        bias_init: float | str | initializers.Initializer = 0.0,
        in_channels: int | None = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        super().__init__()
        op = f"nn.{type(self).__name__}"
        self.channels = _checks.integer(op, "channels", channels, low=1, high=2**31 - 1)
        self.kernel_size = checks.per_axis(op, "kernel_size", kernel_size, self._axes, low=1)
        self.stride = checks.per_axis(op, "stride", stride, self._axes, low=1)
        self.padding = checks.padding(op, padding, self._axes)
        self.dilation = checks.per_axis(op, "dilation", dilation, self._axes, low=1)
        self.init = initializers.find(op, "init", init)
        self.bias_init = initializers.find_for_bias(op, bias_init)
        self.bias = _checks.boolean(op, "bias", bias)
        self.dtype = None if dtype is None else checks.parameter_dtype(op, dtype, np.float32)
        self._x: NDArray[Any] | None = None
        if in_channels is not None:
            known = _checks.integer(op, "in_channels", in_channels, low=1, high=2**31 - 1)
            self.build((1, known) + (1,) * self._axes, np.float32)

    def build(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        """Make W, b and their gradients for inputs of ``shape`` (batch, in_channels, height, width) and ``dtype``."""
        self._build(shape, dtype, None)

    def _build(self, shape: tuple[int, ...], dtype: DTypeLike, like: Any) -> None:
        op = f"nn.{type(self).__name__}.build"
        if len(shape) != 2 + self._axes:
            raise _checks.error(ValueError, op, "shape", checks.image_shape(self._axes), _checks.Words(shape))
        in_channels = _checks.integer(op, "in_channels", shape[1], low=1, high=2**31 - 1)
        dtype = checks.parameter_dtype(op, self.dtype, dtype)
        of_weights = (self.channels, in_channels, *self.kernel_size)
        params = {"W": np.asarray(self.init(of_weights, _random.generator()))}
        checks.shape(op, "init(shape, generator)", params["W"], of_weights, "channels, in_channels and the kernel")
        if self.bias:
            params["b"] = np.asarray(self.bias_init((self.channels,), _random.generator()))
            checks.shape(op, "bias_init(shape, generator)", params["b"], (self.channels,), "channels")
        self.params = {name: _dispatch.placed(np.ascontiguousarray(a, dtype), like) for name, a in params.items()}
        xp = _dispatch.array_module(self.params["W"])
        self.grads = {name: xp.zeros_like(array) for name, array in self.params.items()}

    def forward(self, x: NDArray[Any], training: bool = True) -> NDArray[Any]:
        op = f"nn.{type(self).__name__}.forward"
        checks.float_array(op, "x", x, ndim=2 + self._axes)
        if not self.params:
            self._build(x.shape, x.dtype, x)
        weights = self.params["W"]
        if x.shape[1] != weights.shape[1]:
            expected = f"shape {checks.image_shape(self._axes, weights.shape[1])}, the channels that W was made for"
            raise _checks.error(ValueError, op, "x", expected, x)
        x = checks.in_dtype_of(op, "x", x, weights.dtype)
        windows = _Windows(op, _as_images(x), self)
        y = windows.convolve(weights.reshape(self.channels, -1))
        if self.bias:
            y += self.params["b"][:, None]
        self._x = x
        images = y.reshape(self.channels, x.shape[0], *windows.output).swapaxes(0, 1)
        return images if self._axes == 2 else images[:, :, 0]

    def backward(self, dout: NDArray[Any], *, input_gradient: bool = True) -> Any:
        op = f"nn.{type(self).__name__}.backward"
        x = checks.after_forward(op, self._x)
        windows = _Windows(op, _as_images(x), self)
        checks.float_array(op, "dout", dout)
        output = windows.output[-self._axes :]
        checks.shape(op, "dout", dout, (x.shape[0], self.channels, *output), "that of the latest output")
        dout = checks.in_dtype_of(op, "dout", dout, self.params["W"].dtype)
        xp = _dispatch.array_module(dout)
        by_channel = xp.ascontiguousarray(dout.swapaxes(0, 1)).reshape(self.channels, -1)
        if self.bias:
            # Three times as fast as by_channel.sum(axis=1).
            xp.matmul(by_channel, xp.ones(by_channel.shape[1], by_channel.dtype), out=self.grads["b"])
        weights, of_weights = (arrays["W"].reshape(self.channels, -1) for arrays in (self.params, self.grads))
        dx = windows.gradients(by_channel, weights, of_weights, input_gradient)
        return dx if dx is None or self._axes == 2 else dx[:, :, 0]


class Conv1D(Conv2D):
    """y[n, k, o] = b[k] + sum over c, j of W[k, c, j] x[n, c, o s - p + j d]

    x: (batch, in_channels, length); W: (channels, in_channels, kernel_size); y: (batch, channels, places). Otherwise as
    ``Conv2D``: signals are images of height 1.
    """

    _axes = 1


class _Windows:
    """The columns of one batch, a few samples at a time."""

    def __init__(self, op: str, images: NDArray[Any], layer: Conv2D) -> None:
        self.images = images
        height_one = layer._axes == 1
        kernel, stride, dilation = (
            (1, *pair) if height_one else pair for pair in (layer.kernel_size, layer.stride, layer.dilation)
        )
        padding = (0, *layer.padding) if height_one and not isinstance(layer.padding, str) else layer.padding
        self.keywords: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
        self.kernel = kernel
        self.output = geometry_of(op, "x", images.shape, kernel, **self.keywords).output
        samples, channels = images.shape[:2]
        self.rows = channels * kernel[0] * kernel[1]
        self.places = self.output[0] * self.output[1]
        self.on_gpu = on_gpu = _checks.is_cupy(images)
        bytes_of_sample = self.rows * self.places * images.dtype.itemsize
        at_once = (_BYTES_AT_ONCE_ON_GPU if on_gpu else _BYTES_AT_ONCE) // max(bytes_of_sample, 1)
        self.at_once = max(1, min(at_once, samples))
        self.memory = _dispatch.empty(self.rows * self.places * self.at_once, images.dtype, images)

    def _parts(self) -> Any:
        """(samples, their columns of the result, room for their columns of windows) of each part of the batch."""
        samples = self.images.shape[0]
        for begin in range(0, samples, self.at_once):
            end = min(begin + self.at_once, samples)
            columns = self.memory[: self.rows * self.places * (end - begin)].reshape(self.rows, -1)
            yield slice(begin, end), slice(begin * self.places, end * self.places), columns

    def convolve(self, weights: NDArray[Any]) -> NDArray[Any]:
        """weights times columns: (channels, samples x places)."""
        y = _dispatch.empty((len(weights), self.images.shape[0] * self.places), weights.dtype, weights)
        for samples, part, columns in self._parts():
            kitae.im2col(self.images[samples], self.kernel, **self.keywords, out=columns)
            np.matmul(weights, columns, out=y[:, part])
        return y

    def gradients(
        self, dout: NDArray[Any], weights: NDArray[Any], of_weights: NDArray[Any], input_gradient: bool
    ) -> NDArray[Any] | None:
        """The images' gradient, if wanted; the weights' goes to ``of_weights``."""
        dx = _dispatch.empty_like(self.images) if input_gradient else None
        transposed = np.zeros_like(of_weights, shape=of_weights.shape[::-1])
        for samples, part, columns in self._parts():
            kitae.im2col(self.images[samples], self.kernel, **self.keywords, out=columns)
            transposed += self._gradient_of_weights(columns, dout[:, part])
            if dx is None:
                continue
            np.matmul(weights.T, dout[:, part], out=columns)
            kitae.col2im(columns, dx[samples].shape, self.kernel, **self.keywords, out=dx[samples])
        of_weights[...] = transposed.T
        return dx

    def _gradient_of_weights(self, columns: NDArray[Any], dout: NDArray[Any]) -> NDArray[Any]:
        """columns dout^T, which is a third faster than its transpose."""
        if self.on_gpu or self.rows * len(dout) * self.places >= _SMALL_PRODUCT:
            return np.matmul(columns, dout.T)
        columns, dout = (array.reshape(len(array), -1, self.places) for array in (columns, dout))
        return np.matmul(columns.swapaxes(0, 1), dout.transpose(1, 2, 0)).sum(axis=0)


def _as_images(x: NDArray[Any]) -> NDArray[Any]:
    return x if x.ndim == 4 else x[:, :, None]
