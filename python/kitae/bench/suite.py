"""Running the benchmark: every row of the cases that has benchmark sizes, all contenders, one race a row."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np

from kitae import _dispatch, _threads

from . import blas, machine
from .cases import CASES, Case, Size, networks, torch_face
from .contenders import System, contenders, set_threads
from .timing import Runner, Settings, Timing, race

#: A copy this long is far beyond the caches, where longer ones are no faster.
LONGEST_COPY = 1 << 27
FORMAT = 1

Row = tuple[Case, Size]
#: Rows whose caller is PyTorch come where it is installed.
ALL_CASES = (*CASES, *networks.CASES, *(torch_face.CASES if find_spec("torch") else ()))


@dataclass(frozen=True)
class Plan:
    quick: bool = False
    filter: str = ""
    threads: tuple[int, ...] = (1, 2)
    settings: Settings = field(default_factory=Settings)
    #: Who takes part; nobody named: all.
    systems: tuple[System, ...] = ()
    #: float32 has all rows; other dtypes have the quick ones, of ops whose state has the parameters' dtype.
    dtypes: tuple[str, ...] = ("float32",)


QUICK_SETTINGS = Settings(blocks=3, fewest_blocks=3)


def planned(
    quick: bool = False,
    filter: str = "",
    threads: tuple[int, ...] | None = None,
    dtypes: tuple[str, ...] = ("float32",),
) -> Plan:
    """1 and 2 threads, or for a quick look as many as the machine has, at most 2."""
    most = min(2, machine.cores())
    default = (most,) if quick else tuple(sorted({1, most}))
    return Plan(quick, filter, threads or default, QUICK_SETTINGS if quick else Settings(), dtypes=dtypes)


def rows(plan: Plan, cases: Sequence[Case] = ALL_CASES, dtype: str = "float32") -> list[Row]:
    """The rows of a plan in one dtype; every word of the filter must occur in a row's family, op or size."""
    unfair = blas.missing() != ""
    return [row for row in _matching(plan, cases, dtype) if not (unfair and row[0].family == networks.FAMILY)]


def left_out(plan: Plan) -> str:
    """Why a plan goes without its networks, or nothing. One thread must mean one for everyone."""
    missing = blas.missing()
    if not missing or not any(_matching(plan, networks.CASES, dtype) for dtype in plan.dtypes):
        return ""
    return f"Rows of networks are left out: their matrix products would take all cores ({missing})."


def _matching(plan: Plan, cases: Sequence[Case], dtype: str) -> list[Row]:
    words = plan.filter.lower().split()
    return [
        (case, size)
        for case in cases
        for size in case.bench_sizes
        if (size.quick or (not plan.quick and dtype == "float32"))
        and _in_dtype(case, dtype)
        and all(word in row_name(case, size).lower() for word in words)
    ]


def _in_dtype(case: Case, dtype: str) -> bool:
    if dtype == "float32" or dtype not in case.dtypes:
        return dtype in case.dtypes
    # kitae's optimizers keep float32 state and masters for 16-bit parameters, PyTorch's do not: other work.
    return case.family != "torch_face" and (dtype == "float64" or "params" not in case.changes)


def row_name(case: Case, size: Size) -> str:
    return f"{case.family} {case.name} {size.label}"


def run(
    plan: Plan, progress: Callable[[int, int, dict[str, Any]], None], chosen: Sequence[Row] | None = None
) -> dict[str, Any]:
    """Measure the chosen rows, or every row of the plan; ``progress(done, planned, row)`` is told of each."""
    if chosen is None:
        tasks = [(*row, dtype) for dtype in plan.dtypes for row in rows(plan, dtype=dtype)]
    else:
        tasks = [(*row, "float32") for row in chosen]
    described = machine.description()  # first, because it says how busy the machine is without us
    threads = _threads.get_num_threads()
    begin = time.monotonic()
    measured = []
    try:
        with blas.restored():
            for case, size, dtype in tasks:
                measured.append(measure(case, size, plan, dtype))
                progress(len(measured), len(tasks), measured[-1])
    finally:
        _threads.set_num_threads(threads)
    return {
        "format": FORMAT,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": described,
        "plan": {
            "quick": plan.quick,
            "filter": plan.filter,
            "threads": list(plan.threads),
            "dtypes": list(plan.dtypes),
            **asdict(plan.settings),
        },
        "seconds": round(time.monotonic() - begin, 1),
        "rows": measured,
    }


def measure(case: Case, size: Size, plan: Plan, dtype: str = "float32") -> dict[str, Any]:
    """All contenders of one row and the copies of as many bytes, in one race."""
    inputs = case.inputs(size, dtype)
    assert case.traffic is not None
    traffic = case.traffic(inputs, machine.cache_bytes(2))
    entries: list[dict[str, Any]] = []
    runners: list[Runner] = []

    def enter_race(entry: dict[str, Any], runner: Runner) -> None:
        entries.append(entry)
        runners.append(replace(runner, name=str(len(runners))))

    for contender in contenders(case, inputs):
        if plan.systems and contender.system not in plan.systems:
            continue
        for count in contender.thread_counts(plan.threads, machine.cores()):
            enter_race(
                {
                    "kind": "contender",
                    "system": contender.system,
                    "variant": contender.variant,
                    "destination": contender.destination,
                    "threads": count,
                },
                Runner(
                    "",
                    contender.call,
                    partial(contender.take_threads, count),
                    uses_openmp=contender.system == "PyTorch",
                ),
            )
    length = min(traffic.total // 2, LONGEST_COPY)
    for variant, destination, call in copies(length, fresh=bool(case.out)):
        for count in plan.threads:
            enter_race(
                {"kind": "copy", "variant": variant, "destination": destination, "threads": count, "bytes": 2 * length},
                Runner("", call, partial(set_threads, "kitae", count)),
            )
    timings = race(runners, plan.settings)
    return {
        "family": case.family,
        "op": case.name,
        "size": size.label,
        "dtype": dtype,
        "bytes": {"read": traffic.read, "written": traffic.written},
        "entries": [entry | rounded(timings[str(i)]) for i, entry in enumerate(entries)],
    }


def rounded(timing: Timing) -> dict[str, Any]:
    """Four digits of what a clock says."""
    return {
        name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in asdict(timing).items()
    }


def copies(length: int, fresh: bool) -> list[tuple[str, str, Callable[[], object]]]:
    """The yardsticks: a memcpy split over the threads, and streaming stores, into warm and into new memory."""
    backend = _dispatch.cpu()
    source, target = np.ones(length, np.uint8), np.ones(length, np.uint8)

    def into_new(copy: Callable[[np.ndarray, np.ndarray], object]) -> None:
        copy(np.empty(length, np.uint8), source)

    made: list[tuple[str, str, Callable[[], object]]] = []
    for variant, copy in (("split", backend.copy_split), ("streaming", backend.copy_streaming)):
        made.append((variant, "reused", partial(copy, target, source)))
        if fresh:
            made.append((variant, "fresh", partial(into_new, copy)))
    return made
