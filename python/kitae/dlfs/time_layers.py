"""The time layers of book 2 ("Deep Learning from Scratch 2", ``common/time_layers.py``): names, signatures, attributes
and, for float32 too, the numbers bit for bit.

The arithmetic is the book's, operation by operation, in the same order. What is saved is memory traffic: the book makes
a layer with zeroed gradients for every time step and adds those up; here each step's gradients are added to the sum at
once, and intermediate results are computed where they lie. Matrix products stay NumPy's.
"""

from typing import Any

import numpy as np

from kitae import _dispatch
from kitae.dlfs import _masks
from kitae.dlfs._names import not_covered
from kitae.dlfs.layers import *  # noqa: F403  as the book's module gives them on
from kitae.dlfs.layers import __all__ as _layers
from kitae.dlfs.layers import add, add_rows, product

__all__ = [
    "LSTM",
    "RNN",
    "TimeAffine",
    "TimeDropout",
    "TimeEmbedding",
    "TimeLSTM",
    "TimeRNN",
    "TimeSoftmaxWithLoss",
    *_layers,
]


_FEW_WORDS = 4  # words a sample up to which a step's gradient is cheaper with all rows than with those that occur


def _zeros_like(arrays: list[Any]) -> list[Any]:
    return [np.zeros_like(array) for array in arrays]


class _Sums:
    """The sums of one gradient a parameter over the time steps, in memory that is reused from step to step."""

    def __init__(self) -> None:
        self._total: list[Any] = []

    def add(self, gradients: tuple[Any, ...]) -> None:
        if not self._total:
            self._total = list(gradients)
        else:
            self._total = [add(total, term) for total, term in zip(self._total, gradients, strict=True)]

    def store(self, grads: list[Any]) -> None:
        for grad, total in zip(grads, self._total, strict=True):
            grad[...] = total


def _rnn_forward(x: Any, h_prev: Any, Wx: Any, Wh: Any, b: Any) -> tuple[Any, tuple[Any, ...]]:
    t = add(add(h_prev.dot(Wh), x.dot(Wx)), b)
    h_next = np.tanh(t, out=t)
    return h_next, (x, h_prev, h_next)


def _rnn_backward(dh_next: Any, cache: tuple[Any, ...], Wx: Any, Wh: Any) -> tuple[Any, Any, tuple[Any, ...]]:
    x, h_prev, h_next = cache
    dt = dh_next * (1 - h_next**2)
    gradients = (x.T.dot(dt), h_prev.T.dot(dt), dt.sum(axis=0))
    return dt.dot(Wx.T), dt.dot(Wh.T), gradients


class RNN:
    """One step: ``h = tanh(h_prev Wh + x Wx + b)``; Wx (D, H), Wh (H, H), b (H,)."""

    def __init__(self, Wx: Any, Wh: Any, b: Any) -> None:
        self.params = [Wx, Wh, b]
        self.grads = _zeros_like(self.params)
        self.cache: Any = None

    def forward(self, x: Any, h_prev: Any) -> Any:
        h_next, self.cache = _rnn_forward(x, h_prev, *self.params)
        return h_next

    def backward(self, dh_next: Any) -> tuple[Any, Any]:
        Wx, Wh, _ = self.params
        dx, dh_prev, gradients = _rnn_backward(dh_next, self.cache, Wx, Wh)
        for grad, gradient in zip(self.grads, gradients, strict=True):
            grad[...] = gradient
        return dx, dh_prev


class TimeRNN:
    """``RNN`` over (N, T, D), to (N, T, H). stateful: h lives on from one forward to the next.

    ``h``, ``dh``: the last state, and the gradient of the first. ``layers``: what the backward pass needs of each step
    (the book: an ``RNN`` each).
    """

    def __init__(self, Wx: Any, Wh: Any, b: Any, stateful: bool = False) -> None:
        self.params = [Wx, Wh, b]
        self.grads = _zeros_like(self.params)
        self.layers: Any = None
        self.h: Any = None
        self.dh: Any = None
        self.stateful = stateful

    def forward(self, xs: Any) -> Any:
        Wx, Wh, b = self.params
        samples, steps, _ = xs.shape
        units = Wx.shape[1]
        xp = _dispatch.array_module(xs)
        hs = xp.empty((samples, steps, units), np.float32)
        if not self.stateful or self.h is None:
            self.h = xp.zeros((samples, units), np.float32)
        self.layers = []
        for t in range(steps):
            self.h, cache = _rnn_forward(xs[:, t, :], self.h, Wx, Wh, b)
            hs[:, t, :] = self.h
            self.layers.append(cache)
        return hs

    def backward(self, dhs: Any) -> Any:
        Wx, Wh, _ = self.params
        samples, steps, _ = dhs.shape
        dxs = _dispatch.array_module(dhs).empty((samples, steps, Wx.shape[0]), np.float32)
        dh: Any = 0
        sums = _Sums()
        for t in reversed(range(steps)):
            dxs[:, t, :], dh, gradients = _rnn_backward(dhs[:, t, :] + dh, self.layers[t], Wx, Wh)
            sums.add(gradients)
        sums.store(self.grads)
        self.dh = dh
        return dxs

    def set_state(self, h: Any) -> None:
        self.h = h

    def reset_state(self) -> None:
        self.h = None


