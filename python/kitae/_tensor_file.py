"""Named arrays and one JSON document in a safetensors file: nothing in it is ever executed.

The layout is the safetensors library's (a header of names, dtypes, shapes and offsets, then the bytes), so its other
readers open the file too. The document is the metadata entry "kitae"; the entry "sha256" is over document and arrays,
as the format itself has no checksum. bfloat16 needs ml_dtypes.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from kitae import _checks, _files

_ENTRY, _DIGEST = "kitae", "sha256"
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
_STORED = {*_DTYPES.values(), "bfloat16"}


def write(op: str, path: str | os.PathLike[str], arrays: Mapping[str, Any], document: Any) -> None:
    """Write the file atomically. CuPy arrays are copied to the host, which waits for them."""
    library = _library(op)
    check_arrays(op, arrays)
    host = {name: _on_host(array) for name, array in arrays.items()}
    text = json.dumps(document, separators=(",", ":"))
    metadata = {_ENTRY: text, _DIGEST: _digest(text, host)}
    _files.write_atomically(path, [library.numpy.save(host, metadata=metadata)])


def read(op: str, path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], Any]:
    """(arrays by name, the document). A file that is none of ours, cut off or damaged raises ValueError."""
    library = _library(op)
    with open(path, "rb") as file:
        content = file.read()
    try:
        entries = dict(library.deserialize(content))
    except library.SafetensorError as problem:
        raise refused(op, path, "a whole safetensors file", str(problem)) from problem
    # The library has checked the header; of a file in memory it does not give the metadata, nor any order.
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    del content
    metadata = header.get("__metadata__") or {}
    if not {_ENTRY, _DIGEST} <= metadata.keys():
        raise refused(op, path, "a file that kitae wrote", "a safetensors file without kitae's metadata")
    arrays = {name: _array(op, path, name, entries[name]) for name in sorted(entries)}
    if _digest(metadata[_ENTRY], arrays) != metadata[_DIGEST]:
        raise refused(op, path, "contents with the checksum in the file", "others: it was damaged or changed")
    try:
        return arrays, json.loads(metadata[_ENTRY])
    except (json.JSONDecodeError, RecursionError) as problem:
        raise refused(op, path, f"JSON in the metadata {_ENTRY!r}", str(problem)) from problem


def check_arrays(op: str, arrays: Mapping[str, Any]) -> None:
    """Refuse what is no array or has a dtype that such a file does not have."""
    for name, array in arrays.items():
        if type(array) not in (np.ndarray, np.memmap) and not _checks.is_cupy(array):
            raise _checks.not_an_array(op, name, array)
        if array.dtype.name not in _STORED:
            raise _checks.error(TypeError, op, name, f"one of the dtypes {', '.join(sorted(_STORED))}", array)


def _on_host(array: Any) -> np.ndarray:
    """The array in C order and little-endian in the host's memory."""
    host = array.get() if _checks.is_cupy(array) else array
    # Not ascontiguousarray, which makes an array of one axis out of one without axes.
    return np.array(host, host.dtype.newbyteorder("<"), order="C", copy=None)


def refused(op: str, path: str | os.PathLike[str], expected: str, found: str) -> Exception:
    return _checks.error(ValueError, op, "path", expected, _checks.Words(f"{os.fspath(path)!r}: {found}"))


def _library(op: str) -> ModuleType:
    try:
        import safetensors
        import safetensors.numpy
    except ImportError:
        raise _checks.missing_package(f"kitae.{op}", "safetensors", "kitae[train]") from None
    return safetensors


def _digest(text: str, arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"\0{name}\0{array.dtype.name}\0{array.shape}\0".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _array(op: str, path: str | os.PathLike[str], name: str, entry: Mapping[str, Any]) -> np.ndarray:
    code = entry["dtype"]
    if code == "BF16":
        try:
            import ml_dtypes
        except ImportError:
            raise _checks.missing_package(f"kitae.{op} of bfloat16", "ml_dtypes", "ml_dtypes>=0.5") from None
        dtype = np.dtype(ml_dtypes.bfloat16)
    elif code in _DTYPES:
        dtype = np.dtype(_DTYPES[code])
    else:
        raise refused(op, path, f"one of the dtypes {', '.join(_DTYPES)}, BF16", f"{code} for {name!r}")
    return np.frombuffer(entry["data"], dtype).reshape(entry["shape"])
