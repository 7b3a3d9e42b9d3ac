"""How an array lies in memory. Every layout holds the same values under the same indices."""

import numpy as np

LAYOUTS = ("contiguous", "fortran", "channels_last", "every_other", "reversed")


def arrange(array: np.ndarray, layout: str) -> np.ndarray:
    """A copy of ``array`` in a layout; dimensions that a layout speaks about must be there, else it is contiguous."""
    if layout == "fortran":
        return array.copy(order="F")
    if layout == "channels_last" and array.ndim > 2:  # axis 1 innermost in memory, as PyTorch's memory format
        return np.moveaxis(np.moveaxis(array, 1, -1).copy(), -1, 1)
    if layout == "every_other" and array.ndim:
        spread = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
        view = spread[..., ::2]
        view[...] = array
        return view
    if layout == "reversed" and array.ndim:
        return array[::-1].copy()[::-1]
    if layout not in LAYOUTS:
        raise ValueError(f"layout: expected one of {LAYOUTS}, got {layout!r}")
    return array.copy(order="C")
