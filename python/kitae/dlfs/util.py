"""What kitae makes faster of ``common/util.py``: ``clip_grads`` (book 2), ``im2col``, ``col2im`` (book 1)."""

import math
from typing import Any

import numpy as np

from kitae import _checks, _dispatch
from kitae.dlfs._names import not_covered
from kitae.gradients import clip_grad_norm

__all__ = ["clip_grads", "col2im", "im2col"]

_BLOCK = 1 << 17  # elements of `col` that are taken at a time: they stay in a core's cache


def clip_grads(grads: Any, max_norm: float) -> None:
    """Scale the arrays of ``grads`` in place by ``max_norm / (norm + 1e-6)`` where that is below 1.

    Where all arrays are NumPy's in float32, norm and factor are the book's to the bit: float32 sums in NumPy's order.
    Elsewhere, and where 1e19 squared would overflow there, the norm over all arrays is a sum in float64. A NaN leaves
    everything as it is, as in the book; an infinite norm multiplies by 0. An array that is listed twice counts and is
    scaled twice, as in the book. max_norm <= 0 raises (the book's factor flips the sign).
    """
    clip(list(grads), max_norm)


def clip(arrays: list[Any], max_norm: float, *, float64_rate: bool = False) -> None:
    """``clip_grads``; float64_rate: root and quotient of a float32 sum are taken in float64, as DeZero's ClipGrad."""
    rate = _rate_in_float32(arrays, max_norm, float64_rate)
    if rate is not None:
        _scale(arrays, rate)
        return
    if len({id(array) for array in arrays}) < len(arrays):
        _clip_repeated(arrays, max_norm)
        return
    norm = clip_grad_norm(arrays, max_norm, nonfinite="skip")
    if math.isinf(norm):
        for array in arrays:
            array *= 0.0


def _rate_in_float32(arrays: list[Any], max_norm: Any, float64_rate: bool) -> Any:
    """The books' factor for float32 arrays of NumPy, else None; None, too, where the sum of squares overflows."""
    number = isinstance(max_norm, (int, float, np.number)) and not isinstance(max_norm, bool)
    if not (arrays and number and max_norm > 0 and all(map(_is_float32, arrays))):
        return None
    total = np.float32(0)
    with np.errstate(all="ignore"):
        for array in arrays:
            total += np.sum(np.square(array))
        if not np.isfinite(total):
            return None
        return max_norm / ((math.sqrt(total) if float64_rate else np.sqrt(total)) + 1e-6)


def _is_float32(array: Any) -> bool:
    return type(array) is np.ndarray and array.dtype == np.float32 and array.flags.writeable


def _scale(arrays: list[Any], rate: Any) -> None:
    if rate < 1:
        for array in arrays:
            array *= rate


def _clip_repeated(arrays: list[Any], max_norm: float) -> None:
    op = "dlfs.clip_grads"
    max_norm = _checks.number(op, "max_norm", max_norm, low=0, open_low=True, infinite=True)
    norm = math.sqrt(sum(float((array.astype(np.float64) ** 2).sum()) for array in arrays))
    _scale(arrays, max_norm / (norm + 1e-6))


def output_size(size: int, filter_size: int, stride: int, pad: int) -> int:
    return (size + 2 * pad - filter_size) // stride + 1


def padded(images: Any, pad: int) -> Any:
    """(N, C, H, W) with ``pad`` zeros on every side of H and W; without pad the array itself."""
    if pad == 0:
        return images
    samples, channels, height, width = images.shape
    result = _dispatch.array_module(images).zeros((samples, channels, height + 2 * pad, width + 2 * pad), images.dtype)
    result[:, :, pad : pad + height, pad : pad + width] = images
    return result


def im2col(input_data: Any, filter_h: int, filter_w: int, stride: int = 1, pad: int = 0) -> Any:
    """(N, C, H, W) to a float64 matrix of one row a filter position: (N * out_h * out_w, C * filter_h * filter_w)."""
    xp = _dispatch.array_module(input_data)
    samples, _, height, width = input_data.shape
    out_h = output_size(height, filter_h, stride, pad)
    out_w = output_size(width, filter_w, stride, pad)
    windows = xp.lib.stride_tricks.sliding_window_view(padded(input_data, pad), (filter_h, filter_w), (2, 3))
    windows = windows[:, :, ::stride, ::stride].transpose(0, 2, 3, 1, 4, 5)
    col = xp.empty(windows.shape, np.float64)
    col[...] = windows
    return col.reshape(samples * out_h * out_w, -1)


def col2im(col: Any, input_shape: tuple[int, ...], filter_h: int, filter_w: int, stride: int = 1, pad: int = 0) -> Any:
    """The sum of each pixel over the rows that ``im2col`` copied it to: float64, of ``input_shape``.

    The sums run in the book's order. The result is a view whose channels lie together in memory.
    """
    xp = _dispatch.array_module(col)
    samples, channels, height, width = input_shape
    out_h = output_size(height, filter_h, stride, pad)
    out_w = output_size(width, filter_w, stride, pad)
    rows = col.reshape(samples, out_h, out_w, channels, filter_h, filter_w)
    image = xp.zeros((samples, height + 2 * pad + stride - 1, width + 2 * pad + stride - 1, channels))
    block = samples if xp is not np else max(1, _BLOCK * samples // max(1, col.size))
    for start in range(0, samples, block):
        part, target = rows[start : start + block], image[start : start + block]
        for y in range(filter_h):
            for x in range(filter_w):
                target[:, y : y + stride * out_h : stride, x : x + stride * out_w : stride] += part[..., y, x]
    return image[:, pad : pad + height, pad : pad + width].transpose(0, 3, 1, 2)


__getattr__ = not_covered(__name__, "common.util")
