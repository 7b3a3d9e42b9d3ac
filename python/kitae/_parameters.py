"""Lists of parameters: their structure, which of them are the same memory, arrays of the same shapes beside them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kitae import _checks, _dispatch
from kitae._checks import Rejected


class Structure:
    """One ``params`` entry, an array, a sequence or a dict, and how gradients of the same structure are listed."""

    def __init__(self, op: str, params: Any) -> None:
        self.keys: list[Any] | None = None
        self.single = False
        if isinstance(params, Mapping):
            self.keys = list(params)
            self.arrays = list(params.values())
        elif isinstance(params, (list, tuple)):
            self.arrays = list(params)
        else:
            self.single = True
            self.arrays = [params]
        self.arrays = [_dispatch.as_array(array) for array in self.arrays]
        self.names = [str(key) for key in self.keys] if self.keys is not None else []

    def flatten(self, op: str, grads: Any) -> list[Any]:
        """The gradients as a list in the parameters' order."""
        if self.keys is not None:
            if not isinstance(grads, Mapping):
                raise _checks.error(TypeError, op, "grads", "a dict with the parameters' keys", grads)
            if len(grads) != len(self.keys) or any(key not in grads for key in self.keys):
                missing = [key for key in self.keys if key not in grads]
                unknown = [key for key in grads if key not in set(self.keys)]
                got = _checks.Words(f"missing {missing}, unknown {unknown}")
                raise _checks.error(ValueError, op, "grads", "the parameters' keys", got)
            return [grads[key] for key in self.keys]
        if self.single:
            return [grads]
        if not isinstance(grads, (list, tuple)):
            raise _checks.error(TypeError, op, "grads", f"a list of {len(self.arrays)} arrays", grads)
        if len(grads) != len(self.arrays):
            got = _checks.Words(f"{len(grads)}")
            raise _checks.error(ValueError, op, "grads", f"{len(self.arrays)} entries, one a parameter", got)
        return grads if type(grads) is list else list(grads)


class _Exporter:
    """Memory for NumPy to compare, not to read."""

    def __init__(self, interface: dict[str, Any]) -> None:
        self.__array_interface__ = interface


def _addresses(array: Any) -> np.ndarray:
    """A NumPy array at the same addresses, of elements of the same size."""
    if type(array) is np.ndarray or not _checks.is_cupy(array):
        return array
    dtype = np.dtype(f"V{array.itemsize}")
    if array.size == 0:
        return np.empty(array.shape, dtype)
    interface = {"data": (array.data.ptr, False), "shape": array.shape, "strides": array.strides, "typestr": dtype.str}
    return np.asarray(_Exporter({**interface, "version": 3}))


def _axes_between(parameter: np.ndarray, alias: np.ndarray) -> list[int] | None:
    """The order of ``alias``'s axes that makes it ``parameter``: same memory, shape and strides; else None."""
    if parameter.ctypes.data != alias.ctypes.data or parameter.ndim != alias.ndim or parameter.dtype != alias.dtype:
        return None
    left = list(range(alias.ndim))
    axes = []
    for wanted in zip(parameter.shape, parameter.strides, strict=True):
        match = next((a for a in left if (alias.shape[a], alias.strides[a]) == wanted), None)
        if match is None:
            return None
        left.remove(match)
        axes.append(match)
    return axes


class Places:
    """The distinct parameters of a list in which one may stand several times, also as a transposed view."""

    def __init__(self, op: str, listed: Sequence[Any]) -> None:
        arrays = [_addresses(array) for array in listed]
        self.first: list[int] = []  # of each distinct parameter: where it is listed first
        self.places: list[tuple[int, list[int] | None]] = []
        bounds = [np.lib.array_utils.byte_bounds(a) if a.size else (a.ctypes.data, a.ctypes.data) for a in arrays]
        order = sorted(range(len(arrays)), key=lambda i: bounds[i])
        meets: dict[int, list[int]] = {i: [] for i in range(len(arrays))}
        active: list[int] = []
        for i in order:
            active = [j for j in active if bounds[j][1] > bounds[i][0]]
            for j in active:
                meets[max(i, j)].append(min(i, j))
            if arrays[i].size:
                active.append(i)
        number_of: dict[int, int] = {}
        for i, array in enumerate(arrays):
            for j in sorted(meets[i]):
                if not np.shares_memory(array, arrays[j]):
                    continue
                known = arrays[self.first[number_of[j]]]
                axes = _axes_between(known, array)
                if axes is None or listed[i].dtype != listed[self.first[number_of[j]]].dtype:
                    raise _checks.explain(op, Rejected("params", "overlap", i), {"params": listed})
                number_of[i] = number_of[j]
                self.places.append((number_of[j], None if axes == list(range(array.ndim)) else axes))
                break
            else:
                number_of[i] = len(self.first)
                self.places.append((len(self.first), None))
                self.first.append(i)


def refuse_bad_arrays(op: str, arrays: list[Any]) -> None:
    """Raise for an array that the kernels can't update in place."""
    from kitae.reference._arrays import array_argument

    on_gpu = _checks.is_cupy(arrays[0])
    for i, array in enumerate(arrays):
        if on_gpu:  # the native code looks at the rest
            if not _checks.is_cupy(array):
                raise _checks.not_an_array(op, f"params[{i}]", array)
            continue
        try:
            array_argument(array, "params", write=True, index=i)
        except Rejected as rejected:
            raise _checks.explain(op, rejected, {"params": arrays}) from None


def float32_copy(parameter: Any) -> Any:
    """The master of a 16-bit parameter."""
    master = _dispatch.empty_beside(parameter, np.float32)
    master[...] = parameter
    return master


def check_loaded(op: str, argument: str, target: Any, array: Any) -> None:
    """Raise where ``array`` can't be written into ``target``, or into nothing where that is None."""
    if target is None:
        if array is not None:
            raise _checks.error(ValueError, op, argument, "None", array)
        return
    if not isinstance(array, np.ndarray) and not (_checks.is_cupy(target) and _checks.is_cupy(array)):
        raise _checks.not_an_array(op, argument, array)
    if array.shape != target.shape or array.dtype != target.dtype:
        expected = f"shape {target.shape}, dtype {target.dtype}"
        raise _checks.error(ValueError, op, argument, expected, array)


def write_loaded(target: Any, array: Any) -> None:
    """Copy ``array``, which may be a NumPy array where ``target`` is on a GPU."""
    from kitae.reference._arrays import flush

    if _checks.is_cupy(target):
        with target.device:
            target.set(flush(array.get() if _checks.is_cupy(array) else array))
    else:
        target[...] = flush(array)
