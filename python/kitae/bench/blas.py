"""NumPy's matrix products with as many threads as a row says: NumPy itself has no word for it, threadpoolctl does."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any


def missing() -> str:
    """What keeps us from setting the number, in words; empty where nothing does."""
    if find_spec("threadpoolctl") is None:
        return "threadpoolctl is not installed; pip install 'kitae[bench]'"
    if not _libraries().lib_controllers:
        return "threadpoolctl does not know the library of NumPy's matrix products"
    return ""


@cache
def _libraries() -> Any:
    """Found once, as that takes milliseconds: NumPy has loaded its library before anyone can ask."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


def set_threads(count: int) -> None:
    for library in _libraries().lib_controllers:
        library.set_num_threads(count)


@contextmanager
def restored() -> Iterator[None]:
    """Gives back the number of threads from before."""
    if missing():
        yield
        return
    with _libraries().limit(limits=None):
        yield
