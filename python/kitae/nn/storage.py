"""The arrays of a model in a file."""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from kitae import _checks, _tensor_file

_KIND = "kitae weights"


class Differences(NamedTuple):
    """What ``load_weights(strict=False)`` left alone: names that only the model has, and that only the file has."""

    missing: list[str]
    unexpected: list[str]


def save_weights(model: Any, path: str | os.PathLike[str], *, input_shape: tuple[int, ...] | None = None) -> None:
    """Write ``model.params`` and ``model.buffers`` under their names into a safetensors file, atomically.

    ``input_shape``: that of one input sample, without the batch axis, kept in the file so that a model that is not
    built yet can be; None takes ``model.input_shape`` where there is one. Every dtype keeps its bits, bfloat16 too.
    CuPy arrays are copied to the host, which waits for them. An older file at ``path`` stays whole until the new one
    is.

    Raises ValueError for a model without parameters (it is not built), TypeError for what is no array, OSError where
    the file can't be written; ImportError names the extra that is missing. Differs from ``torch.save``: no pickle, and
    a process that is killed while it writes loses nothing.
    """
    op = "nn.save_weights"
    arrays = named_arrays(op, model)
    if not model.params:
        expected = "a model that is built (by build(shape, dtype) or a forward pass)"
        raise _checks.error(ValueError, op, "model", expected, _checks.Words("one without parameters"))
    shape = getattr(model, "input_shape", None) if input_shape is None else input_shape
    _tensor_file.check_arrays(op, arrays)
    document = {
        "kind": _KIND,
        "version": 1,
        "dtype": next(iter(model.params.values())).dtype.name,
        "input_shape": None if shape is None else [int(length) for length in shape],
    }
    _tensor_file.write(op, path, arrays, document)


def load_weights(model: Any, path: str | os.PathLike[str], *, strict: bool = True) -> Differences:
    """Read a file of ``save_weights`` into the model's own arrays, in place.

    Names, shapes and dtypes are compared first: where one differs, ValueError lists it and nothing is written.
    ``strict=False`` loads the names that both have, of which shapes and dtypes must agree, and returns the others. A
    model that is not built yet is built for the input shape in the file (in the dtype of the first weights), and where
    there is none, ValueError says so.

    Nothing in the file is executed; a file that is foreign, cut off or damaged raises ValueError.
    """
    op = "nn.load_weights"
    strict = _checks.boolean(op, "strict", strict)
    arrays, document = _tensor_file.read(op, path)
    check_document(op, path, document, _KIND, 1)
    if not model.params:
        _build(op, model, document)
    targets = named_arrays(op, model)
    differences = Differences([n for n in targets if n not in arrays], [n for n in arrays if n not in targets])
    if strict and (differences.missing or differences.unexpected):
        raise _names_differ(op, differences)
    write_into(op, {name: targets[name] for name in targets if name in arrays}, arrays)
    return differences


def named_arrays(op: str, model: Any) -> dict[str, Any]:
    """The model's parameters and buffers in one dict."""
    params, buffers = dict(model.params), dict(getattr(model, "buffers", {}))
    both = sorted(params.keys() & buffers.keys())
    if both:
        raise _checks.error(ValueError, op, "model", "a name for each array", _checks.Words(f"two arrays {both[0]!r}"))
    return params | buffers


def check_document(op: str, path: str | os.PathLike[str], document: Any, kind: str, version: int) -> None:
    if not isinstance(document, Mapping) or document.get("kind") != kind:
        found = document.get("kind") if isinstance(document, Mapping) else document
        raise _tensor_file.refused(op, path, f"a file of {kind}", f"{found!r}"[:80])
    if document.get("version") != version:
        raise _tensor_file.refused(op, path, f"version {version}", f"version {document.get('version')!r}"[:80])


def check_names(op: str, targets: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    """Both have the same names, and under each the same shape and dtype."""
    differences = Differences([n for n in targets if n not in arrays], [n for n in arrays if n not in targets])
    if differences.missing or differences.unexpected:
        raise _names_differ(op, differences)
    for name, target in targets.items():
        if target.shape != arrays[name].shape or target.dtype != arrays[name].dtype:
            expected = f"shape {target.shape}, dtype {target.dtype}"
            raise _checks.error(ValueError, op, name, expected, arrays[name])


def write_into(op: str, targets: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Check all, then write into the targets' memory, wherever it is."""
    check_names(op, targets, {name: arrays[name] for name in targets})
    for target, array in ((target, arrays[name]) for name, target in targets.items()):
        if _checks.is_cupy(target):
            import cupy

            with target.device:
                target[...] = cupy.asarray(array)
        else:
            target[...] = array


def _names_differ(op: str, differences: Differences) -> Exception:
    words = [
        f"{len(names)} {kind} ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"
        for kind, names in (("missing in the file", differences.missing), ("only in the file", differences.unexpected))
        if names
    ]
    return _checks.error(ValueError, op, "names", "those of the model", _checks.Words("; ".join(words)))


def _build(op: str, model: Any, document: Mapping[str, Any]) -> None:
    shape = document["input_shape"]
    if shape is None or not callable(getattr(model, "build", None)):
        expected = "a model that is built (by build(shape, dtype) or a forward pass), or an input shape in the file"
        raise _checks.error(ValueError, op, "model", expected, _checks.Words("neither"))
    model.build((1, *shape), np.dtype(document["dtype"]))
