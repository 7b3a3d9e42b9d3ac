"""Gradients changed layer by layer or unit by unit: DL4J's normalizations and adaptive clipping."""

import operator
from collections.abc import Mapping
from itertools import accumulate, chain
from typing import Any

import numpy as np

from kitae import _checks, _dispatch
from kitae._checks import Rejected
from kitae._normalization import copy_in_order
from kitae.gradients import NONFINITE_CODES, SCOPE_CODES, as_list, clip_value, explain, norms_on_device

__all__ = ["clip_grad_adaptive", "normalize_gradients"]

_MODES = {
    "none": "none",
    "renormalize_l2_per_layer": "layer",
    "renormalize_l2_per_param_type": "tensor",
    "clip_elementwise_absolute_value": "value",
    "clip_l2_per_layer": "layer",
    "clip_l2_per_param_type": "tensor",
}
# DL4J's own spelling of them.
_DL4J_MODES = {
    "None": "none",
    "RenormalizeL2PerLayer": "renormalize_l2_per_layer",
    "RenormalizeL2PerParamType": "renormalize_l2_per_param_type",
    "ClipElementWiseAbsoluteValue": "clip_elementwise_absolute_value",
    "ClipL2PerLayer": "clip_l2_per_layer",
    "ClipL2PerParamType": "clip_l2_per_param_type",
}


def normalize_gradients(layers: Any, mode: str, threshold: float = 1.0, *, nonfinite: str = "raise") -> Any:
    """DL4J's gradient normalizations, in place; one native call over all layers. By mode:

    - "none": nothing.
    - "renormalize_l2_per_layer": ``g /= norm`` with the norm of all the layer's gradients together.
    - "renormalize_l2_per_param_type": ``g /= norm(g)``, each of a layer's gradients (W, b, ...) by its own norm.
    - "clip_elementwise_absolute_value": ``g = min(max(g, -threshold), threshold)``.
    - "clip_l2_per_layer": where the layer's norm is above threshold, ``g *= threshold / norm``.
    - "clip_l2_per_param_type": the same for each gradient by its own norm.

    DL4J's names (``RenormalizeL2PerLayer``, ...) are taken, too. A norm of 0 leaves its zeros.

    layers: a list or tuple with, for each layer, its gradients: an array, a list, a tuple, a dict, or an object with
    ``grads`` (a layer itself). None entries are left out; an array listed twice belongs to the first layer that has
    it; arrays that overlap in part are refused. float32, float64, float16 or bfloat16, any shape and strides.
    threshold > 0, of the three modes that clip. nonfinite: as in ``clip_grad_norm``; clipping by value knows no norm,
    is not stopped by infinite and NaN elements, and clips an infinite one.

    Returns the norms before: for the modes per layer a list of one a layer; per param type a list of one entry a
    layer, a dict where its gradients are a dict and else a list (0 for None); otherwise None. Python floats, on CUDA
    0-d float64 arrays that nothing has waited for.

    Summed in float64 in a fixed order (see ``global_norm``); the factor and the product are rounded once each. Source:
    Deeplearning4j, GradientNormalization and its updater. The order there: gradients of the mean loss, this, then the
    updater (with its decay). PyTorch has the clipping modes for one list at a time; the book has none of these per
    layer.
    """
    op = "normalize_gradients"
    _checks.one_of(op, "mode", mode, (*_MODES, *_DL4J_MODES))
    mode = _DL4J_MODES.get(mode, mode)
    threshold = _checks.number(op, "threshold", threshold, low=0, open_low=True, infinite=True)
    _checks.one_of(op, "nonfinite", nonfinite, _checks.NONFINITE)
    if not isinstance(layers, (list, tuple)):
        raise _checks.error(TypeError, op, "layers", "a list of layers or of their gradients", layers)
    listed = [layer if type(layer) is list else getattr(layer, "grads", layer) for layer in layers]
    # A list that begins with NumPy's array is what as_list makes of it.
    of_layers = [
        grads if type(grads) is list and grads and type(grads[0]) is np.ndarray else as_list(op, grads)[0]
        for grads in listed
    ]
    arrays, first = as_list(op, list(chain.from_iterable(of_layers)))
    per = _MODES[mode]
    if first is None or per in ("none", "value"):
        if first is not None and per == "value":
            clip_value(op, arrays, first, threshold)
        return None if per in ("none", "value") else _as_listed(per, listed, of_layers, [0.0] * len(arrays))
    places = list(accumulate(map(len, of_layers), initial=0))
    backend = _dispatch.backend_for(first, op, "grads")
    on_device = norms_on_device(arrays, first, len(listed))
    try:
        max_norm = threshold if mode.startswith("clip") else 0.0
        rule = NONFINITE_CODES[nonfinite]
        _, bad, of_arrays, found = backend.clip_grad_norm(
            arrays, max_norm, 0.0, rule, SCOPE_CODES[per], places, on_device
        )
    except Rejected as rejected:
        raise explain(op, rejected, arrays) from None
    if bad >= 0 and nonfinite == "raise":
        raise _checks.nonfinite_gradient(op, bad, arrays[bad])
    if on_device is not None:
        norms = list(on_device[1:])
        of_arrays, found = norms[: len(arrays)], norms[len(arrays) :]
    return found if per == "layer" else _as_listed(per, listed, of_layers, of_arrays)


