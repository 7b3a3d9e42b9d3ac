"""What a call costs beside its work: microseconds a call on arrays of 16 elements and on lists of small tensors, and
what subnormal optimizer state costs. One thread, except for the list of 1,000 tensors."""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

import kitae

from . import machine, report
from .timing import Runner, Settings, race

#: Row -> microseconds a call that we want not to be exceeded.
WANTED = {
    "batch_norm": 5.0,
    "batch_norm, out=": 3.0,
    "dropout": 4.0,
    "clip_grad_norm, 12 tensors": 5.0,
    "Adam.step(grads), 12 tensors": 6.0,
    "Adam.step after bind, 12 tensors": 3.0,
    "Adam.step(grads), 1,000 tensors of 1k": 450.0,
    "Adam.step after bind, 1,000 tensors of 1k": 350.0,
}
#: How many times the normal step a step on subnormal state may take.
SUBNORMAL_LIMIT = 1.5


def _adam(sizes: Sequence[int], bind: bool, state: float | None = None) -> Callable[[], object]:
    rng = np.random.default_rng(3)
    params = [rng.standard_normal(size, np.float32) for size in sizes]
    grads = [rng.standard_normal(size, np.float32) for size in sizes]
    optimizer = kitae.Adam(params)
    if state is not None:
        kept = optimizer.state_dict()
        for slot in kept["slots"].values():
            for array in slot:
                array[...] = state
        optimizer.load_state_dict(kept)
        grads = [np.zeros_like(g) for g in grads]
    if not bind:
        return partial(optimizer.step, grads)
    optimizer.bind(grads)
    return optimizer.step


def rows() -> dict[str, tuple[int, Callable[[], object]]]:
    """Row -> threads, call."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((4, 4), np.float32)
    out = np.empty_like(x)
    vectors = [np.full(4, value, np.float32) for value in (1, 0, 0, 1)]
    grads = [rng.standard_normal(16, np.float32) for _ in range(12)]
    norm = partial(kitae.batch_norm, x, *vectors, training=True)
    small, many = [16] * 12, [1000] * 1000
    return {
        "batch_norm": (1, norm),
        "batch_norm, out=": (1, partial(norm, out=out)),
        "dropout": (1, partial(kitae.dropout, x, 0.5, seed=1)),
        "clip_grad_norm, 12 tensors": (1, partial(kitae.clip_grad_norm, grads, 1e9)),
        "Adam.step(grads), 12 tensors": (1, _adam(small, bind=False)),
        "Adam.step after bind, 12 tensors": (1, _adam(small, bind=True)),
        "Adam.step(grads), 1,000 tensors of 1k": (2, _adam(many, bind=False)),
        "Adam.step after bind, 1,000 tensors of 1k": (2, _adam(many, bind=True)),
        "Adam, 64k elements, state of normal numbers": (1, _adam([1 << 16], bind=True, state=1e-3)),
        "Adam, 64k elements, subnormal state": (1, _adam([1 << 16], bind=True, state=1e-40)),
    }


def measure(settings: Settings | None = None) -> dict[str, float]:
    """Microseconds a call, by row."""
    threads = kitae.get_num_threads()
    try:
        runners = [Runner(name, call, partial(kitae.set_num_threads, n)) for name, (n, call) in rows().items()]
        return {name: timing.median * 1e6 for name, timing in race(runners, settings or Settings()).items()}
    finally:
        kitae.set_num_threads(threads)


def text(measured: dict[str, float]) -> str:
    table: list[tuple[Any, ...]] = [
        (name, f"{micros:.2f}", f"{WANTED[name]:g}" if name in WANTED else "-") for name, micros in measured.items()
    ]
    normal, subnormal = list(measured.values())[-2:]
    busy = machine.running_elsewhere()
    parts = [report.aligned(("call", "us", "at most"), table)]
    parts.append(f"subnormal state: {subnormal / normal:.2f} times the normal step (at most {SUBNORMAL_LIMIT:g})")
    if machine.busy(busy):
        parts.append(f"NOT A QUIET MACHINE: other processes kept {busy:.1f} CPUs busy.")
    return "\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    argparse.ArgumentParser(prog="benchmarks/overhead.py", description=__doc__).parse_args(arguments)
    print(text(measure()))
    return 0
