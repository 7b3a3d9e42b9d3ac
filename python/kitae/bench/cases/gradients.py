"""Gradients as a whole: the global norm, clipping by norm and by value, DL4J's normalizations, adaptive clipping."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

import kitae

from .row import Case, Expected, Inputs, Results, Size, Tolerance, Traffic, wide
from .tensors import BENCH_SIZES, TEST_SIZES, tensors, total_bytes

CLIP_EPS = 1e-6
MAX_NORM = 0.5
LIMIT = 0.05
CLIPPING, UNIT_EPS = 0.1, 1e-3

_TEST_SIZES = (
    *(size for size in TEST_SIZES if "missing" not in size.options),
    Size("squares overflow", ((64, 2), (7,)), values="huge"),
    Size("below the limit", ((3, 2), (7,)), values="tiny"),
)


_UNIT_SIZES = (
    *_TEST_SIZES,
    Size("squares of float64 overflow", ((64, 2), (7,), (3, 5, 2)), values="vast"),
    Size("units along the first axis", ((40, 30), (6, 2, 3, 3), (50,)), options={"axis": 0}),
    Size("units along the middle axis", ((5, 40, 3), (3, 33, 100), (2, 9, 5000)), options={"axis": 1}),
    Size("long units", ((1500, 3), (2, 9000), (300, 40)), options={"axis": 1}),
    Size("one unit of many chunks", ((30_001,), (5000, 1)), options={"axis": 0}),
    Size("an array for all threads, others for one each", ((140_000,), (290, 117), (33, 1000)), options={"axis": 1}),
)


def _make(rng: np.random.Generator, size: Size, dtype: np.dtype) -> Inputs:
    spread = {"normal": 0.1, "tiny": 1e-3, "huge": 3000.0 if dtype.itemsize == 2 else 1e19}[size.values]
    if size.values == "huge" and dtype == np.float64:
        spread = 1e30
    return {"grads": tensors(rng, size, dtype, spread=spread)}


def _norm(grads: list[np.ndarray]) -> np.ndarray:
    return np.sqrt(np.asarray(sum(np.square(wide(g)).sum() for g in grads)))


def _relative_error(grads: list[np.ndarray]) -> float:
    """Of a norm summed in double: n roundings that walk randomly. Below the promised 6e-8 up to 2^31 elements."""
    return float(np.finfo(np.float64).eps * np.sqrt(sum(g.size for g in grads)))


def _call_norm(inputs: Inputs, out: Mapping[str, np.ndarray]) -> Results:
    return {"norm": kitae.global_norm(inputs["grads"])}


def _expected_norm(inputs: Inputs) -> dict[str, Expected]:
    norm = _norm(inputs["grads"])
    return {"norm": Expected(norm, extra=_relative_error(inputs["grads"]) * norm)}


def _changed(inputs: Inputs) -> Results:
    return {f"grads.{i}": g for i, g in enumerate(inputs["grads"])}


def _call_clip(inputs: Inputs, out: Mapping[str, np.ndarray]) -> Results:
    norm = kitae.clip_grad_norm(inputs["grads"], MAX_NORM, eps=CLIP_EPS)
    return {"norm": norm} | _changed(inputs)


def _expected_clip(inputs: Inputs) -> dict[str, Expected]:
    norm = _norm(inputs["grads"])
    factor = min(1.0, MAX_NORM / (norm + CLIP_EPS))
    error = _relative_error(inputs["grads"])
    clipped = {}
    for i, g in enumerate(inputs["grads"]):
        value = factor * wide(g)
        clipped[f"grads.{i}"] = Expected(value, extra=error * np.abs(value))
    return _expected_norm(inputs) | clipped


def _call_value(inputs: Inputs, out: Mapping[str, np.ndarray]) -> Results:
    kitae.clip_grad_value(inputs["grads"], LIMIT)
    return _changed(inputs)


def _expected_value(inputs: Inputs) -> dict[str, Expected]:
    return {f"grads.{i}": Expected(np.clip(wide(g), -LIMIT, LIMIT)) for i, g in enumerate(inputs["grads"])}


def layers_of(grads: list[Any]) -> list[list[Any]]:
    """Weights and biases, two and two."""
    return [grads[i : i + 2] for i in range(0, len(grads), 2)]


def _call_layers(inputs: Inputs, out: Mapping[str, np.ndarray]) -> Results:
    norms = kitae.normalize_gradients(layers_of(inputs["grads"]), "clip_l2_per_layer", MAX_NORM)
    return {f"norms.{i}": norm for i, norm in enumerate(norms)} | _changed(inputs)


def _expected_layers(inputs: Inputs) -> dict[str, Expected]:
    norms, clipped = {}, {}
    for number, layer in enumerate(layers_of(inputs["grads"])):
        norm, error = _norm(layer), _relative_error(layer)
        norms[f"norms.{number}"] = Expected(norm, extra=error * norm)
        for i, g in enumerate(layer):
            value = (MAX_NORM / norm if norm > MAX_NORM else 1.0) * wide(g)
            clipped[f"grads.{2 * number + i}"] = Expected(value, extra=error * np.abs(value))
    return norms | clipped


def _make_units(rng: np.random.Generator, size: Size, dtype: np.dtype) -> Inputs:
    spread = {"normal": 0.1, "tiny": 1e-3, "huge": 3000.0 if dtype.itemsize == 2 else 1e19, "vast": 3000.0}[size.values]
    grads = tensors(rng, size, dtype, spread=spread)
    if size.values == "vast" and dtype == np.float64:
        for grad in grads:
            grad *= 1e200
    # A parameter's memory order and dtype are its own.
    layout = "contiguous" if size.layout == "fortran" else size.layout
    return {
        "weights": tensors(rng, replace(size, layout=layout), dtype),
        "grads": grads,
        "axis": size.options.get("axis"),
    }


def _call_units(inputs: Inputs, out: Mapping[str, np.ndarray]) -> Results:
    kitae.clip_grad_adaptive(inputs["weights"], inputs["grads"], CLIPPING, eps=UNIT_EPS, axis=inputs["axis"])
    return _changed(inputs)


def others_than_units(grad: Any, axis: int | None) -> tuple[int, ...]:
    """The axes that a unit's norm sums over."""
    units = None if grad.ndim < 2 else axis if axis is not None else 1 if grad.ndim == 2 else 0
    return tuple(i for i in range(grad.ndim) if i != units)


