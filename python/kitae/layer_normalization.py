"""Layer normalization: the function, its gradient, and the layer."""

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from kitae import _checks, _dispatch
from kitae._checks import Rejected
from kitae._normalization import FLOAT64, NONFINITE_CODES, parameter_dtype, read_only, without_nonfinite

__all__ = ["LayerNorm", "SavedLayerNorm", "layer_norm", "layer_norm_backward"]

_NONFINITE = (_checks.RAISE, "zero", "propagate")  # there is nothing that "skip" could leave as it was
_INF = math.inf


class SavedLayerNorm:
    """What ``layer_norm`` keeps for ``layer_norm_backward``.

    ``mean``, ``inv_std``: float64, read-only (copies where x is on a GPU), one number a sample: x's shape without the
    normalized axes. References to x and gamma are kept, which must not change before backward.
    """

    __slots__ = ("_beta_dtype", "_gamma", "_normalized", "_order", "_statistics", "_x")

    _beta_dtype: Any
    _gamma: Any
    _normalized: int
    _order: tuple[int, ...] | None
    _statistics: Any
    _x: Any

    def _of_samples(self, numbers: Any) -> NDArray[np.float64]:
        return read_only(numbers.reshape(self._x.shape[: self._x.ndim - self._normalized]))

    @property
    def mean(self) -> NDArray[np.float64]:
        return self._of_samples(self._statistics[0])

    @property
    def inv_std(self) -> NDArray[np.float64]:
        return self._of_samples(self._statistics[2])


def layer_norm(
    x: NDArray[Any],
    gamma: NDArray[Any] | None,
    beta: NDArray[Any] | None,
    *,
    axis: int | tuple[int, ...] = -1,
    eps: float = 1e-5,
    nonfinite: str = "raise",
    out: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], SavedLayerNorm]:
    """``y = gamma * (x - mean) / sqrt(variance + eps) + beta``, mean and variance of each sample over the normalized
    axes; returns ``(y, saved)``.

    The variance is biased (divided by n, the elements of a sample). Training and inference are one and the same. (Ba,
    Kiros and Hinton 2016.)

    x: float32, float64, float16 or bfloat16, of one dimension or more. axis: the normalized axes, -1 (the last one) or
    a tuple such as (1, 2, 3) for every image (N, C, H, W) as a whole. Axes that are x's last ones, in C order, are
    computed where x lies; for others, and for arrays with gaps, x is copied inside. y has x's dtype; its memory is in C
    order with the normalized axes last.
    gamma, beta: of the shape of the normalized axes, in their order in x, float32, float64 or x's dtype (in
    computation: float64 for float64 x, else float32); strided ones are copied inside; None is 1 and 0.
    nonfinite: what a sample whose mean or variance is infinite or NaN does. "raise" (default): FloatingPointError,
    nothing is written. "zero": infinite and NaN elements of x count as 0. "propagate": as the formula says. On a GPU
    nothing waits: after "raise" ``out`` is as it was, and the next ``kitae.check()`` raises; "zero" works on a copy.
    out: an array for y, of x's shape and dtype and y's memory order; not x, which backward needs.

    Statistics are sums in float64, in a fixed order, of the distances from each sample's first element, or from 0
    where a few of the sample's elements lie so far apart that this loses nothing (not for float64). For float32, y is
    within 3 units in the last place of max(abs(y), abs(beta), abs(y - beta)) where x is within a factor of 2 of its
    mean, at any mean, and within 4 elsewhere. A constant sample gives exactly beta. The same bits for any number of
    threads and on every CPU.

    Raises TypeError, ValueError or FloatingPointError; then no argument has changed.

    Differs from PyTorch: the normalized axes are named, not their shape, and may be any; non-finite statistics raise.
    """
    op = "layer_norm"
    if not (type(eps) is float and 0.0 <= eps < _INF):
        eps = _checks.number(op, "eps", eps, low=0)
    if nonfinite is not _checks.RAISE:
        _checks.one_of(op, "nonfinite", nonfinite, _NONFINITE)
    return _forward(op, x, gamma, beta, axis, eps, nonfinite, out)


