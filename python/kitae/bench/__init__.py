"""Cases, a textbook network to compare with, and the benchmark behind ``python -m kitae bench``."""

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m kitae bench``; arguments are the words after it."""
    from .command import main

    return main(arguments)
