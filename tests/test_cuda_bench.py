"""The GPU's benchmark where there is no GPU: rows, clock, report; and a dry run on the imitation of CuPy."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import imitation_cupy
import kitae
import simulated
from kitae import _dispatch
from kitae.bench import command
from kitae.bench import report as any_report
from kitae.bench.cuda import dropout, lists, normalization, report, suite, timing
from kitae.bench.cuda.row import Row

ROOT = Path(__file__).resolve().parent.parent
TINY = timing.Settings(warmups=1, readings=3, longest_burst=2, shortest_reading=0.0, seconds=0.01)


# --- rows -------------------------------------------------------------------------------------------------------------


def test_every_row_has_a_name_of_its_own_and_quick_rows_come_first() -> None:
    rows = suite.rows(suite.Plan())
    assert len({row.name for row in rows}) == len(rows)
    assert [row.tier for row in rows] == sorted(row.tier for row in rows)
    quick = suite.rows(suite.Plan(quick=True))
    assert [row.name for row in quick] == [row.name for row in rows[: len(quick)]]
    assert {row.family for row in quick} == {"batch_norm", "dropout", "optimizers", "clipping"}
    assert [row.name for row in suite.rows(suite.Plan(filter="adam_max_norm gpt-2"))] == [
        "optimizers adam_max_norm GPT-2 small, 148 tensors float32"
    ]


def test_lists_have_the_published_sizes() -> None:
    sizes = {name: sum(int(np.prod(shape)) for shape in shapes) for name, shapes in lists.LISTS.items()}
    assert sizes["ResNet-50, 161 tensors"] == 25_557_032
    assert sizes["GPT-2 small, 148 tensors"] == 124_439_808
    assert [len(shapes) for shapes in lists.LISTS.values()] == [161, 148, 1000, 1]


class H200:
    sm_count, shared_bytes, clusters = 132, 232_448, True


@pytest.mark.parametrize(
    ("op", "shape", "layout", "dtype", "bytes_an_element"),
    [
        ("batch_norm", (256, 64, 56, 56), "NCHW", "float32", 8),  # a cluster holds a channel
        ("batch_norm", (256, 64, 112, 112), "NCHW", "float32", 12),
        ("batch_norm", (256, 256, 56, 56), "NHWC", "float16", 6),
        ("batch_norm", (256, 512, 28, 28), "NHWC", "float16", 4),  # half of the GPU holds 64 bytes of channels
        ("batch_norm", (256, 2048, 7, 7), "NHWC", "float16", 4),  # a cluster holds them
        ("batch_norm_backward", (256, 512, 28, 28), "NHWC", "float16", 10),
        ("batch_norm_backward", (256, 512, 28, 28), "NCHW", "float32", 12),
        ("batch_norm_backward", (256, 64, 112, 112), "NCHW", "float32", 20),
        ("batch_norm_residual_relu", (256, 512, 28, 28), "NCHW", "float32", 12.125),
        ("batch_norm_residual_relu", (256, 64, 112, 112), "NCHW", "float32", 16.125),
        ("batch_norm_residual_relu_backward", (256, 512, 28, 28), "NCHW", "float32", 16.125),
        ("batch_norm_residual_relu_backward", (256, 64, 112, 112), "NCHW", "float32", 24.25),
        ("batch_norm_inference_relu", (256, 64, 112, 112), "NCHW", "float16", 4),
    ],
)
def test_batch_norms_bytes(op: str, shape: Any, layout: str, dtype: str, bytes_an_element: float) -> None:
    traffic = normalization._row(op, shape, layout, dtype, 0).traffic(H200())
    assert traffic.total / np.prod(shape) == bytes_an_element


@pytest.mark.parametrize(
    ("row", "bytes_an_element"),
    [
        (dropout._row("dropout", "", 1 << 20, 0, "float32", 0), 8.125),
        (dropout._row("dropout_replay", "", 1 << 20, 0, "bfloat16", 0), 4),
        (dropout._row("dropout_backward", "", 1 << 20, 0, "bfloat16", 0), 4.125),
        *(
            (lists._row(op, "", ((1 << 20,),), "float32", 0), expected)
            for op, expected in (
                ("sgd", 12),
                ("momentum", 20),
                ("rmsprop", 20),
                ("adam", 28),
                ("adadelta", 28),
                ("amsgrad", 36),
                ("adam_max_norm", 32),
                ("global_norm", 4),
                ("clip_grad_norm", 12),
            )
        ),
        (lists._row("adam", "", ((1 << 20,),), "bfloat16", 0), 22),
    ],
)
def test_bytes(row: Row, bytes_an_element: float) -> None:
    assert row.traffic(H200()).total / (1 << 20) == bytes_an_element


# --- clock ------------------------------------------------------------------------------------------------------------


class SlowGpu:
    """Calls take one microsecond of the host's and five of the GPU's (fake) time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[Any] = []

    def call(self, buffers: int) -> Callable[[], None]:
        def run() -> None:
            self.now += 5e-6
            self.log.append(buffers)

        return run

    def hold(self, seconds: float) -> None:
        self.now += seconds
        self.log.append("hold")

    def mark(self) -> float:
        return self.now

    def seconds_between(self, first: float, second: float) -> float:
        return second - first

    def synchronize(self) -> None:
        self.log.append("wait")


