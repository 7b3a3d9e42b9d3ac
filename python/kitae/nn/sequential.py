"""A network that is a list of layers."""

import numpy as np

from kitae.nn import checks


class Sequential:
    """y = layer_n(... layer_1(layer_0(x)))

    ``layers``: a list of objects with ``forward(x, training=True)``, ``backward(dout)`` and the dicts ``params``,
    ``grads``, ``buffers``. A Sequential is such an object itself.

    ``params``, ``grads`` and ``buffers`` are flat dicts, named by position: "0.W", "0.b", "1.gamma". An array that
    several layers share (also as a transposed view) appears once, under its first name, and ``backward`` leaves the
    sum of its gradients there.
    """

    def __init__(self, layers):
        self.layers = list(layers)
        for i, layer in enumerate(self.layers):
            if not (callable(getattr(layer, "forward", None)) and callable(getattr(layer, "backward", None))):
                expected = "a layer with forward(x, training=True) and backward(dout)"
                raise checks.error(TypeError, "Sequential", f"layers[{i}]", expected, type(layer).__name__)
            if any(layer is earlier for earlier in self.layers[:i]):
                expected = "each layer once (share its arrays instead: backward needs a state for each place)"
                raise checks.error(ValueError, "Sequential", f"layers[{i}]", expected, "a layer listed before")

    def build(self, shape, dtype):
        """Build every layer for inputs of ``shape``, batch axis included, by inference on one sample of zeros."""
        self.forward(np.zeros((1, *shape[1:]), dtype), training=False)

    @property
    def params(self):
        return {name: param for name, param, _, first in self._entries() if first is None}

    @property
    def grads(self):
        return {name: grad for name, _, grad, first in self._entries() if first is None}

    @property
    def buffers(self):
        return {f"{i}.{name}": b for i, layer in enumerate(self.layers) for name, b in layer.buffers.items()}

    def forward(self, x, training=True):
        for layer in self.layers:
            x = layer.forward(x, training=training)
        return x

    def backward(self, dout):
        for layer in reversed(self.layers):
            dout = layer.backward(dout)
        for _, _, grad, first in self._entries():
            if first is not None:
                first += grad
        return dout

    def _entries(self):
        """(name, parameter, gradient, None or the gradient of the earlier parameter on the same memory)."""
        entries, seen = [], {}
        for i, layer in enumerate(self.layers):
            for name, param in layer.params.items():
                full_name, grad, first = f"{i}.{name}", layer.grads[name], None
                key = memory_of(param)
                if key in seen and param.size:
                    first = gradient_view(full_name, param, *seen[key])
                else:
                    seen[key] = full_name, param, grad
                entries.append((full_name, param, grad, first))
        return entries


def memory_of(array):
    return array.__array_interface__["data"][0], array.nbytes


def gradient_view(name, param, first_name, first_param, first_grad):
    """``first_grad`` seen with the axes of ``param``, a view of the memory of ``first_param``."""
    if param.dtype == first_param.dtype:
        if param.shape == first_param.shape and param.strides == first_param.strides:
            return first_grad
        if param.shape == first_param.T.shape and param.strides == first_param.T.strides:
            return first_grad.T
    expected = f"the same shape as {first_name}, {first_param.shape}, or its transpose, as they share memory"
    raise checks.error(ValueError, "Sequential", name, expected, f"shape {param.shape}")
