"""Layer normalization in NumPy, operation by operation as csrc/ops/layer_norm.h orders them."""

import math
from typing import Any

import numpy as np

from kitae._checks import Rejected

from ._arrays import array_argument, compute_type, store, widen
from ._channels import Normalize, channel_vector, inverse_deviation, require_apart, statistics_of, store_rounded
from ._order import sum_channels

_RAISE, _SKIP, _ZERO, _PROPAGATE = range(4)


def _rows(x: Any, normalized: int) -> tuple[np.ndarray, tuple[int, int]]:
    """x, and (rows, columns): its last ``normalized`` axes make a row."""
    x = array_argument(x, "x")
    if not 1 <= normalized <= x.ndim:
        raise Rejected("axis", "shape")
    if not x.flags.c_contiguous:
        raise Rejected("x", "contiguous")
    place = x.ndim - normalized
    return x, (math.prod(x.shape[:place]), math.prod(x.shape[place:]))


def _like_x(array: Any, argument: str, x: np.ndarray, *, write: bool = False) -> np.ndarray:
    array = array_argument(array, argument, write=write)
    if array.dtype != x.dtype:
        raise Rejected(argument, "dtype")
    if array.shape != x.shape:
        raise Rejected(argument, "shape")
    if not array.flags.c_contiguous:
        raise Rejected(argument, "contiguous")
    return array


def _row(array: Any, argument: str, x: np.ndarray, normalized: int) -> np.ndarray | None:
    if array is None:
        return None
    array = array_argument(array, argument)
    if array.dtype not in (np.float32, np.float64, x.dtype):
        raise Rejected(argument, "dtype")
    if array.shape != x.shape[x.ndim - normalized :]:
        raise Rejected(argument, "shape")
    if not array.flags.c_contiguous:
        raise Rejected(argument, "contiguous")
    return array


def _numbers(row: np.ndarray | None, absent: float, kind: type, columns: int) -> np.ndarray:
    return np.full(columns, absent, kind) if row is None else widen(row).reshape(-1).astype(kind)


def _steps(kind: type, statistics: np.ndarray) -> Normalize:
    rows = statistics.shape[1]
    return Normalize(kind, statistics, np.ones(rows), np.zeros(rows))


def layer_norm_forward(
    x: np.ndarray,
    gamma: np.ndarray | None,
    beta: np.ndarray | None,
    out: np.ndarray,
    statistics: np.ndarray,
    normalized: int,
    eps: float,
    nonfinite: int,
    fresh: bool,
) -> int:
    """Writes out and statistics (3, rows); the first row whose statistics are not finite, or -1."""
    x, sizes = _rows(x, normalized)
    gamma, beta = _row(gamma, "gamma", x, normalized), _row(beta, "beta", x, normalized)
    out = _like_x(out, "out", x, write=True)
    if not fresh:
        require_apart("out", out, x, gamma, beta)
    kind = compute_type(x.dtype)
    bad = -1
    with np.errstate(all="ignore"):
        if x.size == 0:
            statistics[:2] = 0
            statistics[2] = inverse_deviation(np.zeros(sizes[0]), eps)
            return bad
        rows = x.reshape(sizes)
        moments, inv_std, finite = statistics_of(rows[np.newaxis], kind, eps)
        statistics[:] = moments.mean, moments.mean_low, inv_std
        if not finite.all():
            bad = int(np.argmin(finite))
            if nonfinite in (_RAISE, _ZERO):
                return bad
        xhat = _steps(kind, statistics)(widen(rows))
        y = xhat * _numbers(gamma, 1, kind, sizes[1]) + _numbers(beta, 0, kind, sizes[1])
        store(out.reshape(sizes), y)
    return bad


def layer_norm_backward(
    dout: np.ndarray,
    x: np.ndarray,
    gamma: np.ndarray | None,
    statistics: np.ndarray,
    out: np.ndarray,
    dgamma: np.ndarray,
    dbeta: np.ndarray,
    normalized: int,
    fresh: bool,
) -> None:
    """Writes out (dx) and the vectors dgamma and dbeta."""
    dout = array_argument(dout, "dout")
    x, sizes = _rows(x, normalized)
    gamma = _row(gamma, "gamma", x, normalized)
    gamma_target = channel_vector(dgamma, "dgamma", x, sizes[1], write=True)
    beta_target = channel_vector(dbeta, "dbeta", x, sizes[1], write=True)
    assert gamma_target is not None
    assert beta_target is not None
    dout, out = _like_x(dout, "dout", x), _like_x(out, "out", x, write=True)
    if not fresh:
        require_apart("out", out, x, gamma, gamma_target, beta_target)
        if out.ctypes.data != dout.ctypes.data:
            require_apart("out", out, dout)
    if x.size == 0:
        gamma_target[:] = beta_target[:] = 0
        return
    kind = compute_type(x.dtype)
    inv_std = statistics[2]
    with np.errstate(all="ignore"):
        steps = _steps(kind, statistics)
        values, douts = widen(x.reshape(sizes)), widen(dout.reshape(sizes))
        wide, xhat = douts.astype(np.float64), steps(values).astype(np.float64)
        column_sum = sum_channels(wide[..., np.newaxis])
        column_products = sum_channels((wide * xhat)[..., np.newaxis])

        g = douts * _numbers(gamma, 1, kind, sizes[1])
        wide = g.astype(np.float64)
        total = sum_channels(wide[np.newaxis])
        products = sum_channels((wide * xhat)[np.newaxis])
        count = float(sizes[1])
        slope = products / count * inv_std
        offset = (total / count - steps.cut_off * slope).astype(kind)[:, np.newaxis]
        dx = ((g - offset) - (values - steps.center) * slope.astype(kind)[:, np.newaxis]) * steps.gain
        store(out.reshape(sizes), dx)
        store_rounded(gamma_target, column_products)
        store_rounded(beta_target, column_sum)
