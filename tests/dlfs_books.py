"""Stand-ins for the books' packages: tests/books/one and tests/books/two, imported under the books' names."""

import contextlib
import io
import os
import runpy
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import kitae.dlfs

BOOKS = Path(__file__).parent / "books"


def forget() -> None:
    for name in list(sys.modules):
        if name == "common" or name.startswith("common."):
            del sys.modules[name]


@contextlib.contextmanager
def book(number: str) -> Iterator[None]:
    """Inside, ``import common.layers`` finds that book's stand-in, and nothing is installed before or after."""
    kitae.dlfs.uninstall()
    forget()
    path = str(BOOKS / number)
    sys.path.insert(0, path)
    try:
        yield
    finally:
        kitae.dlfs.uninstall()
        forget()
        sys.path.remove(path)


def module(number: str, name: str) -> ModuleType:
    with book(number):
        return import_module(name)


def run_script(path: Path, *arguments: str) -> list[str]:
    """The lines that the script prints, run in its folder in this process."""
    old = sys.argv, sys.path[:], os.getcwd()
    out = io.StringIO()
    try:
        sys.argv = [str(path), *arguments]
        os.chdir(path.parent)
        with contextlib.redirect_stdout(out):
            runpy.run_path(str(path), run_name="__main__")
    finally:
        sys.argv, sys.path[:] = old[:2]
        os.chdir(old[2])
    return out.getvalue().splitlines()
