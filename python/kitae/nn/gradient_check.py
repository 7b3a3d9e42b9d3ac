"""A layer's backward pass against finite differences of its forward pass."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kitae import _checks, _dispatch
from kitae.nn.losses import loss as find_loss

OP = "nn.check_gradients"
#: The step that balances the two errors of a central difference: its cube is eps.
_STEP = float(np.finfo(np.float64).eps) ** (1 / 3)
#: The error of a value (a sum of terms) by rounding, as a multiple of eps times the sum of the terms' sizes.
_ROUNDINGS = 50


class GradientError(AssertionError):
    """``backward`` is not the derivative of ``forward``; the message names the array, the index and both numbers."""


@dataclass
class GradientCheck:
    """What ``check_gradients`` found: the largest relative error of each array, "x" being the input; ``checked``
    elements were compared, and ``kinks`` left out, as forward has no derivative there."""

    errors: dict[str, float] = field(default_factory=dict)
    checked: int = 0
    kinks: int = 0

    @property
    def largest(self) -> float:
        return max(self.errors.values(), default=0.0)


def check_gradients(
    layer: Any,
    x: Any,
    *,
    loss: Any = None,
    targets: Any = None,
    training: bool = True,
    tolerance: float = 1e-6,
    most: int = 1000,
    seed: int = 0,
) -> GradientCheck:
    """Compare ``layer.backward`` with central differences (L(v + h) - L(v - h)) / 2h, for x and every parameter

    L: ``loss.forward(layer.forward(x), targets)``, ``loss`` being an object or a name; None: the sum of the outputs,
    each with a weight drawn from N(0, 1) by ``seed``. h = eps^(1/3) max(1, |v|). x: float64, or integers (then only
    parameters are compared); parameters: float64. A layer is any object of the layers' protocol, a whole network too.
    ``training``: the mode of the passes; buffers are set back before each of them, so dropout repeats its mask.
    ``most``: of longer arrays so many elements are compared, chosen by ``seed``. An element at a kink of forward (its
    differences to both sides disagree) is left out and counted.

    Returns the largest relative errors |backward - difference| / max(|backward|, |difference|, floor), the floor being
    the size below which the differences are rounding: 50 eps (the sum of the terms of L) / h / tolerance. Raises
    ``GradientError``, an AssertionError, where one exceeds ``tolerance``, where a second backward pass gives other
    gradients (they accumulate), and where a gradient has another shape; TypeError and ValueError for arguments. x,
    parameters and buffers are the same bits afterwards.

    The form of the relative error: Stanford's course cs231n, "Gradient checks". PyTorch's gradcheck compares with an
    absolute and a relative tolerance instead.
    """
    tolerance = _checks.number(OP, "tolerance", tolerance, low=0, open_low=True)
    most = _checks.integer(OP, "most", most, low=1, high=2**62)
    _dispatch.backend_for(x, OP, "x")
    if x.dtype.kind not in "iu" and x.dtype != np.float64:
        raise _checks.error(TypeError, OP, "x", "float64, or integers", x)
    rng = np.random.default_rng(seed)
    x = x.copy()
    with _buffers_as_they_were(layer) as reset:
        passes = _Passes(layer, x, _objective(loss, targets, rng), training, reset)
        arrays, gradients = passes.analytic()
        check = GradientCheck()
        floor = _ROUNDINGS * float(np.finfo(np.float64).eps) * passes.size / _STEP / tolerance
        for name, array in arrays.items():
            indices = _indices(array.shape, most, rng)
            _compare(check, passes, name, array, gradients[name], indices, floor, tolerance)
    return check


class _Passes:
    """Forward and backward passes from one state."""

    def __init__(self, layer: Any, x: Any, objective: Any, training: bool, reset: Any) -> None:
        self.layer, self.x, self.objective, self.training, self.reset = layer, x, objective, training, reset
        self.size = 0.0

    def value(self) -> float:
        self.reset()
        return self.objective.value(self.layer.forward(self.x, training=self.training))

    def analytic(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The arrays that are compared, "x" among them, and copies of their gradients."""
        first = self._backward()
        second = self._backward()
        arrays = {name: param for name, param in self.layer.params.items() if first.get(name) is not None}
        if first["x"] is not None and self.x.dtype.kind == "f":
            arrays = {"x": self.x, **arrays}
        for name, array in arrays.items():
            if array.dtype != np.float64:
                raise _checks.error(TypeError, OP, f"params[{name!r}]", "dtype float64", array)
            if first[name].shape != array.shape:
                raise _checks.error(GradientError, OP, f"gradient of {name}", f"shape {array.shape}", first[name])
            if not _equal(first[name], second[name]):
                expected = "the same gradient from two equal passes (each overwrites it)"
                raise _checks.error(GradientError, OP, f"gradient of {name}", expected, _checks.Words("another"))
        return arrays, first

    def _backward(self) -> dict[str, Any]:
        self.reset()
        y = self.layer.forward(self.x, training=self.training)
        self.size = self.objective.size(y)
        dx = self.layer.backward(self.objective.gradient(y))
        grads = {name: None if grad is None else grad.copy() for name, grad in self.layer.grads.items()}
        return {"x": None if dx is None else dx.copy(), **grads}


