"""A network that is a list of layers."""

from collections.abc import Iterable, Iterator
from typing import Any

from numpy.typing import NDArray

from kitae.nn.composite import Composite, check_children
from kitae.nn.layer import backward_for_parameters


class Sequential(Composite):
    """y = layer_n(... layer_1(layer_0(x)))

    ``layers``: one after the other or as one iterable; objects with ``forward(x, training=True)``, ``backward(dout)``
    and the dicts ``params``, ``grads``, ``buffers``. A Sequential is such an object itself. Without layers it is the
    identity.

    ``params``, ``grads`` and ``buffers`` are flat dicts, named by position: "0.W", "0.b", "1.gamma". An array that
    several layers share (also as its transpose) appears once, under its first name, and ``backward`` leaves the sum
    of its gradients there.
    """

    can_skip_input_gradient = True

    def __init__(self, *layers: Any | Iterable[Any]) -> None:
        super().__init__()
        one_list = len(layers) == 1 and isinstance(layers[0], Iterable)
        self.layers: list[Any] = list(layers[0]) if one_list else list(layers)
        check_children("nn.Sequential", [(f"layers[{i}]", layer) for i, layer in enumerate(self.layers)])

    def children(self) -> Iterator[tuple[str, Any]]:
        return ((str(i), layer) for i, layer in enumerate(self.layers))

    def forward(self, x: NDArray[Any], training: bool = True) -> NDArray[Any]:
        kept = getattr(x, "shape", None), getattr(x, "dtype", None)
        for layer in self.layers:
            x = layer.forward(x, training=training)
        self._input = kept  # type: ignore[assignment]
        return x

    def backward(self, dout: NDArray[Any], *, input_gradient: bool = True) -> Any:
        """dx, or with ``input_gradient=False``, where the first layer can leave it out, None."""
        for layer in reversed(self.layers[1:]):
            dout = layer.backward(dout)
        if self.layers:
            first = self.layers[0]
            dout = first.backward(dout) if input_gradient else backward_for_parameters(first, dout)
        self.sum_shared_gradients()
        return dout if input_gradient else None