def _sigmoid(v: Any) -> Any:
    """1 / (1 + exp(-v)), where v lies."""
    np.negative(v, out=v)
    np.exp(v, out=v)
    v += 1
    return np.divide(1, v, out=v)


def _lstm_forward(x: Any, h_prev: Any, c_prev: Any, Wx: Any, Wh: Any, b: Any) -> tuple[Any, Any, tuple[Any, ...]]:
    units = h_prev.shape[1]
    gates = add(add(x.dot(Wx), h_prev.dot(Wh)), b)
    f = _sigmoid(gates[:, :units])
    g = gates[:, units : 2 * units]
    np.tanh(g, out=g)
    _sigmoid(gates[:, 2 * units :])
    i, o = gates[:, 2 * units : 3 * units], gates[:, 3 * units :]
    c_next = f * c_prev
    c_next = add(c_next, g * i)
    tanh_c = np.tanh(c_next)
    return o * tanh_c, c_next, (x, h_prev, c_prev, i, f, g, o, tanh_c)


def _lstm_backward(
    dh_next: Any, dc_next: Any, cache: tuple[Any, ...], Wx: Any, Wh: Any
) -> tuple[Any, Any, Any, tuple[Any, ...]]:
    x, h_prev, c_prev, i, f, g, o, tanh_c = cache
    ds = dh_next * o
    ds *= 1 - tanh_c**2
    ds = ds + dc_next
    units = h_prev.shape[1]
    dgates = _dispatch.array_module(ds).empty((len(ds), 4 * units), np.result_type(ds, o))
    for place, (left, right, gate) in enumerate(((ds, c_prev, f), (ds, i, None), (ds, g, i), (dh_next, tanh_c, o))):
        d = dgates[:, place * units : (place + 1) * units]
        np.multiply(left, right, out=d)
        d *= 1 - g**2 if gate is None else gate * (1 - gate)
    gradients = (x.T.dot(dgates), h_prev.T.dot(dgates), dgates.sum(axis=0))
    ds *= f
    return dgates.dot(Wx.T), dgates.dot(Wh.T), ds, gradients


class LSTM:
    """One step: ``(f, g, i, o) = (sigmoid, tanh, sigmoid, sigmoid)(x Wx + h_prev Wh + b)``, ``c = f c_prev + g i``,
    ``h = o tanh(c)``; Wx (D, 4H), Wh (H, 4H), b (4H,)."""

    def __init__(self, Wx: Any, Wh: Any, b: Any) -> None:
        self.params = [Wx, Wh, b]
        self.grads = _zeros_like(self.params)
        self.cache: Any = None

    def forward(self, x: Any, h_prev: Any, c_prev: Any) -> tuple[Any, Any]:
        h_next, c_next, self.cache = _lstm_forward(x, h_prev, c_prev, *self.params)
        return h_next, c_next

    def backward(self, dh_next: Any, dc_next: Any) -> tuple[Any, Any, Any]:
        Wx, Wh, _ = self.params
        dx, dh_prev, dc_prev, gradients = _lstm_backward(dh_next, dc_next, self.cache, Wx, Wh)
        for grad, gradient in zip(self.grads, gradients, strict=True):
            grad[...] = gradient
        return dx, dh_prev, dc_prev


class TimeLSTM:
    """``LSTM`` over (N, T, D), to (N, T, H). stateful, h, dh, layers as in ``TimeRNN``; ``c``: the last cell state."""

    def __init__(self, Wx: Any, Wh: Any, b: Any, stateful: bool = False) -> None:
        self.params = [Wx, Wh, b]
        self.grads = _zeros_like(self.params)
        self.layers: Any = None
        self.h: Any = None
        self.c: Any = None
        self.dh: Any = None
        self.stateful = stateful

    def forward(self, xs: Any) -> Any:
        Wx, Wh, b = self.params
        samples, steps, _ = xs.shape
        units = Wh.shape[0]
        xp = _dispatch.array_module(xs)
        hs = xp.empty((samples, steps, units), np.float32)
        if not self.stateful or self.h is None:
            self.h = xp.zeros((samples, units), np.float32)
        if not self.stateful or self.c is None:
            self.c = xp.zeros((samples, units), np.float32)
        self.layers = []
        for t in range(steps):
            self.h, self.c, cache = _lstm_forward(xs[:, t, :], self.h, self.c, Wx, Wh, b)
            hs[:, t, :] = self.h
            self.layers.append(cache)
        return hs

    def backward(self, dhs: Any) -> Any:
        Wx, Wh, _ = self.params
        samples, steps, _ = dhs.shape
        dxs = _dispatch.array_module(dhs).empty((samples, steps, Wx.shape[0]), np.float32)
        dh: Any = 0
        dc: Any = 0
        sums = _Sums()
        for t in reversed(range(steps)):
            dxs[:, t, :], dh, dc, gradients = _lstm_backward(dhs[:, t, :] + dh, dc, self.layers[t], Wx, Wh)
            sums.add(gradients)
        sums.store(self.grads)
        self.dh = dh
        return dxs

    def set_state(self, h: Any, c: Any = None) -> None:
        self.h, self.c = h, c

    def reset_state(self) -> None:
        self.h, self.c = None, None


