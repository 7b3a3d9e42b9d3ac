"""Memory that a layer uses again at every step instead of allocating."""

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


class Scratch:
    """One flat array, grown when a larger result is asked for; smaller batches use its first part."""

    def __init__(self) -> None:
        self._flat: NDArray[Any] = np.empty(0, np.float32)

    def array(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """A C-ordered array of ``shape`` and ``dtype`` with unspecified values; valid until the next call."""
        size = math.prod(shape)
        if self._flat.dtype != dtype or self._flat.size < size:
            self._flat = np.empty(size, dtype)
        return self._flat[:size].reshape(shape)
