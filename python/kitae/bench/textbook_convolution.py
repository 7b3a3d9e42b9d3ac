"""The textbook's convolutional network in plain NumPy: windows cut out by a loop over the kernel's cells.

As ``textbook`` is: one line of code for one line of the equation, nothing tuned and nothing slowed down.
"""

from typing import Any

import numpy as np

from . import textbook


def im2col(x, kernel_size, stride, padding):
    """A row for each window: (samples x oh x ow, channels x kernel_size x kernel_size)."""
    samples, channels, height, width = x.shape
    oh = (height + 2 * padding - kernel_size) // stride + 1
    ow = (width + 2 * padding - kernel_size) // stride + 1
    padded = np.pad(x, [(0, 0), (0, 0), (padding, padding), (padding, padding)])
    windows = np.zeros((samples, channels, kernel_size, kernel_size, oh, ow), x.dtype)
    for i in range(kernel_size):
        for j in range(kernel_size):
            windows[:, :, i, j] = padded[:, :, i : i + stride * oh : stride, j : j + stride * ow : stride]
    return windows.transpose(0, 4, 5, 1, 2, 3).reshape(samples * oh * ow, -1)


def col2im(rows, shape, kernel_size, stride, padding):
    """The transpose of ``im2col``: every element of x gets the sum of its copies."""
    samples, channels, height, width = shape
    oh = (height + 2 * padding - kernel_size) // stride + 1
    ow = (width + 2 * padding - kernel_size) // stride + 1
    windows = rows.reshape(samples, oh, ow, channels, kernel_size, kernel_size).transpose(0, 3, 4, 5, 1, 2)
    padded = np.zeros((samples, channels, height + 2 * padding, width + 2 * padding), rows.dtype)
    for i in range(kernel_size):
        for j in range(kernel_size):
            padded[:, :, i : i + stride * oh : stride, j : j + stride * ow : stride] += windows[:, :, i, j]
    return padded[:, :, padding : padding + height, padding : padding + width]


class Convolution:
    """y = W * x + b, W (channels, in_channels, kernel_size, kernel_size)"""

    def __init__(self, W, b, stride=1, padding=0):
        self.params = {"W": W, "b": b}
        self.grads = {}
        self.stride, self.padding = stride, padding

    def forward(self, x, training=True):
        W, b = self.params["W"], self.params["b"]
        channels, _, kernel_size, _ = W.shape
        oh = (x.shape[2] + 2 * self.padding - kernel_size) // self.stride + 1
        ow = (x.shape[3] + 2 * self.padding - kernel_size) // self.stride + 1
        self.shape = x.shape
        self.rows = im2col(x, kernel_size, self.stride, self.padding)
        y = self.rows @ W.reshape(channels, -1).T + b
        return y.reshape(x.shape[0], oh, ow, channels).transpose(0, 3, 1, 2)

    def backward(self, dout):
        W = self.params["W"]
        channels, _, kernel_size, _ = W.shape
        dout = dout.transpose(0, 2, 3, 1).reshape(-1, channels)
        self.grads["W"] = (dout.T @ self.rows).reshape(W.shape)
        self.grads["b"] = dout.sum(axis=0)
        return col2im(dout @ W.reshape(channels, -1), self.shape, kernel_size, self.stride, self.padding)


class MaxPooling:
    """The largest element of each window, by the rows of ``im2col``."""

    def __init__(self, size, stride):
        self.params, self.grads = {}, {}
        self.size, self.stride = size, stride

    def forward(self, x, training=True):
        samples, channels, height, width = x.shape
        oh, ow = (height - self.size) // self.stride + 1, (width - self.size) // self.stride + 1
        rows = im2col(x, self.size, self.stride, 0).reshape(-1, self.size * self.size)
        self.shape, self.largest = x.shape, rows.argmax(axis=1)
        return rows.max(axis=1).reshape(samples, oh, ow, channels).transpose(0, 3, 1, 2)

    def backward(self, dout):
        drows = np.zeros((dout.size, self.size * self.size), dout.dtype)
        drows[np.arange(dout.size), self.largest] = dout.transpose(0, 2, 3, 1).reshape(-1)
        rows = drows.reshape(-1, self.shape[1] * self.size * self.size)
        return col2im(rows, self.shape, self.size, self.stride, 0)


class Flatten:
    def __init__(self):
        self.params, self.grads = {}, {}

    def forward(self, x, training=True):
        self.shape = x.shape
        return x.reshape(len(x), -1)

    def backward(self, dout):
        return dout.reshape(self.shape)


class Network:
    """Convolution, batch norm, ReLU, twice; max pooling, a dense layer, softmax.

    ``params``: W1 b1 gamma1 beta1, W2 b2 gamma2 beta2, W3 b3, used as they are.
    """

    def __init__(self, params):
        self.params = params
        first, second = (
            [
                Convolution(params[f"W{i}"], params[f"b{i}"], padding=1),
                textbook.BatchNormalization(params[f"gamma{i}"], params[f"beta{i}"]),
                textbook.ReLU(),
            ]
            for i in (1, 2)
        )
        last = [MaxPooling(2, 2), Flatten(), textbook.Affine(params["W3"], params["b3"])]
        self.layers: list[Any] = [*first, *second, *last]
        self.loss = textbook.SoftmaxWithLoss()

    def step(self, x, labels):
        """The loss; the gradients are in ``grads`` then."""
        for layer in self.layers:
            x = layer.forward(x)
        loss = self.loss.forward(x, labels)
        dout = self.loss.backward()
        for layer in reversed(self.layers):
            dout = layer.backward(dout)
        return loss

    @property
    def grads(self):
        grads: dict[str, Any] = {}
        number = 0
        for layer in self.layers:
            if "W" in layer.params:
                number += 1
            grads |= {f"{name}{number}": grad for name, grad in layer.grads.items()}
        return grads
