"""kitae._cuda's boundary, with an imitation of CuPy and kernels that run on the host: devices, streams, words."""

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import imitation_cupy
import kitae
import on_device as on_device_rows
import simulated
from imitation_cupy import CUPY, Device, Stream, ndarray
from kitae import _checks, _dispatch
from kitae.bench.cases import CASES, Case, Size
from on_device import compare_with_cpu


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    with imitation_cupy.backend(monkeypatch, simulated.require(simulated.ON_HOST)) as module:
        yield module


def on_device(array: np.ndarray, device: int = 0) -> ndarray:
    return ndarray(array.copy(order="K"), device)


def test_dropout_of_cupy_arrays(cuda: ModuleType, rng: np.random.Generator) -> None:
    x = rng.standard_normal((37, 41)).astype(np.float32)
    chosen: dict[str, Any] = {"drop": 0.3, "seed": 5, "offset": 7}
    expected, expected_mask = kitae.dropout(x, **chosen)
    y, mask = kitae.dropout(on_device(x), **chosen)
    assert type(y) is ndarray
    assert type(mask.bits) is ndarray
    np.testing.assert_array_equal(y.get(), expected)
    np.testing.assert_array_equal(mask.unpack().get(), expected_mask.unpack())
    dx = kitae.dropout_backward(on_device(x), mask)
    np.testing.assert_array_equal(dx.get(), expected)
    replayed, replay = kitae.dropout(on_device(x.T), **chosen, store="replay")
    np.testing.assert_array_equal(replayed.get(), kitae.dropout(x.T, **chosen)[0])
    assert replayed.strides == x.T.strides
    np.testing.assert_array_equal(kitae.dropout_backward(on_device(x.T), replay).get(), replayed.get())
    with kitae.use_backend("cuda"):
        unpacked = kitae.dropout_mask((37, 41), **chosen).unpack()
        assert type(unpacked) is ndarray
        np.testing.assert_array_equal(unpacked.get(), expected_mask.unpack())


@pytest.mark.parametrize("rng_name", ["philox", "numpy"])
def test_dropout_layer_on_cupy_arrays(cuda: ModuleType, rng_name: str) -> None:
    x = np.ones((20, 30), np.float32)
    layers = [kitae.Dropout(0.4, seed=3, rng=rng_name, scale="classic") for _ in range(2)]
    results = []
    for layer, value in zip(layers, (x, on_device(x)), strict=True):
        np.random.seed(1)  # noqa: NPY002
        results.append((layer.forward(value), layer.backward(value), layer.forward(value, training=False)))
    for expected, got in zip(*results, strict=True):
        assert type(got) is ndarray
        np.testing.assert_array_equal(got.get(), expected)


def test_the_arrays_device_and_cupys_stream_there_are_used(cuda: ModuleType) -> None:
    Stream.current.update({0: 0x10, 1: 0x20})
    x = np.ones(100, np.float32)
    for device, stream in ((0, 0x10), (1, 0x20), (0, 0x10)):
        before = cuda.launched()[0]
        y, mask = kitae.dropout(on_device(x, device), 0.5, seed=1)
        assert cuda.launched() == (before + 1, device, stream)  # one kernel
        assert y.device.id == mask.bits.device.id == device
        assert Device.current == 0


def test_an_array_of_another_device_is_refused(cuda: ModuleType) -> None:
    x, out = on_device(np.ones(9), 0), on_device(np.zeros(9), 1)
    with pytest.raises(
        ValueError, match=r"kitae\.dropout: out: expected memory on the device .*got an array on device 1"
    ):
        kitae.dropout(x, 0.5, seed=1, out=out)
    assert not out.get().any()
    kitae.dropout(on_device(np.ones(9), 1), 0.5, seed=1)  # the next call starts anew


