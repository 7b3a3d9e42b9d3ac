"""The bad-input matrix: every public function x every kind of bad argument, each cell's outcome written down first.

A cell either works, and then gives the bits that kitae.reference gives for plain copies, in the caller's own arrays; or
it raises the stated exception, whose message names op, argument, expected and got, and every array, optimizer and layer
state included, is bit-identical afterwards. Every array lies between guard bytes, which must survive both ways.
bad_input_kinds.py has the kinds and the expected outcomes, bad_input_targets.py the functions; here is the machinery.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import kitae
from bad_input_kinds import WORKS, FakeCupyArray, bad_value
from bad_input_targets import TARGETS, Target
from kitae import _dispatch

GUARD_BYTES = 64
FEWEST_CELLS = 600


class Guarded:
    """The arrays of one call: each between guard bytes, with a copy of the bytes from before the call."""

    def __init__(self) -> None:
        self.buffers: list[tuple[np.ndarray, np.ndarray]] = []  # memory, its copy

    def place(self, array: np.ndarray, offset: int = 0) -> np.ndarray:
        """A copy of ``array``, in its memory order, between guard bytes; ``offset`` bytes from aligned memory."""
        buffer = np.full(array.nbytes + 2 * GUARD_BYTES + 64, 0xA5, np.uint8)
        start = GUARD_BYTES + (-buffer.ctypes.data) % 64 + offset
        fortran = array.flags.f_contiguous and not array.flags.c_contiguous
        placed = np.ndarray(array.shape, array.dtype, buffer, start, order="F" if fortran else "C")
        placed[...] = array
        self.buffers.append((buffer, buffer.copy()))
        return placed

    def remember(self) -> None:
        self.buffers = [(buffer, buffer.copy()) for buffer, _ in self.buffers]

    def assert_untouched(self) -> None:
        for buffer, before in self.buffers:
            assert buffer.tobytes() == before.tobytes(), "an array was changed by a call that raised"

    def assert_guards(self, passed: list[np.ndarray]) -> None:
        """Only elements of the arrays that were passed may differ."""
        for buffer, before in self.buffers:
            guard = np.ones(buffer.size, bool)
            for array in passed:
                if np.may_share_memory(array, buffer):
                    offsets = np.full(array.shape, array.ctypes.data - buffer.ctypes.data)
                    for axis, stride in enumerate(array.strides):
                        offsets += stride * np.indices(array.shape)[axis]
                    for byte in range(array.itemsize):
                        guard[(offsets + byte).ravel()] = False
            assert (buffer[guard] == before[guard]).all(), "bytes outside of the arrays were changed"


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        for key in tree:
            yield from leaves(tree[key], f"{path}[{key!r}]")
    elif isinstance(tree, (list, tuple)):
        yield path, len(tree)
        for i, entry in enumerate(tree):
            yield from leaves(entry, f"{path}[{i}]")
    else:
        yield path, tree


def bits(array: np.ndarray) -> bytes:
    """The array's bytes in C order, with one NaN in place of all."""
    if array.dtype.kind not in "fV":
        return array.tobytes()
    return np.where(np.isnan(array), array.dtype.type(np.nan), array).astype(array.dtype).tobytes()


def assert_same(found: Any, expected: Any, what: str) -> None:
    """Equal bit for bit, every NaN like another, dtypes and shapes included."""
    for (path, a), (other_path, b) in zip(leaves(found), leaves(expected), strict=True):
        assert path == other_path
        assert type(a) is type(b), f"{what}{path}: {type(a)} and {type(b)}"
        if isinstance(a, np.ndarray):
            assert (a.shape, a.dtype) == (b.shape, b.dtype), f"{what}{path}"
            assert bits(a) == bits(b), f"{what}{path}: {a} and {b}"
        else:
            assert a == b or (a != a and b != b), f"{what}{path}: {a} and {b}"


@pytest.fixture(autouse=True)
def _cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("cupy")
    module.ndarray = FakeCupyArray  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setattr(_dispatch, "_cuda_if_built", lambda: None)
    monkeypatch.setattr(_dispatch, "_cuda_module", None)


def arguments_of(target: Target, kind: str, guarded: Guarded) -> dict[str, Any]:
    arguments = target.good()
    key = target.key or target.argument
    bad = bad_value(arguments.pop(key), kind, guarded.place)
    placed = {name: guarded.place(v) if isinstance(v, np.ndarray) else v for name, v in arguments.items()}
    guarded.remember()
    return {**placed, key: bad}


def check_works(target: Target, kind: str, backend: str) -> None:
    guarded = Guarded()
    arguments = arguments_of(target, kind, guarded)
    plain = {name: np.array(v, order="K") if isinstance(v, np.ndarray) else v for name, v in arguments.items()}
    with kitae.use_backend("reference"):
        expected = target.call(plain)
    with kitae.use_backend(backend):
        result = target.call(arguments)
    assert_same(result, expected, "result")
    assert_same(arguments, plain, "argument ")
    guarded.assert_guards([value for value in arguments.values() if isinstance(value, np.ndarray)])


def check_raises(target: Target, kind: str, backend: str) -> None:
    expected = target.outcomes[kind]
    guarded = Guarded()
    arguments = arguments_of(target, kind, guarded)
    # A CuPy array where a backend for NumPy arrays is forced is another mistake (test_dispatch.py).
    with (
        kitae.use_backend(backend) if expected is not RuntimeError else nullcontext(),
        pytest.raises(expected) as caught,
    ):
        target.call(arguments)
    guarded.assert_untouched()
    assert type(caught.value) is expected
    op, argument = target.names.get(kind, (target.op, target.argument))
    name = re.escape(f"kitae.{op}: {argument}")
    what = "CuPy arrays .* need the CUDA backend" if expected is RuntimeError else "expected .+, got .+"
    assert re.match(rf"{name}(\[\d+\])?: {what}", str(caught.value), re.DOTALL), str(caught.value)


CELLS = [(target, kind) for target in TARGETS for kind in target.outcomes]


def cell(target: Target, kind: str) -> Any:
    marks = [pytest.mark.requires_torch] if kind == "torch" else []
    return pytest.param(target, kind, id=f"{target.name}-{kind}", marks=marks)


@pytest.mark.parametrize(("target", "kind"), [cell(target, kind) for target, kind in CELLS])
def test_cell(target: Target, kind: str) -> None:
    for backend in ("cpu", "reference"):
        if target.outcomes[kind] is WORKS:
            check_works(target, kind, backend)
        else:
            check_raises(target, kind, backend)


def test_number_of_cells(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        functions = len({target.op for target in TARGETS})
        print(f"\nbad-input matrix: {len(CELLS)} cells, {functions} public functions, on 2 backends")
    assert len(CELLS) >= FEWEST_CELLS
    assert len({(target.name, kind) for target, kind in CELLS}) == len(CELLS)
