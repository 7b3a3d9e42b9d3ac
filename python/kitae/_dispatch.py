"""From an array to the backend that computes on it. A backend is a module; choosing it is all there is to dispatch.

No silent fallback: the backend asked for runs, or an error says why not, and no array is moved between devices.
"""

import sys
from contextvars import ContextVar, Token
from importlib.util import find_spec
from types import ModuleType, TracebackType
from typing import Any

import numpy as np

from kitae import _checks

_forced: ContextVar[str | None] = ContextVar("kitae_backend", default=None)
_BACKENDS = ("reference", "cpu", "cuda")

_cpu_module: ModuleType | None = None
_cpu_error: ImportError | None = None
_cuda_module: ModuleType | None = None  # once it was asked for and can be used


def _load_cpu() -> None:
    global _cpu_module, _cpu_error
    try:
        from kitae import _cpu
    except ImportError as error:
        _cpu_error = error
        return
    from kitae._threads import default_num_threads

    _cpu.set_num_threads(default_num_threads())
    _cpu_module = _cpu


def cpu() -> ModuleType:
    """The native CPU backend, or an error that says why it could not be loaded."""
    if _cpu_module is None:
        raise _checks.cpu_unavailable(_cpu_error)
    return _cpu_module


def reference() -> ModuleType:
    from kitae import reference

    return reference


def _cuda_if_built() -> ModuleType | None:
    try:
        from kitae import _cuda
    except ImportError:
        return None
    return _cuda


def _why_no_cuda(module: ModuleType | None) -> str | None:
    """Why the CUDA backend is off, in words, or None. Starts no driver: a process may still fork."""
    if module is None:
        return _checks.CUDA_NOT_BUILT
    driver, built_for = module.driver_version()
    if driver == 0:
        return _checks.no_driver(built_for)
    if driver // 1000 < built_for // 1000:
        return _checks.old_driver(driver, built_for)
    if "cupy" not in sys.modules and find_spec("cupy") is None:
        return _checks.no_cupy(built_for)
    return None


def cuda(op: str = "use_backend", argument: str = "name") -> ModuleType:
    """The CUDA backend, loaded at the first call, or an error that says why there is none."""
    global _cuda_module
    if _cuda_module is None:
        module = _cuda_if_built()
        reason = _why_no_cuda(module)
        if reason is None and module is not None:
            devices, error = module.device_count()
            if devices == 0:
                reason = _checks.no_gpu(error)
        if reason is not None:
            raise _checks.cuda_unavailable(reason, op, argument)
        _cuda_module = module
    assert _cuda_module is not None
    return _cuda_module


def _named(name: str) -> ModuleType:
    if name == "cpu":
        return cpu()
    if name == "reference":
        return reference()
    return cuda()


def backend_for(array: Any, op: str, argument: str) -> ModuleType:
    """The backend for ``array``: by its type, or the one that ``use_backend`` forces if it can take the array."""
    kind = type(array)
    if kind is np.ndarray or kind is np.memmap:
        forced = _forced.get()
        if forced is None:
            return _cpu_module if _cpu_module is not None else cpu()
        if forced == "cuda":
            raise _checks.wrong_device(op, argument, array, forced)
        return _named(forced)
    if _checks.is_cupy(array):
        forced = _forced.get()
        if forced is not None and forced != "cuda":
            raise _checks.wrong_device(op, argument, array, forced)
        return _cuda_module if _cuda_module is not None else cuda(op, argument)
    raise _checks.not_an_array(op, argument, array)


_KDL_CUDA, _KDL_CUDA_MANAGED = 2, 13  # DLPack's numbers of devices


def as_array(value: Any) -> Any:
    """A CuPy view of what another library's CUDA array exports, on the stream that the protocol names, without a copy;
    anything else as it is: ``backend_for`` refuses what is no array."""
    kind = type(value)
    if kind is np.ndarray or value is None or kind is np.memmap or _checks.is_cupy(value):
        return value
    place = getattr(value, "__dlpack_device__", None)
    if place is not None:
        if place()[0] not in (_KDL_CUDA, _KDL_CUDA_MANAGED):
            return value
        return cupy_for(value).from_dlpack(value)
    interface = getattr(value, "__cuda_array_interface__", None)
    if interface is None:
        return value
    cupy = cupy_for(value)
    with cupy.cuda.Device(cupy.cuda.runtime.pointerGetAttributes(interface["data"][0]).device):
        return cupy.asarray(value)


