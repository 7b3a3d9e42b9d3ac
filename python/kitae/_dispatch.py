"""From an array to the backend that computes on it. A backend is a module; choosing it is all there is to dispatch.

No silent fallback: the backend asked for runs, or an error says why not, and no array is moved between devices.
"""

import sys
from contextvars import ContextVar, Token
from types import ModuleType, TracebackType
from typing import Any

import numpy as np

from kitae import _checks

_forced: ContextVar[str | None] = ContextVar("kitae_backend", default=None)
_BACKENDS = ("reference", "cpu", "cuda")

_cpu_module: ModuleType | None = None
_cpu_error: ImportError | None = None


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


def _named(name: str) -> ModuleType:
    if name == "cpu":
        return cpu()
    if name == "reference":
        return reference()
    raise _checks.cuda_unavailable()


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
        raise _checks.cuda_unavailable(op, argument)
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
        return _cupy(value).from_dlpack(value)
    interface = getattr(value, "__cuda_array_interface__", None)
    if interface is None:
        return value
    cupy = _cupy(value)
    with cupy.cuda.Device(cupy.cuda.runtime.pointerGetAttributes(interface["data"][0]).device):
        return cupy.asarray(value)


def _cupy(value: Any) -> ModuleType:
    try:
        import cupy
    except ImportError:
        raise _checks.cuda_unavailable(type(value).__name__, "CUDA array") from None
    return cupy


def array_module(array: Any) -> Any:
    """numpy or cupy: whose array it is."""
    return sys.modules["cupy"] if _checks.is_cupy(array) else np


def forced_array_module() -> Any:
    """numpy, or cupy where the backend "cuda" is forced: for results that no array stands beside."""
    return sys.modules["cupy"] if _forced.get() == "cuda" else np


def empty_like(array: Any) -> Any:
    """New memory of an array's shape, dtype, memory order and device."""
    if type(array) is np.ndarray or not _checks.is_cupy(array):
        return np.empty_like(array, subok=False)
    with array.device:
        return sys.modules["cupy"].empty_like(array)


def empty(shape: Any, dtype: Any, like: Any) -> Any:
    """New memory on the device of ``like``."""
    if type(like) is np.ndarray or not _checks.is_cupy(like):
        return np.empty(shape, dtype)
    with like.device:
        return sys.modules["cupy"].empty(shape, dtype)


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
    """Wait for pending work and raise what it found. On the CPU every call has finished and raised already: a no-op."""


def show_config() -> dict[str, Any]:
    """Print, and return as a dict, what this installation is: version, instruction set, threads, CUDA."""
    import kitae

    config: dict[str, Any] = {"version": kitae.__version__, "numpy": np.__version__}
    if _cpu_module is not None:
        config["cpu"] = _cpu_module.variant
        config["threads"] = _cpu_module.num_threads()
    else:
        config["cpu"] = f"off: {_cpu_error}"
    config["cuda"] = "off: this version of kitae has no CUDA backend"
    config["backend"] = current_backend()
    for key, value in config.items():
        print(f"{key:>8}: {value}")
    return config


_load_cpu()