def test_events_time_the_gpu_over_rotated_buffers() -> None:
    gpu = SlowGpu()
    measured = timing.by_events(gpu, [gpu.call(i) for i in range(3)], timing.Settings(), 1)
    assert measured.median == pytest.approx(5e-6)
    assert measured.readings >= 50
    assert measured.calls >= 10 * 50  # short calls are read several at a time
    calls = [entry for entry in gpu.log if isinstance(entry, int)]
    assert calls[:9] == [0, 1, 2] * 3
    assert gpu.log.index("hold") > 20  # after the warm-ups
    assert measured.clock == "events"
    assert 0 < measured.host < 1e-3


def test_wall_time_waits_for_the_last_result() -> None:
    finished = []
    measured = timing.by_wall(finished.append, [lambda: "a", lambda: "b"], TINY)
    assert measured.clock == "wall"
    assert measured.readings >= 3
    assert set(finished) <= {"a", "b"}


# --- report -----------------------------------------------------------------------------------------------------------


def _entry(system: str, variant: str, median: float, host: float = 5e-6, **more: Any) -> dict[str, Any]:
    numbers = {"median": median, "low": median, "high": median, "readings": 50, "calls": 50, "host": host}
    return {"kind": "contender", "system": system, "variant": variant, "clock": "events", **numbers, **more}


def _results() -> dict[str, Any]:
    """A run as the suite writes it, with invented numbers."""

    def row(op: str, size: str, moved: int, *entries: dict[str, Any], read: bool = False) -> dict[str, Any]:
        yardstick = {"kind": "bandwidth", "bytes": 1, "median": 1 / (4.5e12 if read else 4e12)}
        shape = {"family": "f", "op": op, "size": size, "dtype": "float32", "sets": 3, "warm": False}
        return {**shape, "bytes": {"read": moved, "written": 0}, "entries": [*entries, yardstick]}

    rows = [
        row(
            "batch_norm",
            "256x64x56x56 NCHW",
            4 * 10**8,
            _entry("kitae", "", 125e-6, kernels=1, error=3e-8),
            _entry("kitae", "out=", 120e-6, kernels=1),
            _entry("PyTorch", "native", 400e-6, host=2e-5, kernels=3),
            _entry("PyTorch", "cuDNN", 250e-6, host=3e-5, kernels=1),
            {"kind": "failed", "system": "CuPy", "variant": "", "error": "TypeError: no"},
        ),
        row("adam", "1,000 tensors of 1k", 28 * 10**6, _entry("kitae", "bind", 9e-6), _entry("PyTorch", "fused", 6e-6)),
        row("global_norm", "GPT-2", 9 * 10**8, _entry("kitae", "", 200e-6), read=True),
    ]
    machine = {"processor": "AMD", "cores": 16, "versions": {"python": "3.12.3"}, "gpu": "NVIDIA H200"}
    machine |= {"multiprocessors": 132, "gpu_level2_bytes": 60 << 20, "gpu_memory_gib": 140, "gpu_versions": {"x": "1"}}
    results = {"format": 1, "device": "cuda", "date": "2026-11-21", "machine": machine, "rows": rows, "left_out": ["r"]}
    return json.loads(json.dumps(results | {"bandwidths": {"copy": 4e12, "read": 4.5e12}}))


def test_lines_compare_with_the_best_variant() -> None:
    fresh, given, adam, norm = report.lines(_results())
    assert fresh.speedups == {"PyTorch": pytest.approx(2.0)}
    assert fresh.best_variants == {"PyTorch": "cuDNN"}
    assert fresh.share == pytest.approx(0.8)
    assert (fresh.kernels, fresh.error, fresh.torch_host) == (1, 3e-8, 3e-5)
    assert given.label == "batch norm, training, 256x64x56x56 NCHW, float32, out="
    assert norm.share == pytest.approx(1.0)
    assert norm.speedups == {}
    assert report.losing([fresh, given, adam, norm]) == [(adam, "PyTorch")]


def test_text_tells_what_lost_and_what_failed() -> None:
    text = any_report.text(_results())
    assert "measured copy 4.00 TB/s (read + written), read 4.50 TB/s" in text
    assert "Losing rows: 1 of 3 comparisons" in text
    assert "0.67x  Adam, 1,000 tensors of 1k, float32, bind against PyTorch fused" in text
    assert "batch_norm 256x64x56x56 NCHW float32: CuPy: TypeError: no" in text
    assert "Left out, because the time was over: 1 rows" in text
    short = report.short_text(_results())
    assert short.count("\n") < 12
    assert not report.kitae_failed(_results())


