"""The textbook network in plain NumPy: the baseline that everything else is measured against.

It is written as an introductory book writes it: one line of code for one line of the equation, every
intermediate result its own array, nothing tuned and nothing slowed down. The functions hold the equations;
the layers and optimizers below them only keep the state between calls.

Every function works in the dtype of the arrays it is given (float32 or float64): Python numbers do not
promote NumPy arrays.
"""

from itertools import pairwise
from typing import Any

import numpy as np

# ---------------------------------------------------------------------------------------------------------
# Batch normalization (Ioffe and Szegedy 2015, algorithm 1)
# ---------------------------------------------------------------------------------------------------------


def _all_axes_but(ndim, axis):
    return tuple(i for i in range(ndim) if i != axis % ndim)


def _along(values, ndim, axis):
    """View one value per channel so that it broadcasts along the channel axis."""
    shape = [1] * ndim
    shape[axis] = -1
    return values.reshape(shape)


def batch_norm_forward(x, gamma, beta, running_mean=None, running_var=None, *, axis=1, eps=1e-5, running_decay=0.9):
    """Training: y = gamma (x - mean) / sqrt(var + eps) + beta over all axes but ``axis``; returns y and a cache.

    The variance is the biased one, for the batch and for ``running_var``; running values are updated in place.
    """
    axes = _all_axes_but(x.ndim, axis)
    mean = x.mean(axis=axes, keepdims=True)
    centred = x - mean
    variance = np.mean(centred**2, axis=axes, keepdims=True)
    std = np.sqrt(variance + eps)
    normalized = centred / std
    y = _along(gamma, x.ndim, axis) * normalized + _along(beta, x.ndim, axis)
    if running_mean is not None:
        running_mean[...] = running_decay * running_mean + (1 - running_decay) * mean.reshape(-1)
        running_var[...] = running_decay * running_var + (1 - running_decay) * variance.reshape(-1)
    return y, (centred, std, normalized, gamma, axis)


def batch_norm_inference(x, gamma, beta, running_mean, running_var, *, axis=1, eps=1e-5):
    """Inference: the same equation with the running mean and variance."""
    centred = x - _along(running_mean, x.ndim, axis)
    normalized = centred / np.sqrt(_along(running_var, x.ndim, axis) + eps)
    return _along(gamma, x.ndim, axis) * normalized + _along(beta, x.ndim, axis)


def batch_norm_backward(dout, cache):
    """dx, dgamma, dbeta, by the chain rule from the last line of the forward pass to the first."""
    centred, std, normalized, gamma, axis = cache
    axes = _all_axes_but(dout.ndim, axis)
    count = dout.size // gamma.size
    dbeta = dout.sum(axis=axes)
    dgamma = np.sum(normalized * dout, axis=axes)
    dnormalized = _along(gamma, dout.ndim, axis) * dout
    dcentred = dnormalized / std
    dstd = -np.sum(dnormalized * centred / std**2, axis=axes, keepdims=True)
    dvariance = dstd / (2 * std)
    dcentred += 2 / count * centred * dvariance
    dmean = -dcentred.sum(axis=axes, keepdims=True)
    return dcentred + dmean / count, dgamma, dbeta


# ---------------------------------------------------------------------------------------------------------
# Layer normalization (Ba, Kiros and Hinton 2016)
# ---------------------------------------------------------------------------------------------------------


def layer_norm_forward(x, gamma, beta, *, eps=1e-5):
    """y = gamma (x - mean) / sqrt(var + eps) + beta over the last axis; returns y and a cache."""
    mean = x.mean(axis=-1, keepdims=True)
    centred = x - mean
    variance = np.mean(centred**2, axis=-1, keepdims=True)
    std = np.sqrt(variance + eps)
    normalized = centred / std
    return gamma * normalized + beta, (std, normalized, gamma)


def layer_norm_backward(dout, cache):
    """dx, dgamma, dbeta."""
    std, normalized, gamma = cache
    samples = tuple(range(dout.ndim - 1))
    dbeta = dout.sum(axis=samples)
    dgamma = np.sum(dout * normalized, axis=samples)
    dnormalized = dout * gamma
    mean = dnormalized.mean(axis=-1, keepdims=True)
    along = np.mean(dnormalized * normalized, axis=-1, keepdims=True)
    return (dnormalized - mean - normalized * along) / std, dgamma, dbeta


# ---------------------------------------------------------------------------------------------------------
# Dropout (Srivastava et al. 2014)
# ---------------------------------------------------------------------------------------------------------


def dropout_forward(x, drop, rng=np.random):
    """Training: y = x where a uniform draw exceeds ``drop``, else 0; returns y and the mask.

    The classic form: training does not rescale, inference multiplies by 1 - drop.
    """
    mask = rng.random(x.shape) > drop
    return x * mask, mask


