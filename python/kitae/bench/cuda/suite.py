"""Running the GPU's rows: bandwidths first, then every row, its contenders one after the other."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from kitae import _dispatch

from .. import machine
from ..suite import FORMAT
from . import dropout, lists, normalization
from .row import Contender, Inputs, Maker, Row
from .timing import Settings, by_events, by_wall

#: Buffers rotate until this many level-2 caches are full, in at most so many sets.
CACHES = 3
MOST_SETS = 64
COPY_BYTES = 1 << 32


@dataclass(frozen=True)
class Plan:
    quick: bool = False
    filter: str = ""
    #: No row is begun after this time.
    seconds: float = float("inf")
    settings: Settings = field(default_factory=Settings)


def rows(plan: Plan) -> list[Row]:
    """In the order of their worth: where time runs out, the last ones are left out. --filter reaches every row."""
    words = plan.filter.lower().split()
    every = [*normalization.rows(), *dropout.rows(), *lists.rows()]
    chosen = [row for row in every if all(word in row.name.lower() for word in words)]
    if plan.quick:
        chosen = [row for row in chosen if row.tier == 0]
    return sorted(chosen, key=lambda row: row.tier)  # stable


def run(
    plan: Plan,
    device: Any,
    progress: Callable[[int, int, dict[str, Any]], None],
    save: Callable[[dict[str, Any]], None] = lambda results: None,
) -> dict[str, Any]:
    """Measure; ``progress(done, planned, row)`` is told of each row, ``save(results)`` gets what there is so far."""
    begin = time.monotonic()
    chosen = rows(plan)
    described = {**machine.description(), **device.description()}
    bandwidths = measure_bandwidths(device, plan.settings)
    measured: list[dict[str, Any]] = []

    def results() -> dict[str, Any]:
        return {
            "format": FORMAT,
            "device": "cuda",
            "date": datetime.now(UTC).date().isoformat(),
            "machine": described,
            "plan": {"quick": plan.quick, "filter": plan.filter, **asdict(plan.settings)},
            "seconds": round(time.monotonic() - begin, 1),
            "bandwidths": bandwidths,
            "rows": measured,
            "left_out": [row.name for row in chosen[len(measured) :]],
        }

    for row in chosen:
        if time.monotonic() - begin > plan.seconds:
            break
        measured.append(measure(row, device, plan.settings, bandwidths))
        progress(len(measured), len(chosen), measured[-1])
        save(results())
    return results()


def measure_bandwidths(device: Any, settings: Settings, size: int = COPY_BYTES) -> dict[str, float]:
    """Bytes a second of the best copy (read and written) and of the best sum (read)."""
    source = device.normal((size // 4,), "float32")
    target = device.copy(source)
    plain = device.plain(source)
    copies = [lambda: device.xp.copyto(device.plain(target), plain)]
    sums: list[Callable[[], Any]] = [lambda: plain.sum()]
    if device.torch is not None:
        tensors = device.torch_tensor(source), device.torch_tensor(target)
        copies.append(lambda: tensors[1].copy_(tensors[0]))
        sums.append(lambda: tensors[0].sum())

    def best(calls: list[Callable[[], Any]], moved: int) -> float:
        return float(f"{max(moved / by_events(device, [call], settings, 1).median for call in calls):.4g}")

    result = {"copy": best(copies, 2 * size), "read": best(sums, size)}
    device.free_memory()
    return result


def measure(row: Row, device: Any, settings: Settings, bandwidths: dict[str, float]) -> dict[str, Any]:
    wanted = -(-CACHES * device.l2_bytes // row.set_bytes) if row.set_bytes else 1
    sets: list[Inputs] = []
    traffic = row.traffic(device)
    entries: list[dict[str, Any]] = []
    try:
        sets = [row.inputs(device) for _ in range(max(1, min(MOST_SETS, wanted)))]
        expected = _reference(row, device, sets[0])
        for make in row.makers(device, sets):
            entries.append(_entry(make, device, settings, expected))
            device.free_memory()
    except Exception as error:
        entries.append({"kind": "failed", "system": "kitae", "variant": "inputs", "error": _words(error)})
    entries.append({"kind": "bandwidth", "bytes": 1, "median": 1 / bandwidths["copy" if traffic.written else "read"]})
    del sets
    device.free_memory()
    return {
        "family": row.family,
        "op": row.op,
        "size": row.size,
        "dtype": row.dtype,
        "bytes": {"read": traffic.read, "written": traffic.written},
        "sets": max(1, min(MOST_SETS, wanted)),
        "warm": not row.set_bytes or wanted > MOST_SETS,
        "entries": entries,
    }


def _reference(row: Row, device: Any, inputs: Inputs) -> Any:
    if row.reference is None:
        return None
    with np.errstate(all="ignore"):
        return row.reference(device, inputs)


def _entry(make: Maker, device: Any, settings: Settings, expected: Any) -> dict[str, Any]:
    """What became of one contender. One that fails is an entry too: the others are still measured."""
    named = {"system": _system(make), "variant": ""}
    try:
        contender = make()
        named = {"system": contender.system, "variant": contender.variant}
        with contender.context() if contender.context else contextlib.nullcontext():
            return {"kind": "contender", **named, **_measured(contender, device, settings, expected)}
    except Exception as error:
        return {"kind": "failed", **named, "error": _words(error)}


def _measured(contender: Contender, device: Any, settings: Settings, expected: Any) -> dict[str, Any]:
    first = contender.calls[0]
    found: dict[str, Any] = {}
    if contender.finish is not None:
        timing = by_wall(contender.finish, contender.calls, settings)
    else:
        result = first()
        if contender.result is not None and expected is not None:
            found["error"] = _relative_error(device, contender.result(result), expected)
        del result
        kernels = _own_kernels(first) if contender.system == "kitae" else device.kernels(first)
        found["kernels"] = kernels
        timing = by_events(device, contender.calls, settings, kernels)
    numbers = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in asdict(timing).items()}
    return numbers | found


def _own_kernels(call: Callable[[], object]) -> int | None:
    """Kernels that kitae starts in one call; None for a graph, whose replay starts them unseen."""
    count = _dispatch.cuda().launch_count
    before = count()
    call()
    return count() - before or None


def _relative_error(device: Any, value: Any, expected: Any) -> float:
    """||value - expected|| / ||expected||, NaN counted as infinity."""
    xp = device.xp
    difference = device.wide(value) - expected
    error = float(xp.sqrt(xp.square(difference).sum() / xp.square(expected).sum()))
    return float(f"{error:.3g}") if error == error else float("inf")


def _system(make: Any) -> str:
    name = make.func.__name__
    return next((system for word, system in _SYSTEMS.items() if word in name), "kitae")


_SYSTEMS = {"kitae": "kitae", "torch": "PyTorch", "plain": "CuPy", "jax": "JAX"}


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:300]
