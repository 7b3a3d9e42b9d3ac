"""What kitae's own layers share. Nothing asks for it: any object with the same faces is a layer."""

from collections.abc import Iterator
from typing import Any


class Layer:
    """A layer: ``forward(x, training=True)``, ``backward(dout)`` and the dicts ``params``, ``grads``, ``buffers``.

    A layer of this package is built at its first forward pass or by ``build(shape, dtype)``, ``shape`` being that of
    the input with its batch axis. From then on the arrays in ``grads`` exist and every backward pass overwrites them
    in place. A layer that holds others names them in ``children()``.

    ``can_skip_input_gradient``: ``backward(dout, input_gradient=False)`` leaves out dx, which nobody needs of a
    network's first layer, and returns None.
    """

    can_skip_input_gradient = False

    def __init__(self) -> None:
        self.params: dict[str, Any] = {}
        self.grads: dict[str, Any] = {}
        self.buffers: dict[str, Any] = {}

    def children(self) -> Iterator[tuple[str, Any]]:
        """(name, layer) of each layer inside this one; the name comes before a dot in this layer's dicts."""
        return iter(())


def backward_for_parameters(layer: Any, dout: Any) -> Any:
    """A backward pass for the parameters' gradients alone, where the layer has one: what it returns counts nothing."""
    if getattr(layer, "can_skip_input_gradient", False):
        return layer.backward(dout, input_gradient=False)
    return layer.backward(dout)