def test_numpy_and_cupy_do_not_mix(cuda: ModuleType) -> None:
    x = np.ones(9)
    with pytest.raises(TypeError, match=r"out: expected a cupy\.ndarray like the others"):
        kitae.dropout(on_device(x), 0.5, seed=1, out=np.empty(9))
    with pytest.raises(TypeError, match=r"out: expected a numpy\.ndarray like the others"):
        kitae.dropout(x, 0.5, seed=1, out=on_device(x))
    _, mask = kitae.dropout(x, 0.5, seed=1)
    with pytest.raises(TypeError, match=r"mask\.bits: expected a cupy\.ndarray like the others"):
        kitae.dropout_backward(on_device(x), mask)
    with kitae.use_backend("cuda"), pytest.raises(TypeError, match=r"x: expected a cupy\.ndarray"):
        kitae.dropout(x, 0.5, seed=1)


def _partly_overlapping() -> tuple[ndarray, ndarray]:
    base = np.zeros(20)
    return ndarray(base[:10]), ndarray(base[5:15])


def _interleaved() -> tuple[ndarray, ndarray]:
    base = np.ones(20)
    return ndarray(base[::2]), ndarray(base[1::2])


def test_overlap_is_seen_without_reading(cuda: ModuleType) -> None:
    x, out = _partly_overlapping()
    with pytest.raises(ValueError, match=r"out: expected memory of its own"):
        kitae.dropout(x, 0.5, seed=1, out=out)
    x, out = _interleaved()
    expected, _ = kitae.dropout(np.ones(10), 0.5, seed=1)
    kitae.dropout(x, 0.5, seed=1, out=out)
    np.testing.assert_array_equal(out.get(), expected)
    assert (x.get() == 1).all()


@pytest.mark.parametrize(
    ("array", "error", "words"),
    [
        (np.ones(3, np.int32), TypeError, "dtype float32"),
        (np.ones(3, np.complex64), TypeError, "dtype float32"),
        (np.zeros(9, np.uint8)[1:].view(np.float64), ValueError, "aligned"),
    ],
    ids=["int32", "complex64", "unaligned"],
)
def test_refused_arrays(cuda: ModuleType, array: np.ndarray, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=rf"kitae\.dropout: x: expected .*{words}"):
        kitae.dropout(ndarray(array), 0.5, seed=1)


def test_a_repeating_output_is_refused(cuda: ModuleType) -> None:
    out = ndarray(np.lib.stride_tricks.as_strided(np.zeros(1), (4,), (0,)))
    with pytest.raises(ValueError, match="out: expected distinct elements"):
        kitae.dropout(on_device(np.ones(4)), 0.5, seed=1, out=out)


class Exporter:
    """Another library's array on GPU 1."""

    def __init__(self, host: np.ndarray, protocol: str) -> None:
        self.host = host
        if protocol == "dlpack":
            self.__dlpack_device__ = lambda: (2, 1)
        else:
            interface = dict(host.__array_interface__)
            self.__cuda_array_interface__ = interface


@pytest.mark.parametrize("protocol", ["dlpack", "cuda_array_interface"])
def test_other_libraries_arrays(cuda: ModuleType, protocol: str) -> None:
    x = np.arange(50, dtype=np.float32)
    y, mask = kitae.dropout(Exporter(x, protocol), 0.5, seed=1)
    assert type(y) is ndarray
    assert y.device.id == 1
    np.testing.assert_array_equal(y.get(), kitae.dropout(x, 0.5, seed=1)[0])
    out = Exporter(np.zeros(50, np.float32), protocol)
    kitae.dropout_backward(Exporter(x, protocol), mask, out=out)
    np.testing.assert_array_equal(out.host, y.get())


def test_errors_of_the_runtime_in_words(cuda: ModuleType) -> None:
    memory = _checks.device_error("cudaMalloc(&memory, bytes)", "cudaErrorMemoryAllocation", "out of memory", "x: (3,)")
    assert isinstance(memory, MemoryError)
    launch = _checks.device_error(
        "cudaLaunchKernelEx", "cudaErrorIllegalAddress", "an illegal access", "x: (3,) float32"
    )
    assert isinstance(launch, RuntimeError)
    assert "cudaLaunchKernelEx: cudaErrorIllegalAddress (an illegal access), in a call with x: (3,) float32" in str(
        launch
    )


