"""Minibatches in an order that is a function of seed and epoch alone: whoever knows the place can go on there."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from kitae import _checks, _random

_OP = "data.Batches"
_STATE = ("version", "kind", "seed", "epoch", "position", "samples", "batch_size", "shuffle", "drop_last")


class Batches:
    """Minibatches of arrays: one iteration over it is an epoch, each epoch in another order.

    epoch e visits samples argsort(u), u: one 64-bit number a sample from PCG64(SeedSequence(seed, spawn_key=(e,)))

    ``x``: (samples, ...) or a tuple of such arrays; ``t``: targets of as many samples, likewise, or None. A batch is
    ``(x, t)``, or ``x`` alone where t is None, and a tuple where a tuple was given. Batches are new arrays of the
    inputs' dtype where the inputs live. NumPy arrays, memory-mapped ones (only the rows of the batch are read, in
    ascending order) and CuPy arrays are taken.

    ``seed``: an integer in [0, 2**64); None draws one as layers do, so that ``kitae.seed`` fixes it. ``shuffle=False``
    keeps the order of the arrays. The last batch is smaller where the samples don't divide, or left out with
    ``drop_last=True``. ``augment``: called for each batch as ``augment(x, t, rng=generator)``, without t where t is
    None; what it returns is the batch. The generator is a function of seed, epoch and batch number: batches that are
    repeated or resumed are the same bit for bit (``kitae.data.augment``).

    ``epoch`` and ``position`` (batches of this epoch that were handed out) are the place. ``state_dict()`` has it in
    numbers and strings; after ``load_state_dict`` the next iteration gives the rest of that epoch, which is no batch
    where the state was taken after the last one. An iteration that was left early is over: the next is the next epoch.

    Raises TypeError for what is no array, ValueError for arrays of different lengths or without samples.
    Differs from PyTorch's DataLoader: no worker processes, no pickling; it resumes in the middle of an epoch, and the
    order is no part of the process's random state.
    """

    def __init__(
        self,
        x: Any,
        t: Any = None,
        batch_size: int = 32,
        *,
        seed: int | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
        augment: Callable[..., Any] | None = None,
    ) -> None:
        self._fields = [(name, value) for name, value in (("x", x), ("t", t)) if value is not None or name == "x"]
        self.samples = _one_length(self._fields)
        self.batch_size = _checks.integer(_OP, "batch_size", batch_size, low=1, high=2**31 - 1)
        self.shuffle = _checks.boolean(_OP, "shuffle", shuffle)
        self.drop_last = _checks.boolean(_OP, "drop_last", drop_last)
        if self.drop_last and self.samples < self.batch_size:
            expected = f"at most {self.samples}, the number of samples, as drop_last=True leaves out a smaller batch"
            raise _checks.error(ValueError, _OP, "batch_size", expected, batch_size)
        if augment is not None and not callable(augment):
            raise _checks.error(TypeError, _OP, "augment", "None or a function of (x, t, rng=generator)", augment)
        self.augment = augment
        self.seed = _random.next_layer_seed() if seed is None else _seed(_OP, seed)
        self.epoch = 0
        self.position = 0
        self._resumed = False

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        return self.samples // self.batch_size if self.drop_last else -(-self.samples // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        if self.position and not self._resumed:
            self.epoch, self.position = self.epoch + 1, 0
        self._resumed = False
        return self._rest(self.epoch, self.position)

    def state_dict(self) -> dict[str, Any]:
        """The place, in numbers and strings: seed, epoch, position, and what has to be the same where it is loaded."""
        return {"version": 1, "kind": "Batches", **{name: getattr(self, name) for name in _STATE[2:]}}

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """Continue at the place of a ``state_dict``; one of other sizes or options raises ValueError and changes
        nothing."""
        op = f"{_OP}.load_state_dict"
        if not isinstance(d, Mapping):
            raise _checks.error(TypeError, op, "d", "a dict made by state_dict()", d)
        if set(d) != set(_STATE):
            raise _checks.error(ValueError, op, "d", f"the keys {list(_STATE)}", _checks.Words(f"{list(d)}"))
        own = self.state_dict()
        for name in ("version", "kind", "samples", "batch_size", "shuffle", "drop_last"):
            if d[name] != own[name]:
                raise _checks.error(ValueError, op, name, repr(own[name]), d[name])
        seed = _seed(op, d["seed"])
        epoch = _checks.integer(op, "epoch", d["epoch"], low=0, high=2**63 - 1)
        self.position = _checks.integer(op, "position", d["position"], low=0, high=len(self))
        self.seed, self.epoch, self._resumed = seed, epoch, True

    def _rest(self, epoch: int, position: int) -> Iterator[Any]:
        orders: dict[Any, Any] = {}
        for number in range(position, len(self)):
            batch = self._batch(epoch, number, orders)
            # Before the batch is used: whoever saves the state after the step must not see this batch again.
            self.epoch, self.position = epoch, number + 1
            yield batch
        self.epoch, self.position = epoch + 1, 0

    def _batch(self, epoch: int, number: int, orders: dict[Any, Any]) -> Any:
        """``orders``: the epoch's order on each device that it was needed on."""
        if self.shuffle and not orders:
            orders[None] = permutation(self.samples, self.seed, epoch)
        rows = slice(number * self.batch_size, min((number + 1) * self.batch_size, self.samples))
        batch = tuple(_map(lambda array: _gather(array, rows, orders), value) for _, value in self._fields)
        if self.augment is not None:
            # One number more in the key than a permutation has: never the same stream.
            sequence = np.random.SeedSequence(self.seed, spawn_key=(epoch, number))
            return self.augment(*batch, rng=np.random.Generator(np.random.PCG64(sequence)))
        return batch if len(batch) > 1 else batch[0]


def permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch. From the generator's raw bits, which NumPy never changes; its shuffles it may (NEP 19)."""
    bits = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(epoch,))).random_raw(count)
    return np.argsort(bits, kind="stable")


def _gather(array: Any, rows: slice, orders: dict[Any, Any]) -> Any:
    if not orders:
        return (array if _checks.is_cupy(array) else np.asarray(array))[rows].copy()
    if _checks.is_cupy(array):
        import cupy

        device = array.device.id
        with array.device:
            if device not in orders:  # once an epoch: a copy to the device in every step would wait for it
                orders[device] = cupy.asarray(orders[None])
            return array[orders[device][rows]]
    taken = orders[None][rows]
    if isinstance(array, np.memmap):
        return _in_ascending_order(np.asarray(array), taken)
    return array[taken]


def _in_ascending_order(array: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Rows of a file: ascending reads let the system read ahead, and pages that rows share are read once."""
    ascending = np.argsort(taken)
    batch = np.empty((len(taken), *array.shape[1:]), array.dtype)
    batch[ascending] = array[taken[ascending]]
    return batch


def _map(function: Callable[[Any], Any], value: Any) -> Any:
    return tuple(map(function, value)) if isinstance(value, tuple) else function(value)


def _one_length(fields: list[tuple[str, Any]]) -> int:
    """The number of samples in all arrays."""
    samples = None
    for name, value in fields:
        if isinstance(value, tuple) and not value:
            raise _checks.error(ValueError, _OP, name, "an array or a tuple of arrays", _checks.Words("an empty tuple"))
        numbered = [(f"{name}[{i}]", a) for i, a in enumerate(value)] if isinstance(value, tuple) else [(name, value)]
        for place, array in numbered:
            if type(array) not in (np.ndarray, np.memmap) and not _checks.is_cupy(array):
                raise _checks.not_an_array(_OP, place, array)
            if array.ndim == 0:
                raise _checks.error(ValueError, _OP, place, "shape (samples, ...)", array)
            if samples is not None and len(array) != samples:
                raise _checks.error(ValueError, _OP, place, f"{samples} samples, as many as x has", array)
            samples = len(array)
    if not samples:
        raise _checks.error(ValueError, _OP, "x", "one sample or more", fields[0][1])
    return samples


def _seed(op: str, value: Any) -> int:
    return _checks.integer(op, "seed", value, low=0, high=2**64 - 1)