def inverted_dropout_forward(x, drop, rng=np.random):
    """Training: the kept values are divided by 1 - drop, so inference changes nothing; returns y and the mask."""
    mask = rng.random(x.shape) > drop
    return x * mask / (1 - drop), mask


def dropout_backward(dout, mask):
    return dout * mask


def inverted_dropout_backward(dout, mask, drop):
    return dout * mask / (1 - drop)


# ---------------------------------------------------------------------------------------------------------
# Optimizer steps on one parameter, in place
# ---------------------------------------------------------------------------------------------------------


def sgd_step(parameter, grad, lr):
    """w -= lr g"""
    parameter -= lr * grad


def momentum_step(parameter, grad, velocity, lr, momentum=0.9):
    """v = momentum v - lr g;  w += v"""
    velocity *= momentum
    velocity -= lr * grad
    parameter += velocity


def adagrad_step(parameter, grad, squares, lr, eps=1e-10):
    """h += g^2;  w -= lr g / (sqrt(h) + eps)  (Duchi et al. 2011)"""
    squares += grad * grad
    parameter -= lr * grad / (np.sqrt(squares) + eps)


def rmsprop_step(parameter, grad, squares, lr, rho=0.99, eps=1e-8):
    """h = rho h + (1 - rho) g^2;  w -= lr g / (sqrt(h) + eps)  (Tieleman and Hinton 2012)"""
    squares *= rho
    squares += (1 - rho) * grad * grad
    parameter -= lr * grad / (np.sqrt(squares) + eps)


def adam_step(parameter, grad, m, v, t, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8):
    """m += (1 - beta1)(g - m);  v += (1 - beta2)(g^2 - v);  w -= lr_t m / (sqrt(v) + eps_t)

    ``t`` counts from 1. This is algorithm 1 of Kingma and Ba 2015 in the cheaper order of its section 2: the
    bias corrections go into the two numbers lr_t and eps_t instead of two more arrays.
    """
    root = np.sqrt(1 - beta2**t)
    step_size = float(lr * root / (1 - beta1**t))
    m += (1 - beta1) * (grad - m)
    v += (1 - beta2) * (grad**2 - v)
    parameter -= step_size * m / (np.sqrt(v) + float(eps * root))


def clip_grads(grads, max_norm):
    """Scale all gradients in place by max_norm / (norm + 1e-6) if that is below 1; returns their joint L2 norm."""
    total = 0.0
    for grad in grads:
        total += np.sum(grad**2)
    norm = float(np.sqrt(total))
    rate = max_norm / (norm + 1e-6)
    if rate < 1:
        for grad in grads:
            grad *= rate
    return norm


# ---------------------------------------------------------------------------------------------------------
# Layers: forward keeps what backward needs, backward leaves the gradients in ``grads``
# ---------------------------------------------------------------------------------------------------------


class Affine:
    """y = x W + b"""

    def __init__(self, W, b):
        self.params = {"W": W, "b": b}
        self.grads = {}

    def forward(self, x, training=True):
        self.x = x
        return x @ self.params["W"] + self.params["b"]

    def backward(self, dout):
        self.grads["W"] = self.x.T @ dout
        self.grads["b"] = dout.sum(axis=0)
        return dout @ self.params["W"].T


class BatchNormalization:
    def __init__(self, gamma, beta, *, axis=1, eps=1e-5, running_decay=0.9):
        self.params = {"gamma": gamma, "beta": beta}
        self.grads = {}
        self.running_mean = np.zeros_like(gamma)
        self.running_var = np.ones_like(gamma)
        self.axis, self.eps, self.running_decay = axis, eps, running_decay

    def forward(self, x, training=True):
        gamma, beta = self.params["gamma"], self.params["beta"]
        running = self.running_mean, self.running_var
        if not training:
            return batch_norm_inference(x, gamma, beta, *running, axis=self.axis, eps=self.eps)
        y, self.cache = batch_norm_forward(
            x, gamma, beta, *running, axis=self.axis, eps=self.eps, running_decay=self.running_decay
        )
        return y

    def backward(self, dout):
        dx, self.grads["gamma"], self.grads["beta"] = batch_norm_backward(dout, self.cache)
        return dx


class ReLU:
    """y = max(x, 0)"""

    def __init__(self):
        self.params, self.grads = {}, {}

    def forward(self, x, training=True):
        self.mask = x > 0
        return np.maximum(x, 0)

    def backward(self, dout):
        return dout * self.mask


class Dropout:
    """Classic dropout: see ``dropout_forward``."""

    def __init__(self, drop=0.5, rng=np.random):
        self.params, self.grads = {}, {}
        self.drop, self.rng = drop, rng

    def forward(self, x, training=True):
        if not training:
            return x * (1 - self.drop)
        y, self.mask = dropout_forward(x, self.drop, self.rng)
        return y

    def backward(self, dout):
        return dropout_backward(dout, self.mask)


