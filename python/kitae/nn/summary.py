"""A network as a table."""

from dataclasses import dataclass
from typing import Any

from kitae import _checks, _dispatch
from kitae.nn.composite import walk
from kitae.nn.watching import watched_outputs


@dataclass(frozen=True)
class SummaryRow:
    """A layer that holds no others. ``output_shape`` is None where no input shape is known, its first length None for
    the batch. ``parameters``: elements; those of an array that an earlier layer shares count there. ``trainable``: None
    without parameters."""

    name: str
    layer: str
    output_shape: tuple[int | None, ...] | None
    parameters: int
    trainable: bool | None


class Summary:
    """What ``Composite.summary`` returns: ``print(model.summary())`` and a notebook show it as a table.

    ``rows``: a ``SummaryRow`` a layer; ``parameters``, ``trainable``, ``frozen``: numbers of elements, shared arrays
    counted once; ``buffers``: elements that are no parameters, such as running statistics; ``nbytes`` of all of them.
    """

    def __init__(self, rows: list[SummaryRow], parameters: int, trainable: int, buffers: int, nbytes: int) -> None:
        self.rows = rows
        self.parameters, self.trainable, self.frozen = parameters, trainable, parameters - trainable
        self.buffers, self.nbytes = buffers, nbytes

    def __str__(self) -> str:
        header = ("name", "layer", "output shape", "parameters", "trainable")
        body = [
            (
                row.name,
                row.layer,
                _shape_words(row.output_shape),
                f"{row.parameters:,}",
                {None: "", True: "yes", False: "no"}[row.trainable],
            )
            for row in self.rows
        ]
        widths = [max(len(line[column]) for line in [header, *body]) for column in range(len(header))]
        to_the_right = header.index("parameters")
        lines = [
            "  ".join(
                cell.rjust(width) if column == to_the_right else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in [header, tuple("-" * width for width in widths), *body]
        ]
        totals = f"parameters: {self.parameters:,} (trainable {self.trainable:,}, frozen {self.frozen:,})"
        return "\n".join([*lines, "", f"{totals}; buffers: {self.buffers:,}; {self.nbytes:,} bytes"])

    __repr__ = __str__


def summary(model: Any, input_shape: tuple[int, ...] | None = None, dtype: Any = None) -> Summary:
    """``Composite.summary`` for any model."""
    op = "nn.summary"
    seen = getattr(model, "_input", None)
    if input_shape is not None:
        lengths = [_checks.integer(op, "input_shape", length, low=0, high=2**62) for length in input_shape]
        shape, dtype = (1, *lengths), "float32" if dtype is None else dtype
    elif seen is not None:
        shape, dtype = (1, *seen[0][1:]), seen[1] if dtype is None else dtype
    else:
        shape = None
    shapes: dict[str, tuple[int | None, ...]] = {}

    def see(name: str, layer: Any, y: Any) -> None:
        shapes[name] = (None, *y.shape[1:])

    if shape is not None:
        xp = _array_module_of(model)
        with watched_outputs(model, see):
            model.forward(xp.zeros(shape, dtype), training=False)
    params, grads, buffers = model.params, model.grads, model.buffers
    rows = [_row(name, layer, shapes.get(name), params) for name, layer in walk(model)]
    total = sum(param.size for param in params.values())
    trainable = sum(param.size for name, param in params.items() if grads[name] is not None)
    arrays = [*params.values(), *buffers.values()]
    return Summary(rows, total, trainable, sum(b.size for b in buffers.values()), sum(array.nbytes for array in arrays))


def _row(name: str, layer: Any, shape: tuple[int | None, ...] | None, params: dict[str, Any]) -> SummaryRow:
    own = {key: params[full] for key in layer.params if (full := f"{name}.{key}" if name else key) in params}
    trainable = None if not layer.params else any(layer.grads[key] is not None for key in layer.params)
    return SummaryRow(name, type(layer).__name__, shape, sum(param.size for param in own.values()), trainable)


def _array_module_of(model: Any) -> Any:
    """Where the model's arrays are; without any: where the forced backend computes."""
    for array in model.params.values():
        return _dispatch.array_module(array)
    return _dispatch.forced_array_module()


def _shape_words(shape: tuple[int | None, ...] | None) -> str:
    if shape is None:
        return "?"
    return "(" + ", ".join("batch" if length is None else str(length) for length in shape) + ")"