def _order(op: str, ndim: int, axis: Any) -> tuple[tuple[int, ...] | None, int]:
    """The order of x's axes with the normalized ones last (None: as they are), and how many these are."""
    if type(axis) is int and axis == -1:
        return None, 1
    if not isinstance(axis, tuple):
        axes = [_checks.integer(op, "axis", axis, low=-ndim, high=ndim - 1)]
    else:
        axes = [_checks.integer(op, f"axis[{i}]", a, low=-ndim, high=ndim - 1) for i, a in enumerate(axis)]
    normalized = sorted({a % ndim for a in axes})
    if not axes or len(normalized) != len(axes):
        raise _checks.error(ValueError, op, "axis", "an axis or a tuple of different axes", _checks.Words(repr(axis)))
    if normalized[0] == ndim - len(axes):
        return None, len(axes)
    others = [i for i in range(ndim) if i not in normalized]
    return (*others, *normalized), len(axes)


def _moved(array: Any, order: tuple[int, ...] | None) -> Any:
    """A view with the normalized axes last; what is no such array is left to the backend to refuse."""
    if order is None or getattr(array, "ndim", None) != len(order):
        return array
    return array.transpose(order) if isinstance(array, np.ndarray) or _checks.is_cupy(array) else array


def _back(array: Any, order: tuple[int, ...] | None) -> Any:
    return array if order is None else array.transpose(np.argsort(order).tolist())


def _forward(
    op: str,
    x: NDArray[Any],
    gamma: NDArray[Any] | None,
    beta: NDArray[Any] | None,
    axis: int | tuple[int, ...],
    eps: float,
    nonfinite: str,
    out: NDArray[Any] | None,
) -> tuple[NDArray[Any], SavedLayerNorm]:
    """layer_norm with checked hyperparameters."""
    # What has gaps is copied and tried again; everything else is the caller's mistake.
    if type(x) is not np.ndarray:
        x, out = _dispatch.as_array(x), _dispatch.as_array(out)
    backend = _dispatch.backend_for(x, op, "x")
    if x.ndim < 1:
        raise _checks.error(ValueError, op, "x", "one dimension or more", x)
    order, normalized = _order(op, x.ndim, axis)
    source = _moved(x, order)
    y = _dispatch.empty(source.shape, x.dtype, x) if out is None else _moved(out, order)
    rows = math.prod(source.shape[: source.ndim - normalized])
    statistics = _dispatch.empty((3, rows), FLOAT64, x)
    if nonfinite == "zero" and hasattr(backend, "check"):  # returns before it knows of any sample
        source = without_nonfinite(op, source)
    while True:
        try:
            bad = backend.layer_norm_forward(
                source, gamma, beta, y, statistics, normalized, eps, NONFINITE_CODES[nonfinite], out is None
            )
        except Rejected as rejected:
            gaps = rejected.reason == "contiguous"
            if gaps and rejected.argument == "x":
                source = source.copy(order="C")
            elif gaps and rejected.argument == "gamma" and gamma is not None:
                gamma = gamma.copy(order="C")
            elif gaps and rejected.argument == "beta" and beta is not None:
                beta = beta.copy(order="C")
            else:
                values = {"x": x, "gamma": gamma, "beta": beta, "out": out}
                raise _explain(op, rejected, values, source, normalized) from None
            continue
        if bad < 0 or nonfinite == "propagate":
            break
        if nonfinite == "raise":
            raise _checks.nonfinite_sample(op, source, order, normalized, bad)
        source = without_nonfinite(op, source)

    saved = SavedLayerNorm()
    saved._x = source
    saved._gamma = gamma
    saved._beta_dtype = None if beta is None else beta.dtype
    saved._statistics = statistics
    saved._order = order
    saved._normalized = normalized
    return (_back(y, order) if out is None else out), saved


def _explain(op: str, rejected: Rejected, values: dict[str, Any], x: NDArray[Any], normalized: int) -> Exception:
    if rejected.reason == "contiguous":
        expected = "C order with the normalized axes last, as the result has without out="
        got = _checks.Words(f"strides {values[rejected.argument].strides}")
        return _checks.error(ValueError, op, rejected.argument, expected, got)
    shapes: dict[str, Any] = dict.fromkeys(("gamma", "beta"), x.shape[x.ndim - normalized :])
    dtypes: dict[str, Any] = dict.fromkeys(shapes, "float32, float64 or x's")
    for name in ("out", "dout"):
        array = values.get(name)
        shapes[name] = x.shape if array is None else values["x"].shape
        dtypes[name] = f"{x.dtype}, as x has"
    return _checks.explain(op, rejected, values, dtypes if rejected.reason == "dtype" else shapes)