class TimeEmbedding:
    """Rows of W (V, D) by index, over (N, T), to float32 (N, T, D)."""

    def __init__(self, W: Any) -> None:
        self.params = [W]
        self.grads = [np.zeros_like(W)]
        self.layers: Any = None
        self.W = W
        self._xs: Any = None

    def forward(self, xs: Any) -> Any:
        self._xs = xs
        return self.W[xs].astype(np.float32, copy=False)

    def backward(self, dout: Any) -> None:
        total = self.grads[0]
        total[...] = 0
        if _dispatch.array_module(total) is not np:
            add_rows(total, self._xs, dout)
            return
        samples, steps, units = dout.shape
        for t in range(steps):
            # A step's rows are added among themselves before they are added to the sum, as in the book.
            if len(total) <= _FEW_WORDS * samples:
                step = np.zeros_like(total)
                np.add.at(step, self._xs[:, t], dout[:, t, :])
                total += step
                continue
            words, place = np.unique(self._xs[:, t], return_inverse=True)
            rows = np.zeros((len(words), units), total.dtype)
            add_rows(rows, place, dout[:, t, :])
            total[words] += rows


class TimeAffine:
    """``y = x W + b`` over (N, T, D), as one matrix product."""

    def __init__(self, W: Any, b: Any) -> None:
        self.params = [W, b]
        self.grads = _zeros_like(self.params)
        self.x: Any = None

    def forward(self, x: Any) -> Any:
        W, b = self.params
        samples, steps, _ = x.shape
        self.x = x
        return add(x.reshape(samples * steps, -1).dot(W), b).reshape(samples, steps, -1)

    def backward(self, dout: Any) -> Any:
        x = self.x
        rows = x.shape[0] * x.shape[1]
        dout = dout.reshape(rows, -1)
        self.grads[1][...] = dout.sum(axis=0)
        product(x.reshape(rows, -1).T, dout, self.grads[0])
        return dout.dot(self.params[0].T).reshape(x.shape)


class TimeSoftmaxWithLoss:
    """Softmax over the last axis of (N, T, V), then the mean of ``-log(y[t])`` over the places whose label is not
    ``ignore_label`` (-1). Labels (N, T), or one-hot (N, T, V). ``backward`` works in the memory of y, as the book."""

    def __init__(self) -> None:
        self.params: list[Any] = []
        self.grads: list[Any] = []
        self.cache: Any = None
        self.ignore_label = -1

    def forward(self, xs: Any, ts: Any) -> Any:
        samples, steps, classes = xs.shape
        rows = samples * steps
        if ts.ndim == 3:
            ts = ts.argmax(axis=2)
        mask = (ts != self.ignore_label).reshape(rows)
        ts = ts.reshape(rows)
        xs = xs.reshape(rows, classes)
        ys = xs - xs.max(axis=1, keepdims=True)
        np.exp(ys, out=ys)
        ys /= ys.sum(axis=1, keepdims=True)
        ls = np.log(ys[_dispatch.array_module(ys).arange(rows), ts])
        ls *= mask
        loss = -ls.sum()
        loss /= mask.sum()
        self.cache = (ts, ys, mask, (samples, steps, classes))
        return loss

    def backward(self, dout: Any = 1) -> Any:
        ts, dx, mask, shape = self.cache
        dx[_dispatch.array_module(dx).arange(len(ts)), ts] -= 1
        if not (np.isscalar(dout) and dout == 1):
            dx *= dout
        # Exact in float32 below 2**24 labels; and skipping a factor of 1 changes nothing.
        labels = int(mask.sum())
        dx /= labels
        if labels < len(mask):
            dx *= mask[:, np.newaxis]
        return dx.reshape(shape)


class TimeDropout:
    """Training: ``y = x * mask / (1 - dropout_ratio)``, the inverted scaling; else x itself. ``train_flg``: which.

    mask: float32, 0 or the scale, drawn as in ``Dropout``; with ``set_rng("philox")`` a ``kitae.Mask``.
    """

    def __init__(self, dropout_ratio: float = 0.5) -> None:
        self.params: list[Any] = []
        self.grads: list[Any] = []
        self.dropout_ratio = dropout_ratio
        self.mask: Any = None
        self.train_flg = True

    _philox: _masks.Philox | None = None

    def forward(self, xs: Any) -> Any:
        if not self.train_flg:
            return xs
        if _masks.rng() == "philox":
            if self._philox is None:
                self._philox = _masks.Philox()
            y, self.mask = self._philox.forward(xs, self.dropout_ratio, "inverted")
            return y
        scale = 1 / (1.0 - self.dropout_ratio)
        self.mask = _masks.draw(xs.shape, self.dropout_ratio, xs).astype(np.float32) * scale
        return xs * self.mask

    def backward(self, dout: Any) -> Any:
        return _masks.apply(dout, self.mask)


__getattr__ = not_covered(__name__, "common.time_layers")
