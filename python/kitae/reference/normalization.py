"""Batch normalization in NumPy, operation by operation as csrc/ops/batch_norm.h and moments.h order them."""

import numpy as np

from ._arrays import array_argument, compute_type, store, widen
from ._channels import (
    Normalize,
    channel_vector,
    inverse_deviation,
    layout_of,
    like_array,
    numbers_of,
    require_apart,
    statistics_of,
    store_rounded,
)
from ._order import sum_channels

_NO_ACTIVATION, _RELU, _LEAKY_RELU = range(3)
_RAISE, _SKIP, _ZERO, _PROPAGATE = range(4)


def batch_norm_sizes(x: np.ndarray, axis: int) -> tuple[int, int, int]:
    return layout_of(array_argument(x, "x"), axis).sizes


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
    layout = layout_of(x, axis)
    channels = layout.sizes[1]
    gamma = channel_vector(gamma, "gamma", x, channels)
    beta = channel_vector(beta, "beta", x, channels)
    running_mean = channel_vector(running_mean, "running_mean", x, channels, write=training)
    running_var = channel_vector(running_var, "running_var", x, channels, write=training)
    residual = None if residual is None else like_array(residual, "residual", x)
    out = like_array(out, "out", x, write=True)
    if training:
        require_apart("running_mean", running_mean, x, gamma, beta, residual, running_var)
        require_apart("running_var", running_var, x, gamma, beta, residual)
    if not fresh:
        require_apart("out", out, gamma, beta, running_mean, running_var, residual)
        if training or out.ctypes.data != x.ctypes.data:
            require_apart("out", out, x)

    kind = compute_type(x.dtype)
    bad = -1
    mean, variance = np.zeros(channels), np.zeros(channels)
    with np.errstate(all="ignore"):
        if not training:
            mean, variance = numbers_of(running_mean, 0, channels), numbers_of(running_var, 1, channels)
            statistics[:] = mean, np.zeros(channels), inverse_deviation(variance, eps)
            finite = np.isfinite(mean) & np.isfinite(variance) & np.isfinite(statistics[2])
        elif x.size == 0:
            statistics[:] = mean, mean, inverse_deviation(variance, eps)
            finite = np.ones(channels, bool)
        else:
            moments, inv_std, finite = statistics_of(layout.view(x), kind, eps)
            mean, variance = moments.mean, moments.variance
            statistics[:] = mean, moments.mean_low, inv_std
        if not finite.all():
            bad = int(np.argmin(finite))
            if nonfinite == _RAISE or (nonfinite == _ZERO and training):
                return bad

        normalize = Normalize(kind, statistics, numbers_of(gamma, 1, channels), numbers_of(beta, 0, channels))
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
                store_rounded(buffer, running_decay * old + (1 - running_decay) * batch)
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
    layout = layout_of(x, axis)
    channels = layout.sizes[1]
    gamma, beta = channel_vector(gamma, "gamma", x, channels), channel_vector(beta, "beta", x, channels)
    gamma_target = channel_vector(dgamma, "dgamma", x, channels, write=True)
    beta_target = channel_vector(dbeta, "dbeta", x, channels, write=True)
    assert gamma_target is not None
    assert beta_target is not None
    dout = like_array(dout, "dout", x)
    out = like_array(out, "out", x, write=True)
    if not fresh:
        require_apart("out", out, x, gamma, beta, gamma_target, beta_target, dresidual)
        if out.ctypes.data != dout.ctypes.data:
            require_apart("out", out, dout)

    kind = compute_type(x.dtype)
    mean, mean_low, inv_std = statistics
    with np.errstate(all="ignore"):
        normalize = Normalize(kind, statistics, numbers_of(gamma, 1, channels), numbers_of(beta, 0, channels))
        values, g = widen(layout.view(x)), widen(layout.view(dout))
        if activation != _NO_ACTIVATION:
            passes = ~(normalize(values) <= 0) if mask is None else _unpack(mask, layout.sizes)
            g = _activation_gradient(g, passes, activation, kind(slope))
        if dresidual is not None:
            store(layout.view(dresidual), g)
        wide = g.astype(np.float64)
        total = sum_channels(wide)
        near = (np.abs(mean) * inv_std <= 1024) & (kind is not np.float64)
        shift = np.where(near, 0.0, mean)
        products = sum_channels(wide * (values.astype(np.float64) - shift[:, np.newaxis]))
        gamma_gradient = ((products - total * (mean - shift)) - total * mean_low) * inv_std
        if training:
            count = float(layout.sizes[0] * layout.sizes[2])
            slope_of_x = gamma_gradient / count * inv_std
            offset = (total / count - normalize.cut_off * slope_of_x).astype(kind)[:, np.newaxis]
            from_x = (values - normalize.center) * slope_of_x.astype(kind)[:, np.newaxis]
            dx = ((g - offset) - from_x) * normalize.gain
        else:
            dx = g * normalize.gain
        store(layout.view(out), dx)
        store_rounded(gamma_target, gamma_gradient)
        store_rounded(beta_target, total)