def layer_norm_backward(
    dout: NDArray[Any], saved: SavedLayerNorm, *, out: NDArray[Any] | None = None
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """The gradients of ``layer_norm``: ``(dx, dgamma, dbeta)``.

    With ``xhat = (x - mean) * inv_std`` and ``g = dout * gamma``: ``dbeta = sum dout`` and ``dgamma = sum dout * xhat``
    over the samples, ``dx = inv_std * (g - mean(g) - xhat * mean(g * xhat))``, means over the normalized axes.

    dout: x's shape and dtype, any strides (copied inside where its memory order is not y's). out: an array for dx, of
    x's shape and dtype and y's memory order; it may be dout. dgamma and dbeta have the shape of the normalized axes and
    gamma's and beta's dtype; for gamma or beta None float64 for float64 x, else float32. Sums in float64 in a fixed
    order: the same bits for any number of threads.

    Raises TypeError or ValueError; then no argument has changed.
    """
    op = "layer_norm_backward"
    if type(saved) is not SavedLayerNorm:
        raise _checks.error(TypeError, op, "saved", "the second result of layer_norm", saved)
    x = saved._x
    shape = x.shape[x.ndim - saved._normalized :]
    default = np.float64 if x.dtype == np.float64 else np.float32
    dgamma = _dispatch.empty(shape, default if saved._gamma is None else saved._gamma.dtype, x)
    dbeta = _dispatch.empty(shape, default if saved._beta_dtype is None else saved._beta_dtype, x)
    return _backward(op, dout, saved, out, dgamma, dbeta), dgamma, dbeta


def _backward(
    op: str,
    dout: NDArray[Any],
    saved: SavedLayerNorm,
    out: NDArray[Any] | None,
    dgamma: NDArray[Any],
    dbeta: NDArray[Any],
) -> NDArray[Any]:
    """dx; dgamma and dbeta, in C order, are written."""
    if type(dout) is not np.ndarray:
        dout, out = _dispatch.as_array(dout), _dispatch.as_array(out)
    backend = _dispatch.backend_for(dout, op, "dout")
    x, order = saved._x, saved._order
    dx = _dispatch.empty(x.shape, x.dtype, x) if out is None else _moved(out, order)
    given = _moved(dout, order)
    while True:
        try:
            backend.layer_norm_backward(
                given,
                x,
                saved._gamma,
                saved._statistics,
                dx,
                dgamma.reshape(-1),
                dbeta.reshape(-1),
                saved._normalized,
                out is None,
            )
        except Rejected as rejected:
            if rejected.argument == "dout" and rejected.reason == "contiguous":
                given = given.copy(order="C")
                continue
            values = {"dout": dout, "out": out, "x": _back(x, order)}
            raise _explain(op, rejected, values, x, saved._normalized) from None
        return _back(dx, order) if out is None else out


class LayerNorm:
    """Layer normalization as a layer: ``y = gamma * (x - mean) / sqrt(variance + eps) + beta``.

    ``forward(x, training=True)`` normalizes every sample over the axes ``axis`` (``training`` changes nothing);
    ``backward(dout)`` returns dx and writes ``grads``.

    ``params``: "gamma" (1 at first), "beta" (0), of the shape of the normalized axes; ``grads``: the same keys,
    overwritten in place by backward; ``buffers``: none. float32 or float64: ``dtype``, else x's, float32 for 16-bit x.
    They exist from the start if ``shape`` is given, the lengths of the normalized axes (an integer for one of them;
    float32 without ``dtype``), else from the first forward or ``build(shape, dtype)`` on, whose shape is x's.

    axis, eps, nonfinite as in ``layer_norm``. ``trainable=False`` freezes gamma and beta: their entries in ``grads``
    are None, which optimizers leave alone; it can be changed at any time.

    Raises TypeError or ValueError. Source: Ba, Kiros and Hinton, "Layer normalization", 2016. Differs from PyTorch, as
    ``layer_norm`` does; Keras's eps is 1e-3. The book has no such layer.
    """

    def __init__(
        self,
        shape: int | tuple[int, ...] | None = None,
        *,
        axis: int | tuple[int, ...] = -1,
        eps: float = 1e-5,
        trainable: bool = True,
        nonfinite: str = "raise",
        dtype: DTypeLike | None = None,
    ) -> None:
        op = "LayerNorm"
        if isinstance(axis, tuple):
            self.axis: int | tuple[int, ...] = tuple(
                _checks.integer(op, f"axis[{i}]", a, low=-64, high=63) for i, a in enumerate(axis)
            )
        else:
            self.axis = _checks.integer(op, "axis", axis, low=-64, high=63)
        self.eps = _checks.number(op, "eps", eps, low=0)
        self.nonfinite = _checks.one_of(op, "nonfinite", nonfinite, _NONFINITE)
        self.dtype = None if dtype is None else parameter_dtype(op, dtype)
        self._trainable = _checks.boolean(op, "trainable", trainable)
        self._saved: SavedLayerNorm | None = None
        self._gradients: dict[str, NDArray[Any]] = {}
        self.params: dict[str, NDArray[Any]] = {}
        self.grads: dict[str, NDArray[Any] | None] = {}
        self.buffers: dict[str, NDArray[Any]] = {}
        if shape is not None:
            lengths = shape if isinstance(shape, tuple) else (shape,)
            names = [f"shape[{i}]" for i in range(len(lengths))] if isinstance(shape, tuple) else ["shape"]
            lengths = tuple(
                _checks.integer(op, n, length, low=0, high=2**31 - 1) for n, length in zip(names, lengths, strict=True)
            )
            axes = len(self.axis) if isinstance(self.axis, tuple) else 1
            if len(lengths) != axes:
                raise _checks.error(ValueError, op, "shape", f"{axes} lengths, one a normalized axis", repr(shape))
            self._make(lengths, self.dtype or np.dtype(np.float32))

    def build(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        """Make params and grads for inputs of this shape and dtype (again: everything starts anew)."""
        self._build("LayerNorm.build", shape, dtype, None)

    def _build(self, op: str, shape: tuple[int, ...], dtype: DTypeLike, like: Any) -> None:
        if not isinstance(shape, (tuple, list)) or not shape:
            raise _checks.error(ValueError, op, "shape", "a tuple of one length or more", _checks.Words(shape))
        order, normalized = _order(op, len(shape), self.axis)
        axes = (range(len(shape)) if order is None else order)[-normalized:]
        lengths = tuple(_checks.integer(op, f"shape[{a}]", shape[a], low=0, high=2**31 - 1) for a in axes)
        narrow = np.dtype(dtype).itemsize == 2
        self._make(lengths, self.dtype or (np.dtype(np.float32) if narrow else parameter_dtype(op, dtype)), like)

    def _make(self, shape: tuple[int, ...], dtype: np.dtype, like: Any = None) -> None:
        """``like``: an array on whose device they belong; None: where ``use_backend`` says, else NumPy's."""

        def filled(value: float) -> Any:
            if like is None:
                return _dispatch.forced_array_module().full(shape, value, dtype)
            array = _dispatch.empty(shape, dtype, like)
            array[...] = value
            return array

        self.params = {"gamma": filled(1), "beta": filled(0)}
        self._gradients = {"gamma": filled(0), "beta": filled(0)}
        self._saved = None
        self.trainable = self._trainable

    @property
    def trainable(self) -> bool:
        """Whether optimizers update gamma and beta: where not, their gradients are None."""
        return self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self._trainable = _checks.boolean("LayerNorm", "trainable", value)
        self.grads = dict(self._gradients) if self._trainable else dict.fromkeys(self._gradients)

    def forward(self, x: NDArray[Any], training: bool = True) -> NDArray[Any]:
        op = "LayerNorm.forward"
        _checks.boolean(op, "training", training)
        x = _dispatch.as_array(x)
        if self.params:
            gamma, beta = self.params["gamma"], self.params["beta"]
            y, self._saved = _forward(op, x, gamma, beta, self.axis, self.eps, self.nonfinite, None)
            return y
        # Without sizes: gamma and beta are 1 and 0 in this first pass, and are made once x has proved good.
        y, saved = _forward(op, x, None, None, self.axis, self.eps, self.nonfinite, None)
        self._build(op, x.shape, x.dtype, x)
        saved._gamma = self.params["gamma"]
        self._saved = saved
        return y

    def backward(self, dout: NDArray[Any]) -> NDArray[Any]:
        op = "LayerNorm.backward"
        if self._saved is None:
            raise _checks.no_forward_yet(op)
        return _backward(op, dout, self._saved, None, self._gradients["gamma"], self._gradients["beta"])
