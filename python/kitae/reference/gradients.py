"""Norms and clipping (csrc/drivers/gradients.cpp and adaptive_clipping.cpp) in NumPy."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from kitae._checks import Rejected
from kitae.reference._arrays import array_argument, compute_type, store, widen
from kitae.reference._channels import Layout, layout_of
from kitae.reference._order import sum_in_order
from kitae.reference.weight_normalization import scaled_norms

RAISE, SKIP, ZERO, PROPAGATE = range(4)
SCOPE_NONE, SCOPE_ALL, SCOPE_TENSOR, SCOPE_LAYER = range(4)
_SMALLEST_SAFE_SQUARES = 2.0**-900


def _needs_scaling(sum_of_squares: float) -> bool:
    return not _SMALLEST_SAFE_SQUARES <= sum_of_squares < math.inf


def _norm_scale(largest: float) -> float:
    exponent = math.frexp(largest)[1] - 1
    return 2.0 ** -min(max(exponent, -1000), 1000)


Run = tuple[int, int]  # tensors of a list: the first, and one beyond the last


def norms_of(values: Sequence[np.ndarray], runs: Sequence[Run] = ()) -> tuple[float, list[float], int, list[float]]:
    """(norm of all, norm of each, first with a non-finite element or -1, norms of runs) of arrays in their arithmetic
    type."""
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
        combined = [_combined(sums[i:j], scales[i:j], each[i:j]) for i, j in ((0, len(sums)), *runs)]
        return combined[0], each, first_bad, combined[1:]


def _combined(sums: list[float], scales: list[float], norms: list[float]) -> float:
    """The norm of several tensors, from their sums or, where one of those was scaled, from their norms."""
    total = 0.0
    if any(scale != 1.0 for scale in scales) and all(map(math.isfinite, sums)):
        largest = max(norms)
        for norm in norms:
            total += (norm / largest) * (norm / largest)
        return largest * math.sqrt(total)
    for term in sums:
        total += term
    return math.sqrt(total)


def clip_factor(norm: float, max_norm: float, eps: float) -> float:
    if norm + eps == 0.0:
        return 1.0
    factor = max_norm / (norm + eps)
    return 1.0 if factor >= 1.0 else factor


def gradient_factor(norm: float, max_norm: float, eps: float) -> float:
    """Clips to ``max_norm`` or, where that is 0, divides by the norm."""
    if max_norm > 0:
        return clip_factor(norm, max_norm, eps)
    return 0.0 if norm == 0.0 else 1.0 / norm


def finite_or_zero(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, values.dtype.type(0))


def _write_norms(
    norms: Any, grads: list[Any], norm: float, each: list[tuple[int, float]], of_layers: Sequence[float] = ()
) -> None:
    if norms is None:
        return
    array_argument(norms, "norms", write=True)
    if norms.dtype != np.float64:
        raise Rejected("norms", "dtype")
    if not norms.flags.c_contiguous:
        raise Rejected("norms", "contiguous")
    if norms.shape != (1 + len(grads) + len(of_layers),):
        raise Rejected("norms", "shape")
    norms[0] = norm
    for place, value in each:
        norms[1 + place] = value
    norms[1 + len(grads) :] = of_layers


def global_norm(grads: list[Any], zero_nonfinite: bool, norms: Any) -> tuple[float, int]:
    kept = [(i, array_argument(g, "grads", index=i)) for i, g in enumerate(grads) if g is not None]
    values = [finite_or_zero(widen(g)) if zero_nonfinite else widen(g) for _, g in kept]
    norm, each, bad, _ = norms_of(values)
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
    grads: list[Any], max_norm: float, eps: float, nonfinite: int, scope: int, layers: list[int] | None, norms: Any
) -> tuple[float, int, list[float], list[float]]:
    kept = _distinct(grads)
    place_of = [place for place, _ in kept]
    runs = _runs(layers, place_of, len(grads))
    zero = nonfinite == ZERO
    values = [finite_or_zero(widen(g)) if zero else widen(g) for _, g in kept]
    norm, each, bad, of_layers = norms_of(values, runs)
    if not (bad >= 0 and nonfinite in (RAISE, SKIP)):
        norms_that_count = each if scope == SCOPE_TENSOR else [norm] * len(each)
        if scope == SCOPE_LAYER:
            norms_that_count = [n for n, (i, j) in zip(of_layers, runs, strict=True) for _ in range(i, j)]
        factors = [gradient_factor(n, max_norm, eps) for n in norms_that_count]
        if zero or any(factor != 1.0 for factor in factors):
            with np.errstate(all="ignore"):
                for (_, grad), value, factor in zip(kept, values, factors, strict=True):
                    store(grad, value * value.dtype.type(factor))
    _write_norms(norms, grads, norm, list(zip(place_of, each, strict=True)), of_layers)
    listed = [0.0] * len(grads) if norms is None else []
    for place, value_norm in zip(place_of, each, strict=True):
        if listed:
            listed[place] = value_norm
    return norm, place_of[bad] if bad >= 0 else -1, listed, of_layers


def _runs(layers: list[int] | None, places: list[int], count: int) -> list[Run]:
    """The kept tensors of each layer; layers: the first place of each, and the number of places."""
    if layers is None:
        return []
    if not layers or layers[0] != 0 or layers[-1] != count or layers != sorted(layers):
        raise Rejected("layers", "length")
    kept = [bisect_left(places, place) for place in layers]
    return list(pairwise(kept))


def clip_grad_value(grads: list[Any], limit: float) -> None:
    for _, grad in _distinct(grads):
        value = widen(grad)
        high = compute_type(grad.dtype)(limit)
        below = np.where(value < -high, -high, value)
        store(grad, np.where(below > high, high, below))


class _Units:
    """An array as (outer, units, inner); axis -1: one unit."""

    def __init__(self, array: np.ndarray, argument: str, place: int, axis: int) -> None:
        if not -1 <= axis < array.ndim:
            raise Rejected("axes", "shape")
        self.array = array[np.newaxis] if axis < 0 else array
        try:
            self.layout: Layout = layout_of(self.array, max(axis, 0), argument)
        except Rejected as rejected:
            raise Rejected(argument, rejected.reason, place) from None

    def view(self) -> np.ndarray:
        return self.layout.view(self.array)

    def norms(self) -> tuple[np.ndarray, np.ndarray]:
        return scaled_norms(self.view().astype(np.float64), self.array.dtype == np.float64)


def clip_grad_adaptive(
    params: list[Any], grads: list[Any], axes: list[int], clipping: float, eps: float, nonfinite: int
) -> int:
    kept = _distinct(grads)
    for argument, listed in (("params", params), ("axes", axes)):
        if len(listed) != len(grads):
            raise Rejected(argument, "length")
    pairs = []
    for place, grad in kept:
        param = array_argument(params[place], "params", index=place)
        if param.shape != grad.shape:
            raise Rejected("grads", "shape", place)
        if np.shares_memory(param, grad):
            raise Rejected("grads", "overlap", place)
        if grad.size:
            axis = axes[place]
            pairs.append((place, _Units(param, "params", place, axis), _Units(grad, "grads", place, axis)))
    steps = []
    with np.errstate(all="ignore"):
        for place, of_param, of_grad in pairs:
            root, scale = of_param.norms()
            norm = root / scale
            limit = clipping * np.where(norm < eps, eps, norm)
            root, scale = of_grad.norms()
            if nonfinite != PROPAGATE and not np.isfinite(root).all():
                return place
            steps.append((of_grad.view(), np.where(root > limit * scale, limit * scale / root, 1.0)))
        for grad, factor in steps:
            if (factor != 1.0).any():
                value = widen(grad)
                store(grad, value * factor.astype(value.dtype)[:, np.newaxis])
    return -1