def _as_listed(per: str, listed: list[Any], of_layers: list[list[Any]], norms: list[Any]) -> list[Any]:
    """One entry a layer: its norm, or the norms of its gradients as a list or a dict."""
    if per == "layer":
        return [0.0] * len(listed)
    left = iter(norms)
    own = [[next(left) for _ in grads] for grads in of_layers]
    return [
        dict(zip(grads, values, strict=True)) if isinstance(grads, Mapping) else values
        for grads, values in zip(listed, own, strict=True)
    ]


def clip_grad_adaptive(
    params: Any,
    grads: Any,
    clipping: float = 0.01,
    *,
    eps: float = 1e-3,
    axis: int | None = None,
    nonfinite: str = "raise",
) -> None:
    """Adaptive gradient clipping (AGC), in place, for every unit i of every parameter W with gradient G:
    ``G_i *= clipping * max(|W_i|, eps) / |G_i|`` where ``|G_i| > clipping * max(|W_i|, eps)``, with Euclidean norms.

    A unit is one output: the last axis of a matrix counts units (kitae's Dense has (inputs, units)), the first one of
    arrays with more axes (convolutions, (outputs, inputs, height, width)); a vector or a scalar is one unit as a
    whole. ``axis`` names another axis for the arrays that have it and more than one axis: axis=0 for matrices of
    PyTorch, (units, inputs).

    params, grads: arrays, or lists, tuples or dicts of them (grads by the keys of params); a None in grads leaves
    its parameter out; the same shape and device; float32, float64, float16 or bfloat16. Only grads are written.
    An array listed twice in grads is clipped once, by the first parameter. clipping > 0, eps > 0. nonfinite: as in
    ``clip_grad_norm``, over all of grads; on CUDA nothing is waited for.

    One native call over the list. Norms are summed in float64 in a fixed order, compared and divided there; the factor
    and the product are rounded once each. Memory without gaps is clipped where it lies, in any order of its axes;
    other strided arrays by way of a copy. float64 whose squares overflow is scaled: finite gradients stay what the
    formula says.

    Source: Brock, De, Smith and Simonyan 2021, equation 3; the authors' code also takes vectors as a whole. They leave
    the last layer out: pass the others. optax.adaptive_grad_clip takes the first of three axes as inputs; we follow
    PyTorch's convolutions, (outputs, inputs, length).
    """
    op = "clip_grad_adaptive"
    clipping = _checks.number(op, "clipping", clipping, low=0, open_low=True)
    eps = _checks.number(op, "eps", eps, low=0, open_low=True)
    if axis is not None:
        axis = _checks.integer(op, "axis", axis, low=-64, high=63)
    _checks.one_of(op, "nonfinite", nonfinite, _checks.NONFINITE)
    places, of_params, of_grads, first = _pairs(op, params, grads)
    if first is None:
        return
    axes = [-1 if grad is None else _axis_of_units(grad, axis) for grad in of_grads]
    backend = _dispatch.backend_for(first, op, "grads")
    given = of_grads
    rule = nonfinite
    while True:
        try:
            if rule == "zero":  # stored first, they count as 0 in what follows
                _refuse_pairs(op, places, of_params, of_grads)
                on_device = norms_on_device(of_grads, first)
                backend.clip_grad_norm(
                    of_grads, np.inf, 0.0, NONFINITE_CODES[rule], SCOPE_CODES["all"], None, on_device
                )
                rule = "propagate"
            bad = backend.clip_grad_adaptive(of_params, of_grads, axes, clipping, eps, NONFINITE_CODES[rule])
        except Rejected as rejected:
            refused = rejected
        else:
            break
        _refuse_pairs(op, places, of_params, of_grads)
        dense_params, dense_grads = _without_gaps(of_params), _without_gaps(of_grads)
        same = all(map(operator.is_, dense_params + dense_grads, of_params + of_grads))
        if refused.reason != "layout" or same:
            raise _checks.explain(op, refused, {"params": of_params, "grads": of_grads})
        of_params, of_grads = dense_params, dense_grads
    if bad >= 0 and nonfinite == "raise":
        raise _checks.nonfinite_gradient(op, places[bad], given[bad])
    if bad < 0:
        for array, changed in zip(given, of_grads, strict=True):
            if changed is not array:
                array[...] = changed


