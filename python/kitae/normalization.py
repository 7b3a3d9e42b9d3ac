"""Batch normalization: the function, its gradient, and the layer."""

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from kitae import _checks, _dispatch
from kitae import semantics as _semantics
from kitae._checks import Rejected
from kitae._normalization import (
    FLOAT64,
    NONFINITE_CODES,
    copy_in_order,
    copy_in_order_of,
    parameter_dtype,
    read_only,
    without_nonfinite,
)

__all__ = ["BatchNorm", "Saved", "batch_norm", "batch_norm_backward"]

# The backends' numbers for words.
_ACTIVATION_CODES = {None: 0, "relu": 1, "leaky_relu": 2}
_INF = math.inf


class Saved:
    """What ``batch_norm`` keeps for ``batch_norm_backward``.

    ``mean``, ``inv_std``: read-only float64 arrays (channels,): the batch's in training, else the running ones; copies
    where x is on a GPU, as CuPy has no read-only arrays.
    ``training``: whether they depend on x. References to x and gamma are kept, which must not change before backward.
    """

    __slots__ = (
        "_activation",
        "_axis",
        "_beta",
        "_gamma",
        "_has_residual",
        "_mask",
        "_slope",
        "_statistics",
        "_x",
        "training",
    )

    training: bool
    _activation: int
    _axis: int
    _beta: Any
    _gamma: Any
    _has_residual: bool
    _mask: Any
    _slope: float
    _statistics: Any
    _x: Any

    @property
    def mean(self) -> NDArray[np.float64]:
        return read_only(self._statistics[0])

    @property
    def inv_std(self) -> NDArray[np.float64]:
        return read_only(self._statistics[2])


def batch_norm(
    x: NDArray[Any],
    gamma: NDArray[Any] | None,
    beta: NDArray[Any] | None,
    running_mean: NDArray[Any] | None,
    running_var: NDArray[Any] | None,
    *,
    training: bool,
    axis: int = 1,
    eps: float = 1e-5,
    running_decay: float = 0.9,
    unbiased: bool = True,
    activation: str | None = None,
    slope: float = 0.01,
    residual: NDArray[Any] | None = None,
    nonfinite: str = "raise",
    out: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], Saved]:
    """``y = act(gamma * (x - mean) / sqrt(variance + eps) + beta + residual)``, per channel; returns ``(y, saved)``.

    In training, mean and variance (biased, divided by n) are the batch's, and
    ``running = running_decay * running + (1 - running_decay) * batch`` updates the running statistics in place, with
    ``unbiased`` the variance times n / max(n - 1, 1). In inference they are the running statistics, which stay as they
    are. (Ioffe and Szegedy 2015; n: elements of a channel.)

    x: float32, float64, float16 or bfloat16, of two dimensions or more: (N, C), (N, C, L), (N, C, H, W), or with
    ``axis=-1`` (N, H, W, C). Any memory order without gaps is computed where it lies (a transposed view too); other
    strided arrays are copied inside. y has x's dtype and memory order.
    gamma, beta, running_mean, running_var: (C,), float32, float64 or x's dtype; gamma and beta None are 1 and 0, both
    running statistics None keeps none (training only).
    activation: None, "relu" (of NaN: NaN) or "leaky_relu" (negative part times ``slope``). residual: x's shape and
    dtype.
    nonfinite: what a channel whose mean or variance is infinite or NaN does. "raise" (default): FloatingPointError,
    nothing is written. "skip": y is computed, but no running statistics are updated. "zero": infinite and NaN elements
    of x count as 0. "propagate": as the formula says. In inference it is about the running statistics, and "zero" about
    x. On a GPU nothing waits: after "raise" the running statistics and ``out`` are as they were, and the next
    ``kitae.check()`` raises; "zero" works on a copy of x.
    out: an array for y, of x's shape, dtype and memory order; in inference it may be x.

    Statistics are sums in float64, in a fixed order, of the distances from each channel's first element, or from 0
    where a few of the channel's elements lie so far apart that this loses nothing (not for float64). For float32, y is
    within 2 units in the last place of max(abs(y), abs(beta), abs(y - beta)) where x is within a factor of 2 of its
    mean, at any mean, and within 3 elsewhere; for float64 the errors of the sums come on top. A constant channel gives
    exactly act(beta). The same bits for any number of threads and on every CPU. x - mean is taken in float32, for
    float64 x in float64: differences beyond its largest number overflow.

    Raises TypeError, ValueError or FloatingPointError; then no argument has changed.

    Differs from PyTorch: ``running_decay`` is the weight of the old value (PyTorch's momentum is that of the new one),
    one value a channel gives act(beta) instead of an error, an empty batch changes nothing, non-finite statistics
    raise.
    Differs from the book, which flattens images to (N, C * H * W), so that every pixel is a channel.
    """
    op = "batch_norm"
    if training is not True and training is not False:
        training = _checks.boolean(op, "training", training)
    if unbiased is not True and unbiased is not False:
        unbiased = _checks.boolean(op, "unbiased", unbiased)
    # Plain floats in range skip the calls that explain what is wrong.
    if not (type(eps) is float and 0.0 <= eps < _INF):
        eps = _checks.number(op, "eps", eps, low=0)
    if not (type(running_decay) is float and 0.0 <= running_decay <= 1.0):
        running_decay = _checks.number(op, "running_decay", running_decay, low=0, high=1)
    if not (type(slope) is float and -_INF < slope < _INF):
        slope = _checks.number(op, "slope", slope)
    if activation is not None:
        _checks.one_of(op, "activation", activation, _ACTIVATIONS)
    if nonfinite is not _checks.RAISE:
        _checks.one_of(op, "nonfinite", nonfinite, _checks.NONFINITE)
    return _forward(
        op,
        x,
        gamma,
        beta,
        running_mean,
        running_var,
        training,
        axis,
        eps,
        running_decay,
        unbiased,
        activation,
        slope,
        residual,
        nonfinite,
        out,
    )


