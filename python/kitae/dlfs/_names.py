"""What a module of this package answers to a name that it does not have."""

from collections.abc import Callable
from typing import Any


def not_covered(module: str, original: str) -> Callable[[str], Any]:
    """A module's ``__getattr__``: the error says where the name is. ``original``: the book's own module."""

    def missing(name: str) -> Any:
        raise AttributeError(
            f"module {module!r} has no attribute {name!r}: kitae does not cover it; "
            f"use the book's own, `from {original} import {name}`",
            name=name,
        )

    return missing