def cupy_for(value: Any) -> ModuleType:
    """CuPy, or an error that says that another library's CUDA array needs it."""
    try:
        import cupy
    except ImportError:
        raise _checks.cuda_unavailable(_checks.no_cupy(), type(value).__name__, "CUDA array") from None
    return cupy


def array_module(array: Any) -> Any:
    """numpy or cupy: whose array it is."""
    return sys.modules["cupy"] if _checks.is_cupy(array) else np


def forced_array_module() -> Any:
    """numpy, or cupy where the backend "cuda" is forced: for results that no array stands beside."""
    return sys.modules["cupy"] if _forced.get() == "cuda" else np


def empty_like(array: Any, shape: tuple[int, ...] | None = None) -> Any:
    """New memory of an array's shape (or another of as many axes), dtype, memory order and device."""
    if type(array) is np.ndarray and shape is None:  # twice as fast without keywords
        return np.empty_like(array)
    if isinstance(array, np.ndarray) or not _checks.is_cupy(array):
        return np.empty_like(array, subok=False, shape=shape)
    with array.device:
        return sys.modules["cupy"].empty_like(array, shape=shape)


def empty(shape: Any, dtype: Any, like: Any) -> Any:
    """New memory on the device of ``like``."""
    if type(like) is np.ndarray or not _checks.is_cupy(like):
        return np.empty(shape, dtype)
    with like.device:
        return sys.modules["cupy"].empty(shape, dtype)


def empty_beside(array: Any, dtype: Any) -> Any:
    """New memory of an array's shape on its device, in C order.

    On a GPU it begins as many elements before a vector of four as the array does: vectors then fit both.
    """
    if type(array) is np.ndarray or not _checks.is_cupy(array):
        return np.empty(array.shape, dtype)
    after = array.data.ptr // array.itemsize % 4
    return empty(after + array.size, dtype, array)[after:].reshape(array.shape)


def placed(values: Any, like: Any = None) -> Any:
    """A NumPy array's values on the device of ``like``; None: where the forced backend computes, else NumPy's."""
    if like is None:
        xp = forced_array_module()
        return values if xp is np else xp.asarray(values)
    if not _checks.is_cupy(like):
        return values
    with like.device:
        return sys.modules["cupy"].asarray(values)


def current_backend() -> str:
    """The forced backend's name, or "cpu"."""
    return _forced.get() or "cpu"


class use_backend:
    """Force a backend: ``with kitae.use_backend("reference"): ...`` or, for the rest of the context, a plain call.

    ``name`` is "reference" (NumPy), "cpu" or "cuda". Arrays that the backend can't take raise; they are never moved.
    The choice belongs to the current thread or asyncio task (a ``contextvars`` variable).
    """

    def __init__(self, name: str) -> None:
        _checks.one_of("use_backend", "name", name, _BACKENDS)
        _named(name)
        self._token: Token[str | None] | None = _forced.set(name)

    def __enter__(self) -> "use_backend":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            _forced.reset(self._token)
            self._token = None


def check() -> None:
    """Wait for pending work and raise what it found.

    On the CPU every call has finished and raised already. On CUDA this waits for every device that was used; a call
    that met ``nonfinite="raise"`` there wrote nothing, and its FloatingPointError is raised here.
    """
    if _cuda_module is not None:
        found = _cuda_module.check()
        if found is not None:
            raise _checks.found_on_device(*found)


def show_config() -> dict[str, Any]:
    """Print, and return as a dict, what this installation is: version, instruction set, threads, CUDA."""
    import kitae

    config: dict[str, Any] = {"version": kitae.__version__, "numpy": np.__version__}
    if _cpu_module is not None:
        config["cpu"] = _cpu_module.variant
        config["threads"] = _cpu_module.num_threads()
    else:
        config["cpu"] = f"off: {_cpu_error}"
    module = _cuda_if_built()
    reason = _why_no_cuda(module)
    if module is None or reason is not None:
        config["cuda"] = f"off: {reason}"
    else:
        driver, built_for = module.driver_version()
        config["cuda"] = f"on: built for CUDA {built_for // 1000}, the driver knows {_checks.cuda_version(driver)}"
    config["backend"] = current_backend()
    for key, value in config.items():
        print(f"{key:>8}: {value}")
    return config


_load_cpu()
