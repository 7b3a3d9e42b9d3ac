"""Weight normalization: the function, its gradient, and the wrapper of a layer."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kitae import _checks, _dispatch
from kitae._checks import Rejected
from kitae._normalization import copy_in_order, copy_in_order_of, read_only

__all__ = ["SavedWeightNorm", "WeightNorm", "weight_norm", "weight_norm_backward"]


class SavedWeightNorm:
    """What ``weight_norm`` keeps for ``weight_norm_backward``.

    ``norms``: ||v|| of each unit, float64, read-only (a copy where v is on a GPU). References to v and g are kept,
    which must not change before backward.
    """

    __slots__ = ("_axis", "_g", "_norms", "_v")

    _axis: int
    _g: Any
    _norms: Any
    _v: Any

    @property
    def norms(self) -> NDArray[np.float64]:
        return read_only(self._norms)


def weight_norm(
    v: NDArray[Any], g: NDArray[Any], *, axis: int | None = None, out: NDArray[Any] | None = None
) -> tuple[NDArray[Any], SavedWeightNorm]:
    """``w = g * v / ||v||``, the norm of each output unit's weights; returns ``(w, saved)``.

    The length of a unit's weights is g, their direction that of v. (Salimans and Kingma 2016.)

    v: float32, float64, float16 or bfloat16, of two dimensions or more. axis: that of the output units; None: 1 for two
    dimensions (a dense layer's (inputs, units)), else 0 (a convolution's (out_channels, in_channels, kh, kw)). Any
    memory order without gaps is computed where it lies; other strided arrays are copied inside. w has v's dtype and
    memory order.
    g: (units,), float32, float64 or v's dtype.
    out: an array for w, of v's shape, dtype and memory order; not v, which backward needs.

    Norms are sums of squares in float64, in a fixed order, taken again scaled where float64 v's overflow or underflow;
    w is computed in float64 and rounded to v's dtype (16 bits by way of float32). The same bits for any number of
    threads and on every CPU. A unit of zeros gives w = 0, dv = 0 and dg = 0. Infinite and NaN elements follow the
    formula.

    Raises TypeError or ValueError; then no argument has changed.

    Differs from PyTorch: g is a vector, not v's shape with ones; dense weights are (inputs, units); zeros give no NaN.
    """
    op = "weight_norm"
    if type(v) is not np.ndarray:
        v, g, out = _dispatch.as_array(v), _dispatch.as_array(g), _dispatch.as_array(out)
    backend = _dispatch.backend_for(v, op, "v")
    if v.ndim < 2:
        raise _checks.error(ValueError, op, "v", "two dimensions or more", v)
    axis = _axis_of(op, v.ndim, axis)
    w = _dispatch.empty_like(v) if out is None else out
    norms = _dispatch.empty(v.shape[axis], np.float64, v)
    source = v
    while True:
        try:
            backend.weight_norm_forward(source, g, w, norms, axis, out is None)
        except Rejected as rejected:
            if rejected.argument == "v" and rejected.reason == "layout":
                source = copy_in_order(v)
                continue
            raise _explain(op, rejected, {"v": v, "g": g, "out": out}, source, axis) from None
        break
    saved = SavedWeightNorm()
    saved._v, saved._g, saved._norms, saved._axis = source, g, norms, axis
    return w, saved


def _axis_of(op: str, ndim: int, axis: int | None) -> int:
    if axis is None:
        return 1 if ndim == 2 else 0
    return _checks.integer(op, "axis", axis, low=-ndim, high=ndim - 1) % ndim


def _explain(op: str, rejected: Rejected, values: dict[str, Any], v: NDArray[Any], axis: int) -> Exception:
    if rejected.reason == "layout":
        expected = f"the memory order of v, as numpy.empty_like(v) has it (v has strides {v.strides})"
        got = _checks.Words(f"strides {values[rejected.argument].strides}")
        return _checks.error(ValueError, op, rejected.argument, expected, got)
    if rejected.reason == "dtype":
        like_v = dict.fromkeys(("out", "dw"), f"{v.dtype}, as v has")
        return _checks.explain(op, rejected, values, {**like_v, "g": "float32, float64 or v's"})
    return _checks.explain(op, rejected, values, {"g": (v.shape[axis],), "out": v.shape, "dw": v.shape})


def weight_norm_backward(
    dw: NDArray[Any], saved: SavedWeightNorm, *, out: NDArray[Any] | None = None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The gradients of ``weight_norm``: ``(dv, dg)``.

    With ``vhat = v / ||v||``: ``dg = sum dw * vhat`` over each unit's weights, ``dv = g / ||v|| * (dw - vhat * dg)``.

    dw: v's shape and dtype, any strides (copied inside where its memory order is not v's). out: an array for dv, of v's
    shape, dtype and memory order; it may be dw. dg has g's shape and dtype. Sums in float64 in a fixed order: the same
    bits for any number of threads.

    Raises TypeError or ValueError; then no argument has changed.
    """
    op = "weight_norm_backward"
    if type(saved) is not SavedWeightNorm:
        raise _checks.error(TypeError, op, "saved", "the second result of weight_norm", saved)
    dg = _dispatch.empty_like(saved._g)
    return _backward(op, dw, saved, out, dg), dg


