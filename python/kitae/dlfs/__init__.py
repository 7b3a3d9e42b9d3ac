"""The books "Deep Learning from Scratch" 1, 2 and 3 on kitae's kernels, under the books' names and with their numbers.

- no line changed: ``python -m kitae.dlfs ch06/batch_norm_test.py`` runs a script of the book;
- from a notebook: ``kitae.dlfs.install()``, ``report()``, ``uninstall()``;
- one import changed: ``kitae.dlfs.layers``, ``.optimizer``, ``.util``, ``.time_layers`` for ``common.*`` of books 1 and
  2, ``kitae.dlfs.dezero.optimizers``, ``.functions``, ``.layers`` for ``dezero.*`` of book 3.

docs/dlfs.ja.md (Japanese) and docs/dlfs.md list what is covered and where it differs.
"""

from typing import Any

from kitae.dlfs._install import install, report, uninstall
from kitae.dlfs._masks import set_rng

__all__ = ["install", "report", "set_rng", "uninstall"]

_MODULES = ("dezero", "layers", "optimizer", "time_layers", "util")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        from importlib import import_module

        return import_module(f"{__name__}.{name}")
    raise AttributeError(
        f"module {__name__!r} has no attribute {name!r}: kitae covers {', '.join(_MODULES)} of the books; "
        f"use the book's own module for others, `import common.{name}`",
        name=name,
    )