def softmax(x):
    """exp(x) / sum(exp(x)) along the last axis; subtracting the maximum changes nothing but the overflow."""
    exponentials = np.exp(x - x.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def cross_entropy(probabilities, labels):
    """Mean over the batch of -log p[label]; 1e-7 keeps the logarithm finite."""
    picked = probabilities[np.arange(len(labels)), labels]
    return float(-np.mean(np.log(picked + 1e-7)))


class SoftmaxWithLoss:
    """Softmax and cross entropy together; ``labels`` are integer class ids."""

    def forward(self, x, labels):
        self.labels = labels
        self.probabilities = softmax(x)
        return cross_entropy(self.probabilities, labels)

    def backward(self):
        dx = self.probabilities.copy()
        dx[np.arange(len(self.labels)), self.labels] -= 1
        return dx / len(self.labels)


# ---------------------------------------------------------------------------------------------------------
# Optimizers over dicts of parameters and gradients
# ---------------------------------------------------------------------------------------------------------


def _zeros_like(params):
    return {name: np.zeros_like(parameter) for name, parameter in params.items()}


class SGD:
    def __init__(self, lr=0.01):
        self.lr = lr

    def update(self, params, grads):
        for name in params:
            sgd_step(params[name], grads[name], self.lr)


class Momentum:
    def __init__(self, lr=0.01, momentum=0.9):
        self.lr, self.momentum, self.velocity = lr, momentum, {}

    def update(self, params, grads):
        if not self.velocity:
            self.velocity = _zeros_like(params)
        for name in params:
            momentum_step(params[name], grads[name], self.velocity[name], self.lr, self.momentum)


class AdaGrad:
    def __init__(self, lr=0.01, eps=1e-10):
        self.lr, self.eps, self.squares = lr, eps, {}

    def update(self, params, grads):
        if not self.squares:
            self.squares = _zeros_like(params)
        for name in params:
            adagrad_step(params[name], grads[name], self.squares[name], self.lr, self.eps)


class RMSProp:
    def __init__(self, lr=0.01, rho=0.99, eps=1e-8):
        self.lr, self.rho, self.eps, self.squares = lr, rho, eps, {}

    def update(self, params, grads):
        if not self.squares:
            self.squares = _zeros_like(params)
        for name in params:
            rmsprop_step(params[name], grads[name], self.squares[name], self.lr, self.rho, self.eps)


class Adam:
    def __init__(self, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8):
        self.lr, self.beta1, self.beta2, self.eps = lr, beta1, beta2, eps
        self.t, self.m, self.v = 0, {}, {}

    def update(self, params, grads):
        if not self.m:
            self.m, self.v = _zeros_like(params), _zeros_like(params)
        self.t += 1
        for name in params:
            adam_step(
                params[name], grads[name], self.m[name], self.v[name], self.t,
                self.lr, self.beta1, self.beta2, self.eps,
            )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------
# The network: hidden layers of affine -> batch normalization -> ReLU -> dropout, then affine and softmax
# ---------------------------------------------------------------------------------------------------------


def he_weights(sizes, rng, dtype=np.float32):
    """One weight matrix a layer, N(0, 2 / inputs) (He et al. 2015)."""
    return [
        (rng.standard_normal((rows, columns)) * np.sqrt(2 / rows)).astype(dtype) for rows, columns in pairwise(sizes)
    ]


class Network:
    """A multi-layer network on given weight matrices; biases start at 0, gamma at 1, beta at 0."""

    def __init__(self, weights, drop=0.2, rng=np.random):
        self.layers: list[Any] = []
        for weight in weights[:-1]:
            self.layers += [
                Affine(weight, np.zeros_like(weight[0])),
                BatchNormalization(np.ones_like(weight[0]), np.zeros_like(weight[0])),
                ReLU(),
                Dropout(drop, rng),
            ]
        self.layers.append(Affine(weights[-1], np.zeros_like(weights[-1][0])))
        self.loss = SoftmaxWithLoss()
        self.params = {f"{i}.{name}": p for i, layer in enumerate(self.layers) for name, p in layer.params.items()}

    @property
    def grads(self):
        return {f"{i}.{name}": g for i, layer in enumerate(self.layers) for name, g in layer.grads.items()}

    def forward(self, x, training=True):
        for layer in self.layers:
            x = layer.forward(x, training)
        return x

    def gradient(self, x, labels):
        """One forward and one backward pass: the loss and the gradients by name."""
        loss = self.loss.forward(self.forward(x), labels)
        dout = self.loss.backward()
        for layer in reversed(self.layers):
            dout = layer.backward(dout)
        return loss, self.grads

    def accuracy(self, x, labels):
        return float(np.mean(self.forward(x, training=False).argmax(axis=1) == labels))


def train_step(network, optimizer, x, labels, max_norm=None):
    """Forward, backward, clip, update: one step of training; returns the loss."""
    loss, grads = network.gradient(x, labels)
    if max_norm is not None:
        clip_grads(grads.values(), max_norm)
    optimizer.update(network.params, grads)
    return loss
