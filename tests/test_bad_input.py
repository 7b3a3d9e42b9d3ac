"""The bad-input matrix: every public function x every kind of bad argument, each cell's outcome written down first.

A cell either WORKS, and then gives the bits that kitae.reference gives for plain contiguous copies, in the caller's own
arrays; or it raises the stated exception, whose message names op, argument, expected and got, and every array, optimizer
state included, is bit-identical afterwards. Every array lies between guard bytes that must survive both ways.
Run on both backends. The kinds and the tables of outcomes come first, then the functions, then the machinery.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import kitae

WORKS = "works"
GUARD_BYTES = 64
FEWEST_CELLS = 600

# ---------------------------------------------------------------------------------------------------------------------
# Kinds of arrays: from the good array to the one that is passed. `place` puts an array between guard bytes.
# ---------------------------------------------------------------------------------------------------------------------

Place = Callable[..., np.ndarray]


class FakeCupyArray:
    shape = (3, 4)
    dtype = np.dtype(np.float32)


def _strided(good: np.ndarray, place: Place, factor: int) -> np.ndarray:
    """Every factor-th element along the last axis of a larger array; a negative factor walks backwards."""
    if good.ndim == 0:
        return place(good)
    step = abs(factor)
    wide = place(np.zeros((*good.shape[:-1], good.shape[-1] * step), good.dtype))
    view = wide[..., ::step][..., :: 1 if factor > 0 else -1]
    view[...] = good
    return view


def _read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def _repeated(good: np.ndarray, place: Place) -> np.ndarray:
    """Every row is the first row's memory: strides of 0, writeable."""
    row = place(good[:1] if good.ndim else good)
    return np.lib.stride_tricks.as_strided(row, good.shape, (0, *row.strides[1:]) if good.ndim else ())


def _torch(good: np.ndarray, _place: Place) -> Any:
    torch = pytest.importorskip("torch")
    return torch.from_numpy(good.copy())


ARRAY_KINDS: dict[str, Callable[[np.ndarray, Place], Any]] = {
    # values of other types
    "int32": lambda good, place: place(good.astype(np.int32)),
    "int64": lambda good, place: place(good.astype(np.int64)),
    "bool": lambda good, place: place(good > 0),
    "complex64": lambda good, place: place(good.astype(np.complex64)),
    "longdouble": lambda good, place: place(good.astype(np.longdouble)),
    "object": lambda good, place: good.astype(object),
    "structured": lambda good, place: place(good.view([("value", good.dtype)])),
    "datetime": lambda good, place: place(np.zeros(good.shape, "M8[s]")),
    "big_endian": lambda good, place: place(good.astype(good.dtype.newbyteorder(">"))),
    "float8": lambda good, place: place(good.astype(ml_dtypes.float8_e4m3fn)),
    # memory
    "unaligned_1": lambda good, place: place(good, offset=1),
    "unaligned_2": lambda good, place: place(good, offset=2),
    "read_only": lambda good, place: _read_only(place(good)),
    "repeated": _repeated,
    "broadcast": lambda good, place: np.broadcast_to(place(good[:1] if good.ndim else good), good.shape),
    "fortran_order": lambda good, place: place(np.asfortranarray(good)),
    "negative_stride": lambda good, place: _strided(good, place, -1),
    "step_2": lambda good, place: _strided(good, place, 2),
    "backwards_by_3": lambda good, place: _strided(good, place, -3),
    # shapes
    "longer": lambda good, place: place(np.concatenate([good, good[-1:]])),
    "one_axis_more": lambda good, place: place(good[np.newaxis]),
    "one_axis_less": lambda good, place: place(good[0]),
    "transposed": lambda good, place: place(good).T,
    "zero_dimensional": lambda good, place: place(good.flat[0].reshape(())),
    "empty": lambda good, place: place(good[:0]),
    # not such an array at all
    "list": lambda good, place: good.tolist(),
    "tuple": lambda good, place: tuple(good.tolist()),
    "none": lambda good, place: None,
    "text": lambda good, place: "weights",
    "number": lambda good, place: 0.5,
    "scalar": lambda good, place: np.float32(0.5),
    "bytes": lambda good, place: good.tobytes(),
    "memoryview": lambda good, place: memoryview(good.copy()),
    "matrix": lambda good, place: place(good).view(np.matrix) if good.ndim == 2 else _Subclass.of(place(good)),
    "masked": lambda good, place: np.ma.masked_array(place(good), mask=False),
    "subclass": lambda good, place: _Subclass.of(place(good)),
    "cupy": lambda good, place: FakeCupyArray(),
    "torch": _torch,
}


class _Subclass(np.ndarray):
    @staticmethod
    def of(array: np.ndarray) -> "_Subclass":
        return array.view(_Subclass)


