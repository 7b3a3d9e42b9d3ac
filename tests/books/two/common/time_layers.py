from common.functions import sigmoid, softmax
from common.layers import *
from common.np import *


class RNN:
    def __init__(self, Wx, Wh, b):
        self.params = [Wx, Wh, b]
        self.grads = [np.zeros_like(p) for p in self.params]
        self.cache = None

    def forward(self, x, h_prev):
        Wx, Wh, b = self.params
        h_next = np.tanh(np.dot(h_prev, Wh) + np.dot(x, Wx) + b)
        self.cache = (x, h_prev, h_next)
        return h_next

    def backward(self, dh_next):
        Wx, Wh, b = self.params
        x, h_prev, h_next = self.cache
        dt = dh_next * (1 - h_next**2)
        self.grads[0][...] = np.dot(x.T, dt)
        self.grads[1][...] = np.dot(h_prev.T, dt)
        self.grads[2][...] = np.sum(dt, axis=0)
        return np.dot(dt, Wx.T), np.dot(dt, Wh.T)


class LSTM:
    def __init__(self, Wx, Wh, b):
        self.params = [Wx, Wh, b]
        self.grads = [np.zeros_like(p) for p in self.params]
        self.cache = None

    def forward(self, x, h_prev, c_prev):
        Wx, Wh, b = self.params
        f, g, i, o = np.split(np.dot(x, Wx) + np.dot(h_prev, Wh) + b, 4, axis=1)
        f, g, i, o = sigmoid(f), np.tanh(g), sigmoid(i), sigmoid(o)
        c_next = f * c_prev + g * i
        self.cache = (x, h_prev, c_prev, i, f, g, o, c_next)
        return o * np.tanh(c_next), c_next

    def backward(self, dh_next, dc_next):
        Wx, Wh, b = self.params
        x, h_prev, c_prev, i, f, g, o, c_next = self.cache
        tanh_c = np.tanh(c_next)
        ds = dc_next + (dh_next * o) * (1 - tanh_c**2)
        df = ds * c_prev * (f * (1 - f))
        dg = ds * i * (1 - g**2)
        di = ds * g * (i * (1 - i))
        do = dh_next * tanh_c * (o * (1 - o))
        dA = np.hstack((df, dg, di, do))
        self.grads[0][...] = np.dot(x.T, dA)
        self.grads[1][...] = np.dot(h_prev.T, dA)
        self.grads[2][...] = dA.sum(axis=0)
        return np.dot(dA, Wx.T), np.dot(dA, Wh.T), ds * f


class _Recurrent:
    """A step at a time, each with a layer and gradients of its own, which are added up from the last to the first."""

    step = None

    def __init__(self, Wx, Wh, b, stateful=False):
        self.params = [Wx, Wh, b]
        self.grads = [np.zeros_like(p) for p in self.params]
        self.layers = None
        self.h, self.dh = None, None
        self.stateful = stateful

    def _sum(self, grads):
        for own, added in zip(self.grads, grads):
            own[...] = added


class TimeRNN(_Recurrent):
    def __init__(self, Wx, Wh, b, stateful=False):
        super().__init__(Wx, Wh, b, stateful)

    def forward(self, xs):
        N, T, D = xs.shape
        H = self.params[1].shape[0]
        if not self.stateful or self.h is None:
            self.h = np.zeros((N, H), dtype="f")
        self.layers = [RNN(*self.params) for _ in range(T)]
        hs = np.empty((N, T, H), dtype="f")
        for t, layer in enumerate(self.layers):
            self.h = layer.forward(xs[:, t, :], self.h)
            hs[:, t, :] = self.h
        return hs

    def backward(self, dhs):
        dxs = np.empty((*dhs.shape[:2], self.params[0].shape[0]), dtype="f")
        dh, grads = 0, [0, 0, 0]
        for t in reversed(range(dhs.shape[1])):
            dxs[:, t, :], dh = self.layers[t].backward(dhs[:, t, :] + dh)
            grads = [total + grad for total, grad in zip(grads, self.layers[t].grads)]
        self._sum(grads)
        self.dh = dh
        return dxs

    def set_state(self, h):
        self.h = h

    def reset_state(self):
        self.h = None


