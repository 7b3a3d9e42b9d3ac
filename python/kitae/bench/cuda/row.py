"""A row of the GPU's table: what is computed on which shapes, the bytes it must move, and who does it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Inputs = dict[str, Any]
Call = Callable[[], object]


@dataclass(frozen=True)
class Traffic:
    read: int
    written: int

    @property
    def total(self) -> int:
        return self.read + self.written


@dataclass(frozen=True)
class Contender:
    """``calls``: the same work on each set of buffers. ``result`` picks what ``Row.reference`` is compared with."""

    system: str
    variant: str
    calls: Sequence[Call]
    #: Entered around all calls.
    context: Callable[[], Any] | None = None
    #: Waits for a result; None: the work is on the default stream, and events time it.
    finish: Callable[[object], object] | None = None
    result: Callable[[Any], Any] | None = None


#: Makes one contender; called when its turn comes, so that only one contender's state is in memory.
Maker = Callable[[], Contender]


@dataclass(frozen=True)
class Row:
    family: str
    op: str
    size: str
    dtype: str
    #: 0: also with --quick; 2: last, where time is left.
    tier: int
    inputs: Callable[[Any], Inputs]
    #: (device) -> bytes that one call must move.
    traffic: Callable[[Any], Traffic]
    makers: Callable[[Any, list[Inputs]], list[Maker]]
    reference: Callable[[Any, Inputs], Any] | None = None
    #: What one set of buffers holds; sets are rotated until three level-2 caches are full. 0: one set, "L2-warm".
    set_bytes: int = 0

    @property
    def name(self) -> str:
        return f"{self.family} {self.op} {self.size} {self.dtype}"
