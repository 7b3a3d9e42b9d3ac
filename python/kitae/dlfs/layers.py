"""The layers of books 1 and 2 ("Deep Learning from Scratch", ``common/layers.py``): names, signatures, attributes and
numbers are the books'.

Batch normalization, dropout and ReLU run on kitae's kernels; matrix products stay NumPy's (CuPy's for CuPy arrays).
Where both books have a layer of one name (``Affine``, ``Dropout``, ``Sigmoid``, ``SoftmaxWithLoss``) the class here
has the attributes of both: ``W, b, dW, db`` as well as ``params`` and ``grads``.
"""

from typing import Any

import numpy as np

from kitae import _checks, _dispatch
from kitae.dlfs import _masks
from kitae.dlfs._names import not_covered
from kitae.dlfs.util import col2im, im2col, output_size, padded
from kitae.normalization import Saved, batch_norm, batch_norm_backward

__all__ = [
    "Affine",
    "BatchNormalization",
    "Convolution",
    "Dropout",
    "Embedding",
    "MatMul",
    "Pooling",
    "Relu",
    "Sigmoid",
    "SoftmaxWithLoss",
    "np",  # scripts of book 2 use the np that `from common.layers import *` gives them
]

_BATCH_NORM_EPS = 10e-7  # as the book writes it


def add(total: Any, term: Any) -> Any:
    """total + term, in total's memory where that keeps the dtype."""
    if getattr(term, "dtype", None) != total.dtype and np.result_type(total, term) != total.dtype:
        return total + term
    total += term
    return total


def product(a: Any, b: Any, out: Any) -> None:
    """out[...] = a @ b, without a copy where the product can be written there."""
    if out.flags.c_contiguous and np.result_type(a, b) == out.dtype:
        a.dot(b, out=out)
    else:
        out[...] = a.dot(b)


class Relu:
    """``y = x`` where x > 0 (or NaN), else 0. ``mask``: where x <= 0. ``backward`` overwrites dout, as the book."""

    def __init__(self) -> None:
        self.mask: Any = None

    def forward(self, x: Any) -> Any:
        self.mask = x <= 0
        return _masks.keep(x, ~self.mask)

    def backward(self, dout: Any) -> Any:
        return _masks.keep(dout, ~self.mask, out=dout)


class Sigmoid:
    """``y = 1 / (1 + exp(-x))``. ``out``: y."""

    def __init__(self) -> None:
        self.params: list[Any] = []
        self.grads: list[Any] = []
        self.out: Any = None

    def forward(self, x: Any) -> Any:
        out = np.exp(-x)
        out = add(out, 1)
        self.out = 1 / out
        return self.out

    def backward(self, dout: Any) -> Any:
        return dout * (1.0 - self.out) * self.out


class MatMul:
    """``y = x W`` (book 2)."""

    def __init__(self, W: Any) -> None:
        self.params = [W]
        self.grads = [np.zeros_like(W)]
        self.x: Any = None

    def forward(self, x: Any) -> Any:
        self.x = x
        return x.dot(self.params[0])

    def backward(self, dout: Any) -> Any:
        dx = dout.dot(self.params[0].T)
        product(self.x.T, dout, self.grads[0])
        return dx


class Affine:
    """``y = x W + b``; (N, C, H, W) is flattened to (N, -1), as in book 1.

    Attributes of book 1: W, b, dW, db (new arrays at every backward), x, original_x_shape. Of book 2: params, which are
    W and b, and grads, made when they are first read, which every backward writes into; x.
    """

    _grads: list[Any] | None = None

    def __init__(self, W: Any, b: Any) -> None:
        self.params = [W, b]
        self.x: Any = None
        self.original_x_shape: Any = None
        self.dW: Any = None
        self.db: Any = None

    @property
    def W(self) -> Any:
        return self.params[0]

    @W.setter
    def W(self, value: Any) -> None:
        vars(self).setdefault("params", [None, None])[0] = value  # a subclass may set W first

    @property
    def b(self) -> Any:
        return self.params[1]

    @b.setter
    def b(self, value: Any) -> None:
        vars(self).setdefault("params", [None, None])[1] = value

    @property
    def grads(self) -> list[Any]:
        if self._grads is None:
            self._grads = [np.zeros_like(array) for array in self.params]
            if getattr(self, "dW", None) is not None:
                self._store(self._grads)
        return self._grads

    def _store(self, grads: list[Any]) -> None:
        grads[0][...] = self.dW
        grads[1][...] = self.db

    def forward(self, x: Any) -> Any:
        self.original_x_shape = x.shape
        W, b = self.params
        if x.ndim > 2 and x.size == len(x) * W.shape[0]:
            x = x.reshape(len(x), -1)
        self.x = x
        return add(x.dot(W), b)

    def backward(self, dout: Any) -> Any:
        dx = dout.dot(self.params[0].T)
        self.dW = self.x.T.dot(dout)
        self.db = dout.sum(axis=0)
        if self._grads is not None:
            self._store(self._grads)
        return dx.reshape(self.original_x_shape)