def test_a_failing_call_is_named(cuda: ModuleType) -> None:
    with pytest.raises(
        RuntimeError, match=r"kitae\.dropout: cudaSetDevice\(device\): cudaErrorInvalidValue .* x: \(3,\)"
    ):
        kitae.dropout(ndarray(np.ones(3), 7), 0.5, seed=1)  # there are two devices


def test_out_of_memory_is_a_memory_error(cuda: ModuleType) -> None:
    param, grad = (on_device(np.ones(3, np.float32)) for _ in range(2))
    cuda.fail_allocations_after(0)
    with pytest.raises(MemoryError, match=r"cudaErrorMemoryAllocation \(out of memory\)"):
        kitae.SGD([param], 0.1).step([grad])  # every plan has tables of its own
    np.testing.assert_array_equal(param.get(), np.ones(3, np.float32))


def test_check_raises_what_kernels_found(cuda: ModuleType) -> None:
    kitae.check()
    kitae.dropout(on_device(np.ones(3), 1), 0.5, seed=1)
    kitae.check()
    cuda.raise_finding(1, 1, 12)
    cuda.raise_finding(1, 1, 3)
    cuda.raise_finding(1, 3, 1)  # the first kind stays
    with pytest.raises(FloatingPointError, match=r"kitae\.batch_norm: x: .* in channel 3 "):
        kitae.check()
    kitae.check()


def test_show_config_with_cuda(cuda: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert kitae.show_config()["cuda"] == "on: built for CUDA 13, the driver knows 13.0"


@pytest.mark.parametrize(
    ("driver", "devices", "cupy", "words"),
    [
        (0, 0, True, r"no NVIDIA driver \(need 580 or newer\)"),
        (12040, 1, True, r"driver too old: found .*, need 580"),
        (13000, 0, True, r"the NVIDIA driver finds no GPU \(cudaErrorNoDevice\)"),
        (13000, 1, False, r"CuPy is not installed \(`pip install cupy-cuda13x`\)"),
    ],
)
def test_why_cuda_is_off(
    monkeypatch: pytest.MonkeyPatch, driver: int, devices: int, cupy: bool, words: str, capsys: Any
) -> None:
    module = ModuleType("kitae._cuda")
    module.driver_version = lambda: (driver, 13000)  # type: ignore[attr-defined]
    module.device_count = lambda: (devices, "cudaErrorNoDevice")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kitae._cuda", module)
    monkeypatch.setattr(kitae, "_cuda", module, raising=False)
    monkeypatch.setattr(_dispatch, "_cuda_module", None)
    if cupy:
        monkeypatch.setitem(sys.modules, "cupy", CUPY)
    else:
        monkeypatch.delitem(sys.modules, "cupy", raising=False)
        monkeypatch.setattr(_dispatch, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=rf"^kitae\.use_backend: name: .*{words}"):
        kitae.use_backend("cuda")
    config = kitae.show_config()["cuda"]
    if devices or driver < 13000:
        assert config.startswith("off: ")
    assert _dispatch.current_backend() == "cpu"


def _few_rows() -> Iterator[object]:
    for case in CASES:
        for size in case.test_sizes[2:16:5]:
            for dtype in ("float32", "bfloat16"):
                if dtype in case.dtypes:
                    yield pytest.param(case, size, dtype, id=f"{case.name}-{size.label}-{dtype}")


@pytest.mark.parametrize(("case", "size", "dtype"), list(_few_rows()))
def test_rows_on_cupy_arrays(cuda: ModuleType, case: Case, size: Size, dtype: str) -> None:
    """How tests/test_cuda.py runs the rows on a GPU."""
    original = case.inputs(size, dtype)
    on_gpu = on_device_rows.run(CUPY, case, original, give_out=bool(case.out))
    compare_with_cpu(case, original, on_gpu)
