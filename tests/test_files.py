"""kitae._files: the old file or the new one, whatever happens at whatever instant, and nothing else beside it."""

import errno
import os
import resource
import subprocess
import sys
import threading

import pytest

from kitae import _files

KILLS = """
import os, random, signal, sys, time
from kitae._files import write_atomically
folder, tries = sys.argv[1], int(sys.argv[2])
path = os.path.join(folder, "file")
random.seed(0)
write_atomically(path, [bytes([0]) * 1000])
litter = kinds = 0
for attempt in range(tries):
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        number = attempt
        while True:
            number += 1
            write_atomically(path, [bytes([number % 256]) * 100_000] * 4)
            os.write(tell, b".")
    os.read(ready, 1)
    time.sleep(random.uniform(0, 0.004))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(ready), os.close(tell)
    content = open(path, "rb").read()
    assert len(content) == 400_000 and len(set(content)) == 1, (len(content), set(content))
    found = os.listdir(folder)
    assert len(found) <= 2, found
    litter += len(found) == 2
write_atomically(path, [b"end"])
assert os.listdir(folder) == ["file"]
print(litter)
"""


def kill(folder, tries):
    run = subprocess.run([sys.executable, "-c", KILLS, folder, str(tries)], capture_output=True, text=True, timeout=500)
    assert run.returncode == 0, run.stderr
    return int(run.stdout)


@pytest.mark.timing
def test_killed_at_any_instant(tmp_path):
    """Some of the kills have to hit the middle of a write, else this would test nothing."""
    assert kill(tmp_path, 100) > 0


@pytest.mark.slow
@pytest.mark.timing
def test_killed_a_thousand_times(tmp_path):
    assert kill(tmp_path, 1000) > 10


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class TestFailures:
    @pytest.mark.parametrize("name", ["fsync", "replace", "fchmod"])
    def test_no_space_or_io_error_leaves_the_old_file(self, tmp_path, monkeypatch, name):
        _files.write_atomically(tmp_path / "file", [b"old"])

        def fail(*_arguments):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, name, fail)
        with pytest.raises(OSError, match="No space left"):
            _files.write_atomically(tmp_path / "file", [b"new"])
        monkeypatch.undo()
        assert contents(tmp_path) == {"file": b"old"}

    def test_a_write_that_the_system_cuts_off(self, tmp_path):
        """The system itself refuses what goes beyond 64 kB of a file, in the middle of a write."""
        _files.write_atomically(tmp_path / "file", [b"old"])
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
        try:
            with pytest.raises(OSError, match="File too large"):
                _files.write_atomically(tmp_path / "file", [b"n" * 50_000] * 4)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert contents(tmp_path) == {"file": b"old"}

    def test_interrupted_between_parts(self, tmp_path):
        def parts():
            yield b"n"
            raise KeyboardInterrupt

        _files.write_atomically(tmp_path / "file", [b"old"])
        with pytest.raises(KeyboardInterrupt):
            _files.write_atomically(tmp_path / "file", parts())
        assert contents(tmp_path) == {"file": b"old"}

    def test_no_such_folder_and_a_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no such folder"):
            _files.write_atomically(tmp_path / "none" / "file", [b"new"])
        with pytest.raises(IsADirectoryError, match="expected the path of a file"):
            _files.write_atomically(tmp_path, [b"new"])
        assert contents(tmp_path) == {}


class TestFile:
    def test_the_disk_has_it_before_it_gets_the_name_and_the_folder_after(self, tmp_path, monkeypatch):
        calls = []
        for name in ("fsync", "replace"):
            real = getattr(os, name)
            monkeypatch.setattr(os, name, lambda *a, name=name, real=real: (calls.append(name), real(*a))[1])
        _files.write_atomically(tmp_path / "file", [b"new"])
        assert calls == ["fsync", "replace", "fsync"]

    def test_mode_and_link_are_kept(self, tmp_path):
        (tmp_path / "real").write_bytes(b"old")
        (tmp_path / "real").chmod(0o640)
        (tmp_path / "link").symlink_to("real")
        _files.write_atomically(tmp_path / "link", [b"new"])
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "real").read_bytes() == b"new"
        assert (tmp_path / "real").stat().st_mode & 0o777 == 0o640

    def test_a_name_of_255_bytes(self, tmp_path):
        name = "\N{HIRAGANA LETTER A}" * 85
        _files.write_atomically(tmp_path / name, [b"new"])
        assert contents(tmp_path) == {name: b"new"}

    def test_other_files_stay(self, tmp_path):
        """Only what has the exact form of an unfinished file of this path is removed."""
        dead = tmp_path / f".file.{'0' * 16}.kitae-unfinished"
        others = [f".file2.{'0' * 16}.kitae-unfinished", ".file.0.kitae-unfinished", "file.tmp"]
        for path in (dead, *(tmp_path / name for name in others)):
            path.write_bytes(b"")
        _files.write_atomically(tmp_path / "file", [b"new"])
        assert sorted(contents(tmp_path)) == sorted(["file", *others])

    def test_writers_at_once(self, tmp_path):
        """Each removes what dead ones left, never what another is writing."""
        problems = []

        def write(byte):
            try:
                for _ in range(50):
                    _files.write_atomically(tmp_path / "file", [byte * 20_000] * 2)
            except OSError as problem:
                problems.append(problem)

        threads = [threading.Thread(target=write, args=(bytes([i]),)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert problems == []
        assert list(contents(tmp_path)) == ["file"]
        assert len(set((tmp_path / "file").read_bytes())) == 1
