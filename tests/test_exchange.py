"""Tensors of another library through DLPack's C exchange API: a library of one class, made here, in PyTorch's place."""

import ctypes
import gc
import weakref
from typing import Any

import numpy as np
import pytest

from kitae import _dispatch
from kitae._checks import Rejected


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", ctypes.c_int32 * 2),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64),
    ]


_EXPORT = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.POINTER(_Tensor))


class _Table(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("older", ctypes.c_void_p),
        ("unused", ctypes.c_void_p * 3),
        ("export", _EXPORT),
        ("stream", ctypes.c_void_p),
    ]


class Theirs:
    """What the other library calls a tensor."""

    def __init__(self, array: np.ndarray, **fields: Any) -> None:
        self.array = array
        self.shape = np.array(array.shape, np.int64)
        self.strides = np.array(array.strides, np.int64) // array.itemsize
        self.fields = {"code": 2, "bits": 8 * array.itemsize, "lanes": 1, "device": (1, 0)} | fields

    def is_neg(self) -> bool:
        return False

    __dlpack_c_exchange_api__: Any = None


@_EXPORT
def _export(tensor: Theirs, out: Any) -> int:
    fields = dict(tensor.fields)
    made = out.contents
    made.data = fields.pop("data", tensor.array.ctypes.data)
    made.device = (ctypes.c_int32 * 2)(*fields.pop("device"))
    made.ndim = tensor.array.ndim
    made.shape = tensor.shape.ctypes.data
    made.strides = fields.pop("strides", tensor.strides.ctypes.data)
    made.byte_offset = 0
    for name, value in fields.items():
        setattr(made, name, value)
    return 0


_TABLE = _Table(1, 3, None, (ctypes.c_void_p * 3)(), _export, None)
_NEWER = _Table(2, 0, ctypes.addressof(_TABLE), (ctypes.c_void_p * 3)(), _export, None)
_ALONE = _Table(2, 0, None, (ctypes.c_void_p * 3)(), _export, None)


def _class_with(table: _Table) -> type:
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    capsule = new(ctypes.addressof(table), b"dlpack_exchange_api", None)
    return type("Theirs", (Theirs,), {"__dlpack_c_exchange_api__": capsule})


@pytest.fixture(params=[_TABLE, _NEWER], ids=["version 1", "version 1 behind version 2"])
def theirs(request: pytest.FixtureRequest) -> type:
    return _class_with(request.param)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.float32).reshape(3, 4),
        np.arange(12.0).reshape(3, 4).T,
        np.arange(12.0)[::-1].reshape(3, 4)[:, ::2],
        np.zeros((0, 3), np.float32),
        np.array(2.5, np.float16),
        np.broadcast_to(np.float32(1), (3, 2)),
    ],
    ids=["C", "F", "gaps", "empty", "0-d", "repeated"],
)
def test_an_array_over_the_same_memory(theirs, array):
    exchange = _dispatch.cpu().Exchange(theirs)
    tensor = theirs(array)
    none, view = exchange.arrays([None, tensor])
    assert none is None
    np.testing.assert_array_equal(view, array)
    assert (view.shape, view.dtype) == (array.shape, array.dtype)
    if array.size:
        assert view.ctypes.data == array.ctypes.data
        assert view.strides == array.strides
        assert view.base is tensor
        assert view.flags.writeable
    assert exchange.first_other([tensor, tensor], [view, view]) == -1


def test_the_array_keeps_the_tensor_alive(theirs):
    exchange = _dispatch.cpu().Exchange(theirs)
    tensor = theirs(np.ones(3, np.float32))
    seen = weakref.ref(tensor)
    views = exchange.arrays([tensor])
    del tensor
    gc.collect()
    assert seen() is not None
    views.clear()
    gc.collect()
    assert seen() is None


def test_byte_offset_and_absent_strides(theirs):
    memory = np.arange(8, dtype=np.float32)
    tensor = theirs(memory[:4].reshape(2, 2), byte_offset=8, strides=None)
    (view,) = _dispatch.cpu().Exchange(theirs).arrays([tensor])
    np.testing.assert_array_equal(view, [[2, 3], [4, 5]])


def test_another_tensor_is_noticed(theirs):
    """Other memory, shape, strides, dtype or number of entries."""
    exchange = _dispatch.cpu().Exchange(theirs)
    array = np.arange(16, dtype=np.float32).reshape(4, 4)
    (view,) = exchange.arrays([theirs(array)])
    halves = array.view(np.float16)[:, :4]
    for other in (array.copy(), array[:2], array.reshape(16), array.T, array[:, ::-1], array.view(np.float64), halves):
        assert exchange.first_other([theirs(array), theirs(other)], [view, view]) == 1
    assert exchange.first_other([theirs(array)], []) == 0
    assert exchange.first_other([theirs(array), theirs(array)], [view, None]) == 1
    (half,) = exchange.arrays([theirs(array.astype(np.float16))])
    brain = theirs(array.astype(np.float16), code=4)
    brain.array = half
    assert exchange.first_other([brain], [half]) == 0  # bfloat16 in the memory of a float16
    integers = theirs(array, code=0)
    integers.array = view
    assert exchange.first_other([integers], [view]) == 0  # and int32 in that of a float32


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"device": (2, 0)}, "device"),
        ({"device": (13, 1)}, "device"),
        ({"code": 0}, "dtype"),
        ({"code": 5, "bits": 64}, "dtype"),
        ({"bits": 8}, "dtype"),
        ({"lanes": 4}, "dtype"),
        ({"data": None}, "memory"),
    ],
    ids=str,
)
def test_refused(theirs, fields, reason):
    exchange = _dispatch.cpu().Exchange(theirs)
    good, bad = theirs(np.ones(3, np.float32)), theirs(np.ones(3, np.float32), **fields)
    with pytest.raises(Rejected) as raised:
        exchange.arrays([good, bad])
    assert (raised.value.reason, raised.value.index) == (reason, 1)


def test_refused_types(theirs):
    exchange = _dispatch.cpu().Exchange(theirs)
    for bad in (np.ones(3), 3, [1.0]):
        with pytest.raises(Rejected, match="type"):
            exchange.arrays([bad])
    with pytest.raises(AttributeError, match="__dlpack_c_exchange_api__"):
        _dispatch.cpu().Exchange(int)
    with pytest.raises(TypeError, match="no DLPack exchange of version 1"):
        _dispatch.cpu().Exchange(_class_with(_ALONE))


def test_a_pending_minus_sign_is_refused(theirs):
    negated = type("Negated", (theirs,), {"is_neg": lambda _: True})
    exchange = _dispatch.cpu().Exchange(theirs)
    for array in (np.ones((3, 2), np.float32)[:, 0], np.float32(1).reshape(())):
        with pytest.raises(Rejected, match="negated"):
            exchange.arrays([negated(np.asarray(array))])
