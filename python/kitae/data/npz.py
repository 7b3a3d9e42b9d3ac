"""NPZ files with the arrays ``images`` and ``labels``."""

import math
import os
import zipfile
import zlib

import numpy as np

from kitae.data.errors import DataError
from kitae.data.limits import MAX_BYTES, check_announced_size

ARRAYS = ("images", "labels")
EXPECTED = "an .npz file with the arrays images and labels"


def read_npz(path, *, max_bytes=MAX_BYTES):
    """``images`` and ``labels`` of an NPZ file as they are stored; object arrays (pickles) are refused.

    Raises DataError for a file that is no NPZ file, lacks an array, ends early or announces more than ``max_bytes``.
    """
    path = os.fspath(path)
    try:
        with zipfile.ZipFile(path) as archive:
            for name in ARRAYS:
                _check_member(path, archive, name, max_bytes)
        with np.load(path, allow_pickle=False) as arrays:
            return tuple(arrays[f"{name}.npy"] for name in ARRAYS)
    except DataError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError) as problem:
        raise DataError(path, EXPECTED, f"a damaged file ({problem})") from problem
    except OSError as problem:
        raise DataError(path, "a readable file", problem.strerror or str(problem)) from problem


def _check_member(path, archive, name, max_bytes):
    """Compare what the zip directory and the array's header announce before anything is decompressed."""
    try:
        info = archive.getinfo(f"{name}.npy")
    except KeyError:
        names = ", ".join(archive.namelist()[:8]) or "no array"
        raise DataError(path, EXPECTED, names) from None
    check_announced_size(path, info.file_size, info.compress_size, max_bytes)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(path, "arrays stored or deflated, as NumPy writes them", f"zip method {info.compress_type}")
    with archive.open(info) as member:
        try:
            shape, dtype = _read_header(member)
        except ValueError as problem:
            raise DataError(path, f"{name} as NumPy writes it", f"a bad header ({problem})") from problem
        announced = math.prod(shape) * dtype.itemsize + member.tell()
    if dtype.hasobject:
        raise DataError(path, f"numbers in {name}", "Python objects, which are never unpickled")
    if announced != info.file_size:
        raise DataError(path, f"{announced:,} bytes for {name} of shape {shape}", f"{info.file_size:,}")


def _read_header(member):
    version = np.lib.format.read_magic(member)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(member)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(member)
    else:
        raise ValueError(f"format version {version[0]}.{version[1]}")
    return shape, dtype
