"""Norms and clipping (csrc/drivers/gradients.cpp, csrc/ops/global_norm.h) in NumPy."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from kitae._checks import Rejected
from kitae.reference._arrays import array_argument, compute_type, store, widen
from kitae.reference._order import sum_in_order

RAISE, SKIP, ZERO, PROPAGATE = range(4)
SCOPE_NONE, SCOPE_ALL, SCOPE_TENSOR = range(3)
_SMALLEST_SAFE_SQUARES = 2.0**-900


def _needs_scaling(sum_of_squares: float) -> bool:
    return not _SMALLEST_SAFE_SQUARES <= sum_of_squares < math.inf


def _norm_scale(largest: float) -> float:
    exponent = math.frexp(largest)[1] - 1
    return 2.0 ** -min(max(exponent, -1000), 1000)


def norms_of(values: Sequence[np.ndarray]) -> tuple[float, list[float], int]:
    """(norm of all, norm of each, first with a non-finite element or -1) of arrays in their arithmetic type."""
    with np.errstate(all="ignore"):
        doubles = [value.astype(np.float64).reshape(-1) for value in values]
        sums = [sum_in_order(value * value) for value in doubles]
        scales = [1.0] * len(sums)
        if any(value.dtype == np.float64 for value in values):
            for i, value in enumerate(doubles):
                if not _needs_scaling(sums[i]) or value.size == 0:
                    continue
                largest = float(np.max(np.abs(value)))
                if 0.0 < largest < math.inf:
                    scales[i] = _norm_scale(largest)
                    sums[i] = sum_in_order((value * scales[i]) ** 2)
        first_bad = next((i for i, total in enumerate(sums) if not math.isfinite(total)), -1)
        each = [math.sqrt(total) / scale for total, scale in zip(sums, scales, strict=True)]
        if first_bad < 0 and any(scale != 1.0 for scale in scales):
            largest = max(each)
            total = 0.0
            for norm in each:
                total += (norm / largest) * (norm / largest)
            return largest * math.sqrt(total), each, first_bad
        total = 0.0
        for term in sums:
            total += term
        return math.sqrt(total), each, first_bad


def clip_factor(norm: float, max_norm: float, eps: float) -> float:
    if norm + eps == 0.0:
        return 1.0
    factor = max_norm / (norm + eps)
    return 1.0 if factor >= 1.0 else factor


def finite_or_zero(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, values.dtype.type(0))


def _write_norms(norms: Any, grads: list[Any], norm: float, each: list[tuple[int, float]]) -> None:
    if norms is None:
        return
    array_argument(norms, "norms", write=True)
    if norms.dtype != np.float64:
        raise Rejected("norms", "dtype")
    if not norms.flags.c_contiguous:
        raise Rejected("norms", "contiguous")
    if norms.shape != (1 + len(grads),):
        raise Rejected("norms", "shape")
    norms[0] = norm
    for place, value in each:
        norms[1 + place] = value


def global_norm(grads: list[Any], zero_nonfinite: bool, norms: Any) -> tuple[float, int]:
    kept = [(i, array_argument(g, "grads", index=i)) for i, g in enumerate(grads) if g is not None]
    values = [finite_or_zero(widen(g)) if zero_nonfinite else widen(g) for _, g in kept]
    norm, each, bad = norms_of(values)
    _write_norms(norms, grads, norm, [(place, value) for (place, _), value in zip(kept, each, strict=True)])
    return norm, kept[bad][0] if bad >= 0 else -1


def _distinct(grads: list[Any]) -> list[tuple[int, np.ndarray]]:
    """(place, array) of the arrays to change: one listed twice is one, overlaps in part are refused."""
    kept: list[tuple[int, np.ndarray]] = []
    for i, grad in enumerate(grads):
        if grad is None:
            continue
        array = array_argument(grad, "grads", write=True, index=i)
        shared = [other for _, other in kept if np.shares_memory(array, other)]
        if not shared:
            kept.append((i, array))
        elif not any(_same(array, other) for other in shared):
            raise Rejected("grads", "overlap", i)
    return kept


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return (a.ctypes.data, a.dtype, a.shape, a.strides) == (b.ctypes.data, b.dtype, b.shape, b.strides)


def clip_grad_norm(
    grads: list[Any], max_norm: float, eps: float, nonfinite: int, scope: int, norms: Any
) -> tuple[float, int, list[float]]:
    kept = _distinct(grads)
    zero = nonfinite == ZERO
    values = [finite_or_zero(widen(g)) if zero else widen(g) for _, g in kept]
    norm, each, bad = norms_of(values)
    if not (bad >= 0 and nonfinite in (RAISE, SKIP)):
        factors = [clip_factor(n, max_norm, eps) for n in (each if scope == SCOPE_TENSOR else [norm] * len(each))]
        if zero or any(factor != 1.0 for factor in factors):
            with np.errstate(all="ignore"):
                for (_, grad), value, factor in zip(kept, values, factors, strict=True):
                    store(grad, value * value.dtype.type(factor))
    place_of = [place for place, _ in kept]
    _write_norms(norms, grads, norm, list(zip(place_of, each, strict=True)))
    listed = [0.0] * len(grads) if norms is None else []
    for place, value_norm in zip(place_of, each, strict=True):
        if listed:
            listed[place] = value_norm
    return norm, place_of[bad] if bad >= 0 else -1, listed


def clip_grad_value(grads: list[Any], limit: float) -> None:
    for _, grad in _distinct(grads):
        value = widen(grad)
        high = compute_type(grad.dtype)(limit)
        below = np.where(value < -high, -high, value)
        store(grad, np.where(below > high, high, below))