_ACTIVATIONS = tuple(_ACTIVATION_CODES)


def _axis_of(op: str, x: NDArray[Any], axis: Any) -> int:
    ndim = x.ndim
    if ndim < 2:
        raise _checks.error(ValueError, op, "x", "two dimensions or more", x)
    if type(axis) is not int or not -ndim <= axis < ndim:
        axis = _checks.integer(op, "axis", axis, low=-ndim, high=ndim - 1)
    return axis + ndim if axis < 0 else axis


def _forward(
    op: str,
    x: NDArray[Any],
    gamma: NDArray[Any] | None,
    beta: NDArray[Any] | None,
    running_mean: NDArray[Any] | None,
    running_var: NDArray[Any] | None,
    training: bool,
    axis: int,
    eps: float,
    running_decay: float,
    unbiased: bool,
    activation: str | None,
    slope: float,
    residual: NDArray[Any] | None,
    nonfinite: str,
    out: NDArray[Any] | None,
) -> tuple[NDArray[Any], Saved]:
    """batch_norm with checked hyperparameters."""
    if type(x) is not np.ndarray:
        x, residual, out = _dispatch.as_array(x), _dispatch.as_array(residual), _dispatch.as_array(out)
    backend = _dispatch.backend_for(x, op, "x")
    if not (type(axis) is int and 0 <= axis < x.ndim > 1):
        axis = _axis_of(op, x, axis)
    untracked = running_mean is None and running_var is None
    if (running_mean is None or running_var is None) and not (untracked and training):
        missing = "running_mean" if running_mean is None else "running_var"
        expected = "an array, as the other running statistic is one" if training else "an array (inference needs it)"
        raise _checks.error(TypeError, op, missing, expected, None)
    activation_code = _ACTIVATION_CODES[activation]
    y = _dispatch.empty_like(x) if out is None else out
    statistics = _dispatch.empty((3, x.shape[axis]), FLOAT64, x)
    mask = None
    source, added = x, residual
    # A backend that has check() returns before it knows of any channel.
    if nonfinite == "zero" and (not training or hasattr(backend, "check")):
        source = without_nonfinite(op, x)
    while True:
        try:
            if activation_code and residual is not None:
                outer, channels, inner = backend.batch_norm_sizes(source, axis)
                rows, count = (outer, channels) if inner == 1 else (outer * channels, inner)
                mask = _dispatch.empty(rows * ((count + 7) // 8), np.uint8, x)
            bad = backend.batch_norm_forward(
                source,
                gamma,
                beta,
                running_mean,
                running_var,
                added,
                y,
                statistics,
                mask,
                training,
                axis,
                eps,
                running_decay,
                unbiased,
                activation_code,
                slope,
                NONFINITE_CODES[nonfinite],
                out is None,
            )
        except Rejected as rejected:
            # Memory with gaps is copied and tried again; everything else is the caller's mistake.
            if rejected.reason == "layout" and rejected.argument == "x":
                source = copy_in_order(x)
            elif rejected.reason == "layout" and rejected.argument == "residual":
                added = copy_in_order_of(source, residual)
            else:
                values = {"x": x, "gamma": gamma, "beta": beta, "running_mean": running_mean}
                values |= {"running_var": running_var, "residual": residual, "out": out}
                raise _explain(op, rejected, values, x, axis) from None
            continue
        if bad < 0 or nonfinite in ("skip", "propagate"):
            break
        if nonfinite == "raise":
            if training:
                raise _checks.nonfinite_channel(op, x, axis, bad)
            raise _checks.nonfinite_running(op, bad, running_mean, running_var)
        if not training:
            break
        source = without_nonfinite(op, source)

    saved = Saved()
    saved.training = training
    saved._x = source
    saved._gamma = gamma
    # The layer's beta changes at the next optimizer step, and the mask is computed again from it.
    saved._beta = beta.copy() if activation_code and mask is None and beta is not None else beta
    saved._statistics = statistics
    saved._mask = mask
    saved._axis = axis
    saved._activation = activation_code
    saved._slope = slope
    saved._has_residual = residual is not None
    return y, saved


def _explain(op: str, rejected: Rejected, values: dict[str, Any], x: NDArray[Any], axis: int) -> Exception:
    if rejected.reason == "layout":
        expected = f"the memory order of x, as numpy.empty_like(x) has it (x has strides {x.strides})"
        got = _checks.Words(f"strides {values[rejected.argument].strides}")
        return _checks.error(ValueError, op, rejected.argument, expected, got)
    vector = (x.shape[axis],)
    shapes: dict[str, Any] = dict.fromkeys(("gamma", "beta", "running_mean", "running_var"), vector)
    dtypes: dict[str, Any] = dict.fromkeys(shapes, "float32, float64 or x's")
    for name in ("residual", "out", "dout"):
        shapes[name], dtypes[name] = x.shape, f"{x.dtype}, as x has"
    return _checks.explain(op, rejected, values, dtypes if rejected.reason == "dtype" else shapes)


def batch_norm_backward(
    dout: NDArray[Any], saved: Saved, *, out: NDArray[Any] | None = None
) -> tuple[NDArray[Any], ...]:
    """The gradients of ``batch_norm``: ``(dx, dgamma, dbeta)``, with a residual ``(dx, dgamma, dbeta, dresidual)``.

    With ``g = dout * act'(z)`` and ``xhat = (x - mean) * inv_std``: ``dbeta = sum g``, ``dgamma = sum g * xhat``,
    ``dresidual = g``, and ``dx = gamma * inv_std * (g - dbeta / n - xhat * dgamma / n)`` for statistics of the batch,
    ``dx = gamma * inv_std * g`` for running ones (``saved.training`` False). act'(z) is 1 for z > 0, else 0 or the
    slope.

    dout: x's shape and dtype, any strides (copied inside where its memory order is not x's). out: an array for dx, of
    x's shape, dtype and memory order; it may be dout. dgamma and dbeta have gamma's and beta's dtype; for gamma or beta
    None float64 for float64 x, else float32. Sums in float64 in a fixed order: the same bits for any number of threads.

    Raises TypeError or ValueError; then no argument has changed.
    """
    op = "batch_norm_backward"
    if type(saved) is not Saved:
        raise _checks.error(TypeError, op, "saved", "the second result of batch_norm", saved)
    channels = saved._statistics.shape[1]
    x = saved._x
    default = np.float64 if x.dtype == np.float64 else np.float32
    dgamma = _dispatch.empty(channels, default if saved._gamma is None else saved._gamma.dtype, x)
    dbeta = _dispatch.empty(channels, default if saved._beta is None else saved._beta.dtype, x)
    return _backward(op, dout, saved, out, dgamma, dbeta)


def _backward(
    op: str, dout: NDArray[Any], saved: Saved, out: NDArray[Any] | None, dgamma: NDArray[Any], dbeta: NDArray[Any]
) -> tuple[NDArray[Any], ...]:
    if type(dout) is not np.ndarray:
        dout, out = _dispatch.as_array(dout), _dispatch.as_array(out)
    backend = _dispatch.backend_for(dout, op, "dout")
    x = saved._x
    dx = _dispatch.empty_like(x) if out is None else out
    dresidual = _dispatch.empty_like(x) if saved._has_residual else None
    given = dout
    while True:
        try:
            backend.batch_norm_backward(
                given,
                x,
                saved._gamma,
                saved._beta,
                saved._statistics,
                saved._mask,
                dx,
                dgamma,
                dbeta,
                dresidual,
                saved.training,
                saved._axis,
                saved._activation,
                saved._slope,
                out is None,
            )
        except Rejected as rejected:
            if rejected.reason != "layout" or rejected.argument != "dout":
                raise _explain(op, rejected, {"dout": dout, "out": out}, x, saved._axis) from None
            given = copy_in_order_of(x, dout)
            continue
        return (dx, dgamma, dbeta) if dresidual is None else (dx, dgamma, dbeta, dresidual)


class BatchNorm:
    """Batch normalization as a layer: ``y = act(gamma * (x - mean) / sqrt(variance + eps) + beta)``.

    ``forward(x, training=True)`` normalizes with the batch's statistics and updates the running ones, with
    ``training=False`` it uses the running ones; ``backward(dout)`` returns dx and writes ``grads``. With
    ``forward(x, residual=r)``, act is applied to the sum and backward returns ``(dx, dresidual)``.

    ``params``: "gamma" (1 at first), "beta" (0); ``grads``: the same keys, overwritten in place by backward;
    ``buffers``: "running_mean" (0 at first), "running_var" (1; "dlfs": 0). float32 or float64: ``dtype``, else x's,
    float32 for 16-bit x. They exist from the start if ``channels`` is given (float32 without ``dtype``), else from the
    first forward or ``build(shape, dtype)`` on.

    ``running = running_decay * running + (1 - running_decay) * batch``. axis, eps, running_decay, unbiased, activation,
    slope, nonfinite as in ``batch_norm``; None takes the value of ``semantics``:

    - "paper": eps 1e-5, running_decay 0.9, unbiased, nonfinite "raise"; one value a channel gives act(beta).
    - "torch": the same numbers (PyTorch's momentum 0.1 is running_decay 0.9); one value a channel raises ValueError.
    - "dezero", "chainer": eps 2e-5. "keras": eps 1e-3, running_decay 0.99, biased (its axis is -1: pass it). "onnx",
      "dl4j": biased. "dlfs": eps 1e-6, biased, running_var starts at 0, and every element of a sample is a channel:
      images (N, C, H, W) have C * H * W of them. All but "paper" propagate what is not finite.

    ``trainable=False`` freezes gamma and beta: their entries in ``grads`` are None, which optimizers leave alone. It
    says nothing about the statistics; those are frozen by ``training=False``, or, inside a network that trains, by the
    attribute ``frozen_statistics = True`` (False at first). Both can be changed at any time.

    Differs from PyTorch and Keras, where one switch stands for both. Source: Ioffe and Szegedy 2015.
    """

    def __init__(
        self,
        channels: int | None = None,
        *,
        axis: int = 1,
        eps: float | None = None,
        running_decay: float | None = None,
        unbiased: bool | None = None,
        activation: str | None = None,
        slope: float = 0.01,
        trainable: bool = True,
        nonfinite: str | None = None,
        dtype: DTypeLike | None = None,
        semantics: str = "paper",
    ) -> None:
        op = "BatchNorm"
        values = _semantics.preset(
            semantics, op, eps=eps, running_decay=running_decay, unbiased=unbiased, nonfinite=nonfinite
        )
        self.axis = _checks.integer(op, "axis", axis, low=-64, high=63)
        self.eps = _checks.number(op, "eps", values["eps"], low=0)
        self.running_decay = _checks.number(op, "running_decay", values["running_decay"], low=0, high=1)
        self.unbiased = _checks.boolean(op, "unbiased", values["unbiased"])
        self.activation = _checks.one_of(op, "activation", activation, _ACTIVATIONS)
        self.slope = _checks.number(op, "slope", slope)
        self.nonfinite = _checks.one_of(op, "nonfinite", values["nonfinite"], _checks.NONFINITE)
        if values["flatten"] and self.axis != 1:
            raise _checks.error(ValueError, op, "axis", f"1 (semantics={semantics!r} flattens each sample)", axis)
        self.dtype = None if dtype is None else parameter_dtype(op, dtype)
        self.semantics = semantics
        self._one_value_is_error = values["one_value"] == "error"
        self._initial_variance, self._flatten = values["initial_variance"], values["flatten"]
        self._trainable = _checks.boolean(op, "trainable", trainable)
        self.frozen_statistics = False
        self._saved: Saved | None = None
        self._gradients: dict[str, NDArray[Any]] = {}
        self.params: dict[str, NDArray[Any]] = {}
        self.grads: dict[str, NDArray[Any] | None] = {}
        self.buffers: dict[str, NDArray[Any]] = {}
        if channels is not None:
            channels = _checks.integer(op, "channels", channels, low=0, high=2**62)
            self._make(channels, self.dtype or np.dtype(np.float32))

    def build(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        """Make params, grads and buffers for inputs of this shape and dtype (again: everything starts anew)."""
        self._build("BatchNorm.build", shape, dtype, None)

    def _build(self, op: str, shape: tuple[int, ...], dtype: DTypeLike, like: Any) -> None:
        if not isinstance(shape, (tuple, list)) or len(shape) < 2:
            raise _checks.error(ValueError, op, "shape", "a tuple of two lengths or more", _checks.Words(shape))
        axis = _checks.integer(op, "axis", self.axis, low=-len(shape), high=len(shape) - 1)
        length = math.prod(shape[1:]) if self._flatten else shape[axis]
        channels = _checks.integer(op, f"shape[{axis}]", length, low=0, high=2**62)
        self._make(
            channels,
            self.dtype or (np.dtype(np.float32) if np.dtype(dtype).itemsize == 2 else parameter_dtype(op, dtype)),
            like,
        )

    def _make(self, channels: int, dtype: np.dtype, like: Any = None) -> None:
        """``like``: an array on whose device they belong; None: where ``use_backend`` says, else NumPy's."""

        def filled(value: float) -> Any:
            if like is None:
                return _dispatch.forced_array_module().full(channels, value, dtype)
            array = _dispatch.empty(channels, dtype, like)
            array[...] = value
            return array

        self.params = {"gamma": filled(1), "beta": filled(0)}
        self.buffers = {"running_mean": filled(0), "running_var": filled(self._initial_variance)}
        self._gradients = {"gamma": filled(0), "beta": filled(0)}
        self._saved = None
        self.trainable = self._trainable

    @property
    def trainable(self) -> bool:
        """Whether optimizers update gamma and beta: where not, their gradients are None."""
        return self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self._trainable = _checks.boolean("BatchNorm", "trainable", value)
        self.grads = dict(self._gradients) if self._trainable else dict.fromkeys(self._gradients)

    def forward(self, x: NDArray[Any], training: bool = True, *, residual: NDArray[Any] | None = None) -> NDArray[Any]:
        op = "BatchNorm.forward"
        if training is not True and training is not False:
            training = _checks.boolean(op, "training", training)
        if self.frozen_statistics:
            training = False
        if type(x) is not np.ndarray:
            x, residual = _dispatch.as_array(x), _dispatch.as_array(residual)
        shape = getattr(x, "shape", ())
        if self._flatten and len(shape) > 2:
            x, residual = _flat(x), residual if residual is None else _flat(residual)
        if not self.params:
            backend = _dispatch.backend_for(x, op, "x")
            axis = _axis_of(op, x, self.axis)
            # The backend refuses a wrong x in words, before anything is made for it.
            try:
                backend.batch_norm_sizes(x, axis)
            except Rejected as rejected:
                if rejected.reason != "layout":
                    raise _explain(op, rejected, {"x": x}, x, axis) from None
            self._build(op, x.shape, x.dtype, x)
        if training and self._one_value_is_error and (isinstance(x, np.ndarray) or _checks.is_cupy(x)) and x.size:
            axis = _axis_of(op, x, self.axis)
            if x.size == x.shape[axis]:
                raise _checks.one_value_a_channel(op, x)
        params, buffers = self.params, self.buffers
        y, self._saved = _forward(
            op,
            x,
            params["gamma"],
            params["beta"],
            buffers["running_mean"],
            buffers["running_var"],
            training,
            self.axis,
            self.eps,
            self.running_decay,
            self.unbiased,
            self.activation,
            self.slope,
            residual,
            self.nonfinite,
            None,
        )
        return y.reshape(shape) if y.ndim != len(shape) else y

    def backward(self, dout: NDArray[Any]) -> Any:
        op = "BatchNorm.backward"
        if self._saved is None:
            raise _checks.no_forward_yet(op)
        gradients = self._gradients
        shape = getattr(dout, "shape", ())
        if self._flatten and len(shape) > 2:
            dout = _flat(_dispatch.as_array(dout))
        result = _backward(op, dout, self._saved, None, gradients["gamma"], gradients["beta"])
        if result[0].ndim != len(shape):
            return (
                result[0].reshape(shape)
                if len(result) == 3
                else tuple(r.reshape(shape) for r in (result[0], result[3]))
            )
        return result[0] if len(result) == 3 else (result[0], result[3])


def _flat(array: Any) -> Any:
    """Every element of a sample as a channel; a copy where memory has gaps."""
    return array.reshape(len(array), -1)