def _without_gaps(arrays: list[Any]) -> list[Any]:
    """Strided arrays as copies, one that is listed twice as one."""
    copies: dict[Any, Any] = {}
    dense = []
    for array in arrays:
        if array is not None and not (array.flags.c_contiguous or array.flags.f_contiguous):
            address = array.data.ptr if _checks.is_cupy(array) else array.ctypes.data
            key = (address, array.dtype, array.shape, array.strides)
            array = copies[key] if key in copies else copies.setdefault(key, copy_in_order(array))
        dense.append(array)
    return dense


def _axis_of_units(array: Any, axis: int | None) -> int:
    """-1: the array is one unit."""
    if getattr(array, "ndim", 0) < 2:  # or no array: the backend says so
        return -1
    if axis is not None and -array.ndim <= axis < array.ndim:
        return axis % int(array.ndim)
    return 1 if array.ndim == 2 else 0


def _pairs(op: str, params: Any, grads: Any) -> tuple[list[Any], list[Any], list[Any], Any]:
    """Names of the places, parameters, gradients, and the first gradient that is not None."""
    if isinstance(params, Mapping) or isinstance(grads, Mapping):
        if not (isinstance(params, Mapping) and isinstance(grads, Mapping) and set(params) == set(grads)):
            raise _checks.error(ValueError, op, "grads", "a dict with the keys of params, a dict", grads)
        places, grads = list(params), [grads[key] for key in params]
    of_params, _ = as_list(op, params)
    of_grads, first = as_list(op, grads)
    if not isinstance(params, Mapping):
        places = list(range(len(of_params)))
    if len(of_params) != len(of_grads):
        got = _checks.Words(f"{len(of_grads)}")
        raise _checks.error(ValueError, op, "grads", f"{len(of_params)} entries, one a parameter", got)
    return places, of_params, of_grads, first


def _refuse_pairs(op: str, places: list[Any], params: list[Any], grads: list[Any]) -> None:
    """Raises what is wrong with a pair, under the user's own names."""
    first = next(grad for grad in grads if grad is not None)
    for number, (param, grad) in enumerate(zip(params, grads, strict=True)):
        if grad is None:
            continue
        place = f"[{places[number]!r}]"
        for argument, array in (("params", param), ("grads", grad)):
            _refuse(op, argument, place, array, first, write=argument == "grads")
        if param.shape != grad.shape:
            raise _checks.error(ValueError, op, f"grads{place}", f"shape {param.shape}, that of the parameter", grad)
        if _dispatch.array_module(grad).may_share_memory(param, grad):
            raise _checks.error(
                ValueError, op, f"grads{place}", "memory of its own", _checks.Words("memory of its parameter")
            )


def _refuse(op: str, argument: str, place: str, array: Any, first: Any, *, write: bool) -> None:
    from kitae.reference._arrays import array_argument

    if _checks.is_cupy(first) != _checks.is_cupy(array):
        raise _checks.not_an_array(op, argument + place, array)
    _dispatch.backend_for(array, op, argument + place)
    if _checks.is_cupy(array):
        if str(array.dtype) not in _checks.FLOATS:
            raise _checks.error(TypeError, op, argument + place, f"dtype {_checks.FLOATS}", array)
        return
    try:
        array_argument(array, argument + place, write=write)
    except Rejected as rejected:
        raise _checks.explain(op, rejected, {argument + place: array}) from None