def _expected_units(inputs: Inputs) -> dict[str, Expected]:
    clipped = {}
    for i, (w, g) in enumerate(zip(inputs["weights"], inputs["grads"], strict=True)):
        summed, value = others_than_units(g, inputs["axis"]), wide(g)
        norm, most = (np.sqrt(np.square(wide(a)).sum(axis=summed, keepdims=True)) for a in (g, w))
        most = CLIPPING * np.maximum(most, UNIT_EPS)
        value = np.where(norm > most, most / np.where(norm == 0, 1, norm), 1.0) * value
        clipped[f"grads.{i}"] = Expected(value, extra=2 * _relative_error([g]) * np.abs(value))
    return clipped


def _traffic(inputs: Inputs, level2: int, *, reads_twice: bool = False, writes: bool = True) -> Traffic:
    grads = total_bytes(inputs["grads"])
    return Traffic(grads * (2 if reads_twice and grads > level2 else 1), grads if writes else 0)


_DTYPES = ("float32", "float64", "float16", "bfloat16")
_NORM = Tolerance(2, "the square root and, for huge values, a scale; the sum's errors are in `extra`")
_SCALED = Tolerance(2, "the factor and the product round once each; the norm's error is far below")

CASES = (
    Case(
        name="global_norm",
        family="clipping",
        dtypes=_DTYPES,
        test_sizes=_TEST_SIZES,
        make=_make,
        call=_call_norm,
        expected=_expected_norm,
        tolerance={"norm": _NORM},
        bench_sizes=BENCH_SIZES,
        traffic=partial(_traffic, writes=False),
    ),
    Case(
        name="clip_grad_norm",
        family="clipping",
        dtypes=_DTYPES,
        test_sizes=_TEST_SIZES,
        make=_make,
        call=_call_clip,
        expected=_expected_clip,
        tolerance={"norm": _NORM, "grads": _SCALED},
        changes=("grads",),
        bench_sizes=BENCH_SIZES,
        traffic=partial(_traffic, reads_twice=True),
    ),
    Case(
        name="clip_grad_value",
        family="clipping",
        dtypes=_DTYPES,
        test_sizes=_TEST_SIZES,
        make=_make,
        call=_call_value,
        expected=_expected_value,
        tolerance={"grads": Tolerance(1, "the limit is rounded once to the gradient's dtype")},
        changes=("grads",),
        bench_sizes=BENCH_SIZES,
        traffic=partial(_traffic),
    ),
    Case(
        name="normalize_gradients",
        family="clipping",
        dtypes=_DTYPES,
        test_sizes=_TEST_SIZES,
        make=_make,
        call=_call_layers,
        expected=_expected_layers,
        tolerance={"norms": _NORM, "grads": _SCALED},
        changes=("grads",),
        bench_sizes=BENCH_SIZES,
        traffic=partial(_traffic, reads_twice=True),
    ),
    Case(
        name="clip_grad_adaptive",
        family="clipping",
        dtypes=_DTYPES,
        test_sizes=_UNIT_SIZES,
        make=_make_units,
        call=_call_units,
        expected=_expected_units,
        tolerance={
            "grads": Tolerance(4, "two roots, the limit, the quotient and the product; below float64 the last two")
        },
        changes=("grads",),
        bench_sizes=tuple(replace(size, options={}) for size in BENCH_SIZES if "tensors of" not in size.label),
        traffic=lambda inputs, level2: Traffic(
            _traffic(inputs, level2, reads_twice=True).read + total_bytes(inputs["weights"]),
            total_bytes(inputs["grads"]),
        ),
    ),
)
