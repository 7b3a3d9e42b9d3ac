"""Weight normalization in NumPy, operation by operation as csrc/ops/weight_norm.h orders them."""

from typing import Any

import numpy as np

from ._arrays import array_argument, compute_type, store
from ._channels import channel_vector, layout_of, like_array, numbers_of, require_apart, store_rounded
from ._order import sum_channels

_SMALLEST_SAFE_SQUARES = 2.0**-900


def _inverse(norms: np.ndarray) -> np.ndarray:
    inverse: np.ndarray = 1 / norms
    return np.where((norms < 1) & ~np.isfinite(inverse), 0.0, inverse)


def scaled_norms(wide: np.ndarray, rescued: bool) -> tuple[np.ndarray, np.ndarray]:
    """Of the channels of float64 (outer, channels, inner): norms of the values times the second result."""
    squares = sum_channels(wide * wide)
    scale = np.ones_like(squares)
    again = ~(squares >= _SMALLEST_SAFE_SQUARES) | ~np.isfinite(squares)
    if rescued and again.any():
        scale = np.where(again, np.where(squares < 1, 2.0**600, 2.0**-600), 1.0)
        scaled = wide * scale[:, np.newaxis]
        squares = np.where(again, sum_channels(scaled * scaled), squares)
    return np.sqrt(squares), scale


def weight_norm_forward(
    v: np.ndarray, g: np.ndarray, out: np.ndarray, norms: np.ndarray, axis: int, fresh: bool
) -> None:
    """Writes out (w) and norms, one a channel of ``axis``."""
    v, g, out = array_argument(v, "v"), array_argument(g, "g"), array_argument(out, "out", write=True)
    layout = layout_of(v, axis, "v")
    channels = layout.sizes[1]
    gains: Any = channel_vector(g, "g", v, channels)
    out = like_array(out, "out", v, write=True)
    if not fresh:
        require_apart("out", out, v, g)
    if v.size == 0:
        norms[:] = 0
        return
    kind = compute_type(v.dtype)
    with np.errstate(all="ignore"):
        wide = layout.view(v).astype(np.float64)
        root, scale = scaled_norms(wide, kind is np.float64)
        norms[:] = root / scale
        inverse, gains = _inverse(norms)[:, np.newaxis], numbers_of(gains, 1, channels)[:, np.newaxis]
        store(layout.view(out), ((wide * inverse) * gains).astype(kind))


def weight_norm_backward(
    dw: np.ndarray,
    v: np.ndarray,
    g: np.ndarray,
    norms: np.ndarray,
    out: np.ndarray,
    dg: np.ndarray,
    axis: int,
    fresh: bool,
) -> None:
    """Writes out (dv) and dg."""
    dw, v = array_argument(dw, "dw"), array_argument(v, "v")
    g, out = array_argument(g, "g"), array_argument(out, "out", write=True)
    layout = layout_of(v, axis, "v")
    channels = layout.sizes[1]
    gains: Any = channel_vector(g, "g", v, channels)
    target: Any = channel_vector(dg, "dg", v, channels, write=True)
    dw, out = like_array(dw, "dw", v), like_array(out, "out", v, write=True)
    if not fresh:
        require_apart("out", out, v, g, target)
        if out.ctypes.data != dw.ctypes.data:
            require_apart("out", out, dw)
    with np.errstate(all="ignore"):
        inverse = _inverse(norms)[:, np.newaxis]
        direction = layout.view(v).astype(np.float64) * inverse
        wide = layout.view(dw).astype(np.float64)
        along = sum_channels(wide * direction) if v.size else np.zeros(channels)
        if v.size:
            gain = numbers_of(gains, 1, channels)[:, np.newaxis] * inverse
            dv = (wide - direction * along[:, np.newaxis]) * gain
            store(layout.view(out), dv.astype(compute_type(v.dtype)))
        store_rounded(target, along)
