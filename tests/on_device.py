"""Rows of the cases on arrays of CuPy: inputs are copied to the device byte by byte, canaries around them included."""

from typing import Any

import numpy as np

import kitae
from guard_bands import Guarded
from kitae.bench.cases import Case, Inputs, Results
from test_backends_agree import assert_same_bits
from test_backends_agree import run as run_on_cpu


class OnDevice:
    """A guarded copy of a NumPy array on the current device: same strides, same distance from an aligned address."""

    def __init__(self, cupy: Any, host: np.ndarray) -> None:
        self._cupy = cupy
        self._guarded = Guarded(host)
        buffer = self._guarded._buffer
        self._bytes = cupy.asarray(buffer)
        place = self._guarded.array
        offset = place.ctypes.data - buffer.ctypes.data
        self.array = cupy.ndarray(
            place.shape, dtype=place.dtype, memptr=self._bytes.data + offset, strides=place.strides
        )

    def fetch(self) -> Guarded:
        """What the device's memory holds now."""
        self._guarded._buffer[...] = self._cupy.asnumpy(self._bytes)
        return self._guarded


def fetched(cupy: Any, value: Any) -> np.ndarray:
    """A result as a NumPy array, also of a dtype that CuPy can only carry."""
    if not isinstance(value, cupy.ndarray):
        return np.array(value, copy=True)
    if value.size == 0:
        return np.empty(value.shape, value.dtype)
    reach = [(n - 1) * stride for n, stride in zip(value.shape, value.strides, strict=True)]
    below = -sum(step for step in reach if step < 0)
    length = below + sum(step for step in reach if step > 0) + value.dtype.itemsize
    memory = cupy.asnumpy(cupy.ndarray((length,), dtype=np.uint8, memptr=value.data + -below, strides=(1,)))
    return np.ndarray(value.shape, value.dtype, memory, below, value.strides).copy(order="K")


def run(cupy: Any, case: Case, original: Inputs, *, give_out: bool) -> Results:
    """One call on the device; the results as NumPy arrays. No byte outside the arrays has changed."""
    guards: list[tuple[str, OnDevice]] = []

    def place(name: str, value: Any) -> Any:
        if isinstance(value, list):
            return [place(name, item) for item in value]
        if not isinstance(value, np.ndarray):
            return value
        guards.append((name, OnDevice(cupy, value)))
        return guards[-1][1].array

    inputs = {name: place(name, value) for name, value in original.items()}
    out = {name: OnDevice(cupy, np.empty_like(original[like])) for name, like in case.out.items()} if give_out else {}
    with kitae.use_backend("cuda"):
        results = case.call(inputs, {name: target.array for name, target in out.items()})
    fetched_results = {name: fetched(cupy, value) for name, value in results.items()}
    for name, guard in guards:
        host = guard.fetch()
        intact = host.intact() if name in case.changes else host.unchanged()
        assert intact, f"{case.name} on cuda: wrote where it must not ({name})"
    for name, target in out.items():
        assert target.fetch().intact(), f"{case.name} on cuda: wrote outside out={name}"
        assert results[name] is target.array, f"{case.name} on cuda: out={name} was not what came back"
    return fetched_results


def compare_with_cpu(case: Case, original: Inputs, results: Results) -> None:
    """Every result is element-wise, or summed in the CPU's order: the CPU's bits."""
    for name, value in run_on_cpu(case, original, "cpu", give_out=False).items():
        assert_same_bits(results[name], value, f"{case.name} {name}: cpu and cuda")
