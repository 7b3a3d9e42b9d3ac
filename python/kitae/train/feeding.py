"""Minibatches for the loop: from arrays, or from an iterable as it is."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from kitae import _checks, _dispatch, _random

Batch = tuple[Any, Any]
MAX_BATCH = 2**31 - 1


class ArrayBatches:
    """(x[rows], y[rows]) of ``batch_size`` rows, the last one smaller; one pass is an epoch.

    With ``shuffle`` epoch e takes the rows in the order ``default_rng([seed, e]).permutation(n)``. Memory-mapped arrays
    are read a batch at a time. ``state_dict`` counts the batch in work as done.
    """

    def __init__(self, op: str, x: Any, y: Any, batch_size: int, *, shuffle: bool, seed: int, epoch: int) -> None:
        self.x, self.y = x, y
        self.samples = check_arrays(op, x, y)
        self.batch_size = _checks.integer(op, "batch_size", batch_size, low=1, high=MAX_BATCH)
        self.shuffle, self.seed, self.epoch, self.position = shuffle, seed, epoch, 0

    def __len__(self) -> int:
        return -(-self.samples // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        order = self._order()
        x, y, size = self.x, self.y, self.batch_size
        while self.position < len(self):
            start = self.position * size
            rows = slice(start, start + size) if order is None else order[start : start + size]
            self.position += 1
            yield x[rows], y[rows]
        self.epoch, self.position = self.epoch + 1, 0

    def _order(self) -> Any:
        if not self.shuffle:
            return None
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.samples)
        return _dispatch.array_module(self.x).asarray(order)

    def state_dict(self) -> dict[str, Any]:
        return {"seed": self.seed, "epoch": self.epoch, "position": self.position}

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        self.seed, self.epoch, self.position = d["seed"], d["epoch"], d["position"]


def is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or hasattr(value, "__cuda_array_interface__")


def check_arrays(op: str, x: Any, y: Any) -> int:
    """The number of samples, at least one, of arrays with as many rows."""
    for name, array in (("x", x), ("y", y)):
        if not is_array(array):
            raise _checks.not_an_array(op, name, array)
        if array.ndim == 0 or len(array) == 0:
            raise _checks.error(ValueError, op, name, "at least one sample, along the first axis", array)
    if len(x) != len(y):
        raise _checks.error(ValueError, op, "y", f"{len(x)} rows, one for each of x", y)
    return len(x)


def batches_of(
    op: str, x: Any, y: Any, batch_size: int, *, shuffle: bool = False, seed: int = 0, epoch: int = 0
) -> Iterable[Batch]:
    """Minibatches of arrays, or ``x`` itself where it is an iterable of them."""
    if y is None and not is_array(x):
        if isinstance(x, (str, bytes)) or not isinstance(x, Iterable):
            raise _checks.error(TypeError, op, "x", "an array (with y), or an iterable of (x, y) batches", x)
        return x
    return ArrayBatches(op, x, y, batch_size, shuffle=shuffle, seed=seed, epoch=epoch)


def draw_seed() -> int:
    """A seed from the generator that ``kitae.seed`` seeds."""
    return int(_random.generator().integers(2**63))


def split_off_end(op: str, x: Any, y: Any, fraction: float) -> tuple[Batch, Batch]:
    """((x, y) for training, (x, y) for validation): the last ``fraction`` of the samples, before any shuffling."""
    samples = check_arrays(op, x, y)
    kept = int(samples * (1 - fraction))
    if not 0 < kept < samples:
        expected = f"a fraction that leaves samples on both sides of {samples}"
        raise _checks.error(ValueError, op, "validation_split", expected, fraction)
    return (x[:kept], y[:kept]), (x[kept:], y[kept:])


def length(batches: Iterable[Batch]) -> int | None:
    """Batches an epoch, where the source knows."""
    try:
        return len(batches)  # type: ignore[arg-type]
    except TypeError:
        return None
