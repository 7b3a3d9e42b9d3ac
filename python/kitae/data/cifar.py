"""The binary version of CIFAR-10 (Krizhevsky 2009): records of one label byte and 3 x 32 x 32 pixels, nothing else."""

import os

import numpy as np

from kitae.data.errors import DataError
from kitae.data.limits import MAX_BYTES, check_announced_size

IMAGE = (3, 32, 32)
RECORD = 1 + 3 * 32 * 32
CLASSES = 10
TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
TEST = ("test_batch.bin",)


def read_cifar10(path, *, test=False, max_bytes=MAX_BYTES):
    """(images, labels): uint8 (samples, 3, 32, 32), red, green, blue; int64 (samples,), from 0 to 9.

    ``path``: one file of the binary version, or the folder (cifar-10-batches-bin): its five training files in their
    order, or with ``test=True`` its test file. Raises DataError for files that are missing, are no multiple of a
    record's 3,073 bytes long, have a label above 9, or hold more than ``max_bytes``.
    """
    path = os.fspath(path)
    if not os.path.isdir(path):
        if test:
            raise DataError(path, "a folder, as test=True chooses a file in it", "a file")
        return _read([path], max_bytes)
    return _read([os.path.join(path, name) for name in (TEST if test else TRAIN)], max_bytes)


def looks_like_cifar10(path):
    """Whether ``path`` is a folder or file with the names and sizes of the binary version, which has no magic
    number."""
    if os.path.isdir(path):
        return any(os.path.exists(os.path.join(path, name)) for name in (*TRAIN, *TEST))
    try:
        return os.path.basename(path) in (*TRAIN, *TEST) or (
            path.endswith(".bin") and os.path.getsize(path) % RECORD == 0
        )
    except OSError:
        return False


def _read(paths, max_bytes):
    sizes = [_size(path) for path in paths]
    check_announced_size(os.path.dirname(paths[0]) or paths[0], sum(sizes), sum(sizes), max_bytes)
    records = np.empty((sum(sizes) // RECORD, RECORD), np.uint8)
    start = 0
    for path, size in zip(paths, sizes, strict=True):
        end = start + size // RECORD
        _read_into(path, records[start:end])
        start = end
    return records[:, 1:].reshape(-1, *IMAGE), records[:, 0].astype(np.int64)


def _size(path):
    try:
        size = os.path.getsize(path)
    except OSError as problem:
        raise DataError(path, "a readable file", problem.strerror or str(problem)) from problem
    if size == 0 or size % RECORD:
        expected = f"records of {RECORD:,} bytes, as in the binary version of CIFAR-10"
        found = "an empty file" if size == 0 else f"{size:,} bytes, {size % RECORD:,} more than whole records have"
        raise DataError(path, expected, found)
    return size


def _read_into(path, records):
    try:
        with open(path, "rb") as file:
            received = file.readinto(memoryview(records).cast("B"))
    except OSError as problem:
        raise DataError(path, "a readable file", problem.strerror or str(problem)) from problem
    if received != records.size:
        raise DataError(path, f"{records.size:,} bytes", f"{received:,}: the file is cut off")
    wrong = np.flatnonzero(records[:, 0] >= CLASSES)
    if len(wrong):
        found = f"{records[wrong[0], 0]} in record {wrong[0]}: another kind of file?"
        raise DataError(path, f"labels from 0 to {CLASSES - 1}", found)
