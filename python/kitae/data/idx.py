"""The IDX format of the MNIST database (LeCun, Cortes, Burges): a magic number, big-endian sizes, then the values."""

import gzip
import math
import os
import zlib

import numpy as np

from kitae.data.errors import DataError
from kitae.data.limits import MAX_BYTES, check_announced_size

# Third byte of the magic number -> the dtype of the values.
IDX_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
GZIP_MAGIC = b"\x1f\x8b"
MAGIC_RULE = "an IDX magic number: 00 00, a type (08 09 0b 0c 0d 0e), the number of dimensions (1 to 8)"


def read_idx(path, *, max_bytes=MAX_BYTES):
    """The array in an IDX file, plain or gzip-compressed (told by content, not by name), in native byte order.

    Raises DataError for a file that is no IDX file, ends early, goes on after the announced values, or announces
    more than ``max_bytes``.
    """
    path = os.fspath(path)
    try:
        with open(path, "rb") as raw:
            compressed = raw.read(2) == GZIP_MAGIC
            raw.seek(0)
            if compressed:
                with gzip.GzipFile(fileobj=raw) as stream:
                    return _read(path, stream, os.path.getsize(path), True, max_bytes)
            return _read(path, raw, os.path.getsize(path), False, max_bytes)
    except (gzip.BadGzipFile, EOFError, zlib.error) as problem:
        raise DataError(path, "a complete gzip file", f"a damaged one ({problem})") from problem
    except OSError as problem:
        raise DataError(path, "a readable file", problem.strerror or str(problem)) from problem


def _read(path, stream, file_size, compressed, max_bytes):
    dtype, shape = _read_header(path, stream)
    announced = math.prod(shape) * dtype.itemsize
    if compressed:
        check_announced_size(path, announced, file_size, max_bytes)
    else:
        check_announced_size(path, announced, announced, max_bytes)
        _check_length(path, shape, announced, file_size - stream.tell())
    values = bytearray(announced)
    received = _read_into(stream, values)
    # One byte more than announced is enough to know that there is too much.
    _check_length(path, shape, announced, received + len(stream.read(1)))
    return np.frombuffer(values, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def _read_header(path, stream):
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in IDX_DTYPES or not 1 <= magic[3] <= 8:
        raise DataError(path, MAGIC_RULE, " ".join(f"{byte:02x}" for byte in magic) or "an empty file")
    sizes = stream.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise DataError(path, f"a header with {magic[3]} sizes", f"the end of the file after {4 + len(sizes)} bytes")
    return np.dtype(IDX_DTYPES[magic[2]]), tuple(int(size) for size in np.frombuffer(sizes, ">u4"))


def _read_into(stream, values):
    view, received = memoryview(values), 0
    while received < len(values):
        count = stream.readinto(view[received:])
        if not count:
            break
        received += count
    return received


def _check_length(path, shape, announced, found):
    if found < announced:
        raise DataError(path, f"{announced:,} bytes of values for shape {shape}", f"{found:,}: the file is cut off")
    if found > announced:
        raise DataError(path, f"{announced:,} bytes of values for shape {shape}", "more bytes after them")
