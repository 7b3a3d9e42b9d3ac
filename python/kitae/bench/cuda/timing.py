"""GPU time between events of a full queue, host time of a call, and wall time for libraries with a stream of their own.

The GPU is held by a waiting kernel until the host has queued a burst of calls: what the events measure then is what the
GPU does, not how fast Python launches. How fast it launches is the host time. Calls of a contender rotate over sets of
buffers that together exceed three times the level-2 cache.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ..timing import no_garbage_collection, quartiles

Calls = Sequence[Callable[[], object]]


@dataclass(frozen=True)
class Settings:
    warmups: int = 20
    readings: int = 50
    #: The host stays this far ahead; calls of a burst are queued within it.
    longest_hold: float = 0.03
    #: The launch queue has room for about a thousand.
    longest_burst: int = 400
    #: Shorter calls are read several at a time: an event costs about a microsecond.
    shortest_reading: float = 50e-6
    #: Calls that take very long get fewer readings.
    seconds: float = 3.0


@dataclass(frozen=True)
class Timing:
    """Seconds a call: the median, quartiles; seconds of the host a call; how many readings and calls."""

    median: float
    low: float
    high: float
    readings: int
    calls: int
    host: float
    #: "events": GPU time. "wall": from the first call of a burst to the end of its work.
    clock: str = "events"


def by_events(device: Any, calls: Calls, settings: Settings, kernels: int | None) -> Timing:
    turn = _Turn(calls)
    begin = time.perf_counter()
    turn.run(1)
    device.synchronize()
    warmups = _affordable(settings.warmups, time.perf_counter() - begin, settings)
    turn.run(max(warmups, len(calls)))
    device.synchronize()
    most = max(1, min(50, settings.longest_burst // max(1, kernels or 8)))
    host = _host_seconds(device, turn, most)
    burst = max(1, min(most, int(settings.longest_hold / host)))
    estimate = _gpu_seconds(device, turn, 1, burst, host)[0]
    repeats = max(1, min(burst, math.ceil(settings.shortest_reading / max(estimate, 1e-7))))
    wanted = _affordable(settings.readings, estimate * repeats, settings)
    readings: list[float] = []
    with no_garbage_collection():
        while len(readings) < wanted:
            readings += _gpu_seconds(device, turn, max(1, burst // repeats), repeats, host)
    low, median, high = quartiles(readings)
    return Timing(median, low, high, len(readings), len(readings) * repeats, host)


def by_wall(finish: Callable[[object], object], calls: Calls, settings: Settings) -> Timing:
    """For a library that works on streams of its own: bursts of calls, until ``finish`` of the last result is over."""
    turn = _Turn(calls)
    begin = time.perf_counter()
    finish(turn.run(1))  # compiles
    begin = time.perf_counter()
    finish(turn.run(1))
    once = time.perf_counter() - begin
    finish(turn.run(_affordable(settings.warmups, once, settings)))
    burst = max(1, min(20, int(settings.longest_hold / max(once, 1e-7))))
    readings, hosts = [], []
    with no_garbage_collection():
        for _ in range(_affordable(settings.readings, once * burst, settings)):
            begin = time.perf_counter()
            last = turn.run(burst)
            hosts.append((time.perf_counter() - begin) / burst)
            finish(last)
            readings.append((time.perf_counter() - begin) / burst)
    low, median, high = quartiles(readings)
    return Timing(median, low, high, len(readings), len(readings) * burst, quartiles(hosts)[1], "wall")


class _Turn:
    """The calls of a contender, one set of buffers after the other."""

    def __init__(self, calls: Calls) -> None:
        self._calls, self._next = calls, 0

    def run(self, count: int) -> object:
        calls, sets, place, result = self._calls, len(self._calls), self._next, None
        for _ in range(count):
            result = calls[place]()
            place = place + 1 if place + 1 < sets else 0
        self._next = place
        return result


def _affordable(count: int, seconds: float, settings: Settings) -> int:
    return max(3, min(count, int(settings.seconds / max(seconds, 1e-9))))


def _host_seconds(device: Any, turn: _Turn, burst: int) -> float:
    """Median over bursts that the launch queue takes without waiting."""
    readings = []
    for _ in range(5):
        begin = time.perf_counter()
        turn.run(burst)
        readings.append((time.perf_counter() - begin) / burst)
        device.synchronize()
        if sum(readings) * burst > 1.0:
            break
    return max(quartiles(readings)[1], 1e-7)


def _gpu_seconds(device: Any, turn: _Turn, readings: int, repeats: int, host: float) -> list[float]:
    device.hold(min(0.05, 1.5 * host * readings * repeats + 50e-6))
    marks = [device.mark()]
    for _ in range(readings):
        turn.run(repeats)
        marks.append(device.mark())
    device.synchronize()
    return [device.seconds_between(a, b) / repeats for a, b in pairwise(marks)]