def _backward(
    op: str, dw: NDArray[Any], saved: SavedWeightNorm, out: NDArray[Any] | None, dg: NDArray[Any]
) -> NDArray[Any]:
    """dv; dg is written."""
    if type(dw) is not np.ndarray:
        dw, out = _dispatch.as_array(dw), _dispatch.as_array(out)
    backend = _dispatch.backend_for(dw, op, "dw")
    v = saved._v
    dv = _dispatch.empty_like(v) if out is None else out
    given = dw
    while True:
        try:
            backend.weight_norm_backward(given, v, saved._g, saved._norms, dv, dg, saved._axis, out is None)
        except Rejected as rejected:
            if rejected.argument != "dw" or rejected.reason != "layout":
                raise _explain(op, rejected, {"dw": dw, "out": out}, v, saved._axis) from None
            given = copy_in_order_of(v, dw)
            continue
        return dv


class WeightNorm:
    """A layer with ``W = g * v / ||v||``: the optimizer updates v and g, W follows.

    layer: any layer (``forward``, ``backward``, ``params``, ``grads``, ``buffers``) with a parameter called "W", of two
    dimensions or more. axis: that of W's output units; None: 1 for two dimensions (dense: (inputs, units)), else 0
    (convolutions: (out_channels, in_channels, kh, kw)).

    ``params`` are the layer's with "v" (W's shape and dtype) and "g" (units,) in W's place, ``grads`` likewise,
    overwritten in place by backward; ``buffers`` are the layer's. v starts as the layer's W and g as its norms, so that
    the first pass computes what the layer would have. They exist from the start if the layer's W does, else from the
    first forward or ``build(shape, dtype)`` on. W is written into the layer's own array at every forward pass, from v
    and g as they are then, in training and at inference alike; writing to W itself has no effect.

    Raises TypeError for a layer that is none and ValueError where it has no W of two dimensions or more, or parameters
    "v" or "g" of its own; otherwise as the layer itself. Source: Salimans and Kingma, "Weight normalization", 2016,
    whose data-dependent first values of g and b are left to the caller. Differs from PyTorch: see ``weight_norm``. The
    book has no such layer.
    """

    def __init__(self, layer: Any, *, axis: int | None = None) -> None:
        op = "WeightNorm"
        if not (callable(getattr(layer, "forward", None)) and callable(getattr(layer, "backward", None))):
            raise _checks.error(TypeError, op, "layer", "a layer, with forward(x, training) and backward(dout)", layer)
        self.layer = layer
        self.axis = None if axis is None else _checks.integer(op, "axis", axis, low=-64, high=63)
        self._own: dict[str, NDArray[Any]] = {}
        self._own_grads: dict[str, NDArray[Any]] = {}
        self._saved: SavedWeightNorm | None = None
        if layer.params:
            self._take_weight(op)

    @property
    def params(self) -> dict[str, NDArray[Any]]:
        return self._in_place_of_weight(self.layer.params, self._own)

    @property
    def grads(self) -> dict[str, NDArray[Any]]:
        return self._in_place_of_weight(self.layer.grads, self._own_grads)

    @property
    def buffers(self) -> dict[str, NDArray[Any]]:
        return self.layer.buffers

    @staticmethod
    def _in_place_of_weight(arrays: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
        return {**own, **{name: array for name, array in arrays.items() if name != "W"}} if own else {}

    def build(self, shape: tuple[int, ...], dtype: Any) -> None:
        """Build the layer for inputs of ``shape`` and ``dtype``, and v and g from its new W."""
        self.layer.build(shape, dtype)
        self._take_weight("WeightNorm.build")

    def _take_weight(self, op: str) -> None:
        """v = W, g = ||W||."""
        params = self.layer.params
        if "W" not in params or params["W"].ndim < 2 or "v" in params or "g" in params:
            expected = 'a layer with a parameter "W" of two dimensions or more, and none called "v" or "g"'
            got = _checks.Words(f"parameters { {name: array.shape for name, array in params.items()} }")
            raise _checks.error(ValueError, op, "layer", expected, got)
        weight = params["W"]
        axis = _axis_of(op, weight.ndim, self.axis)
        ones = _dispatch.empty(weight.shape[axis], weight.dtype, weight)
        ones[...] = 1
        _, saved = weight_norm(weight, ones, axis=axis)
        self._own = {"v": copy_in_order(weight), "g": saved._norms.astype(weight.dtype)}
        self._own_grads = {name: _dispatch.empty_like(array) for name, array in self._own.items()}
        for array in self._own_grads.values():
            array[...] = 0
        self._saved = None

    def forward(self, x: NDArray[Any], training: bool = True) -> NDArray[Any]:
        op = "WeightNorm.forward"
        if not self._own:
            if not self.layer.params:
                self.layer.forward(x, False)  # builds the layer, or refuses x in its words
            self._take_weight(op)
        self._normalize()
        return self.layer.forward(x, training)

    def _normalize(self) -> None:
        weight = self.layer.params["W"]
        _, self._saved = weight_norm(
            self._own["v"], self._own["g"], axis=_axis_of("WeightNorm", weight.ndim, self.axis), out=weight
        )

    def backward(self, dout: NDArray[Any]) -> NDArray[Any]:
        op = "WeightNorm.backward"
        if self._saved is None:
            raise _checks.no_forward_yet(op)
        dx = self.layer.backward(dout)
        _backward(op, self.layer.grads["W"], self._saved, self._own_grads["v"], self._own_grads["g"])
        return dx
