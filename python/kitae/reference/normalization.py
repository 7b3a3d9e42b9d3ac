"""Batch normalization in NumPy, operation by operation as csrc/ops/batch_norm.h and moments.h order them."""

from typing import Any, NamedTuple

import numpy as np

from kitae._checks import Rejected

from ._arrays import array_argument, compute_type, store, widen
from ._order import sum_channels

_NO_ACTIVATION, _RELU, _LEAKY_RELU = range(3)
_RAISE, _SKIP, _ZERO, _PROPAGATE = range(4)

_OVERFLOW_SCALE = 2.0**-600


class _Layout(NamedTuple):
    """How an array's memory is (outer, channels, inner): ``axes`` lists its axes, the outermost first."""

    axes: tuple[int, ...]
    sizes: tuple[int, int, int]

    def view(self, array: np.ndarray) -> np.ndarray:
        return array.transpose(self.axes).reshape(self.sizes)

    def spread(self, vector: np.ndarray) -> np.ndarray:
        return vector[:, np.newaxis]


def _layout(x: np.ndarray, axis: int) -> _Layout:
    if not 0 <= axis < x.ndim:
        raise Rejected("axis", "shape")
    channels = x.shape[axis]
    if x.size == 0:
        others = [i for i in range(x.ndim) if i != axis]
        outer = int(np.prod([x.shape[i] for i in others]))
        return _Layout((*others, axis), (outer, channels, 1))
    axes = tuple(sorted(range(x.ndim), key=lambda i: (x.shape[i] > 1, -x.strides[i])))
    if not x.transpose(axes).flags.c_contiguous:
        raise Rejected("x", "layout")
    if channels == 1:
        return _Layout(axes, (1, 1, x.size))
    place = axes.index(axis)
    outer = int(np.prod([x.shape[i] for i in axes[:place]]))
    return _Layout(axes, (outer, channels, x.size // (outer * channels)))


def batch_norm_sizes(x: np.ndarray, axis: int) -> tuple[int, int, int]:
    return _layout(array_argument(x, "x"), axis).sizes


def _same_layout(a: np.ndarray, b: np.ndarray) -> bool:
    strides = zip(a.shape, a.strides, b.strides, strict=True)
    return a.size == 0 or all(one == other for length, one, other in strides if length > 1)


def _like(array: Any, argument: str, x: np.ndarray, *, write: bool = False) -> np.ndarray:
    array = array_argument(array, argument, write=write)
    if array.dtype != x.dtype:
        raise Rejected(argument, "dtype")
    if array.shape != x.shape:
        raise Rejected(argument, "shape")
    if not _same_layout(array, x):
        raise Rejected(argument, "layout")
    return array


def _vector(array: Any, argument: str, x: np.ndarray, channels: int, *, write: bool = False) -> np.ndarray | None:
    if array is None:
        return None
    array = array_argument(array, argument, write=write)
    if array.dtype not in (np.float32, np.float64, x.dtype):
        raise Rejected(argument, "dtype")
    if array.shape != (channels,):
        raise Rejected(argument, "shape")
    return array


def _require_apart(argument: str, written: np.ndarray | None, *others: np.ndarray | None) -> None:
    if written is not None and any(other is not None and np.shares_memory(written, other) for other in others):
        raise Rejected(argument, "overlap")


def _numbers(vector: np.ndarray | None, absent: float, channels: int) -> np.ndarray:
    return np.full(channels, absent) if vector is None else widen(vector, np.float64)


def _store_rounded(target: np.ndarray, values: np.ndarray) -> None:
    """float64 to the target's dtype, rounded once: 16 bits by way of float32 with a sticky last bit."""
    if target.dtype in (np.float32, np.float64):
        return store(target, values)
    nearest = values.astype(np.float32)
    back = nearest.astype(np.float64)
    exact = (back == values) | ~np.isfinite(nearest)
    bits = nearest.view(np.uint32) - (~exact & (np.abs(back) > np.abs(values))).astype(np.uint32)
    return store(target, np.where(exact, nearest, (bits | np.uint32(1)).view(np.float32)))


def _inverse_deviation(variance: np.ndarray, eps: float) -> np.ndarray:
    total = variance + eps
    return np.where(total == 0, 0.0, 1 / np.sqrt(total))


class _Moments(NamedTuple):
    mean: np.ndarray
    mean_low: np.ndarray
    variance: np.ndarray

    def finite(self) -> np.ndarray:
        return np.isfinite(self.mean) & np.isfinite(self.variance)


def _moments(x: np.ndarray) -> _Moments:
    """x: float64 (outer, channels, inner)."""
    first = x[0, :, 0]
    deviation = x - first[:, np.newaxis]
    count = float(x.shape[0] * x.shape[2])
    total, squares = sum_channels(deviation), sum_channels(deviation * deviation)
    offset = total / count
    mean = first + offset
    part = mean - first
    low = (first - (mean - part)) + (offset - part)
    variance = (squares - total * offset) / count
    return _Moments(mean, low, np.where(variance < 0, 0.0, variance))


def _high_part(gain: np.ndarray, kind: type) -> np.ndarray:
    """Of each gain the part that ``kind`` holds, rounded towards zero and never all of it."""
    nearest: np.ndarray = gain.astype(kind)
    below = nearest * kind(1 - np.finfo(kind).eps / 2)
    return np.where(np.abs(nearest.astype(np.float64)) < np.abs(gain), nearest, below)


class _Normalize:
    """The steps' numbers of every channel, in the arithmetic type, as columns for (outer, channels, inner)."""

    def __init__(self, kind: type, statistics: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> None:
        mean, mean_low, inv_std = statistics
        center, gain = mean.astype(kind), gamma * inv_std
        high = _high_part(gain, kind)
        low = (gain - high.astype(np.float64)).astype(kind)
        self.cut_off = (mean - center.astype(np.float64)) + mean_low
        shift = (beta - self.cut_off * gain).astype(kind)
        self.center, self.high, self.low, self.shift = (a[:, np.newaxis] for a in (center, high, low, shift))
        self.gain = gain.astype(kind)[:, np.newaxis]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        d = x - self.center
        return d * self.high + (d * self.low + self.shift)


def _activate(z: np.ndarray, activation: int, slope: np.floating) -> np.ndarray:
    if activation == _RELU:
        return np.where(z <= 0, z.dtype.type(0), z)
    return np.where(z <= 0, slope * z, z) if activation == _LEAKY_RELU else z


def _activation_gradient(dout: np.ndarray, passes: np.ndarray, activation: int, slope: np.floating) -> np.ndarray:
    return np.where(passes, dout, slope * dout if activation == _LEAKY_RELU else dout.dtype.type(0))


def _pack(passes: np.ndarray) -> np.ndarray:
    """(outer, channels, inner) as one bit an element; rows are padded to bytes."""
    rows = passes[..., 0] if passes.shape[2] == 1 else passes
    return np.packbits(rows, axis=-1, bitorder="little").reshape(-1)


def _unpack(mask: np.ndarray, sizes: tuple[int, int, int]) -> np.ndarray:
    outer, channels, inner = sizes
    rows, count = ((outer,), channels) if inner == 1 else ((outer, channels), inner)
    bits = np.unpackbits(mask.reshape(*rows, -(-count // 8)), axis=-1, count=count, bitorder="little")
    return bits.reshape(sizes).astype(bool)


def batch_norm_forward(
    x: np.ndarray,
    gamma: np.ndarray | None,
    beta: np.ndarray | None,
    running_mean: np.ndarray | None,
    running_var: np.ndarray | None,
    residual: np.ndarray | None,
    out: np.ndarray,
    statistics: np.ndarray,
    mask: np.ndarray | None,
    training: bool,
    axis: int,
    eps: float,
    running_decay: float,
    unbiased: bool,
    activation: int,
    slope: float,
    nonfinite: int,
    fresh: bool,
) -> int:
    """Writes out, statistics, mask and, in training, the running statistics; the first non-finite channel, or -1."""
    x = array_argument(x, "x")
    layout = _layout(x, axis)
    channels = layout.sizes[1]
    gamma = _vector(gamma, "gamma", x, channels)
    beta = _vector(beta, "beta", x, channels)
    running_mean = _vector(running_mean, "running_mean", x, channels, write=training)
    running_var = _vector(running_var, "running_var", x, channels, write=training)
    residual = None if residual is None else _like(residual, "residual", x)
    out = _like(out, "out", x, write=True)
    if training:
        _require_apart("running_mean", running_mean, x, gamma, beta, residual, running_var)
        _require_apart("running_var", running_var, x, gamma, beta, residual)
    if not fresh:
        _require_apart("out", out, gamma, beta, running_mean, running_var, residual)
        if training or out.ctypes.data != x.ctypes.data:
            _require_apart("out", out, x)

    kind = compute_type(x.dtype)
    bad = -1
    mean, variance = np.zeros(channels), np.zeros(channels)
    with np.errstate(all="ignore"):
        if not training:
            mean, variance = _numbers(running_mean, 0, channels), _numbers(running_var, 1, channels)
            statistics[:] = mean, np.zeros(channels), _inverse_deviation(variance, eps)
            finite = np.isfinite(mean) & np.isfinite(variance) & np.isfinite(statistics[2])
        elif x.size == 0:
            statistics[:] = mean, mean, _inverse_deviation(variance, eps)
            finite = np.ones(channels, bool)
        else:
            wide = layout.view(x).astype(np.float64)
            moments = _moments(wide)
            finite, inv_std = moments.finite(), _inverse_deviation(moments.variance, eps)
            if kind is np.float64 and not finite.all():
                scaled = _moments(wide * _OVERFLOW_SCALE)
                redone = ~finite
                whole = _Moments(*(numbers / _OVERFLOW_SCALE for numbers in scaled))
                moments = _Moments(
                    np.where(redone, whole.mean, moments.mean),
                    np.where(redone, whole.mean_low, moments.mean_low),
                    np.where(redone, whole.variance / _OVERFLOW_SCALE, moments.variance),
                )
                scaled_eps = eps * _OVERFLOW_SCALE * _OVERFLOW_SCALE
                scaled_inv_std = _OVERFLOW_SCALE * _inverse_deviation(scaled.variance, scaled_eps)
                inv_std = np.where(redone, scaled_inv_std, inv_std)
                finite |= scaled.finite()
            mean, variance = moments.mean, moments.variance
            statistics[:] = mean, moments.mean_low, np.where(finite, inv_std, np.nan)
        if not finite.all():
            bad = int(np.argmin(finite))
            if nonfinite == _RAISE or (nonfinite == _ZERO and training):
                return bad

        normalize = _Normalize(kind, statistics, _numbers(gamma, 1, channels), _numbers(beta, 0, channels))
        z = normalize(widen(layout.view(x)))
        if residual is not None:
            z = z + widen(layout.view(residual))
        if mask is not None:
            mask[:] = _pack(~(z <= 0))
        store(layout.view(out), _activate(z, activation, kind(slope)))

        updates = training and x.size > 0 and (bad < 0 or nonfinite == _PROPAGATE)
        if updates and running_mean is not None and running_var is not None:
            count = float(x.size // channels)
            correction = count / (count - 1) if unbiased and count > 1 else 1.0
            for buffer, batch in ((running_mean, mean), (running_var, variance * correction)):
                old = widen(buffer, np.float64)
                _store_rounded(buffer, running_decay * old + (1 - running_decay) * batch)
    return bad


def batch_norm_backward(
    dout: np.ndarray,
    x: np.ndarray,
    gamma: np.ndarray | None,
    beta: np.ndarray | None,
    statistics: np.ndarray,
    mask: np.ndarray | None,
    out: np.ndarray,
    dgamma: np.ndarray,
    dbeta: np.ndarray,
    dresidual: np.ndarray | None,
    training: bool,
    axis: int,
    activation: int,
    slope: float,
    fresh: bool,
) -> None:
    """Writes out (dx), dgamma, dbeta and, where given, dresidual."""
    dout, x = array_argument(dout, "dout"), array_argument(x, "x")
    layout = _layout(x, axis)
    channels = layout.sizes[1]
    gamma, beta = _vector(gamma, "gamma", x, channels), _vector(beta, "beta", x, channels)
    gamma_target = _vector(dgamma, "dgamma", x, channels, write=True)
    beta_target = _vector(dbeta, "dbeta", x, channels, write=True)
    assert gamma_target is not None
    assert beta_target is not None
    dout = _like(dout, "dout", x)
    out = _like(out, "out", x, write=True)
    if not fresh:
        _require_apart("out", out, x, gamma, beta, gamma_target, beta_target, dresidual)
        if out.ctypes.data != dout.ctypes.data:
            _require_apart("out", out, dout)

    kind = compute_type(x.dtype)
    mean, mean_low, inv_std = statistics
    with np.errstate(all="ignore"):
        normalize = _Normalize(kind, statistics, _numbers(gamma, 1, channels), _numbers(beta, 0, channels))
        values, g = widen(layout.view(x)), widen(layout.view(dout))
        if activation != _NO_ACTIVATION:
            passes = ~(normalize(values) <= 0) if mask is None else _unpack(mask, layout.sizes)
            g = _activation_gradient(g, passes, activation, kind(slope))
        if dresidual is not None:
            store(layout.view(dresidual), g)
        wide = g.astype(np.float64)
        total = sum_channels(wide)
        products = sum_channels(wide * (values.astype(np.float64) - mean[:, np.newaxis]))
        gamma_gradient = (products - total * mean_low) * inv_std
        if training:
            count = float(layout.sizes[0] * layout.sizes[2])
            slope_of_x = gamma_gradient / count * inv_std
            offset = (total / count - normalize.cut_off * slope_of_x).astype(kind)[:, np.newaxis]
            from_x = (values - normalize.center) * slope_of_x.astype(kind)[:, np.newaxis]
            dx = ((g - offset) - from_x) * normalize.gain
        else:
            dx = g * normalize.gain
        store(layout.view(out), dx)
        _store_rounded(gamma_target, gamma_gradient)
        _store_rounded(beta_target, total)
