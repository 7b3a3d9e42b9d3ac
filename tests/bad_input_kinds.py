"""The kinds of bad arguments, and what is expected of them by what a function does with the argument."""

from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

WORKS = "works"

# ---------------------------------------------------------------------------------------------------------------------
# Kinds of arrays: from the good array to the one that is passed. `place` puts a copy between guard bytes.
# ---------------------------------------------------------------------------------------------------------------------

Place = Callable[..., np.ndarray]


class FakeCupyArray:
    """What the tests call cupy.ndarray."""

    shape = (3, 4)
    dtype = np.dtype(np.float32)
    ndim = 2


class Subclass(np.ndarray):
    """A subclass may change what any operation means."""


def strided(good: np.ndarray, place: Place, factor: int) -> np.ndarray:
    """Every factor-th element along the last axis of a larger array; a negative factor walks backwards."""
    wide = place(np.zeros((*good.shape[:-1], good.shape[-1] * abs(factor)), good.dtype))
    view = wide[..., :: abs(factor)][..., :: 1 if factor > 0 else -1]
    view[...] = good
    return view


def read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def repeated(good: np.ndarray, place: Place) -> np.ndarray:
    """The first axis repeats one row's memory: a stride of 0, writeable."""
    row = place(good[:1])
    return np.lib.stride_tricks.as_strided(row, good.shape, (0, *row.strides[1:]))


def torch_tensor(good: np.ndarray, _place: Place) -> Any:
    import torch

    return torch.from_numpy(good.copy())


ARRAY_KINDS: dict[str, Callable[[np.ndarray, Place], Any]] = {
    # other types of elements
    "int32": lambda good, place: place(good.astype(np.int32)),
    "int64": lambda good, place: place(good.astype(np.int64)),
    "bool": lambda good, place: place(good > 0),
    "complex64": lambda good, place: place(good.astype(np.complex64)),
    "longdouble": lambda good, place: place(good.astype(np.longdouble)),
    "float8": lambda good, place: place(good.astype(ml_dtypes.float8_e4m3fn)),
    "object": lambda good, place: good.astype(object),
    "structured": lambda good, place: place(good.view([("value", good.dtype)])),
    "datetime": lambda good, place: place(np.zeros(good.shape, "M8[s]")),
    "big_endian": lambda good, place: place(good.astype(good.dtype.newbyteorder(">"))),
    "float64": lambda good, place: place(good.astype(np.float64)),
    "float16": lambda good, place: place(good.astype(np.float16)),
    "bfloat16": lambda good, place: place(good.astype(ml_dtypes.bfloat16)),
    # memory
    "unaligned_1": lambda good, place: place(good, offset=1),
    "unaligned_2": lambda good, place: place(good, offset=2),
    "read_only": lambda good, place: read_only(place(good)),
    "repeated": repeated,
    "broadcast": lambda good, place: np.broadcast_to(place(good[:1]), good.shape),
    "fortran_order": lambda good, place: place(np.asfortranarray(good)),
    "negative_stride": lambda good, place: strided(good, place, -1),
    "step_2": lambda good, place: strided(good, place, 2),
    "backwards_by_3": lambda good, place: strided(good, place, -3),
    # shapes
    "longer": lambda good, place: place(np.concatenate([good, good[-1:]])),
    "one_axis_more": lambda good, place: place(good[np.newaxis]),
    "one_axis_less": lambda good, place: place(np.asarray(good[0])),
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
    "matrix": lambda good, place: place(np.atleast_2d(good)).view(np.matrix),
    "masked": lambda good, place: np.ma.masked_array(place(good), mask=False),
    "subclass": lambda good, place: place(good).view(Subclass),
    "cupy": lambda good, place: FakeCupyArray(),
    "torch": torch_tensor,
}

# Kinds of other arguments, by the type of the good value.
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
INTEGER_KINDS: dict[str, Any] = {
    "minus_three": -3,
    "minus_one": -1,
    "zero": 0,
    "two": 2,
    "two_to_the_63": 2**63,
    "two_to_the_64": 2**64,
    "fraction": 1.5,
    "whole_float": 1.0,
    "nan": float("nan"),
    "text": "1",
    "none": None,
    "truth": True,
    "list": [1],
    "vector": np.ones(2, np.int64),
    "int64": np.int64(1),
    "uint8": np.uint8(1),
}
TRUTH_KINDS: dict[str, Any] = {
    "zero": 0,
    "one": 1,
    "none": None,
    "text": "yes",
    "vector": np.ones(2, bool),
    "numpy": np.True_,
}
CHOICE_KINDS: dict[str, Any] = {"unknown": "Raise", "none": None, "number": 1, "bytes": b"raise", "list": ["raise"]}


def bad_value(good: Any, kind: str, place: Place) -> Any:
    """What stands in place of the good argument."""
    if isinstance(good, np.ndarray):
        return ARRAY_KINDS[kind](good, place)
    kinds = {bool: TRUTH_KINDS, int: INTEGER_KINDS, float: NUMBER_KINDS, str: CHOICE_KINDS}
    return kinds[type(good)][kind]


