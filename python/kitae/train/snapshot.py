"""A model's arrays, copied and put back."""

from typing import Any


def copy_arrays(model: Any) -> dict[str, dict[str, Any]]:
    """Copies of the parameters and buffers, by name."""
    return {
        kind: {name: array.copy() for name, array in arrays.items()}
        for kind, arrays in (("params", model.params), ("buffers", model.buffers))
    }


def put_back(model: Any, copies: dict[str, dict[str, Any]]) -> None:
    """Write the copies into the model's own arrays."""
    for kind, arrays in (("params", model.params), ("buffers", model.buffers)):
        for name, array in arrays.items():
            array[...] = copies[kind][name]
