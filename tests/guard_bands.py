"""Arrays inside a buffer of canary bytes: a write outside the array's own elements shows."""

from typing import Any

import numpy as np

_BAND = 64
_CANARY = 0xA5


class Guarded:
    """A copy of an array, strides included, in a larger buffer whose other bytes hold a canary.

    Gaps between the elements of a strided array are guarded too. The copy starts one element past a cache line, so
    it is aligned for its dtype and for nothing more.
    """

    def __init__(self, array: np.ndarray) -> None:
        reach = [(n - 1) * stride for n, stride in zip(array.shape, array.strides, strict=True)] if array.size else []
        below = -sum(step for step in reach if step < 0)
        above = sum(step for step in reach if step > 0) + array.itemsize
        offset = _BAND + array.itemsize + below
        self._buffer = np.full(offset + above + _BAND, _CANARY, np.uint8)
        self._own = np.zeros(self._buffer.size, bool)
        if array.size:
            byte_view = np.ndarray((*array.shape, array.itemsize), bool, self._own, offset, (*array.strides, 1))
            byte_view[...] = True
        self.array = np.ndarray(array.shape, array.dtype, self._buffer, offset, array.strides)
        self.array[...] = array
        self._before = self._buffer.copy()

    def intact(self) -> bool:
        """No byte outside the array's elements has changed."""
        return bool(((self._buffer == _CANARY) | self._own).all())

    def unchanged(self) -> bool:
        """No byte at all has changed."""
        return bool((self._buffer == self._before).all())


class GuardedInputs:
    """The inputs of a case, every array guarded. Lists keep their order and their missing entries."""

    def __init__(self, inputs: dict[str, Any]) -> None:
        self._guards: list[tuple[str, Guarded]] = []
        self.values = {name: self._guard(name, value) for name, value in inputs.items()}

    def _guard(self, name: str, value: Any) -> Any:
        if isinstance(value, list):
            return [self._guard(name, item) for item in value]
        if not isinstance(value, np.ndarray):
            return value
        guard = Guarded(value)
        self._guards.append((name, guard))
        return guard.array

    def damaged(self, may_change: tuple[str, ...]) -> list[str]:
        """Names of inputs with a write outside their elements, or with any write where none is allowed."""
        return [
            name for name, guard in self._guards if not (guard.intact() if name in may_change else guard.unchanged())
        ]
