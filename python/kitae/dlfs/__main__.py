"""``python -m kitae.dlfs SCRIPT [ARGUMENT ...]``: a script of the books, as ``python SCRIPT ...`` runs it, on kitae."""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any

from kitae.__main__ import OneLineParser
from kitae.dlfs import _masks, install, report


class _BookRoot:
    """Finds what nothing else finds in the folder above the script's, which the books' scripts append to sys.path as
    ``..``: so they also run from elsewhere than their own folder."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [self._folder], target) if path is None else None


def _compile(path: str) -> CodeType:
    with io.open_code(path) as file:
        return compile(file.read(), path, "exec", dont_inherit=True)


def _as_main(path: str) -> ModuleType:
    """The module ``__main__`` of a script at an absolute path, as Python makes it."""
    main = ModuleType("__main__")
    main.__file__ = path
    main.__loader__ = SourceFileLoader("__main__", path)
    vars(main).update(__builtins__=sys.modules["builtins"], __cached__=None)
    if "__annotations__" in vars(sys.modules["__main__"]):  # until Python 3.13
        main.__annotations__ = {}
    return main


def run(script: str, arguments: Sequence[str]) -> int:
    """Run the script to its end; the exit status."""
    path = os.path.abspath(script)
    folder = os.path.dirname(os.path.realpath(path))
    sys.argv = [script, *arguments]
    sys.path[0] = folder  # python -m has put the current folder there
    sys.meta_path.append(_BookRoot(os.path.dirname(folder)))
    main = sys.modules["__main__"] = _as_main(path)
    try:
        exec(_compile(path), vars(main))
    except SystemExit:
        raise
    except BaseException as error:
        # The traceback starts in the script, as without the runner.
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = OneLineParser(
        prog="python -m kitae.dlfs",
        description="Run an unmodified script of the books 'Deep Learning from Scratch' on kitae's kernels.",
    )
    parser.add_argument("--rng", choices=_masks.RNGS, default="numpy", help="where dropout masks come from (numpy)")
    parser.add_argument("script", help="for example ch06/batch_norm_test.py")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="the script's own")
    given = parser.parse_args(argv)
    if not os.path.isfile(given.script):
        parser.error(f"can't open {given.script!r}: no such file")
    install(rng=given.rng)
    try:
        return run(given.script, given.arguments)
    finally:
        print()
        report()


if __name__ == "__main__":
    sys.exit(main())
