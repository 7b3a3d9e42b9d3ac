"""Whether a class or function of the reader's book is the one that kitae has: signature, attributes, numbers.

Readers type the books' code themselves and change it. A name is replaced only if its own version, tried on a few small
arrays, gives what kitae's gives.
"""

import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from kitae.dlfs._probes import PROBES

# A reader's formula may be the same on paper and round differently in float32.
_TOLERANCE = {"d": 1e-9, "f": 1e-4, "e": 1e-2}
_STRUCTURES = ("cache", "layers")  # attributes that hold what each keeps for itself


def why_not(name: str, original: Any, ours: Any, module: ModuleType) -> str | None:
    """None where ``ours`` can stand for ``original``, else the reason in words."""
    if not (inspect.isclass(ours) and issubclass(ours, original) if inspect.isclass(original) else False):
        reason = _other_signature(original, ours)
        if reason is not None:
            return reason
    probe = PROBES[name]
    xp = vars(module).get("np", np)
    with _KeptRandomState(xp) as state:
        results = []
        for candidate in (original, ours):
            state.seed()
            try:
                results.append(probe(candidate, xp))
            except Exception as error:
                whose = "its own" if candidate is original else "kitae's"
                return f"{whose} raises {type(error).__name__} on a small example"
    return _difference(*results)


class _KeptRandomState:
    """The global generators are afterwards as they were."""

    def __init__(self, xp: Any) -> None:
        self._xp = xp

    def __enter__(self) -> "_KeptRandomState":
        self._numpy = np.random.get_state()  # noqa: NPY002  the book's generator
        if self._xp is not np:
            self._cupy = self._xp.random.get_random_state()
        return self

    def seed(self) -> None:
        np.random.seed(1)  # noqa: NPY002
        if self._xp is not np:
            self._xp.random.set_random_state(self._xp.random.RandomState(1))

    def __exit__(self, *_: object) -> None:
        np.random.set_state(self._numpy)  # noqa: NPY002
        if self._xp is not np:
            self._xp.random.set_random_state(self._cupy)


def _parameters(function: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


def _other_signature(original: Any, ours: Any) -> str | None:
    if not inspect.isclass(original):
        return None if _parameters(original) == _parameters(ours) else "another signature"
    if _parameters(original) != _parameters(ours):
        return "another signature"
    for name, method in vars(original).items():
        if name.startswith("_"):
            continue
        if not hasattr(ours, name):
            return f"has {name}, which kitae's has not"
        if inspect.isfunction(method) and _parameters(method) != _parameters(getattr(ours, name)):
            return f"{name} has another signature"
    return None


def _difference(original: list[Any], ours: list[Any]) -> str | None:
    """The results of a probe: arrays, and instances whose public attributes count too."""
    for theirs, mine in zip(original, ours, strict=True):
        if theirs is None:
            continue
        if not hasattr(theirs, "__dict__") or hasattr(theirs, "dtype"):
            if not _equal(theirs, mine):
                return "other numbers"
            continue
        for name, value in vars(theirs).items():
            if name.startswith("_") or name in _STRUCTURES:
                continue
            if not hasattr(mine, name):
                return f"has {name}, which kitae's has not"
            if not _equal(value, getattr(mine, name)):
                return f"other numbers in {name}"
    return None


def _equal(theirs: Any, mine: Any) -> bool:
    if isinstance(theirs, Mapping):
        return theirs.keys() == mine.keys() and all(_equal(value, mine[key]) for key, value in theirs.items())
    if isinstance(theirs, (list, tuple)):
        return len(theirs) == len(mine) and all(map(_equal, theirs, mine))
    if theirs is None or not (np.isscalar(theirs) or hasattr(theirs, "dtype")):
        return theirs is None or mine is not None
    if hasattr(theirs, "get"):
        theirs, mine = theirs.get(), mine.get()
    theirs, mine = np.asarray(theirs), np.asarray(mine)
    if theirs.shape != mine.shape or theirs.dtype.kind != mine.dtype.kind:
        return False
    if theirs.dtype.kind != "f":
        return bool(np.array_equal(theirs, mine))
    tolerance = max(_TOLERANCE.get(array.dtype.char, 1e-9) for array in (theirs, mine))
    return bool(np.allclose(mine, theirs, rtol=tolerance, atol=tolerance))
