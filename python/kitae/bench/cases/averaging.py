"""Averages of parameters: one update against the same in wide arithmetic."""

from collections.abc import Mapping

import numpy as np

import kitae

from .row import Case, Expected, Inputs, Results, Size, Tolerance, Traffic, wide
from .tensors import BENCH_SIZES, TEST_SIZES, tensors, total_bytes

DECAY = 0.99


def _make(rng: np.random.Generator, size: Size, dtype: np.dtype) -> Inputs:
    return {"averages": tensors(rng, size, dtype), "values": tensors(rng, size, dtype)}


def average(inputs: Inputs) -> kitae.EMA:
    """An average of the values that starts at the given averages."""
    ema = kitae.EMA(inputs["values"], DECAY)
    for own, start in zip(ema.averages, inputs["averages"], strict=True):
        own[...] = start
    return ema


def _call(inputs: Inputs, out: Mapping[str, np.ndarray]) -> Results:
    ema = average(inputs)
    ema.update()
    return {f"averages.{i}": array for i, array in enumerate(ema.averages)}


def _expected(inputs: Inputs) -> dict[str, Expected]:
    pairs = [(wide(a), wide(p)) for a, p in zip(inputs["averages"], inputs["values"], strict=True)]
    return {
        f"averages.{i}": Expected(DECAY * a + (1 - DECAY) * p, scale=np.abs(a) + np.abs(p))
        for i, (a, p) in enumerate(pairs)
    }


def _traffic(inputs: Inputs, level2: int) -> Traffic:
    one = total_bytes(inputs["values"])
    return Traffic(2 * one, one)


CASES = (
    Case(
        name="ema",
        family="optimizers",
        dtypes=("float32", "float64", "float16", "bfloat16"),
        test_sizes=tuple(size for size in TEST_SIZES if "missing" not in size.options),
        make=_make,
        call=_call,
        expected=_expected,
        tolerance={"averages": Tolerance(2, "difference, gain, product, sum and 16-bit store, half a unit each")},
        bench_sizes=BENCH_SIZES,
        traffic=_traffic,
    ),
)