class SoftmaxWithLoss:
    """Softmax, then the mean of ``-log(y[t] + 1e-7)``; t: labels, or one row of probabilities a sample (book 1).

    ``backward(dout)`` is dout times the gradient, as in book 2; book 1 ignores dout, which its networks pass as 1.
    """

    def __init__(self) -> None:
        self.params: list[Any] = []
        self.grads: list[Any] = []
        self.loss: Any = None
        self.y: Any = None
        self.t: Any = None

    def forward(self, x: Any, t: Any) -> Any:
        self.t = t
        y = x - x.max(axis=-1, keepdims=True)
        y = np.exp(y)
        y /= y.sum(axis=-1, keepdims=True)
        self.y = y
        if y.ndim == 1:
            y, t = y.reshape(1, -1), t.reshape(1, -1)
        labels = t.argmax(axis=1) if t.size == y.size else t
        picked = y[_dispatch.array_module(y).arange(len(y)), labels.reshape(-1)]
        self.loss = -np.log(picked + 1e-7).sum() / len(y)
        return self.loss

    def backward(self, dout: Any = 1) -> Any:
        samples = self.t.shape[0]
        if self.t.size == self.y.size:
            dx = self.y - self.t
        else:
            dx = self.y.copy()
            dx[_dispatch.array_module(dx).arange(samples), self.t] -= 1
        if not (np.isscalar(dout) and dout == 1):
            dx = dx * dout
        return dx / samples


class Dropout:
    """Training: ``y = x * mask``; with train_flg=False ``y = x * (1 - dropout_ratio)``: not the inverted scaling.

    mask: True where kept, drawn by ``numpy.random.rand(*x.shape) > dropout_ratio``; with ``set_rng("philox")`` a
    ``kitae.Mask``. Dropped elements are +0, also where x is infinite (the book: NaN) or negative (-0).
    """

    def __init__(self, dropout_ratio: float = 0.5) -> None:
        self.params: list[Any] = []
        self.grads: list[Any] = []
        self.dropout_ratio = dropout_ratio
        self.mask: Any = None

    _philox: _masks.Philox | None = None

    def forward(self, x: Any, train_flg: bool = True) -> Any:
        if not train_flg:
            return x * (1.0 - self.dropout_ratio)
        if _masks.rng() == "philox":
            if self._philox is None:
                self._philox = _masks.Philox()
            y, self.mask = self._philox.forward(x, self.dropout_ratio, "classic")
            return y
        self.mask = _masks.draw(x.shape, self.dropout_ratio, x)
        return _masks.keep(x, self.mask)

    def backward(self, dout: Any) -> Any:
        return _masks.apply(dout, self.mask)


