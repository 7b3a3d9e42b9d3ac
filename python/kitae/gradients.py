"""Gradient norms and clipping over lists of arrays of any shapes, strides and floating-point dtypes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kitae import _checks, _dispatch
from kitae._checks import Rejected

__all__ = ["clip_grad_norm", "clip_grad_value", "global_norm"]

# The backends' numbers for the rules of `nonfinite` and for what a norm is taken over.
NONFINITE_CODES = {name: code for code, name in enumerate(_checks.NONFINITE)}
SCOPE_CODES = {"none": 0, "all": 1, "tensor": 2, "layer": 3}
CLIP_EPS = 1e-6


def as_list(op: str, grads: Any) -> tuple[list[Any], Any]:
    """The arrays of ``grads`` (an array, a list, a tuple or a dict's values), and the first one that is not None."""
    if type(grads) is list:
        arrays = grads
    elif isinstance(grads, Mapping):
        arrays = list(grads.values())
    elif isinstance(grads, tuple):
        arrays = list(grads)
    elif isinstance(grads, np.ndarray) or hasattr(grads, "__dlpack__") or hasattr(grads, "__cuda_array_interface__"):
        arrays = [grads]
    elif isinstance(grads, Sequence) or hasattr(grads, "__next__"):
        # An exhausted generator would silently clip nothing.
        raise _checks.error(TypeError, op, "grads", "an array, or a list, tuple or dict of arrays", grads)
    else:
        raise _checks.not_an_array(op, "grads", grads)
    for array in arrays:
        if array is not None:
            if type(array) is np.ndarray:
                return arrays, array
            arrays = [_dispatch.as_array(array) for array in arrays]
            return arrays, next(array for array in arrays if array is not None)
    return arrays, None


def norms_on_device(arrays: list[Any], first: Any, layers: int = 0) -> Any:
    """Memory for the norm of all, of each and of layers, where nobody waits for them; None where the backend returns
    them."""
    if type(first) is np.ndarray or not _checks.is_cupy(first):
        return None
    norms = _dispatch.empty((1 + len(arrays) + layers,), np.float64, first)
    norms.fill(0)
    return norms


def explain(op: str, rejected: Rejected, arrays: list[Any]) -> Exception:
    return _checks.explain(op, rejected, {"grads": arrays})


def global_norm(grads: Any) -> Any:
    """The Euclidean norm of all arrays as one vector: ``sqrt(sum over arrays and elements of g**2)``.

    grads: an array, or a list, tuple or dict of arrays (None entries count as nothing), each float32, float64,
    float16 or bfloat16, of any shape and strides; only read. Returns a Python float, inf or NaN where an element is; on
    CUDA a 0-d float64 array, without waiting.

    Summed in float64 in a fixed order, so the same for any number of threads and on every CPU; relative error below
    6e-8 up to 2**31 elements. No overflow where the norm itself is representable (float64 at 1e200 too).
    An array listed twice counts twice here; ``clip_grad_norm``, which changes arrays, counts it once.

    Raises TypeError for something that is not such an array.
    """
    arrays, first = as_list("global_norm", grads)
    if first is None:
        return 0.0
    backend = _dispatch.backend_for(first, "global_norm", "grads")
    on_device = norms_on_device(arrays, first)
    try:
        norm, _ = backend.global_norm(arrays, False, on_device)
    except Rejected as rejected:
        raise explain("global_norm", rejected, arrays) from None
    return float(norm) if on_device is None else on_device[0]


def clip_grad_norm(
    grads: Any,
    max_norm: float,
    *,
    eps: float = CLIP_EPS,
    nonfinite: str = "raise",
    per: str = "all",
) -> Any:
    """Scale gradients in place so that their global norm is at most ``max_norm``; return the norm before.

    ``factor = max_norm / (norm + eps)``; where it is below 1, ``g *= factor`` for every array, rounded once to its
    dtype (Pascanu, Mikolov and Bengio 2013; the form of PyTorch and of the book, 0.000001 in the denominator included).

    grads: an array, or a list, tuple or dict of arrays; None entries are left out, an array listed twice is one array.
    Arrays that overlap in part are refused. max_norm > 0, eps >= 0.
    nonfinite: what infinite or NaN elements do. "raise" (default): FloatingPointError, nothing is written. "skip":
    nothing is written. "zero": each counts and is stored as 0. "propagate": as the formula says (a NaN reaches every
    element). per: "all" (default) one norm over everything; "tensor" each array by its own norm, a list of norms is
    returned. On CUDA norms are 0-d float64 arrays; nothing is waited for, and what "raise" found is raised by
    ``kitae.check()``.

    Differs from PyTorch: a non-finite norm raises by default, ``max_norm <= 0`` is an error (PyTorch flips the
    gradients' sign), the norm of float16 and of huge values does not overflow, generators are refused instead of
    clipping nothing.
    """
    op = "clip_grad_norm"
    max_norm = _checks.number(op, "max_norm", max_norm, low=0, open_low=True, infinite=True)
    if eps is not CLIP_EPS:
        eps = _checks.number(op, "eps", eps, low=0)
    if nonfinite is not _checks.RAISE:
        _checks.one_of(op, "nonfinite", nonfinite, _checks.NONFINITE)
    _checks.one_of(op, "per", per, ("all", "tensor"))
    arrays, first = as_list(op, grads)
    if first is None:
        return 0.0 if per == "all" else [0.0] * len(arrays)
    backend = _dispatch.backend_for(first, op, "grads")
    on_device = norms_on_device(arrays, first)
    try:
        rule, scope = NONFINITE_CODES[nonfinite], SCOPE_CODES[per]
        norm, bad, norms, _ = backend.clip_grad_norm(arrays, max_norm, eps, rule, scope, None, on_device)
    except Rejected as rejected:
        raise explain(op, rejected, arrays) from None
    if bad >= 0 and nonfinite == "raise":
        raise _checks.nonfinite_gradient(op, bad, arrays[bad])
    if on_device is not None:
        return on_device[0] if per == "all" else list(on_device[1:])
    return float(norm) if per == "all" else norms


def clip_grad_value(grads: Any, limit: float) -> None:
    """Clip every element in place: ``g = min(max(g, -limit), limit)``; NaN stays NaN.

    grads as in ``clip_grad_norm``; limit > 0, rounded to each array's arithmetic type (float32, or float64).
    """
    op = "clip_grad_value"
    limit = _checks.number(op, "limit", limit, low=0, open_low=True, infinite=True)
    arrays, first = as_list(op, grads)
    if first is not None:
        clip_value(op, arrays, first, limit)


def clip_value(op: str, arrays: list[Any], first: Any, limit: float) -> None:
    backend = _dispatch.backend_for(first, op, "grads")
    try:
        backend.clip_grad_value(arrays, limit)
    except Rejected as rejected:
        raise explain(op, rejected, arrays) from None
