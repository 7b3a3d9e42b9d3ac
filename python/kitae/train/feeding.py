"""Minibatches for the loop: from arrays, or from an iterable as it is."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from kitae import _checks, _random
from kitae.data import Batches

Batch = tuple[Any, Any]
MAX_BATCH = 2**31 - 1


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
    """Minibatches of arrays, beginning with that epoch, or ``x`` itself where it is an iterable of them."""
    if y is None and not is_array(x):
        if isinstance(x, (str, bytes)) or not isinstance(x, Iterable):
            raise _checks.error(TypeError, op, "x", "an array (with y), or an iterable of (x, y) batches", x)
        return x
    check_arrays(op, x, y)
    batch_size = _checks.integer(op, "batch_size", batch_size, low=1, high=MAX_BATCH)
    batches = Batches(x, y, batch_size, shuffle=shuffle, seed=seed)
    batches.epoch = epoch
    return batches


def draw_seed() -> int:
    """A seed that ``kitae.seed`` fixes, drawn as layers draw theirs: initial weights do not depend on it."""
    return _random.next_layer_seed()


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