# Kinds of numbers; the table says for each hyperparameter which of them are mistakes.
NUMBER_KINDS: dict[str, Any] = {
    "nan": float("nan"),
    "plus_infinity": float("inf"),
    "minus_infinity": float("-inf"),
    "negative": -0.5,
    "zero": 0.0,
    "one": 1.0,
    "above_one": 1.5,
    "text": "0.5",
    "none": None,
    "truth": True,
    "complex": 0.5 + 0j,
    "list": [0.5],
    "vector": np.full(2, 0.5),
    "masked": np.ma.masked,
    "float32": np.float32(0.5),
    "zero_dimensional": np.array(0.5),
}

# ---------------------------------------------------------------------------------------------------------------------
# Outcomes, by what the function does with the array.
# ---------------------------------------------------------------------------------------------------------------------

_NOT_ARRAYS = (
    "list",
    "tuple",
    "text",
    "number",
    "scalar",
    "bytes",
    "memoryview",
    "matrix",
    "masked",
    "subclass",
    "torch",
)
_NOT_FLOATS = ("int32", "int64", "bool", "complex64", "longdouble", "object", "structured", "datetime", "float8")
_REFUSED = {
    **dict.fromkeys(_NOT_FLOATS, TypeError),
    "big_endian": TypeError,
    "unaligned_1": ValueError,
    "unaligned_2": ValueError,
    **dict.fromkeys(_NOT_ARRAYS, TypeError),
    "none": TypeError,
    "cupy": TypeError,  # beside NumPy arrays; alone it asks for the CUDA backend, a RuntimeError
}
_LAYOUTS = dict.fromkeys(("fortran_order", "negative_stride", "step_2", "backwards_by_3"), WORKS)
_SHAPES = ("longer", "one_axis_more", "one_axis_less", "transposed", "zero_dimensional", "empty")

# An array that is only read, of any shape.
READ = {
    **_REFUSED,
    **_LAYOUTS,
    "read_only": WORKS,
    "repeated": WORKS,
    "broadcast": WORKS,
    **dict.fromkeys(_SHAPES, WORKS),
}
# An array that is changed in place, of any shape: a repeated element would be changed several times.
WRITE = {**READ, "read_only": ValueError, "repeated": ValueError, "broadcast": ValueError}
# The same where the shape is given by another argument.
READ_SHAPED = {**READ, **dict.fromkeys(_SHAPES, ValueError)}
WRITE_SHAPED = {**WRITE, **dict.fromkeys(_SHAPES, ValueError)}

_WRONG_NUMBERS = {
    "nan": ValueError,
    "plus_infinity": ValueError,
    "minus_infinity": ValueError,
    **dict.fromkeys(("text", "complex", "list", "vector", "truth"), TypeError),
    "none": TypeError,
    "masked": TypeError,
    "float32": WORKS,
    "zero_dimensional": WORKS,
}
NOT_NEGATIVE = {**_WRONG_NUMBERS, "negative": ValueError, "zero": WORKS, "one": WORKS, "above_one": WORKS}
POSITIVE = {**NOT_NEGATIVE, "zero": ValueError}
POSITIVE_OR_INFINITE = {**POSITIVE, "plus_infinity": WORKS}
BELOW_ONE = {**NOT_NEGATIVE, "one": ValueError, "above_one": ValueError}
UP_TO_ONE = {**NOT_NEGATIVE, "above_one": ValueError}


def optional(table: Mapping[str, Any]) -> dict[str, Any]:
    """The same argument where None means: the default."""
    return {**table, "none": WORKS}


# ---------------------------------------------------------------------------------------------------------------------
# The functions.
# ---------------------------------------------------------------------------------------------------------------------

SHAPE = (3, 4)
Arguments = dict[str, Any]


def numbers(seed: int, shape: tuple[int, ...] = SHAPE, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.5, 2.0, shape).astype(dtype)


@dataclass(frozen=True)
class Target:
    """One public function with one argument under test; the other arguments are good."""

    op: str  # as error messages name it
    argument: str  # as error messages name it
    outcomes: Mapping[str, Any]
    call: Callable[[Arguments], Any]  # the result, and everything that the call changed beside its arguments
    good: Callable[[], Arguments]
    key: str | None = None  # of the value in the arguments; None: `argument`
    ops: Mapping[str, str] = field(default_factory=dict)  # another op for single kinds
    variant: str = ""

    @property
    def name(self) -> str:
        return f"{self.op}{self.variant}-{self.argument}"


