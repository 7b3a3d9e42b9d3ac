"""Memory that a layer uses again at every step instead of allocating."""

import math

import numpy as np


class Scratch:
    """One flat array, grown when a larger result is asked for; smaller batches use its first part."""

    def __init__(self):
        self._flat = np.empty(0, np.float32)

    def array(self, shape, dtype):
        """A C-ordered array of ``shape`` and ``dtype`` with unspecified values; valid until the next call."""
        size = math.prod(shape)
        if self._flat.dtype != dtype or self._flat.size < size:
            self._flat = np.empty(size, dtype)
        return self._flat[:size].reshape(shape)

    def __deepcopy__(self, memo):
        return Scratch()

    def __reduce__(self):
        return Scratch, ()
