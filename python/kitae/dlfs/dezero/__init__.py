"""Book 3 ("Deep Learning from Scratch 3"): what kitae makes faster of DeZero, under DeZero's names.

``kitae.dlfs.dezero.optimizers``, ``.functions`` and ``.layers`` stand for the modules of the same names. They work on
the Variables, Parameters and layers of the reader's own ``dezero`` package, which has to be importable for
``functions`` and ``layers``; everything else stays DeZero's.
"""

from importlib import import_module
from typing import Any

from kitae.dlfs._names import not_covered

__all__ = ["functions", "layers", "optimizers"]

_not_covered = not_covered(__name__, "dezero")


def __getattr__(name: str) -> Any:
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    return _not_covered(name)
