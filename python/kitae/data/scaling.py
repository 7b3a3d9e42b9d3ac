"""Features brought to one scale: statistics of the training set, applied to every set."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np

from kitae import _checks, _dispatch

# Elements that are worked on at once: their float64 copies stay in the cache.
_BLOCK = 2**17


class Scaler(ABC):
    """What the scalers share: ``fit`` on the training set, ``transform`` for every set, ``inverse_transform`` back.

    ``axis``: whose entries have statistics of their own: 1 for each feature of (samples, features) or each channel of
    (samples, channels, height, width); (1, 2, 3) for each pixel; None: one for all. Integers, float32, float64 and
    float16 arrays of NumPy, memory-mapped ones, and of CuPy; one pass over blocks of rows, computed in float64.
    Results are new arrays: float16, float32 and float64 keep their dtype, integers become float32.

    Fitting refuses NaN and infinity (ValueError), transforming before fitting is a RuntimeError, and an array with
    other sizes along ``axis`` a ValueError. ``state_dict()`` and ``load_state_dict(d)`` keep the statistics with a
    model.
    """

    _statistics: tuple[str, ...]

    def __init__(self, axis: int | tuple[int, ...] | None) -> None:
        self._op = f"data.{type(self).__name__}"
        axes = () if axis is None else axis if isinstance(axis, tuple) else (axis,)
        self.axis = tuple(_checks.integer(self._op, "axis", number, low=1, high=63) for number in axes)
        if len(set(self.axis)) != len(self.axis):
            raise _checks.error(ValueError, self._op, "axis", "different axes", _checks.Words(self.axis))
        self.samples = 0

    @abstractmethod
    def _set(self, found: list[Any], count: int) -> None:
        """Take over minimum, maximum, mean and sum of squares about the mean, of so many values each."""

    @abstractmethod
    def _forward(self, x: Any, statistics: list[Any]) -> Any: ...

    @abstractmethod
    def _backward(self, y: Any, statistics: list[Any]) -> Any: ...

    def fit(self, x: Any) -> Self:
        """Take the statistics of ``x``, the training set, and forget those before."""
        op = f"{self._op}.fit"
        self._check(op, x)
        if x.size == 0:
            raise _checks.error(ValueError, op, "x", "one sample or more", x)
        others = tuple(i for i in range(x.ndim) if i not in self.axis)
        xp = _dispatch.array_module(x)
        minimum = maximum = mean = squares = None
        # Distances from one of the samples: what all have in common cancels before it can round.
        first = xp.asarray(x[tuple(slice(0, 1) if i in others else slice(None) for i in range(x.ndim))])
        first = first.astype(np.float64)
        seen = 0
        for rows in _blocks(x):
            block = xp.asarray(x[rows]).astype(np.float64)
            count = block.size // math.prod(x.shape[i] for i in self.axis)
            low, high = block.min(axis=others, keepdims=True), block.max(axis=others, keepdims=True)
            if not bool((xp.isfinite(low) & xp.isfinite(high)).all()):
                raise _checks.error(ValueError, op, "x", "finite values", _checks.Words("NaN or infinity"))
            block -= first
            own_mean = block.mean(axis=others, keepdims=True)
            own_squares = xp.square(block - own_mean).sum(axis=others, keepdims=True)
            if seen == 0:
                minimum, maximum, mean, squares = low, high, own_mean, own_squares
            else:  # Chan, Golub and LeVeque 1979: sums of squares about means join without cancellation
                minimum, maximum = xp.minimum(minimum, low), xp.maximum(maximum, high)
                difference = own_mean - mean
                squares = squares + own_squares + xp.square(difference) * (seen * count / (seen + count))
                mean = mean + difference * (count / (seen + count))
            seen += count
        shape = [x.shape[i] for i in sorted(self.axis)]
        found: tuple[Any, ...] = (minimum, maximum, first + mean, squares)
        self._set([statistic.reshape(shape) for statistic in found], seen)
        self.samples = len(x)
        return self

    def transform(self, x: Any) -> Any:
        return self._apply(f"{self._op}.transform", x, self._forward)

    def inverse_transform(self, y: Any) -> Any:
        return self._apply(f"{self._op}.inverse_transform", y, self._backward)

    def fit_transform(self, x: Any) -> Any:
        return self.fit(x).transform(x)

    def state_dict(self) -> dict[str, Any]:
        self._check_fitted(f"{self._op}.state_dict")
        numbers = {"version": 1, "kind": type(self).__name__, "axis": list(self.axis), "samples": self.samples}
        return numbers | {name: getattr(self, name).copy() for name in self._statistics}

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """Take what ``state_dict`` gave; of another kind or axis it raises ValueError and changes nothing."""
        op = f"{self._op}.load_state_dict"
        expected = {"version": 1, "kind": type(self).__name__, "axis": list(self.axis)}
        missing = [name for name in (*expected, "samples", *self._statistics) if name not in d]
        if missing:
            raise _checks.error(ValueError, op, "d", f"the key {missing[0]!r}", _checks.Words(f"keys {list(d)}"))
        for name, value in expected.items():
            if d[name] != value:
                raise _checks.error(ValueError, op, name, repr(value), _checks.Words(repr(d[name])))
        self.samples = _checks.integer(op, "samples", d["samples"], low=1, high=2**63 - 1)
        for name in self._statistics:
            setattr(self, name, d[name].copy())

    def _apply(self, op: str, x: Any, function: Any) -> Any:
        self._check_fitted(op)
        self._check(op, x)
        own = getattr(self, self._statistics[0]).shape
        if tuple(x.shape[i] for i in sorted(self.axis)) != own:
            raise _checks.error(ValueError, op, "x", f"sizes {own} along axis {self.axis}, as fitted", x)
        shape = [x.shape[i] if i in self.axis else 1 for i in range(x.ndim)]
        statistics = [getattr(self, name).reshape(shape) for name in self._statistics]
        result = _dispatch.empty(x.shape, x.dtype.newbyteorder("=") if x.dtype.kind == "f" else np.float32, x)
        for rows in _blocks(x):
            result[rows] = function(x[rows], statistics)
        return result

    def _check(self, op: str, x: Any) -> None:
        if type(x) not in (np.ndarray, np.memmap) and not _checks.is_cupy(x):
            raise _checks.not_an_array(op, "x", x)
        if x.dtype.kind not in "uif" or x.dtype.itemsize > 8:
            raise _checks.error(TypeError, op, "x", "integers, float16, float32 or float64", x)
        if x.ndim <= max(self.axis, default=0):
            raise _checks.error(ValueError, op, "x", f"an array with axis {max(self.axis, default=0)}", x)

    def _check_fitted(self, op: str) -> None:
        if not self.samples:
            words = _checks.Words("none")
            raise _checks.error(RuntimeError, op, "self", "a fit on the training set before", words)


class StandardScaler(Scaler):
    """y = (x - mean) / std, statistics of the training set

    ``mean``, ``std``: float64, one for each entry along ``axis`` (default 1; see ``Scaler``); std is the population's,
    divided by n. Where all values are equal y is exactly 0: ``std`` is 1 there. Nothing cancels in the variance: it is
    found from distances to a sample, squared about each block's mean.

    As ``sklearn.preprocessing.StandardScaler``, which takes values to be constant that differ by rounding errors, and
    passes over NaN; for any number of axes.
    """

    _statistics = ("mean", "std")

    def __init__(self, *, axis: int | tuple[int, ...] | None = 1) -> None:
        super().__init__(axis)
        self.mean: Any = None
        self.std: Any = None

    def _set(self, found: list[Any], count: int) -> None:
        self.mean, squares = found[2:]
        xp = _dispatch.array_module(squares)
        self.std = xp.where(squares == 0, 1.0, xp.sqrt(squares / count))

    def _forward(self, x: Any, statistics: list[Any]) -> Any:
        mean, std = statistics
        return (x - mean) / std

    def _backward(self, y: Any, statistics: list[Any]) -> Any:
        mean, std = statistics
        return y * std + mean


class MinMaxScaler(Scaler):
    """y = low + (x - min) / (max - min) * (high - low), min and max of the training set

    ``feature_range``: (low, high), (0, 1) by default; (-1, 1) suits tanh. ``minimum``, ``maximum``: float64, one for
    each entry along ``axis`` (default 1; see ``Scaler``). Where all values are equal y is ``low``, plus what a value
    of another set differs by. Other sets can leave the range; ``clip=True`` cuts them off there, and the way back is
    then lost.

    As ``sklearn.preprocessing.MinMaxScaler``, for any number of axes.
    """

    _statistics = ("minimum", "maximum")

    def __init__(
        self,
        feature_range: tuple[float, float] = (0, 1),
        *,
        axis: int | tuple[int, ...] | None = 1,
        clip: bool = False,
    ) -> None:
        super().__init__(axis)
        if not isinstance(feature_range, (tuple, list)) or len(feature_range) != 2:
            raise _checks.error(TypeError, self._op, "feature_range", "(low, high)", feature_range)
        low, high = (_checks.number(self._op, "feature_range", value) for value in feature_range)
        if not low < high:
            expected = "low below high"
            raise _checks.error(ValueError, self._op, "feature_range", expected, _checks.Words(feature_range))
        self.feature_range = low, high
        self.clip = _checks.boolean(self._op, "clip", clip)
        self.minimum: Any = None
        self.maximum: Any = None

    def _set(self, found: list[Any], count: int) -> None:
        self.minimum, self.maximum = found[:2]

    def _forward(self, x: Any, statistics: list[Any]) -> Any:
        low, high = self.feature_range
        y = low + (x - statistics[0]) / self._width(statistics) * (high - low)
        return y.clip(low, high) if self.clip else y

    def _backward(self, y: Any, statistics: list[Any]) -> Any:
        low, high = self.feature_range
        return (y - low) / (high - low) * self._width(statistics) + statistics[0]

    @staticmethod
    def _width(statistics: list[Any]) -> Any:
        minimum, maximum = statistics
        return _dispatch.array_module(minimum).where(minimum == maximum, 1.0, maximum - minimum)


def one_hot(labels: Any, classes: int | None = None, *, dtype: Any = np.float32) -> Any:
    """y[..., k] = 1 where label = k, else 0

    labels: integers of any shape, NumPy or CuPy (looked at on the host: it waits); ``classes``: how many, None for the
    largest label + 1. Returns (..., classes) of ``dtype``. Raises TypeError for what are no integers, ValueError for a
    label outside [0, classes).
    """
    op = "data.one_hot"
    if type(labels) not in (np.ndarray, np.memmap) and not _checks.is_cupy(labels):
        raise _checks.not_an_array(op, "labels", labels)
    if labels.dtype.kind not in "ui":
        raise _checks.error(TypeError, op, "labels", "integers", labels)
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, -1)
    classes = high + 1 if classes is None else _checks.integer(op, "classes", classes, low=1, high=2**31 - 1)
    if low < 0 or high >= classes:
        expected = f"labels from 0 to {classes - 1}" if high >= classes else "labels from 0"
        raise _checks.error(ValueError, op, "labels", expected, _checks.Words(f"values from {low} to {high}"))
    xp = _dispatch.array_module(labels)
    return (labels[..., None] == xp.arange(classes)).astype(dtype)


def _blocks(x: Any) -> Iterator[slice]:
    rows = max(1, _BLOCK // max(1, math.prod(x.shape[1:])))
    return (slice(start, start + rows) for start in range(0, len(x), rows))
