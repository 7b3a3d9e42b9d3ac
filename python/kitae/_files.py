"""Files that are written whole or not at all.

A new file beside the old one is written and brought to the disk, then takes the old one's name in one rename: whoever
is killed at any instant leaves the old file or the new one. What a killed process leaves behind is its unfinished
file; the next write to the same path removes it. Each writer holds a lock on its own unfinished file, which dies with
the process: a file that can be locked has no writer. (A nameless file, O_TMPFILE, would still need a name for the
instant before the rename, and not every file system has it.)
"""

import contextlib
import errno
import fcntl
import glob
import os
import re
import secrets
from collections.abc import Iterable

_UNFINISHED = ".kitae-unfinished"


def write_atomically(path: str | os.PathLike[str], parts: Iterable[bytes]) -> None:
    """Replace or make the file ``path`` with ``parts``, one after the other.

    On return the file is on the disk under its name. Where anything fails (OSError: no space, no permission, ...) or is
    interrupted, the old file is as it was and nothing else is left. A symbolic link is followed; the mode of a file
    that is replaced is kept.
    """
    target = os.path.realpath(path)
    folder, name = os.path.split(target)
    if not os.path.isdir(folder):
        raise FileNotFoundError(errno.ENOENT, "no such folder to write a file in", folder)
    if os.path.isdir(target):
        raise IsADirectoryError(errno.EISDIR, "expected the path of a file, found a folder", target)
    _remove_unfinished(folder, name)
    unfinished, descriptor = _new_locked(folder, name)
    try:
        with open(descriptor, "wb") as file:
            with contextlib.suppress(FileNotFoundError):
                os.fchmod(descriptor, os.stat(target).st_mode & 0o777)
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(descriptor)
            os.replace(unfinished, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(unfinished)
        raise
    _sync_folder(folder)


def _new_locked(folder: str, name: str) -> tuple[str, int]:
    while True:
        # Names have at most 255 bytes on every usual file system.
        path = os.path.join(folder, f".{_short(name)}.{secrets.token_hex(8)}{_UNFINISHED}")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:  # else: another writer took it for a dead one's before it was locked
                return path, descriptor
        except BaseException:
            os.close(descriptor)
            os.unlink(path)
            raise
        os.close(descriptor)


def _remove_unfinished(folder: str, name: str) -> None:
    pattern = re.compile(re.escape(f".{_short(name)}.") + "[0-9a-f]{16}" + re.escape(_UNFINISHED))
    for path in glob.iglob(os.path.join(glob.escape(folder), f".*{_UNFINISHED}"), include_hidden=True):
        if not pattern.fullmatch(os.path.basename(path)):
            continue
        with contextlib.suppress(FileNotFoundError, BlockingIOError, PermissionError):
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)
            finally:
                os.close(descriptor)


def _short(name: str) -> str:
    return os.fsdecode(os.fsencode(name)[:200])


def _sync_folder(folder: str) -> None:
    """The rename itself comes to the disk with the folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