class TimeLSTM(_Recurrent):
    def __init__(self, Wx, Wh, b, stateful=False):
        super().__init__(Wx, Wh, b, stateful)
        self.c = None

    def forward(self, xs):
        N, T, D = xs.shape
        H = self.params[1].shape[0]
        if not self.stateful or self.h is None:
            self.h = np.zeros((N, H), dtype="f")
        if not self.stateful or self.c is None:
            self.c = np.zeros((N, H), dtype="f")
        self.layers = [LSTM(*self.params) for _ in range(T)]
        hs = np.empty((N, T, H), dtype="f")
        for t, layer in enumerate(self.layers):
            self.h, self.c = layer.forward(xs[:, t, :], self.h, self.c)
            hs[:, t, :] = self.h
        return hs

    def backward(self, dhs):
        dxs = np.empty((*dhs.shape[:2], self.params[0].shape[0]), dtype="f")
        dh, dc, grads = 0, 0, [0, 0, 0]
        for t in reversed(range(dhs.shape[1])):
            dxs[:, t, :], dh, dc = self.layers[t].backward(dhs[:, t, :] + dh, dc)
            grads = [total + grad for total, grad in zip(grads, self.layers[t].grads)]
        self._sum(grads)
        self.dh = dh
        return dxs

    def set_state(self, h, c=None):
        self.h, self.c = h, c

    def reset_state(self):
        self.h, self.c = None, None


class TimeEmbedding:
    def __init__(self, W):
        self.params = [W]
        self.grads = [np.zeros_like(W)]
        self.layers = None
        self.W = W

    def forward(self, xs):
        self.layers = [Embedding(self.W) for _ in range(xs.shape[1])]
        return np.stack([layer.forward(xs[:, t]) for t, layer in enumerate(self.layers)], axis=1).astype("f")

    def backward(self, dout):
        total = 0
        for t, layer in enumerate(self.layers):
            layer.backward(dout[:, t, :])
            total = total + layer.grads[0]
        self.grads[0][...] = total


class TimeAffine:
    def __init__(self, W, b):
        self.params = [W, b]
        self.grads = [np.zeros_like(W), np.zeros_like(b)]
        self.x = None

    def forward(self, x):
        N, T, D = x.shape
        self.x = x
        return (np.dot(x.reshape(N * T, -1), self.params[0]) + self.params[1]).reshape(N, T, -1)

    def backward(self, dout):
        N, T, D = self.x.shape
        dout = dout.reshape(N * T, -1)
        self.grads[0][...] = np.dot(self.x.reshape(N * T, -1).T, dout)
        self.grads[1][...] = np.sum(dout, axis=0)
        return np.dot(dout, self.params[0].T).reshape(self.x.shape)


class TimeSoftmaxWithLoss:
    def __init__(self):
        self.params, self.grads = [], []
        self.cache = None
        self.ignore_label = -1

    def forward(self, xs, ts):
        N, T, V = xs.shape
        ts, ys = ts.reshape(N * T), softmax(xs.reshape(N * T, V))
        counted = ts != self.ignore_label
        self.cache = (ts, ys, counted, (N, T, V))
        return -np.sum(np.log(ys[np.arange(N * T), ts]) * counted) / counted.sum()

    def backward(self, dout=1):
        ts, ys, counted, shape = self.cache
        ys[np.arange(len(ts)), ts] -= 1
        ys *= dout
        ys /= counted.sum()
        ys *= counted[:, np.newaxis]
        return ys.reshape(shape)


class TimeDropout:
    def __init__(self, dropout_ratio=0.5):
        self.params, self.grads = [], []
        self.dropout_ratio = dropout_ratio
        self.mask = None
        self.train_flg = True

    def forward(self, xs):
        if not self.train_flg:
            return xs
        kept = np.random.rand(*xs.shape) > self.dropout_ratio
        self.mask = kept.astype(np.float32) * (1 / (1.0 - self.dropout_ratio))
        return xs * self.mask

    def backward(self, dout):
        return dout * self.mask


class TimeReverse:
    """Not in kitae: left alone."""

    def forward(self, xs):
        return xs[:, ::-1]