def optimizer_targets() -> Iterator[Target]:
    numbers_of = {
        "SGD": {},
        "Momentum": {"momentum": UP_TO_ONE},
        "Nesterov": {"momentum": UP_TO_ONE},
        "AdaGrad": {"eps": NOT_NEGATIVE, "initial": NOT_NEGATIVE},
        "AdaDelta": {"rho": BELOW_ONE, "eps": NOT_NEGATIVE},
        "RMSProp": {"rho": BELOW_ONE, "eps": NOT_NEGATIVE, "momentum": UP_TO_ONE},
        "Adam": {"beta1": BELOW_ONE, "beta2": BELOW_ONE, "eps": NOT_NEGATIVE},
        "AdamW": {"beta1": BELOW_ONE, "beta2": BELOW_ONE, "eps": NOT_NEGATIVE},
        "AMSGrad": {"beta1": BELOW_ONE, "beta2": BELOW_ONE, "eps": NOT_NEGATIVE},
        "NormalizedGD": {},
    }
    for name, own in numbers_of.items():
        cls = getattr(kitae, name)

        def good() -> Arguments:
            return {"param": numbers(1), "grad": numbers(2), "other": numbers(3, (5,)), "other_grad": numbers(4, (5,))}

        def step(arguments: Arguments, cls: Any = cls) -> Any:
            optimizer = cls([arguments["other"], arguments["param"]])
            state = optimizer.state_dict()
            try:
                optimizer.step([arguments["other_grad"], arguments["grad"]])
            except Exception:
                assert_same(optimizer.state_dict(), state, "optimizer state")
                raise
            return optimizer.state_dict()

        def construct(arguments: Arguments, cls: Any = cls) -> Any:
            optimizer = cls([arguments["param"]], **{k: v for k, v in arguments.items() if k not in ("param", "grad")})
            optimizer.step([arguments["grad"]])
            return optimizer.state_dict()

        # As a parameter, its gradient has another shape after "longer" and the like: step says so.
        shaped = dict.fromkeys(_SHAPES, f"{name}.step")
        yield Target(
            f"{name}.attach",
            "params[1]",
            {**WRITE_SHAPED},
            step,
            good,
            "param",
            shaped,
        )
        grads = {**READ_SHAPED, "none": WORKS}  # None leaves its parameter alone
        yield Target(f"{name}.step", "grads[1]", grads, step, good, "grad")

        common = {"lr": optional(NOT_NEGATIVE), "weight_decay": optional(NOT_NEGATIVE), "l1": NOT_NEGATIVE}
        if name != "NormalizedGD":
            common["max_norm"] = optional(POSITIVE_OR_INFINITE)
        for keyword, outcomes in {**common, **{k: optional(v) for k, v in own.items()}}.items():

            def with_keyword() -> Arguments:
                return {"param": numbers(1), "grad": numbers(2)}

            yield Target(name, keyword, outcomes, construct, with_keyword, keyword)


def gradient_targets() -> Iterator[Target]:
    def good() -> Arguments:
        return {"first": numbers(1), "second": numbers(2, (5,)), "max_norm": 1.0, "eps": 1e-6, "limit": 0.75}

    def pair(arguments: Arguments) -> list[Any]:
        return [arguments["second"], arguments["first"]]

    absent = {"none": WORKS}
    yield Target("global_norm", "grads[1]", {**READ, **absent}, lambda a: kitae.global_norm(pair(a)), good, "first")
    clip = {**WRITE, **absent}
    for per in ("all", "tensor"):
        yield Target(
            "clip_grad_norm",
            "grads[1]",
            clip,
            lambda a, per=per: kitae.clip_grad_norm(pair(a), a["max_norm"], eps=a["eps"], per=per),
            good,
            "first",
            variant=f"({per})",
        )
    yield Target(
        "clip_grad_value", "grads[1]", clip, lambda a: kitae.clip_grad_value(pair(a), a["limit"]), good, "first"
    )
    for keyword, outcomes in {"max_norm": POSITIVE_OR_INFINITE, "eps": NOT_NEGATIVE}.items():
        yield Target(
            "clip_grad_norm",
            keyword,
            outcomes,
            lambda a: kitae.clip_grad_norm(pair(a), a["max_norm"], eps=a["eps"]),
            good,
        )
    yield Target(
        "clip_grad_value", "limit", POSITIVE_OR_INFINITE, lambda a: kitae.clip_grad_value(pair(a), a["limit"]), good
    )


TARGETS = [*optimizer_targets(), *gradient_targets()]

# ---------------------------------------------------------------------------------------------------------------------
# The machinery.
# ---------------------------------------------------------------------------------------------------------------------


