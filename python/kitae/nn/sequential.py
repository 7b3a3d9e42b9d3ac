"""A network that is a list of layers."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from kitae import _checks


class Sequential:
    """y = layer_n(... layer_1(layer_0(x)))

    ``layers``: one after the other or as one iterable; objects with ``forward(x, training=True)``, ``backward(dout)``
    and the dicts ``params``, ``grads``, ``buffers``. A Sequential is such an object itself.

    ``params``, ``grads`` and ``buffers`` are flat dicts, named by position: "0.W", "0.b", "1.gamma". An array that
    several layers share (also as its transpose) appears once, under its first name, and ``backward`` leaves the sum
    of its gradients there.
    """

    def __init__(self, *layers: Any | Iterable[Any]) -> None:
        self.layers: list[Any]
        one_list = len(layers) == 1 and isinstance(layers[0], Iterable)
        self.layers = list(layers[0]) if one_list else list(layers)
        for i, layer in enumerate(self.layers):
            methods = getattr(layer, "forward", None), getattr(layer, "backward", None)
            if isinstance(layer, type) or not all(map(callable, methods)):
                expected = "a layer, an object with forward(x, training=True) and backward(dout)"
                raise _checks.error(TypeError, "nn.Sequential", f"layers[{i}]", expected, layer)
            if any(layer is earlier for earlier in self.layers[:i]):
                expected = "each layer once, as it keeps the state of one place (two layers can share their arrays)"
                found = _checks.Words("a layer that stands before")
                raise _checks.error(ValueError, "nn.Sequential", f"layers[{i}]", expected, found)

    def build(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        """Build every layer for inputs of ``shape``, batch axis included, by inference on one sample of zeros."""
        self.forward(np.zeros((1, *shape[1:]), dtype), training=False)

    @property
    def params(self) -> dict[str, NDArray[Any]]:
        return {name: param for name, param, _, first in self._entries() if first is None}

    @property
    def grads(self) -> dict[str, NDArray[Any]]:
        return {name: grad for name, _, grad, first in self._entries() if first is None}

    @property
    def buffers(self) -> dict[str, Any]:
        return {f"{i}.{name}": b for i, layer in enumerate(self.layers) for name, b in layer.buffers.items()}

    def forward(self, x: NDArray[Any], training: bool = True) -> NDArray[Any]:
        for layer in self.layers:
            x = layer.forward(x, training=training)
        return x

    def backward(self, dout: NDArray[Any]) -> NDArray[Any]:
        for layer in reversed(self.layers):
            dout = layer.backward(dout)
        for _, _, grad, first in self._entries():
            if first is not None:
                first += grad
        return dout

    def _entries(self) -> Iterator[tuple[str, NDArray[Any], NDArray[Any], NDArray[Any] | None]]:
        """(name, parameter, gradient, None or the gradient of the earlier parameter in the same memory)."""
        seen: dict[tuple[int, int], tuple[str, NDArray[Any], NDArray[Any]]] = {}
        for i, layer in enumerate(self.layers):
            for name, param in layer.params.items():
                full_name, grad = f"{i}.{name}", layer.grads[name]
                memory = param.__array_interface__["data"][0], param.nbytes
                if param.size and memory in seen:
                    yield full_name, param, grad, gradient_as(full_name, param, *seen[memory])
                else:
                    seen[memory] = full_name, param, grad
                    yield full_name, param, grad, None


def gradient_as(
    name: str, param: NDArray[Any], first_name: str, first_param: NDArray[Any], first_grad: NDArray[Any]
) -> NDArray[Any]:
    """``first_grad`` with the axes of ``param``, which shares the memory of ``first_param``."""
    for view, grad in ((first_param, first_grad), (first_param.T, first_grad.T)):
        if (param.dtype, param.shape, param.strides) == (view.dtype, view.shape, view.strides):
            return grad
    expected = f"the array {first_name} or its transpose, as they share memory, of shape {first_param.shape}"
    raise _checks.error(ValueError, "nn.Sequential", name, expected, param)