def test_readmes_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(ROOT / "tools")
    import readme_table

    (tmp_path / "h200.json").write_text(json.dumps(_results()))
    text = "a\n<!-- benchmark table: h200.json -->\nold\n<!-- end of benchmark table -->\nb"
    fresh = readme_table.updated(text, tmp_path)
    assert "| op | rows | of a plain copy | vs best PyTorch |" in fresh
    assert "| batch norm, training | 1 | 83% (83%) | 2.1x (2.1x) |" in fresh  # of its two lines the faster one
    assert "| global norm | 1 | 100% (100%) | - |" in fresh
    assert "where kitae is slower: 1 against PyTorch. 1 rows were left out" in fresh
    assert readme_table.updated(fresh, tmp_path) == fresh


# --- command ----------------------------------------------------------------------------------------------------------


def test_list_needs_no_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--device", "cuda", "--quick", "--list", "--filter", "dropout"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "dropout dropout 64M float32"


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(_dispatch, "_cuda_if_built", lambda: None)
    monkeypatch.setattr(_dispatch, "_cuda_module", None)
    with pytest.raises(SystemExit) as stopped:
        command.main(["--device", "cuda"])
    assert stopped.value.code == 2
    assert "CUDA" in capsys.readouterr().err


# --- dry run ----------------------------------------------------------------------------------------------------------


class HostDevice:
    """What Gpu offers, with the imitation of CuPy and PyTorch on the CPU."""

    name, sm_count, l2_bytes, shared_bytes, clusters = "imitation", 3, 500, 1 << 16, False
    xp = np
    jax = None

    def __init__(self) -> None:
        self.rng = np.random.default_rng(1)
        self.torch: Any = None
        if find_spec("torch") is not None:
            import torch

            self.torch = torch

    def normal(self, shape: tuple[int, ...], dtype: str, spread: float = 1.0) -> Any:
        from kitae.bench.cases import dtype_named

        values = self.rng.standard_normal(shape, np.float32) * np.float32(spread)
        return imitation_cupy.ndarray(values.astype(dtype_named(dtype)))

    def full(self, shape: tuple[int, ...], value: float, dtype: str = "float32") -> Any:
        return imitation_cupy.ndarray(np.full(shape, value, dtype))

    def copy(self, array: Any) -> Any:
        return imitation_cupy.ndarray(array._host.copy())

    def plain(self, array: Any) -> Any:
        return array._host

    def torch_tensor(self, array: Any) -> Any:
        return self.torch.from_numpy(array._host)

    def wide(self, value: Any) -> Any:
        host = value._host if isinstance(value, imitation_cupy.ndarray) else np.asarray(value)
        return host.astype(np.float64)

    def mark(self) -> float:
        return time.perf_counter()

    def seconds_between(self, first: float, second: float) -> float:
        return second - first

    def kernels(self, call: Callable[[], object]) -> int | None:
        return None

    def captured(self, call: Callable[[], object]) -> Callable[[], object]:
        return call

    @contextlib.contextmanager
    def torch_settings(self, cudnn: bool) -> Iterator[None]:
        yield

    def hold(self, seconds: float) -> None: ...
    def synchronize(self) -> None: ...
    def free_memory(self) -> None: ...


@pytest.fixture
def host_device(monkeypatch: pytest.MonkeyPatch) -> HostDevice:
    module: ModuleType = simulated.require(simulated.ON_HOST)
    imitation_cupy.install(monkeypatch)
    monkeypatch.setitem(sys.modules, "kitae._cuda", module)
    monkeypatch.setattr(kitae, "_cuda", module, raising=False)
    monkeypatch.setattr(_dispatch, "_cuda_module", None)
    return HostDevice()


_DRY_ROWS = [
    *(
        normalization._row(op, shape, layout, "float32", 0)
        for op in normalization.OPS
        for shape, layout in (((2, 3, 5, 5), "NCHW"), ((2, 3, 5, 5), "NHWC"), ((16, 6), "NC"))
        if layout == "NCHW" or op in ("batch_norm", "batch_norm_backward")
    ),
    *(
        dropout._row(op, "103", 103, 1, "float32", 0)
        for op in ("dropout", "dropout_replay", "dropout_backward", "dropout_replay_backward")
    ),
    *(
        lists._row(op, "tiny", ((7, 5), (0,), (41,)), "float32", 0)
        for op in ("adam", "adam_max_norm", "sgd", *lists._NORMS)
    ),
]


@pytest.mark.timing
@pytest.mark.parametrize("row", _DRY_ROWS, ids=lambda row: row.name)
def test_dry_run(host_device: HostDevice, row: Row) -> None:
    """Every contender runs; those that are compared with float64 agree with it."""
    measured = suite.measure(row, host_device, TINY, {"copy": 1e9, "read": 1e9})
    failed = [
        f"{entry['system']} {entry['variant']}: {entry['error']}"
        for entry in measured["entries"]
        if entry["kind"] == "failed"
        # Needs a GPU: CUDA graphs, CuPy's own kernels.
        and not (entry["system"] == "PyTorch" and entry["variant"] == "")
        and not (entry["system"] == "CuPy" and row.op == "adam")
    ]
    assert failed == []
    lines = report.row_lines(measured)
    assert lines
    assert all(line.kernels for line in lines)
    for entry in measured["entries"]:
        assert entry["kind"] != "contender" or entry.get("error", 0) < 1e-6, entry
    assert measured["sets"] >= 1
    json.dumps(measured)
