"""Timing of rival implementations in one process, so that none profits from the order, the caches or the clock.

Contenders take turns in blocks of at least 20 ms. Before each block comes a pause in which the threads of other
libraries go to sleep (OpenMP's workers spin for a while after their work), and the first calls of a block, which
find the caches full of somebody else's data, are dropped. A block yields one number, the median of its calls; a
contender's result is the median of its blocks with the quartiles as its spread.
"""

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

Clock = Callable[[], float]


@dataclass(frozen=True)
class Settings:
    block_seconds: float = 0.020
    blocks: int = 9
    #: Rows whose rounds take long get fewer blocks, but never fewer than this.
    fewest_blocks: int = 3
    row_seconds: float = 15.0
    #: A block's dropped calls: at least one, and until this much time is over.
    dropped_seconds: float = 0.002
    #: Calls shorter than this are timed several at a time, so that reading the clock stays below 1 %.
    shortest_reading: float = 10e-6
    pause_seconds: float = 0.003
    #: Pause after a contender whose threads spin before they sleep.
    pause_after_openmp: float = 0.010


@dataclass(frozen=True)
class Runner:
    """Something to time. ``enter`` is called, untimed, when its turn comes: to set a library's number of threads."""

    name: str
    call: Callable[[], object]
    enter: Callable[[], object] = lambda: None
    uses_openmp: bool = False


@dataclass(frozen=True)
class Timing:
    """Seconds a call: the median of the blocks, their quartiles, and how many calls were timed."""

    median: float
    low: float
    high: float
    blocks: int
    calls: int


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def time_block(call: Callable[[], object], settings: Settings, clock: Clock = time.perf_counter) -> tuple[float, int]:
    """Seconds a call (the median of this block's readings) and the number of calls timed."""
    start = clock()
    dropped = 0
    while dropped == 0 or clock() - start < settings.dropped_seconds:
        call()
        dropped += 1
    repeats = calls_per_reading((clock() - start) / dropped, settings)
    readings: list[float] = []
    begin = clock()
    now = begin
    while not readings or now - begin < settings.block_seconds:
        before = clock()
        for _ in range(repeats):
            call()
        now = clock()
        readings.append((now - before) / repeats)
    return statistics.median(readings), repeats * len(readings)


def calls_per_reading(seconds: float, settings: Settings) -> int:
    if seconds >= settings.shortest_reading:
        return 1
    return max(1, round(settings.shortest_reading / max(seconds, 1e-9)))


def race(
    runners: Sequence[Runner],
    settings: Settings,
    clock: Clock = time.perf_counter,
    sleep: Callable[[float], object] = time.sleep,
) -> dict[str, Timing]:
    """Time all runners in alternating blocks; every second round goes backwards, so that neighbours change."""
    samples: dict[str, list[float]] = {runner.name: [] for runner in runners}
    calls = dict.fromkeys(samples, 0)
    if len(samples) != len(runners):
        raise ValueError(f"race: expected distinct names, got {[runner.name for runner in runners]}")
    pause = settings.pause_seconds
    begin, turn, rounds = clock(), 0, settings.blocks
    with no_garbage_collection():
        while turn < rounds:
            for runner in runners if turn % 2 == 0 else reversed(runners):
                runner.enter()
                sleep(pause)
                seconds, timed = time_block(runner.call, settings, clock)
                samples[runner.name].append(seconds)
                calls[runner.name] += timed
                pause = settings.pause_after_openmp if runner.uses_openmp else settings.pause_seconds
            turn += 1
            if turn == 1:
                affordable = int(settings.row_seconds / max(clock() - begin, 1e-9))
                rounds = min(settings.blocks, max(settings.fewest_blocks, affordable))
    return {name: summarize(values, calls[name]) for name, values in samples.items()}


def summarize(samples: Sequence[float], calls: int) -> Timing:
    low, median, high = quartiles(samples)
    return Timing(median, low, high, len(samples), calls)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def geometric_mean(ratios: Sequence[float]) -> float:
    """The mean for ratios: twice as fast and half as fast cancel."""
    return statistics.geometric_mean(ratios)
