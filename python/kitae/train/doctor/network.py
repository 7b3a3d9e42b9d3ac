"""A network seen as the list of its innermost layers, and how to look between them for one step."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

ACTIVATIONS = {"relu": "relu", "sigmoid": "sigmoid", "tanh": "tanh", "softmax": "softmax", "simplernn": "tanh"}
RECURRENT = ("rnn", "lstm", "gru")


@dataclass(frozen=True)
class Leaf:
    """A layer without layers inside, its name in the network and what it is."""

    name: str
    layer: Any

    @property
    def kind(self) -> str:
        return type(self.layer).__name__

    @property
    def activation(self) -> str | None:
        """Of "relu", "sigmoid", "tanh" or "softmax": what the outputs have gone through last, fused or not."""
        fused = getattr(self.layer, "activation", None)
        return fused if isinstance(fused, str) and fused in ACTIVATIONS else ACTIVATIONS.get(self.kind.lower())

    @property
    def recurrent(self) -> bool:
        return any(word in self.kind.lower() for word in RECURRENT)

    @property
    def embedding(self) -> bool:
        return "embedding" in self.kind.lower()

    @property
    def normalizes(self) -> bool:
        return "norm" in self.kind.lower() and "weight" not in self.kind.lower()

    @property
    def running(self) -> bool:
        return "running_mean" in self.layer.buffers

    @property
    def traits(self) -> frozenset[str]:
        names = ("recurrent", "embedding", "normalizes", "running")
        return frozenset(name for name in names if getattr(self, name))

    def __str__(self) -> str:
        return f"{self.name} {self.kind}".strip()


def children(layer: Any) -> list[tuple[str, Any]]:
    named = getattr(layer, "children", None)
    found = list(named()) if callable(named) else []
    listed = getattr(layer, "layers", None)
    if not found and isinstance(listed, (list, tuple)):
        found = [(str(i), child) for i, child in enumerate(listed)]
    return found


def leaves(layer: Any, name: str = "") -> list[Leaf]:
    """The innermost layers in the order of their names, "0", "2.left", ..."""
    inner = children(layer)
    if not inner:
        return [Leaf(name, layer)]
    return [leaf for part, child in inner for leaf in leaves(child, f"{name}.{part}".lstrip("."))]


class Wrapped:
    """Methods of objects replaced on the instances until ``remove``: around(original) gives the replacement."""

    def __init__(self) -> None:
        self._places: list[tuple[Any, str, Any]] = []

    def wrap(self, owner: Any, method: str, around: Callable[[Any], Any]) -> None:
        before = vars(owner).get(method)
        setattr(owner, method, around(getattr(owner, method)))
        self._places.append((owner, method, before))

    def remove(self) -> None:
        for owner, method, before in reversed(self._places):
            if before is None:
                delattr(owner, method)
            else:
                setattr(owner, method, before)
        self._places.clear()


def saved_buffers(network: list[Leaf]) -> list[tuple[Any, Any]]:
    """(array, copy) of every buffer of the network, for `restore`."""
    return [
        (array, array.copy()) for leaf in network for array in leaf.layer.buffers.values() if hasattr(array, "copy")
    ]


def restore(buffers: list[tuple[Any, Any]]) -> None:
    for array, copy in buffers:
        array[...] = copy