# ---------------------------------------------------------------------------------------------------------------------
# Outcomes for a good array of float32.
# ---------------------------------------------------------------------------------------------------------------------

Outcomes = Mapping[str, Any]

_NOT_FLOATS = ("int32", "int64", "bool", "complex64", "longdouble", "float8", "object", "structured", "datetime")
_NOT_ARRAYS = ("list", "tuple", "none", "text", "number", "scalar", "bytes", "memoryview")
_NOT_PLAIN_ARRAYS = ("matrix", "masked", "subclass", "torch", "cupy")
FLOATS = ("float64", "float16", "bfloat16")
LAYOUTS = ("fortran_order", "negative_stride", "step_2", "backwards_by_3")
SHAPES = ("longer", "one_axis_more", "one_axis_less", "transposed", "zero_dimensional", "empty")
_NOT_TO_BE_WRITTEN = ("read_only", "repeated", "broadcast")

# An array that is only read, of any shape.
READ: Outcomes = {
    **dict.fromkeys((*_NOT_FLOATS, "big_endian", *_NOT_ARRAYS, *_NOT_PLAIN_ARRAYS), TypeError),
    **dict.fromkeys(("unaligned_1", "unaligned_2"), ValueError),
    **dict.fromkeys((*FLOATS, *LAYOUTS, *SHAPES, *_NOT_TO_BE_WRITTEN), WORKS),
}
# An array that is changed in place, of any shape: a repeated element would be changed several times.
WRITE: Outcomes = {**READ, **dict.fromkeys(_NOT_TO_BE_WRITTEN, ValueError)}
# The same where another argument gives the shape,
READ_SHAPED: Outcomes = {**READ, **dict.fromkeys(SHAPES, ValueError)}
WRITE_SHAPED: Outcomes = {**WRITE, **dict.fromkeys(SHAPES, ValueError)}
# and the dtype, too.
READ_LIKE: Outcomes = {**READ_SHAPED, **dict.fromkeys(FLOATS, TypeError)}
WRITE_LIKE: Outcomes = {**WRITE_SHAPED, **dict.fromkeys(FLOATS, TypeError)}
# One number a channel: a vector of float32 or float64. Its transpose is itself.
READ_VECTOR: Outcomes = {**READ_LIKE, "float64": WORKS, "transposed": WORKS}
WRITE_VECTOR: Outcomes = {**WRITE_LIKE, "float64": WORKS, "transposed": WORKS}
# The array that chooses the backend: a CuPy array asks for CUDA. Beside NumPy arrays it is a TypeError.
CHOOSES_BACKEND: Outcomes = {"cupy": RuntimeError}

# ---------------------------------------------------------------------------------------------------------------------
# Outcomes for numbers.
# ---------------------------------------------------------------------------------------------------------------------

ANY_FINITE: Outcomes = {
    **dict.fromkeys(("text", "none", "truth", "complex", "list", "vector", "masked"), TypeError),
    **dict.fromkeys(("nan", "plus_infinity", "minus_infinity"), ValueError),
    **dict.fromkeys(("negative", "zero", "one", "above_one", "float32", "zero_dimensional"), WORKS),
}
NOT_NEGATIVE: Outcomes = {**ANY_FINITE, "negative": ValueError}
POSITIVE_OR_INFINITE: Outcomes = {**NOT_NEGATIVE, "zero": ValueError, "plus_infinity": WORKS}
UP_TO_ONE: Outcomes = {**NOT_NEGATIVE, "above_one": ValueError}
BELOW_ONE: Outcomes = {**UP_TO_ONE, "one": ValueError}

_INTEGER: Outcomes = {
    **dict.fromkeys(("fraction", "whole_float", "nan", "text", "none", "truth", "list", "vector"), TypeError),
    **dict.fromkeys(("minus_three", "minus_one", "two_to_the_63", "two_to_the_64"), ValueError),
    **dict.fromkeys(("zero", "two", "int64", "uint8"), WORKS),
}
LENGTH = OFFSET = _INTEGER
SEED: Outcomes = {**_INTEGER, "two_to_the_63": WORKS}
COUNT: Outcomes = {**_INTEGER, "zero": ValueError}
AXIS_OF_TWO: Outcomes = {**_INTEGER, "two": ValueError, "minus_one": WORKS}

TRUTH: Outcomes = {**dict.fromkeys(("zero", "one", "none", "text", "vector"), TypeError), "numpy": WORKS}
CHOICE: Outcomes = {
    **dict.fromkeys(("number", "bytes", "list"), TypeError),
    **dict.fromkeys(("unknown", "none"), ValueError),
}


def optional(outcomes: Outcomes) -> Outcomes:
    """The same argument where None stands for the default, or for nothing."""
    return {**outcomes, "none": WORKS}
