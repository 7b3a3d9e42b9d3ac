"""As much of CuPy as kitae uses, over NumPy arrays: the boundary of kitae._cuda is tested where there is no GPU.

Like CuPy's, its arrays refuse to become NumPy arrays unasked and belong to the device that was current when they were
made. All "devices" share the host's memory.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, TracebackType
from typing import Any

import numpy as np

import kitae
from foreign_arrays import give_operators
from kitae import _dispatch


class Device:
    current = 0

    def __init__(self, number: int | None = None) -> None:
        self.id = Device.current if number is None else number
        self._before: list[int] = []

    def __enter__(self) -> "Device":
        self._before.append(Device.current)
        Device.current = self.id
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        Device.current = self._before.pop()


class Stream:
    """The current stream of each device."""

    current: dict[int, int] = {}  # noqa: RUF012

    def __init__(self, ptr: int) -> None:
        self.ptr = ptr

    def __enter__(self) -> "Stream":
        self._before = Stream.current.get(Device.current, 0)
        Stream.current[Device.current] = self.ptr
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        Stream.current[Device.current] = self._before


class UnownedMemory:
    def __init__(self, ptr: int, size: int, owner: Any, device_id: int = -1) -> None:
        self.ptr, self.device_id, self.owner = ptr, device_id, owner


class MemoryPointer:
    def __init__(self, mem: UnownedMemory, offset: int) -> None:
        self.mem, self.ptr, self.device_id = mem, mem.ptr + offset, mem.device_id

    def __add__(self, offset: int) -> "MemoryPointer":
        return MemoryPointer(self.mem, self.ptr - self.mem.ptr + offset)


class _Memory:
    def __init__(self, memptr: MemoryPointer, shape: Any, dtype: np.dtype, strides: Any) -> None:
        self.memptr = memptr  # kept alive
        typestr = f"|V{dtype.itemsize}"
        data = (memptr.ptr, False)
        self.__array_interface__ = {"data": data, "shape": shape, "strides": strides, "typestr": typestr, "version": 3}


class ndarray:
    def __init__(
        self,
        host: Any,
        device: int | None = None,
        *,
        dtype: Any = None,
        memptr: MemoryPointer | None = None,
        strides: Any = None,
    ) -> None:
        """Of a NumPy array; or, as cupy.ndarray(shape, ...), of memory that is there."""
        if memptr is not None:
            host = np.asarray(_Memory(memptr, host, np.dtype(dtype), strides)).view(dtype)
            device = memptr.device_id
        self._host = np.asarray(host)
        self.device = Device(device)

    def __array__(self, *_args: Any, **_keywords: Any) -> np.ndarray:
        raise TypeError("implicit conversion to a NumPy array")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **keywords: Any) -> Any:
        """As CuPy: its own function of the name, which takes no NumPy arrays."""
        assert method == "__call__"
        return getattr(CUPY, ufunc.__name__)(*inputs, **keywords, **({} if out is None else {"out": out[0]}))

    def __array_function__(self, function: Any, types: Any, inputs: Any, keywords: Any) -> Any:
        if any(kind is not ndarray for kind in types):
            return NotImplemented
        return getattr(CUPY, function.__name__)(*inputs, **keywords)

    def __getattr__(self, name: str) -> Any:
        """NumPy's methods."""
        if name.startswith("__"):
            raise AttributeError(name)
        return _Function(getattr(self._host, name))

    shape = property(lambda self: self._host.shape)
    strides = property(lambda self: self._host.strides)
    dtype = property(lambda self: self._host.dtype)
    size = property(lambda self: self._host.size)
    ndim = property(lambda self: self._host.ndim)
    itemsize = property(lambda self: self._host.itemsize)
    flags = property(lambda self: self._host.flags)
    T = property(lambda self: self._wrap(self._host.T))

    @property
    def data(self) -> MemoryPointer:
        return MemoryPointer(UnownedMemory(self._host.ctypes.data, self._host.nbytes, self._host, self.device.id), 0)

    def _wrap(self, host: np.ndarray) -> "ndarray":
        return ndarray(host, self.device.id)

    def __getitem__(self, key: Any) -> "ndarray":
        return self._wrap(self._host[_host(key)])

    def __len__(self) -> int:
        return len(self._host)

    def fill(self, value: float) -> None:
        self._host.fill(value)

    def set(self, array: np.ndarray) -> None:
        assert self._host.flags.c_contiguous
        np.copyto(self._host, array)

    def view(self, dtype: Any) -> "ndarray":
        return self._wrap(self._host.view(dtype))

    def reshape(self, *shape: Any) -> "ndarray":
        return self._wrap(self._host.reshape(*shape))

    def astype(self, dtype: Any, copy: bool = True) -> "ndarray":
        return self._wrap(self._host.astype(dtype, copy=copy))

    def copy(self, order: Any = "C") -> "ndarray":
        return self._wrap(self._host.copy(order))

    def __setitem__(self, key: Any, value: Any) -> None:
        self._host[_host(key)] = _host(value)

    def transpose(self, *axes: Any) -> "ndarray":
        return self._wrap(self._host.transpose(*axes))

    def __invert__(self) -> "ndarray":
        return self._wrap(~self._host)

    def get(self) -> np.ndarray:
        return self._host.copy()


