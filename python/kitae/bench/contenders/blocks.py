"""Walking over tensors in pieces that stay in the cache: what makes plain NumPy fast on long arrays."""

from collections.abc import Iterator, Sequence

import numpy as np

BLOCK = 1 << 14  # float32 elements: six such arrays fit a level-2 cache of 512 KiB


def blocks(*lists: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, ...]]:
    """Views of matching pieces, one from each list, of at most ``BLOCK`` elements. The tensors must be contiguous."""
    for tensors in zip(*lists, strict=True):
        flat = [tensor.reshape(-1) for tensor in tensors]
        for start in range(0, flat[0].size, BLOCK):
            yield tuple(view[start : start + BLOCK] for view in flat)