class BatchNormalization:
    """Training: ``running = momentum * running + (1 - momentum) * batch``, so momentum weighs the OLD value, and
    ``y = gamma * (x - mean) / sqrt(variance + 1e-6) + beta``; variances are divided by n, running ones start at 0.

    x: (N, D), or (N, C, H, W), of which every element of C * H * W is normalized by itself (D = C * H * W), as in book
    1. gamma, beta: (D,), or numbers. One sample works. The result has the dtype that NumPy gives ``gamma * x + beta``.
    With train_flg=False the running statistics are used. ``forward`` makes new running arrays; those passed in stay.

    Attributes: gamma, beta, momentum, running_mean, running_var, input_shape, batch_size, dgamma, dbeta; xc, xn, std
    are computed when they are read. x must not change between forward and backward.
    Statistics are summed in float64 (kitae.batch_norm); momentum outside [0, 1] raises.
    """

    _saved: tuple[Any, Saved] | None = None  # x and what kitae.batch_norm kept, of the latest training pass

    def __init__(
        self, gamma: Any, beta: Any, momentum: float = 0.9, running_mean: Any = None, running_var: Any = None
    ) -> None:
        self.gamma = gamma
        self.beta = beta
        self.momentum = momentum
        self.input_shape: Any = None
        self.running_mean = running_mean
        self.running_var = running_var
        self.batch_size: Any = None
        self.dgamma: Any = None
        self.dbeta: Any = None

    def forward(self, x: Any, train_flg: bool = True) -> Any:
        self.input_shape = x.shape
        x = _samples_by_features(x)
        features = x.shape[1]
        xp = _dispatch.array_module(x)
        if self.running_mean is None:
            self.running_mean = xp.zeros(features)
            self.running_var = xp.zeros(features)
        dtype = x.dtype
        if not (dtype == getattr(self.gamma, "dtype", None) == getattr(self.beta, "dtype", None)):
            dtype = xp.result_type(x, self.gamma, self.beta)
        if dtype.kind != "f":
            dtype = np.dtype(np.float64)
        x = x.astype(dtype, copy=False)
        mean, variance = self.running_mean, self.running_var
        if train_flg:
            mean, variance = mean.copy(), variance.copy()
        y, saved = batch_norm(
            x,
            _vector(xp, self.gamma, features),
            _vector(xp, self.beta, features),
            mean,
            variance,
            training=bool(train_flg),
            eps=_BATCH_NORM_EPS,
            running_decay=self.momentum,
            unbiased=False,
            nonfinite="propagate",
        )
        if train_flg:
            self.running_mean, self.running_var = mean, variance
            self.batch_size = len(x)
            self._saved = x, saved
        return y.reshape(self.input_shape)

    def backward(self, dout: Any) -> Any:
        if self._saved is None:
            raise _checks.no_forward_yet("dlfs.BatchNormalization.backward")
        x, saved = self._saved
        dout = _samples_by_features(dout).astype(x.dtype, copy=False)
        dx, self.dgamma, self.dbeta = batch_norm_backward(dout, saved)
        return dx.reshape(self.input_shape)

    def __getattr__(self, name: str) -> Any:
        """What only the book's own backward needs."""
        saved = self._saved
        if name not in ("xc", "xn", "std") or (name == "xn" and saved is None):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
        if saved is None:
            return None
        x, statistics = saved
        if name == "std":
            return (1.0 / statistics.inv_std).astype(x.dtype)
        xc = (x - statistics.mean).astype(x.dtype)
        return xc if name == "xc" else (xc * statistics.inv_std).astype(x.dtype)


def _samples_by_features(x: Any) -> Any:
    if x.ndim == 2:
        return x
    if x.ndim != 4:
        raise _checks.error(ValueError, "dlfs.BatchNormalization", "x", "2 or 4 dimensions", x)
    return x.reshape(len(x), -1)


def _vector(xp: Any, value: Any, length: int) -> Any:
    """gamma or beta as kitae.batch_norm takes it; a number stands for all features."""
    if getattr(value, "shape", None) == (length,) and value.flags.c_contiguous and value.dtype.kind == "f":
        return value
    value = xp.asarray(value)
    if value.dtype.kind != "f":
        value = value.astype(np.float64)
    return xp.ascontiguousarray(xp.broadcast_to(value.reshape(-1), (length,)))


class Convolution:
    """The convolution of book 1, a matrix product of ``im2col(x)`` and W (FN, C, FH, FW); b (FN,).

    Attributes: W, b, stride, pad, x, col, col_W, dW, db, as in the book; results are in float64, as there.
    """

    def __init__(self, W: Any, b: Any, stride: int = 1, pad: int = 0) -> None:
        self.W = W
        self.b = b
        self.stride = stride
        self.pad = pad
        self.x: Any = None
        self.col: Any = None
        self.col_W: Any = None
        self.dW: Any = None
        self.db: Any = None

    def forward(self, x: Any) -> Any:
        filters, _, filter_h, filter_w = self.W.shape
        samples, _, height, width = x.shape
        out_h = 1 + int((height + 2 * self.pad - filter_h) / self.stride)
        out_w = 1 + int((width + 2 * self.pad - filter_w) / self.stride)
        self.x = x
        self.col = im2col(x, filter_h, filter_w, self.stride, self.pad)
        self.col_W = self.W.reshape(filters, -1).T
        out = add(self.col.dot(self.col_W), self.b)
        return out.reshape(samples, out_h, out_w, -1).transpose(0, 3, 1, 2)

    def backward(self, dout: Any) -> Any:
        filters, channels, filter_h, filter_w = self.W.shape
        dout = dout.transpose(0, 2, 3, 1).reshape(-1, filters)
        self.db = dout.sum(axis=0)
        self.dW = self.col.T.dot(dout).transpose(1, 0).reshape(filters, channels, filter_h, filter_w)
        dcol = dout.dot(self.col_W.T)
        return col2im(dcol, self.x.shape, filter_h, filter_w, self.stride, self.pad)