def _host(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_host, value))
    return value._host if isinstance(value, ndarray) else value


def _operand(value: Any) -> Any:
    """What CuPy's functions compute with: its arrays, numbers, sequences of them, but no NumPy arrays."""
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    return type(value)(map(_operand, value)) if isinstance(value, (list, tuple)) else _host(value)


def _result(value: Any) -> Any:
    """Arrays and numbers of NumPy as arrays of the current device."""
    if isinstance(value, (list, tuple)):
        return type(value)(map(_result, value))
    return ndarray(value) if isinstance(value, (np.ndarray, np.generic)) else value


class _Function:
    """A function of NumPy under CuPy's name, with its attributes (``add.at``)."""

    def __init__(self, function: Any) -> None:
        self._function = function

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        values = {name: _operand(value) for name, value in keywords.items()}
        result = self._function(*map(_operand, arguments), **values)
        out = keywords.get("out")
        return _result(result) if out is None else out

    def __getattr__(self, name: str) -> Any:
        return _Function(getattr(self._function, name))


give_operators(ndarray, _operand, _result)


def _numpys(module: ModuleType) -> Any:
    """What a module of CuPy has that is written down nowhere here: NumPy's, by its name there."""

    def find(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = getattr(module, name)
        if isinstance(found, ModuleType):
            part = ModuleType(f"cupy.{name}")
            part.__getattr__ = _numpys(found)  # type: ignore[method-assign]
            return part
        return _Function(found) if callable(found) and not isinstance(found, type) else found

    return find


class _Random:
    """A generator beside NumPy's own: the same numbers from the same seed."""

    RandomState = np.random.RandomState

    def __init__(self) -> None:
        self._state = np.random.RandomState()

    def get_random_state(self) -> Any:
        return self._state

    def set_random_state(self, state: Any) -> None:
        self._state = state

    def __getattr__(self, name: str) -> Any:
        return _Function(getattr(self._state, name))


def _of_other_library(value: Any) -> "ndarray":
    interface = value.__cuda_array_interface__
    keep = type("Keep", (), {"__array_interface__": interface})()
    return ndarray(np.asarray(keep))


def _make() -> ModuleType:
    module = ModuleType("cupy")
    cuda = ModuleType("cupy.cuda")
    module.ndarray = ndarray  # type: ignore[attr-defined]
    module.get_array_module = lambda *arrays: (  # type: ignore[attr-defined]
        module if any(isinstance(array, ndarray) for array in arrays) else np
    )
    module.asnumpy = lambda a: a.get()  # type: ignore[attr-defined]
    module.asarray = lambda a, dtype=None: (  # type: ignore[attr-defined]
        _of_other_library(a) if hasattr(a, "__cuda_array_interface__") else ndarray(np.array(_host(a), dtype))
    )
    module.from_dlpack = lambda a: ndarray(a.host, a.__dlpack_device__()[1])  # type: ignore[attr-defined]
    cuda.Device = Device  # type: ignore[attr-defined]
    cuda.get_current_stream = lambda device: Stream(Stream.current.get(device, 0))  # type: ignore[attr-defined]
    cuda.Stream = type("Stream", (), {"null": Stream(0)})  # type: ignore[attr-defined]
    cuda.ExternalStream = lambda ptr, device_id=-1: Stream(ptr)  # type: ignore[attr-defined]
    cuda.UnownedMemory, cuda.MemoryPointer = UnownedMemory, MemoryPointer  # type: ignore[attr-defined]
    cuda.runtime = ModuleType("cupy.cuda.runtime")  # type: ignore[attr-defined]
    cuda.runtime.pointerGetAttributes = lambda ptr: type("Attributes", (), {"device": 1})()  # type: ignore[attr-defined]
    module.cuda = cuda  # type: ignore[attr-defined]
    module.random = _Random()  # type: ignore[attr-defined]
    module.__getattr__ = _numpys(np)  # type: ignore[method-assign]
    return module


#: One for the process: the compiled module looks its types up once.
CUPY = _make()


@contextmanager
def backend(monkeypatch: Any, module: ModuleType) -> Iterator[ModuleType]:
    """``module``, whose kernels run on the host, in the place of kitae._cuda."""
    install(monkeypatch)
    monkeypatch.setitem(sys.modules, "kitae._cuda", module)
    monkeypatch.setattr(kitae, "_cuda", module, raising=False)
    monkeypatch.setattr(_dispatch, "_cuda_module", None)
    module.check()  # what other tests left behind
    yield module
    module.fail_allocations_after(-1)


def install(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "cupy", CUPY)
    monkeypatch.setitem(sys.modules, "cupy.cuda", CUPY.cuda)
    monkeypatch.setattr(Device, "current", 0)
    monkeypatch.setattr(Stream, "current", {})
