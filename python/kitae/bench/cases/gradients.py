"""Gradients as a whole: the global norm, clipping by norm and by value, DL4J's five normalizations."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

import kitae

from .row import Case, Expected, Inputs, Results, Size, Tolerance, Traffic, wide
from .tensors import BENCH_SIZES, TEST_SIZES, tensors, total_bytes

CLIP_EPS = 1e-6
MAX_NORM = 0.5
LIMIT = 0.05

_TEST_SIZES = (
    *(size for size in TEST_SIZES if "missing" not in size.options),
    Size("squares overflow", ((64, 2), (7,)), values="huge"),
    Size("below the limit", ((3, 2), (7,)), values="tiny"),
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
)