class Pooling:
    """Max pooling of book 1, in float64 as there. ``arg_max``: for every output, in (N, out_h, out_w, C) order, which
    of its pool_h * pool_w inputs was the largest, the first of equals. With pad the output has the size that pad gives
    (the book's forward fails there)."""

    def __init__(self, pool_h: int, pool_w: int, stride: int = 2, pad: int = 0) -> None:
        self.pool_h = pool_h
        self.pool_w = pool_w
        self.stride = stride
        self.pad = pad
        self.x: Any = None
        self.arg_max: Any = None

    def _windows(self, image: Any, out_h: int, out_w: int) -> list[Any]:
        """Of (N, H, W, C), for each place in a window, the elements that lie there: views (N, out_h, out_w, C)."""
        return [
            image[:, y : y + self.stride * out_h : self.stride, x : x + self.stride * out_w : self.stride]
            for y in range(self.pool_h)
            for x in range(self.pool_w)
        ]

    def forward(self, x: Any) -> Any:
        out_h = output_size(x.shape[2], self.pool_h, self.stride, self.pad)
        out_w = output_size(x.shape[3], self.pool_w, self.stride, self.pad)
        self.x = x
        windows = self._windows(padded(x, self.pad).transpose(0, 2, 3, 1), out_h, out_w)
        out = windows[0].astype(np.float64)
        arg_max = np.zeros_like(out, np.intp)
        for place, window in enumerate(windows[1:], 1):
            np.maximum(arg_max, place * (window > out), out=arg_max)
            np.maximum(out, window, out=out)
        self.arg_max = arg_max.reshape(-1)
        return out.transpose(0, 3, 1, 2)

    def backward(self, dout: Any) -> Any:
        dout = dout.transpose(0, 2, 3, 1)
        samples, channels, height, width = self.x.shape
        pad = self.pad
        image = _dispatch.array_module(dout).zeros((samples, height + 2 * pad, width + 2 * pad, channels))
        arg_max = self.arg_max.reshape(dout.shape)
        for place, window in enumerate(self._windows(image, *dout.shape[1:3])):
            window += _masks.keep(dout, arg_max == place)
        return image[:, pad : pad + height, pad : pad + width].transpose(0, 3, 1, 2)


class Embedding:
    """Rows of W by index (book 2). ``backward`` writes the sum of dout's rows for each index into ``grads[0]``."""

    def __init__(self, W: Any) -> None:
        self.params = [W]
        self.grads = [np.zeros_like(W)]
        self.idx: Any = None

    def forward(self, idx: Any) -> Any:
        self.idx = idx
        return self.params[0][idx]

    def backward(self, dout: Any) -> None:
        gradient = self.grads[0]
        gradient[...] = 0
        add_rows(gradient, self.idx, dout)


def add_rows(total: Any, idx: Any, rows: Any) -> None:
    """total[idx[i]] += rows[i] for every i in turn; on a GPU in any order, as the book's scatter_add."""
    xp = _dispatch.array_module(total)
    if xp is not np:
        xp.add.at(total, idx, rows)
        return
    idx = np.asarray(idx)
    if idx.ndim != 1 or idx.size == 0 or rows.ndim != 2:
        np.add.at(total, idx, rows)
        return
    # All but the repeated indices at once: the first of each, then the others one after the other.
    _, first = np.unique(idx, return_index=True)
    total[idx[first]] += rows[first]
    if len(first) < len(idx):
        others = np.ones(len(idx), bool)
        others[first] = False
        np.add.at(total, idx[others], rows[others])


__getattr__ = not_covered(__name__, "common.layers")
