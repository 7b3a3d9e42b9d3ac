"""What a row of the cases holds: enough to test an op on every backend, to check its gradient and to time it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

#: Arguments of one call by name: arrays, lists of arrays, or plain Python values.
Inputs = dict[str, Any]
#: What one call gave back by name; in-place ops list the arrays they changed.
Results = dict[str, np.ndarray]


@dataclass(frozen=True)
class Size:
    """One problem: shapes, how the arrays lie in memory, what values they hold, and the op's own options."""

    label: str
    shapes: tuple[tuple[int, ...], ...]
    axis: int = 1
    layout: str = "contiguous"
    values: str = "normal"
    options: Mapping[str, Any] = field(default_factory=dict)
    quick: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        (shape,) = self.shapes
        return shape


@dataclass(frozen=True)
class Tolerance:
    """``ulps`` units in the last place of the result's dtype, at the magnitude the expected value names."""

    ulps: float
    reason: str


@dataclass(frozen=True)
class Expected:
    """A value in wider arithmetic than the op's.

    ``scale`` is the magnitude that rounding errors are relative to (default: the value itself); ``extra`` is an
    absolute allowance for errors that do not shrink with the result's dtype, such as those of a float64 sum.
    """

    value: Any
    scale: Any = None
    extra: Any = 0.0


@dataclass(frozen=True)
class Traffic:
    """Bytes that must be read from and written to memory by one call, whoever computes it."""

    read: int
    written: int

    @property
    def total(self) -> int:
        return self.read + self.written


@dataclass(frozen=True)
class Gradient:
    """Derivatives of sum(dout * output) to check by finite differences: input name -> name of the result."""

    of: Mapping[str, str]
    output: Callable[[Inputs], np.ndarray]


@dataclass(frozen=True)
class Case:
    """One op. ``call(inputs, out)`` uses the public API alone, on whatever backend is in use."""

    name: str
    family: str
    dtypes: tuple[str, ...]
    test_sizes: tuple[Size, ...]
    make: Callable[[np.random.Generator, Size, np.dtype], Inputs]
    call: Callable[[Inputs, Mapping[str, np.ndarray]], Results]
    expected: Callable[[Inputs], dict[str, Expected]]
    tolerance: Mapping[str, Tolerance]
    #: Inputs that the call writes to; every other input must keep every bit.
    changes: tuple[str, ...] = ()
    #: Results that can be written to a given array -> the input whose shape, dtype and memory order that array has.
    out: Mapping[str, str] = field(default_factory=dict)
    gradient: Gradient | None = None
    bench_sizes: tuple[Size, ...] = ()
    #: (inputs, bytes of level-2 cache) -> bytes that one call must move.
    traffic: Callable[[Inputs, int], Traffic] | None = None

    def inputs(self, size: Size, dtype: str, seed: int = 20) -> Inputs:
        return self.make(np.random.default_rng(seed), size, dtype_named(dtype))


def dtype_named(name: str) -> np.dtype:
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def element_dtype(array: np.ndarray) -> np.dtype:
    """The dtype of the op's arithmetic: 16-bit types are storage."""
    return np.dtype(np.float64) if array.dtype == np.float64 else np.dtype(np.float32)


def wide(array: np.ndarray) -> np.ndarray:
    """The values in a dtype whose rounding is far below the op's: float64, for float64 the machine's long double."""
    return np.asarray(array).astype(np.longdouble if array.dtype == np.float64 else np.float64)


def ulp(scale: Any, dtype: np.dtype) -> np.ndarray:
    """Distance between neighbouring numbers of ``dtype`` at magnitude ``scale``."""
    if dtype.kind == "f":
        info: Any = np.finfo(dtype)
    else:  # NumPy does not know ml_dtypes' types
        import ml_dtypes

        info = ml_dtypes.finfo(dtype)
    scale = np.abs(np.asarray(scale, np.float64))
    exponent = np.where(scale > 0, np.frexp(scale)[1] - 1, info.minexp)
    return np.ldexp(1.0, np.maximum(exponent, info.minexp) - info.nmant)


def allowed_error(expected: Expected, tolerance: Tolerance, dtype: np.dtype) -> np.ndarray:
    if dtype.kind in "bui":
        return np.zeros(())
    scale = expected.value if expected.scale is None else expected.scale
    finite = np.where(np.isfinite(scale), scale, 0.0)
    extra = np.where(np.isfinite(expected.extra), expected.extra, 0.0)
    return tolerance.ulps * ulp(finite, dtype) + np.asarray(extra, np.float64)