class Guarded:
    """Memory of the arrays of one call: each between guard bytes, with a copy of the bytes from before the call."""

    def __init__(self) -> None:
        self.buffers: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # bytes, their copy, the array in them

    def place(self, array: np.ndarray, offset: int = 0) -> np.ndarray:
        """A copy of ``array``, in its memory order, between guard bytes; ``offset`` bytes from aligned memory."""
        buffer = np.full(array.nbytes + 2 * GUARD_BYTES + 64, 0xA5, np.uint8)
        start = GUARD_BYTES + (-buffer.ctypes.data) % 64 + offset
        fortran = array.ndim > 1 and array.flags.f_contiguous and not array.flags.c_contiguous
        order = "F" if fortran else "C"
        placed = np.ndarray(array.shape, array.dtype, buffer, start, order=order)
        placed[...] = array
        self.buffers.append((buffer, buffer.copy(), placed))
        return placed

    def remember(self) -> None:
        self.buffers = [(buffer, buffer.copy(), array) for buffer, _, array in self.buffers]

    def assert_untouched(self) -> None:
        for buffer, before, array in self.buffers:
            assert buffer.tobytes() == before.tobytes(), f"an array of shape {array.shape} was changed"

    def assert_guards(self, passed: list[Any]) -> None:
        """Only elements of the arrays that were passed may differ."""
        for buffer, before, _ in self.buffers:
            allowed = np.zeros(buffer.size, bool)
            for array in passed:
                if isinstance(array, np.ndarray) and array.size and np.may_share_memory(array, buffer):
                    offsets = array.ctypes.data - buffer.ctypes.data + np.zeros(array.shape, np.int64)
                    for axis, (length, stride) in enumerate(zip(array.shape, array.strides, strict=True)):
                        steps = np.arange(length) * stride
                        offsets += steps.reshape([-1 if a == axis else 1 for a in range(array.ndim)])
                    for byte in range(array.itemsize):
                        allowed[(offsets + byte).ravel()] = True
            assert (buffer[~allowed] == before[~allowed]).all(), "bytes outside of the arrays were changed"


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


def assert_same(found: Any, expected: Any, what: str) -> None:
    """Equal bit for bit, NaNs as NaN, dtypes and shapes included."""
    for (path, a), (other_path, b) in zip(leaves(found), leaves(expected), strict=True):
        assert path == other_path
        assert type(a) is type(b), f"{what}{path}: {type(a)} and {type(b)}"
        if isinstance(a, np.ndarray):
            assert (a.shape, a.dtype) == (b.shape, b.dtype), f"{what}{path}"
            same = a.tobytes() == b.tobytes() or np.array_equal(a.astype(float), b.astype(float), equal_nan=True)
            assert same, f"{what}{path}: {a} and {b}"
        else:
            assert a == b or (a != a and b != b), f"{what}{path}: {a} and {b}"


CELLS = [
    pytest.param(target, kind, id=f"{target.name}-{kind}") for target in TARGETS for kind in sorted(target.outcomes)
]


@pytest.fixture(autouse=True)
def _cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("cupy")
    module.ndarray = FakeCupyArray  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cupy", module)


@pytest.mark.parametrize(("target", "kind"), CELLS)
def test_cell(target: Target, kind: str) -> None:
    for backend_name in ("cpu", "reference"):
        check_cell(target, kind, backend_name)


def check_cell(target: Target, kind: str, backend_name: str) -> None:
    expected = target.outcomes[kind]
    guarded = Guarded()
    arguments = {
        key: guarded.place(value) if isinstance(value, np.ndarray) else value for key, value in target.good().items()
    }
    key = target.key or target.argument
    if isinstance(arguments.get(key), np.ndarray):
        arguments[key] = ARRAY_KINDS[kind](target.good()[key], guarded.place)
    else:
        arguments[key] = NUMBER_KINDS[kind]
    guarded.remember()
    passed = list(arguments.values())

    if expected is WORKS:
        plain = {k: np.array(v, order="C") if isinstance(v, np.ndarray) else v for k, v in arguments.items()}
        with kitae.use_backend("reference"):
            expected_result = target.call(plain)
        with kitae.use_backend(backend_name):
            result = target.call(arguments)
        assert_same(result, expected_result, "result")
        assert_same(arguments, plain, "argument ")
        guarded.assert_guards([value for value in passed if isinstance(value, np.ndarray)])
        return

    with kitae.use_backend(backend_name), pytest.raises(expected) as caught:
        target.call(arguments)
    guarded.assert_untouched()
    message = str(caught.value)
    op = target.ops.get(kind, target.op)
    argument = target.argument if op == target.op else target.argument.replace("params", "grads")
    assert type(caught.value) is expected, message
    assert message.startswith(f"kitae.{op}: {argument}: "), message
    if expected is RuntimeError:
        assert "need the CUDA backend" in message, message
    else:
        assert ": expected " in message and ", got " in message, message


def test_number_of_cells(capsys: pytest.CaptureFixture[str]) -> None:
    functions = {target.op for target in TARGETS}
    with capsys.disabled():
        print(f"\nbad-input matrix: {len(CELLS)} cells ({len(functions)} functions) on 2 backends")
    assert len(CELLS) >= FEWEST_CELLS
    assert len({cell.id for cell in CELLS}) == len(CELLS)
