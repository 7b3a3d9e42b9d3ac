"""Dropout masks: drawn as the books draw them or by kitae's generator, and applied by kitae's kernel."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kitae import _checks, _dispatch, _random
from kitae.dropout import Mask, dropout, dropout_backward

RNGS = ("numpy", "philox")
_SMALL = 2048  # elements below which NumPy's own loop is faster than a call of the kernel
_rng = "numpy"


def rng() -> str:
    return _rng


def set_rng(name: str) -> None:
    """Where the masks of all layers of ``kitae.dlfs`` come from, from the next forward on.

    "numpy": ``numpy.random.rand(...) > ratio``, the books' masks; for CuPy arrays ``cupy.random.rand``, as book 2 does
    on a GPU. "philox": kitae's generator, which draws other masks several times faster (``kitae.seed`` fixes them).
    """
    global _rng
    _rng = str(_checks.one_of("dlfs.set_rng", "name", name, RNGS))


def draw(shape: Sequence[int], ratio: float, like: Any) -> Any:
    """True where kept, from the global generator of the library that ``like`` is an array of."""
    return _dispatch.array_module(like).random.rand(*shape) > ratio


class Philox:
    """The masks of one layer by kitae's generator: a seed of its own, and the count of its draws."""

    def __init__(self) -> None:
        self._seed = _random.next_layer_seed()
        self._draws = 0

    def forward(self, x: Any, ratio: float, scale: str) -> tuple[Any, Mask]:
        y, mask = dropout(x, float(ratio), seed=self._seed, offset=self._draws, scale=scale)
        self._draws += 1
        return y, mask


def keep(x: Any, kept: Any, out: Any = None) -> Any:
    """x where ``kept``, else +0 (also where x is infinite or NaN), in one pass; ``out`` may be x."""
    if x.size < _SMALL or x.dtype.char not in "efd" or not x.dtype.isnative:
        y = x.copy() if out is None else out
        y[~kept] = 0
        return y
    xp = _dispatch.array_module(x)
    bits = xp.packbits(kept.ravel(), bitorder="little")
    if bits.size % 8:
        padded = xp.zeros(-(-x.size // 64) * 8, np.uint8)
        padded[: bits.size] = bits
        bits = padded
    # The mask says which elements; rate and seed only say where such a mask could have come from.
    return dropout_backward(x, Mask(kept.shape, 0.5, "classic", 0, 0, bits), out=out)


def apply(dout: Any, mask: Any) -> Any:
    """The gradient of a forward that used ``mask``: True where kept, factors, or what kitae's generator drew."""
    if isinstance(mask, Mask):
        return dropout_backward(dout, mask)
    return keep(dout, mask) if mask.dtype == np.bool_ else dout * mask
