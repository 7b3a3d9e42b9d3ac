"""What the references of the normalizations share: layouts, arguments, statistics of channels and their steps."""

from typing import Any, NamedTuple

import numpy as np

from kitae._checks import Rejected

from ._arrays import array_argument, store, widen
from ._order import sum_channels

_OVERFLOW_SCALE = 2.0**-600
_SHIFT_SAMPLES = 8


class Layout(NamedTuple):
    """How an array's memory is (outer, channels, inner): ``axes`` lists its axes, the outermost first."""

    axes: tuple[int, ...]
    sizes: tuple[int, int, int]

    def view(self, array: np.ndarray) -> np.ndarray:
        return array.transpose(self.axes).reshape(self.sizes)

    def spread(self, vector: np.ndarray) -> np.ndarray:
        return vector[:, np.newaxis]


def layout_of(x: np.ndarray, axis: int, argument: str = "x") -> Layout:
    if not 0 <= axis < x.ndim:
        raise Rejected("axis", "shape")
    channels = x.shape[axis]
    if x.size == 0:
        others = [i for i in range(x.ndim) if i != axis]
        outer = int(np.prod([x.shape[i] for i in others]))
        return Layout((*others, axis), (outer, channels, 1))
    axes = tuple(sorted(range(x.ndim), key=lambda i: (x.shape[i] > 1, -x.strides[i])))
    if not x.transpose(axes).flags.c_contiguous:
        raise Rejected(argument, "layout")
    if channels == 1:
        return Layout(axes, (1, 1, x.size))
    place = axes.index(axis)
    outer = int(np.prod([x.shape[i] for i in axes[:place]]))
    return Layout(axes, (outer, channels, x.size // (outer * channels)))


def same_layout(a: np.ndarray, b: np.ndarray) -> bool:
    strides = zip(a.shape, a.strides, b.strides, strict=True)
    return a.size == 0 or all(one == other for length, one, other in strides if length > 1)


def like_array(array: Any, argument: str, x: np.ndarray, *, write: bool = False) -> np.ndarray:
    array = array_argument(array, argument, write=write)
    if array.dtype != x.dtype:
        raise Rejected(argument, "dtype")
    if array.shape != x.shape:
        raise Rejected(argument, "shape")
    if not same_layout(array, x):
        raise Rejected(argument, "layout")
    return array


def channel_vector(
    array: Any, argument: str, x: np.ndarray, channels: int, *, write: bool = False
) -> np.ndarray | None:
    if array is None:
        return None
    array = array_argument(array, argument, write=write)
    if array.dtype not in (np.float32, np.float64, x.dtype):
        raise Rejected(argument, "dtype")
    if array.shape != (channels,):
        raise Rejected(argument, "shape")
    return array


def require_apart(argument: str, written: np.ndarray | None, *others: np.ndarray | None) -> None:
    if written is not None and any(other is not None and np.shares_memory(written, other) for other in others):
        raise Rejected(argument, "overlap")


def numbers_of(vector: np.ndarray | None, absent: float, channels: int) -> np.ndarray:
    return np.full(channels, absent) if vector is None else widen(vector, np.float64)


def store_rounded(target: np.ndarray, values: np.ndarray) -> None:
    """float64 to the target's dtype, rounded once: 16 bits by way of float32 with a sticky last bit."""
    if target.dtype in (np.float32, np.float64):
        return store(target, values)
    nearest = values.astype(np.float32)
    back = nearest.astype(np.float64)
    exact = (back == values) | ~np.isfinite(nearest)
    bits = nearest.view(np.uint32) - (~exact & (np.abs(back) > np.abs(values))).astype(np.uint32)
    return store(target, np.where(exact, nearest, (bits | np.uint32(1)).view(np.float32)))


def inverse_deviation(variance: np.ndarray, eps: float) -> np.ndarray:
    total = variance + eps
    return np.where(total == 0, 0.0, 1 / np.sqrt(total))


class Moments(NamedTuple):
    mean: np.ndarray
    mean_low: np.ndarray
    variance: np.ndarray

    def finite(self) -> np.ndarray:
        return np.isfinite(self.mean) & np.isfinite(self.variance)


def shift_of(x: np.ndarray, kind: type) -> np.ndarray:
    """What each channel's deviations are taken from; x: (outer, channels, inner), arithmetic in ``kind``."""
    first: np.ndarray = x[0, :, 0].astype(kind)
    if kind is np.float64:
        return first
    outer, channels, inner = x.shape
    count = outer * inner
    step = 1 if count < 256 else count // _SHIFT_SAMPLES
    far = np.zeros(channels, bool)
    for k in range(1, min(count, _SHIFT_SAMPLES)):
        row, column = divmod(k * step, inner)
        far |= np.abs(x[row, :, column].astype(kind) - first) >= np.abs(first) * kind(0.25)
    return np.where(far, 0.0, first.astype(np.float64))


def moments_of(x: np.ndarray, shift: np.ndarray) -> Moments:
    """x: float64 (outer, channels, inner)."""
    deviation = x - shift[:, np.newaxis]
    count = float(x.shape[0] * x.shape[2])
    total, squares = sum_channels(deviation), sum_channels(deviation * deviation)
    offset = total / count
    mean = shift + offset
    part = mean - shift
    low = (shift - (mean - part)) + (offset - part)
    variance = (squares - total * offset) / count
    return Moments(mean, low, np.where(variance < 0, 0.0, variance))


def high_part(gain: np.ndarray, kind: type) -> np.ndarray:
    """Of each gain the part that ``kind`` holds, rounded towards zero and never all of it."""
    nearest: np.ndarray = gain.astype(kind)
    below = nearest * kind(1 - np.finfo(kind).eps / 2)
    return np.where(np.abs(nearest.astype(np.float64)) < np.abs(gain), nearest, below)


class Normalize:
    """The steps' numbers of every channel, in the arithmetic type, as columns for (outer, channels, inner)."""

    def __init__(self, kind: type, statistics: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> None:
        mean, mean_low, inv_std = statistics
        center, gain = mean.astype(kind), gamma * inv_std
        high = high_part(gain, kind)
        low = (gain - high.astype(np.float64)).astype(kind)
        self.cut_off = (mean - center.astype(np.float64)) + mean_low
        shift = (beta - self.cut_off * gain).astype(kind)
        self.center, self.high, self.low, self.shift = (a[:, np.newaxis] for a in (center, high, low, shift))
        self.gain = gain.astype(kind)[:, np.newaxis]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        d = x - self.center
        return d * self.high + (d * self.low + self.shift)


def statistics_of(x: np.ndarray, kind: type, eps: float) -> tuple[Moments, np.ndarray, np.ndarray]:
    """Moments and inverse deviation (NaN where not finite) of each channel of (outer, channels, inner), and whether
    they are finite: sums that overflow in float64 are done again, scaled."""
    wide = x.astype(np.float64)
    moments = moments_of(wide, shift_of(x, kind))
    finite, inv_std = moments.finite(), inverse_deviation(moments.variance, eps)
    if kind is np.float64 and not finite.all():
        scaled_x = wide * _OVERFLOW_SCALE
        scaled = moments_of(scaled_x, scaled_x[0, :, 0])
        redone = ~finite
        whole = Moments(*(numbers / _OVERFLOW_SCALE for numbers in scaled))
        moments = Moments(
            np.where(redone, whole.mean, moments.mean),
            np.where(redone, whole.mean_low, moments.mean_low),
            np.where(redone, whole.variance / _OVERFLOW_SCALE, moments.variance),
        )
        scaled_eps = eps * _OVERFLOW_SCALE * _OVERFLOW_SCALE
        scaled_inv_std = _OVERFLOW_SCALE * inverse_deviation(scaled.variance, scaled_eps)
        inv_std = np.where(redone, scaled_inv_std, inv_std)
        finite |= scaled.finite()
    return moments, np.where(finite, inv_std, np.nan), finite
