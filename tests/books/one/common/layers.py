import numpy as np

from common.functions import *
from common.util import col2im, im2col


class Relu:
    def __init__(self):
        self.mask = None

    def forward(self, x):
        self.mask = x <= 0
        return np.where(self.mask, 0.0, x)

    def backward(self, dout):
        dout[self.mask] = 0
        return dout


class Sigmoid:
    def __init__(self):
        self.out = None

    def forward(self, x):
        self.out = sigmoid(x)
        return self.out

    def backward(self, dout):
        return dout * self.out * (1.0 - self.out)


class Affine:
    def __init__(self, W, b):
        self.W = W
        self.b = b
        self.x = None
        self.original_x_shape = None
        self.dW = None
        self.db = None

    def forward(self, x):
        self.original_x_shape = x.shape
        self.x = x.reshape(len(x), -1)
        return self.x @ self.W + self.b

    def backward(self, dout):
        self.dW = self.x.T @ dout
        self.db = dout.sum(axis=0)
        return (dout @ self.W.T).reshape(self.original_x_shape)


class SoftmaxWithLoss:
    def __init__(self):
        self.loss = None
        self.y = None
        self.t = None

    def forward(self, x, t):
        self.t = t
        self.y = softmax(x)
        self.loss = cross_entropy_error(self.y, t)
        return self.loss

    def backward(self, dout=1):
        one_hot = self.t if self.t.size == self.y.size else np.eye(self.y.shape[1])[self.t]
        return (self.y - one_hot) / len(self.t)


class Dropout:
    def __init__(self, dropout_ratio=0.5):
        self.dropout_ratio = dropout_ratio
        self.mask = None

    def forward(self, x, train_flg=True):
        if not train_flg:
            return x * (1.0 - self.dropout_ratio)
        self.mask = np.random.rand(*x.shape) > self.dropout_ratio
        return x * self.mask

    def backward(self, dout):
        return dout * self.mask


class BatchNormalization:
    def __init__(self, gamma, beta, momentum=0.9, running_mean=None, running_var=None):
        self.gamma = gamma
        self.beta = beta
        self.momentum = momentum
        self.input_shape = None
        self.running_mean = running_mean
        self.running_var = running_var
        self.batch_size = None
        self.xc = None
        self.std = None
        self.dgamma = None
        self.dbeta = None

    def forward(self, x, train_flg=True):
        self.input_shape = x.shape
        x = x.reshape(len(x), -1)
        if self.running_mean is None:
            self.running_mean = np.zeros(x.shape[1])
            self.running_var = np.zeros(x.shape[1])
        if train_flg:
            mean, var = x.mean(axis=0), x.var(axis=0)
            old = self.momentum
            self.running_mean = old * self.running_mean + (1 - old) * mean
            self.running_var = old * self.running_var + (1 - old) * var
            self.batch_size = len(x)
            self.xc = x - mean
            self.std = np.sqrt(var + 1e-6)
            normalized = self.xc / self.std
        else:
            normalized = (x - self.running_mean) / np.sqrt(self.running_var + 1e-6)
        return (self.gamma * normalized + self.beta).reshape(self.input_shape)

    def backward(self, dout):
        dout = dout.reshape(len(dout), -1)
        normalized = self.xc / self.std
        self.dbeta = dout.sum(axis=0)
        self.dgamma = (normalized * dout).sum(axis=0)
        # of y = gamma xn + beta, with dxn = gamma dout: dx = (dxn - mean(dxn) - xn mean(xn dxn)) / std
        dnormalized = self.gamma * dout
        dx = dnormalized - dnormalized.mean(axis=0) - normalized * (normalized * dnormalized).mean(axis=0)
        return (dx / self.std).reshape(self.input_shape)


class Convolution:
    def __init__(self, W, b, stride=1, pad=0):
        self.W = W
        self.b = b
        self.stride = stride
        self.pad = pad
        self.x = None
        self.col = None
        self.col_W = None
        self.dW = None
        self.db = None

    def forward(self, x):
        FN, C, FH, FW = self.W.shape
        N, C, H, W = x.shape
        self.x = x
        self.col = im2col(x, FH, FW, self.stride, self.pad)
        self.col_W = self.W.reshape(FN, -1).T
        out_h = (H + 2 * self.pad - FH) // self.stride + 1
        return (self.col @ self.col_W + self.b).reshape(N, out_h, -1, FN).transpose(0, 3, 1, 2)

    def backward(self, dout):
        FN, C, FH, FW = self.W.shape
        dout = dout.transpose(0, 2, 3, 1).reshape(-1, FN)
        self.db = dout.sum(axis=0)
        self.dW = (self.col.T @ dout).T.reshape(FN, C, FH, FW)
        return col2im(dout @ self.col_W.T, self.x.shape, FH, FW, self.stride, self.pad)


class Pooling:
    def __init__(self, pool_h, pool_w, stride=2, pad=0):
        self.pool_h = pool_h
        self.pool_w = pool_w
        self.stride = stride
        self.pad = pad
        self.x = None
        self.arg_max = None

    def _windows(self):
        N, C, H, W = self.x.shape
        for top in range(0, H - self.pool_h + 1, self.stride):
            for left in range(0, W - self.pool_w + 1, self.stride):
                for n in range(N):
                    for c in range(C):
                        yield (n, top, left, c), (n, c, slice(top, top + self.pool_h), slice(left, left + self.pool_w))

    def forward(self, x):
        N, C, H, W = x.shape
        self.x = x
        size = ((H - self.pool_h) // self.stride + 1, (W - self.pool_w) // self.stride + 1)
        out, places = np.zeros((N, C, *size)), np.zeros((N, *size, C), int)
        for (n, top, left, c), window in self._windows():
            i, j = top // self.stride, left // self.stride
            out[n, c, i, j] = x[window].max()
            places[n, i, j, c] = x[window].argmax()
        self.arg_max = places.ravel()
        return out

    def backward(self, dout):
        dx = np.zeros(self.x.shape)
        N, C, out_h, out_w = dout.shape
        places = self.arg_max.reshape(N, out_h, out_w, C)
        for (n, top, left, c), window in self._windows():
            i, j = top // self.stride, left // self.stride
            y, x = divmod(places[n, i, j, c], self.pool_w)
            dx[window][y, x] += dout[n, c, i, j]
        return dx
