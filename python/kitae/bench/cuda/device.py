"""What the benchmark asks of a GPU: memory, a clock, the same memory as an array of each library."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from types import ModuleType
from typing import Any

import numpy as np

from ..cases import dtype_named

_HOLD = """
extern "C" __global__ void hold(unsigned long long nanoseconds) {
  unsigned long long begin, now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(begin));
  do {
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  } while (now - begin < nanoseconds);
}
"""


def library(name: str) -> ModuleType | None:
    """A peer, if it is installed and sees the GPU."""
    try:
        if name == "torch":
            import torch

            return torch if torch.cuda.is_available() else None
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # else JAX takes most of the memory
        import jax

        return jax if jax.default_backend() == "gpu" else None
    except Exception as error:  # an installation that does not fit this machine fails in its own ways
        print(f"{name} is left out: {type(error).__name__}: {error}", file=sys.stderr)
        return None


class Gpu:
    """The current device of CuPy. ``xp`` is CuPy; ``torch`` and ``jax`` are None where they can't be measured."""

    def __init__(self) -> None:
        import cupy

        import kitae

        with kitae.use_backend("cuda"):  # or says why not
            pass
        self.xp: Any = cupy
        self.torch = library("torch")
        self.jax = library("jax")
        properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
        self.name: str = properties["name"].decode()
        self.l2_bytes = int(properties["l2CacheSize"])
        self.sm_count = int(properties["multiProcessorCount"])
        self.shared_bytes = int(properties["sharedMemPerBlockOptin"])
        self.clusters = int(properties["major"]) >= 9
        self._hold = cupy.RawKernel(_HOLD, "hold")

    # Memory.

    def normal(self, shape: tuple[int, ...], dtype: str, spread: float = 1.0) -> Any:
        values = self.xp.random.standard_normal(shape, dtype=np.float32)
        values *= np.float32(spread)
        if dtype == "bfloat16":  # cut off: no need for CuPy to know the type
            bits = (values.view(np.uint32) >> 16).astype(np.uint16)
            return self._as(bits, dtype_named(dtype))
        return values.astype(dtype, copy=False)

    def full(self, shape: tuple[int, ...], value: float, dtype: str = "float32") -> Any:
        return self.xp.full(shape, value, dtype)

    def copy(self, array: Any) -> Any:
        same = self._as(array, np.dtype(f"u{array.dtype.itemsize}"))
        return self._as(same.copy(), array.dtype)

    def free_memory(self) -> None:
        self.synchronize()
        self.xp.get_default_memory_pool().free_all_blocks()
        if self.torch is not None:
            self.torch.cuda.empty_cache()

    def _as(self, array: Any, dtype: Any) -> Any:
        """The same memory as another dtype of the same size."""
        return self.xp.ndarray(array.shape, dtype=dtype, memptr=array.data, strides=array.strides)

    def plain(self, array: Any) -> Any:
        """As ``xp`` computes with it."""
        return array

    def torch_tensor(self, array: Any) -> Any:
        assert self.torch is not None
        if array.dtype.name != "bfloat16":
            return self.torch.from_dlpack(array)
        return self.torch.from_dlpack(self._as(array, np.dtype(np.int16))).view(self.torch.bfloat16)

    def jax_array(self, array: Any) -> Any:
        assert self.jax is not None
        if array.dtype.name != "bfloat16":
            return self.jax.dlpack.from_dlpack(array)
        bits = self.jax.dlpack.from_dlpack(self._as(array, np.dtype(np.int16)))
        return self.jax.lax.bitcast_convert_type(bits, self.jax.numpy.bfloat16)

    def wide(self, value: Any) -> Any:
        """A result of any library as a float64 array of ``xp``."""
        if self.torch is not None and isinstance(value, self.torch.Tensor):
            return self.xp.from_dlpack(value.detach().double())
        if value.dtype.name == "bfloat16":
            bits = self._as(value, np.dtype(np.uint16)).astype(np.uint32) << 16
            return bits.view(np.float32).astype(np.float64)
        return self.xp.asarray(value).astype(np.float64)

    # Clock. Everything runs on the default stream, but JAX's own.

    def mark(self) -> Any:
        event = self.xp.cuda.Event()
        event.record()
        return event

    def seconds_between(self, first: Any, second: Any) -> float:
        return float(self.xp.cuda.get_elapsed_time(first, second)) * 1e-3

    def hold(self, seconds: float) -> None:
        """Keep the GPU busy, so that the calls that follow queue up and no launch is waited for."""
        self._hold((1,), (1,), (np.uint64(int(seconds * 1e9)),))

    def synchronize(self) -> None:
        self.xp.cuda.get_current_stream().synchronize()

    def captured(self, call: Callable[[], object]) -> Callable[[], object]:
        """A graph of one call; it has run before, so that its memory is there."""
        stream = self.xp.cuda.Stream(non_blocking=True)
        self.synchronize()
        with stream:
            call()
            stream.synchronize()
            stream.begin_capture()
            call()
            graph = stream.end_capture()
        return lambda: graph.launch()

    def kernels(self, call: Callable[[], object]) -> int | None:
        """Kernels that one call of a peer starts, by PyTorch's profiler; None where it can't tell."""
        if self.torch is None:
            return None
        torch = self.torch
        self.synchronize()
        try:
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
                call()
                torch.cuda.synchronize()
        except RuntimeError:  # a profiler that may not read this GPU's counters: the times are measured all the same
            return None
        names = [event.name for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
        return sum(not name.startswith(("Memcpy", "Memset")) for name in names) or None

    @contextlib.contextmanager
    def torch_settings(self, cudnn: bool) -> Iterator[None]:
        assert self.torch is not None
        before = self.torch.backends.cudnn.enabled
        self.torch.backends.cudnn.enabled = cudnn
        try:
            yield
        finally:
            self.torch.backends.cudnn.enabled = before

    def description(self) -> dict[str, Any]:
        runtime = self.xp.cuda.runtime
        versions = {"driver": _version(runtime.driverGetVersion())}
        for name in ("cupy", "torch", "jax"):
            module = sys.modules.get(name)
            if module is not None and (name == "cupy" or getattr(self, name) is not None):
                versions[name] = module.__version__
        if self.torch is not None:
            versions["cudnn"] = str(self.torch.backends.cudnn.version())
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions["kitae"] = metadata.version("kitae")
        return {
            "gpu": self.name,
            "multiprocessors": self.sm_count,
            "gpu_level2_bytes": self.l2_bytes,
            "gpu_memory_gib": round(runtime.memGetInfo()[1] / 2**30),
            "gpu_versions": versions,
        }


def _version(number: int) -> str:
    return f"CUDA {number // 1000}.{number % 1000 // 10}"