class _WeightedSum:
    """L = the sum of weights times outputs."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng, self.weights = rng, None

    def value(self, y: Any) -> float:
        return float((self._weights_for(y) * y).sum())

    def size(self, y: Any) -> float:
        return float(abs(self._weights_for(y) * y).sum())

    def gradient(self, y: Any) -> Any:
        return self._weights_for(y).copy()

    def _weights_for(self, y: Any) -> Any:
        if self.weights is None:
            self.weights = _dispatch.placed(self.rng.standard_normal(y.shape), y)
        return self.weights


class _Loss:
    """L = the loss of the outputs."""

    def __init__(self, loss: Any, targets: Any) -> None:
        self.loss, self.targets = find_loss(loss, OP), targets

    def value(self, y: Any) -> float:
        return float(self.loss.forward(y, self.targets))

    def size(self, y: Any) -> float:
        return abs(self.value(y))

    def gradient(self, y: Any) -> Any:
        self.loss.forward(y, self.targets)
        return self.loss.backward()


def _objective(loss: Any, targets: Any, rng: np.random.Generator) -> Any:
    if loss is None:
        if targets is not None:
            raise _checks.error(ValueError, OP, "loss", "a loss, as there are targets", None)
        return _WeightedSum(rng)
    return _Loss(loss, targets)


def _compare(
    check: GradientCheck,
    passes: _Passes,
    name: str,
    array: Any,
    gradient: Any,
    indices: list[tuple[int, ...]],
    floor: float,
    tolerance: float,
) -> None:
    wrong: list[tuple[float, tuple[int, ...], float, float]] = []
    largest = 0.0
    for index in indices:
        backward = float(gradient[index])
        difference, left, right = _differences(passes, array, index)
        error = _relative(backward, difference, floor)
        if not error <= tolerance and _relative(left, right, floor) > 1e-3:
            check.kinks += 1
            continue
        check.checked += 1
        largest = max(largest, error)
        if not error <= tolerance:
            wrong.append((error, index, backward, difference))
    check.errors[name] = largest
    if wrong:
        error, index, backward, difference = max(wrong, key=lambda entry: entry[0])
        share = f"{len(wrong)} of {len(indices)} elements are off"
        got = _checks.Words(f"{backward:.10g} from backward (relative error {error:.2g}; {share})")
        place = f"gradient of {name}[{', '.join(map(str, index))}]"
        raise _checks.error(GradientError, OP, place, f"the difference {difference:.10g}", got)


def _differences(passes: _Passes, array: Any, index: tuple[int, ...]) -> tuple[float, float, float]:
    """The central difference at an element, and those to its left and right."""
    kept = float(array[index])
    step = _STEP * max(1.0, abs(kept))
    above, below = kept + step, kept - step
    try:
        here = passes.value()
        array[index] = above
        value_above = passes.value()
        array[index] = below
        value_below = passes.value()
    finally:
        array[index] = kept
    central = (value_above - value_below) / (above - below)
    return central, (here - value_below) / (kept - below), (value_above - here) / (above - kept)


def _relative(a: float, b: float, floor: float) -> float:
    if not (np.isfinite(a) and np.isfinite(b)):
        return float("inf")
    return abs(a - b) / max(abs(a), abs(b), floor)


def _indices(shape: tuple[int, ...], most: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
    size = int(np.prod(shape))
    chosen = range(size) if size <= most else sorted(rng.choice(size, most, replace=False).tolist())
    return [tuple(int(i) for i in np.unravel_index(number, shape)) for number in chosen]


def _equal(a: Any, b: Any) -> bool:
    return bool(((a == b) | ((a != a) & (b != b))).all())


@contextmanager
def _buffers_as_they_were(layer: Any) -> Iterator[Any]:
    kept = {name: array.copy() for name, array in getattr(layer, "buffers", {}).items()}

    def reset() -> None:
        for name, array in getattr(layer, "buffers", {}).items():
            if name in kept:
                array[...] = kept[name]
            else:  # made by the first pass
                kept[name] = array.copy()

    try:
        yield reset
    finally:
        reset()
