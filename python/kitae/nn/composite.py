"""Layers that hold other layers: their arrays under one set of names."""

import os
from collections.abc import Iterator, Sequence
from operator import is_
from typing import TYPE_CHECKING, Any

from numpy.typing import DTypeLike, NDArray

from kitae import _checks, _dispatch
from kitae.nn.layer import Layer

if TYPE_CHECKING:
    from kitae.nn.storage import Differences
    from kitae.nn.summary import Summary


class Composite(Layer):
    """A layer made of layers. ``children()`` names them; the rest follows from that.

    ``params``, ``grads`` and ``buffers`` are flat dicts of the children's own arrays, named child by child: "0.W",
    "2.body.1.gamma". They are looked up anew at each access, so write into the arrays (``params["0.W"][...] = w``)
    and not into the dicts. An array that several layers share (also as its transpose) appears once, under its first
    name, and ``backward`` leaves the sum of its gradients there: a subclass calls ``sum_shared_gradients()`` at the
    end of its backward pass. A frozen layer's gradients are None.
    """

    #: The parameters, where the latest backward pass found that none share memory.
    _unshared: Sequence[Any] = ()

    def __init__(self) -> None:
        # No dicts of its own: they are made of the children's.
        self._input: tuple[tuple[int, ...], Any] | None = None

    @property
    def params(self) -> dict[str, NDArray[Any]]:  # type: ignore[override]
        return {name: param for name, param, _, is_first, _ in self._entries() if is_first}

    @property
    def grads(self) -> dict[str, Any]:  # type: ignore[override]
        return {name: grad for name, _, grad, is_first, _ in self._entries() if is_first}

    @property
    def buffers(self) -> dict[str, Any]:  # type: ignore[override]
        return {f"{child}.{name}": b for child, layer in self.children() for name, b in layer.buffers.items()}

    def build(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        """Build every layer for inputs of ``shape``, batch axis included, by inference on one sample of zeros."""
        self.forward(_dispatch.forced_array_module().zeros((1, *shape[1:]), dtype), training=False)

    def forward(self, x: NDArray[Any], training: bool = True) -> NDArray[Any]:
        raise NotImplementedError

    def backward(self, dout: NDArray[Any]) -> NDArray[Any]:
        raise NotImplementedError

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """The shape of one sample of the latest input, without the batch axis; None before the first forward pass."""
        return None if self._input is None else tuple(self._input[0][1:])

    def summary(self, input_shape: tuple[int, ...] | None = None, dtype: DTypeLike | None = None) -> "Summary":
        """A table of the layers: name, kind, output shape, parameters, whether they are trained; and the totals.

        ``input_shape``: that of one sample, without the batch axis; None takes the latest input's, and where there was
        none, output shapes stay unknown. To see output shapes one sample of zeros (of ``dtype``, default that of the
        latest input, else float32) passes through in inference, which builds what is not built yet and takes the place
        of the latest forward pass. Nothing is printed: ``print(model.summary())`` does.
        """
        from kitae.nn.summary import summary

        return summary(self, input_shape, dtype)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write parameters and buffers to a safetensors file, atomically: ``kitae.nn.save_weights``."""
        from kitae.nn.storage import save_weights

        save_weights(self, path)

    def load(self, path: str | os.PathLike[str], *, strict: bool = True) -> "Differences":
        """Read such a file into the layers' own arrays; builds what is not built: ``kitae.nn.load_weights``."""
        from kitae.nn.storage import load_weights

        return load_weights(self, path, strict=strict)

    def sum_shared_gradients(self) -> None:
        """Add the gradients of parameters that share memory to that of the first name."""
        arrays = list(self._parameters())
        if len(arrays) == len(self._unshared) and all(map(is_, arrays, self._unshared)):
            return
        self._unshared = arrays if len({*map(_memory, arrays)}) == len(arrays) else []
        for _, _, grad, is_first, first in self._entries():
            if not is_first and grad is not None and first is not None:
                first += grad

    def _parameters(self) -> Iterator[Any]:
        """Every child's own parameters, those of shared memory too, without their names, which take longer."""
        for _, layer in self.children():
            yield from layer._parameters() if isinstance(layer, Composite) else layer.params.values()

    def _entries(self) -> Iterator[tuple[str, Any, Any, bool, Any]]:
        """(name, parameter, gradient, whether it is the first of its memory, if not: the first one's gradient)."""
        op = f"nn.{type(self).__name__}"
        seen: dict[tuple[int, int], tuple[str, Any, Any]] = {}
        for child, layer in self.children():
            grads = layer.grads
            for name, param in layer.params.items():
                full_name, grad = f"{child}.{name}", grads[name]
                memory = _memory(param)
                if param.size and memory in seen:
                    yield full_name, param, grad, False, gradient_as(op, full_name, param, *seen[memory])
                else:
                    seen[memory] = full_name, param, grad
                    yield full_name, param, grad, True, None


def _memory(array: Any) -> tuple[int, int]:
    address = array.data.ptr if _checks.is_cupy(array) else array.__array_interface__["data"][0]
    return address, array.nbytes


def gradient_as(op: str, name: str, param: Any, first_name: str, first_param: Any, first_grad: Any) -> Any:
    """``first_grad`` with the axes of ``param``, which shares the memory of ``first_param``."""
    transposed = None if first_grad is None else first_grad.T
    for view, grad in ((first_param, first_grad), (first_param.T, transposed)):
        if (param.dtype, param.shape, param.strides) == (view.dtype, view.shape, view.strides):
            return grad
    expected = f"the array {first_name} or its transpose, as they share memory, of shape {first_param.shape}"
    raise _checks.error(ValueError, op, name, expected, param)


def check_children(op: str, layers: Sequence[tuple[str, Any]]) -> None:
    """Refuse what is no layer, and a layer that stands in two places, at any depth. ``layers``: (argument, layer)."""
    seen: set[int] = set()
    for argument, layer in layers:
        methods = getattr(layer, "forward", None), getattr(layer, "backward", None)
        if isinstance(layer, type) or not all(map(callable, methods)):
            expected = "a layer, an object with forward(x, training=True) and backward(dout)"
            raise _checks.error(TypeError, op, argument, expected, layer)
        inside = {id(found) for _, found in walk(layer, composites=True)}
        if inside & seen:
            expected = "each layer once, as it keeps the state of one place (two layers can share their arrays)"
            raise _checks.error(ValueError, op, argument, expected, _checks.Words("a layer that stands before"))
        seen |= inside


def walk(layer: Any, name: str = "", *, composites: bool = False) -> Iterator[tuple[str, Any]]:
    """(name, layer) of each layer that holds no others, in the order of ``children()``, at any depth: the name is
    what stands before the last dot in the outermost ``params``. ``composites``: also those that hold others."""
    children = getattr(layer, "children", None)
    inside = [] if children is None else list(children())
    if composites or not inside:
        yield name, layer
    for child, inner in inside:
        yield from walk(inner, f"{name}.{child}" if name else child, composites=composites)
