"""The benchmark suite: honest contenders, honest clock, and a report that says what was measured."""

import importlib.util
import itertools
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from kitae.bench import command, overhead, report, scaling, suite, sweep, timing
from kitae.bench.cases import CASES, Case, Size
from kitae.bench.cases.tensors import resnet18
from kitae.bench.contenders import contenders, torch_if_installed

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKED = [case for case in CASES if case.bench_sizes]
SMALL = {
    "batch_norm": [
        Size("33x17", ((33, 17),)),
        Size("4x3x5x7 NCHW", ((4, 3, 5, 7),)),
        Size("4x5x7x3 NHWC", ((4, 5, 7, 3),), axis=-1),
    ],
    "layer_norm": [Size("33x17", ((33, 17),)), Size("4x5x37", ((4, 5, 37),))],
    "dropout": [Size("70001", ((70_001,),))],
    "optimizers": [Size("tensors", ((7, 5), (5,), (40_001,)), options={"steps": 1})],
    "clipping": [Size("tensors", ((7, 5), (5,), (40_001,)), options={"steps": 1})],
}
SYSTEMS = ["textbook", "NumPy", "kitae"] + (["PyTorch"] if torch_if_installed() else [])
TINY = timing.Settings(
    block_seconds=1e-4, blocks=2, fewest_blocks=2, dropped_seconds=0.0, pause_seconds=0.0, pause_after_openmp=0.0
)


# --- contenders ------------------------------------------------------------------------------------------------------


def _small_rows() -> list[Any]:
    return [
        pytest.param(case, size, id=f"{case.name}-{size.label}") for case in BENCHMARKED for size in SMALL[case.family]
    ]


@pytest.mark.parametrize(("case", "size"), _small_rows())
def test_every_contender_computes_the_same(case: Case, size: Size) -> None:
    assert _systems_that_compute_the_same(case, size, without="JAX") == set(SYSTEMS)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
@pytest.mark.parametrize(("case", "size"), _small_rows())
def test_every_contender_computes_the_same_in_other_dtypes(case: Case, size: Size, dtype: str) -> None:
    if not suite._in_dtype(case, dtype):
        return
    assert _systems_that_compute_the_same(case, size, dtype=dtype) >= {"kitae"}


@pytest.mark.requires_jax
@pytest.mark.parametrize(("case", "size"), _small_rows())
def test_jax_computes_the_same(case: Case, size: Size) -> None:
    assert "JAX" in _systems_that_compute_the_same(case, size)


def _systems_that_compute_the_same(case: Case, size: Size, without: str = "", dtype: str = "float32") -> set[str]:
    """Against the case's float64 value, to the precision of a sum in float32 or of bfloat16's 8 bits, in any order."""
    count = len(contenders(case, case.inputs(size, dtype)))
    seen: set[str] = set()
    for index in range(count):
        inputs = case.inputs(size, dtype)
        expected = {name: np.asarray(e.value, np.float64) for name, e in case.expected(inputs).items()}
        contender = contenders(case, inputs)[index]  # anew each time: in-place contenders share their inputs
        if contender.system == without:
            continue
        seen.add(contender.system)
        results = contender.results(contender.call())
        assert results, contender.name
        if case.family == "dropout" and contender.system != "kitae":
            _assert_dropout(results, inputs, contender.name)
            continue
        for name, value in results.items():
            scale = np.abs(expected[name]).max(initial=0)
            rtol, atol = (1e-4, 1e-5) if dtype != "bfloat16" else (2**-7, 2**-7)
            np.testing.assert_allclose(
                value.astype(np.float64), expected[name], rtol, atol * scale + 1e-6, err_msg=f"{contender.name} {name}"
            )
    return seen


def _assert_dropout(results: dict[str, np.ndarray], inputs: dict[str, Any], name: str) -> None:
    """Another generator: each element is 0 or scaled, and the kept share is within 5 standard deviations."""
    ((result, value),) = results.items()
    source = inputs["x" if result == "y" else "dout"]
    dropped, rtol = value == 0, 1e-6 if source.itemsize > 2 else 2**-7
    kept = source[~dropped].astype(np.float64) / (1 - inputs["drop"])
    np.testing.assert_allclose(value[~dropped].astype(np.float64), kept, rtol=rtol, err_msg=name)
    deviation = np.sqrt(inputs["drop"] * (1 - inputs["drop"]) / value.size)
    assert abs(dropped.mean() - inputs["drop"]) < 5 * deviation, name


def test_repeated_clipping_always_has_something_to_clip() -> None:
    case = next(case for case in CASES if case.name == "clip_grad_norm")
    inputs = case.inputs(SMALL["clipping"][0], "float32")
    rivals = [rival for rival in contenders(case, inputs) if rival.system != "JAX"]  # which has arrays of its own
    before = inputs["grads"][0].copy()
    for contender in itertools.islice(itertools.cycle(rivals), 3 * len(rivals)):
        contender.call()
        assert not np.array_equal(inputs["grads"][0], before), contender.name
        before = inputs["grads"][0].copy()


def test_resnet18_has_the_published_size() -> None:
    shapes = resnet18()
    assert len(shapes) == 62
    assert sum(int(np.prod(shape)) for shape in shapes) == 11_689_512


# --- clock -----------------------------------------------------------------------------------------------------------


class FakeClock:
    """Time that passes only when something is called."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def __call__(self) -> float:
        return self.now

    def runner(self, name: str, *durations: float, uses_openmp: bool = False) -> timing.Runner:
        times = itertools.chain(durations[:-1], itertools.repeat(durations[-1]))

        def call() -> None:
            self.now += next(times)
            self.log.append(name)

        return timing.Runner(name, call, lambda: self.log.append(f"enter {name}"), uses_openmp)

    def sleep(self, seconds: float) -> None:
        self.log.append(f"sleep {seconds}")
        self.now += seconds


def test_a_block_drops_its_first_call_and_lasts_long_enough() -> None:
    clock = FakeClock()
    seconds, calls = timing.time_block(clock.runner("a", 5.0, 0.006).call, timing.Settings(), clock)
    assert seconds == pytest.approx(0.006)
    assert calls == 4  # 20 ms are over within the fourth of 6 ms; the first of 5 s is not among them
    assert len(clock.log) == 5


def test_a_blocks_number_is_the_median_of_its_calls() -> None:
    clock = FakeClock()
    seconds, calls = timing.time_block(
        clock.runner("a", 1.0, 0.001, 0.009, 0.002, 0.007, 0.1).call, timing.Settings(), clock
    )
    assert calls == 5
    assert seconds == pytest.approx(0.007)


def test_short_calls_are_read_several_at_a_time() -> None:
    assert timing.calls_per_reading(1e-6, timing.Settings()) == 10
    assert timing.calls_per_reading(0.0, timing.Settings()) > 1
    assert timing.calls_per_reading(1.0, timing.Settings()) == 1
    clock = FakeClock()
    seconds, calls = timing.time_block(clock.runner("a", 1e-6).call, timing.Settings(dropped_seconds=0), clock)
    assert seconds == pytest.approx(1e-6)
    assert calls == pytest.approx(20_000, rel=0.01)


def test_contenders_alternate_with_pauses_in_an_order_that_reverses() -> None:
    clock = FakeClock()
    settings = timing.Settings(blocks=2, fewest_blocks=2)
    timing.race([clock.runner("a", 0.03), clock.runner("b", 0.03, uses_openmp=True)], settings, clock, clock.sleep)
    quiet, spinning = f"sleep {settings.pause_seconds}", f"sleep {settings.pause_after_openmp}"
    assert clock.log == [
        *("enter a", quiet, "a", "a"),
        *("enter b", quiet, "b", "b"),
        *("enter b", spinning, "b", "b"),
        *("enter a", spinning, "a", "a"),
    ]


def test_slow_rows_get_fewer_blocks_but_enough() -> None:
    clock = FakeClock()
    settings = timing.Settings(blocks=9, fewest_blocks=5, row_seconds=15)
    assert timing.race([clock.runner("slow", 10.0)], settings, clock, clock.sleep)["slow"].blocks == 5
    assert timing.race([clock.runner("middling", 1.0)], settings, clock, clock.sleep)["middling"].blocks == 7
    assert timing.race([clock.runner("fast", 0.001)], settings, clock, clock.sleep)["fast"].blocks == 9


def test_spread_is_the_quartiles() -> None:
    summary = timing.summarize([5.0, 1.0, 2.0, 4.0, 3.0], calls=50)
    assert (summary.low, summary.median, summary.high) == (2.0, 3.0, 4.0)
    assert timing.quartiles([7.0]) == (7.0, 7.0, 7.0)


def test_two_runners_of_one_name_are_refused() -> None:
    clock = FakeClock()
    with pytest.raises(ValueError, match="distinct"):
        timing.race([clock.runner("a", 1.0), clock.runner("a", 1.0)], timing.Settings(), clock, clock.sleep)


def test_geometric_mean_lets_twice_and_half_cancel() -> None:
    assert timing.geometric_mean([2.0, 0.5]) == pytest.approx(1.0)
    assert timing.geometric_mean([1.0, 4.0, 16.0]) == pytest.approx(4.0)


# --- report ----------------------------------------------------------------------------------------------------------


def _entry(kind: str, median: float, threads: int = 1, destination: str = "reused", **more: Any) -> dict[str, Any]:
    spread = {"median": median, "low": median * 0.9, "high": median * 1.1, "blocks": 9, "calls": 90}
    return {"kind": kind, "variant": "", "destination": destination, "threads": threads} | spread | more


def _results() -> dict[str, Any]:
    """One row, 1 GB, with numbers that can be worked out by hand."""
    entries = [
        _entry("contender", 8.0, destination="fresh", system="textbook"),
        _entry("contender", 3.0, system="NumPy", variant="out="),
        _entry("contender", 4.0, destination="fresh", system="NumPy"),
        _entry("contender", 2.0, system="PyTorch", variant="slow"),
        _entry("contender", 1.5, destination="fresh", system="PyTorch", variant="quick"),
        _entry("contender", 0.5, threads=2, destination="fresh", system="PyTorch", variant="quick"),
        _entry("contender", 1.0, system="kitae", variant="out="),
        _entry("contender", 1.0, threads=2, system="kitae", variant="out="),
        _entry("contender", 2.0, destination="fresh", system="kitae"),
        _entry("copy", 0.5, variant="split", bytes=1e9),
        _entry("copy", 0.4, variant="streaming", bytes=5e8),
        _entry("copy", 0.25, threads=2, variant="split", bytes=1e9),
        _entry("copy", 1.0, destination="fresh", variant="split", bytes=1e9),
    ]
    row = {"family": "batch_norm", "op": "batch_norm", "size": "2x2", "dtype": "float32"}
    machine = {
        "processor": "a processor",
        "architecture": "x86_64",
        "cores": 2,
        "instruction_set": "v3",
        "level2_bytes": 1 << 19,
        "level3_bytes": 1 << 25,
        "memory_gib": 8,
        "system": "Linux",
        "busy_cpus": 0.1,
        "versions": {"kitae": "0.1.0", "numpy": "2.0.0"},
    }
    rows = [row | {"bytes": {"read": 5e8, "written": 5e8}, "entries": entries}]
    return {"format": 1, "date": "2026-01-02", "machine": machine, "plan": {}, "seconds": 1.0, "rows": rows}


def test_lines_compare_like_with_like() -> None:
    reused, two_threads, fresh = report.lines(_results())
    # Best of any destination, one thread; NumPy and the textbook never have more.
    assert reused.speedups == {"textbook": 8.0, "NumPy": 3.0, "PyTorch": 1.5}
    assert reused.best_variants["PyTorch"] == "quick"
    assert two_threads.speedups == {"textbook": 8.0, "NumPy": 3.0, "PyTorch": 0.5}
    assert fresh.speedups == {"textbook": 4.0, "NumPy": 2.0, "PyTorch": 0.75}
    # A peer that is slower with more threads counts with fewer.
    results = _results()
    results["rows"][0]["entries"][5]["median"] = 9.0
    assert report.lines(results)[1].speedups["PyTorch"] == 1.5
    # 1 GB in 1 s against the better copy: 2 GB/s warm, 4 GB/s on two threads, 1 GB/s into new memory.
    assert (reused.gigabytes, reused.share) == (1.0, 0.5)
    assert two_threads.share == 0.25
    assert fresh.share == 0.5


def test_losses_are_printed_with_the_winner_named() -> None:
    lost = report.losing(report.lines(_results()))
    assert [(line.threads, peer) for line, peer in lost] == [(2, "PyTorch"), (1, "PyTorch")]
    printed = report.text(_results())
    assert "Losing rows: 2 of 9 comparisons" in printed
    assert "0.50x  batch norm, training, 2x2, out= (2 threads) against PyTorch quick" in printed
    assert "0.75x  batch norm, training, 2x2 (1 thread) against PyTorch quick" in printed


def test_a_missing_peer_is_a_dash_and_no_number() -> None:
    results = _results()
    row = results["rows"][0]
    row["entries"] = [entry for entry in row["entries"] if entry.get("system") != "PyTorch"]
    assert all("PyTorch" not in line.speedups for line in report.lines(results))
    assert report.mean_speedup(report.lines(results), "PyTorch") is None
    assert "Worst rows against PyTorch" not in report.text(results)
    assert "PyTorch" not in report.markdown(results)


def test_a_busy_machine_is_told() -> None:
    results = _results()
    assert "NOT A QUIET MACHINE" not in report.text(results)
    results["machine"]["busy_cpus"] = 1.5
    assert "NOT A QUIET MACHINE: other processes kept 1.5 CPUs busy" in report.text(results)
    assert "NOT A QUIET MACHINE" in report.markdown(results)


def test_markdown_says_means_worst_rows_and_losses() -> None:
    table = report.markdown(_results())
    assert "| batch norm, training | 1 | 8.0x (8.0x) | 3.0x (3.0x) | 0.50x (0.50x) | 25% (25%) |" in table
    assert "1 of 1 against best PyTorch" in table
    assert "Measured 2026-01-02 on a processor" in table


@pytest.mark.parametrize(
    ("ratio", "text"), [(None, "-"), (0.5, "0.50x"), (0.996, "1.0x"), (6.04, "6.0x"), (9.96, "10x"), (80.4, "80x")]
)
def test_ratios_show_two_digits_and_losses_never_round_up_to_a_draw(ratio: float | None, text: str) -> None:
    assert report.ratio_text(ratio) == text


# --- the suite and its command ---------------------------------------------------------------------------------------


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real cases with small sizes and blocks of no length to speak of."""
    from dataclasses import replace

    small = tuple(
        replace(case, bench_sizes=tuple(replace(size, quick=True) for size in SMALL[case.family][:1]))
        for case in BENCHMARKED
        if case.name in ("batch_norm_backward", "dropout", "adam", "clip_grad_norm")
    )
    monkeypatch.setattr(suite, "CASES", small)
    monkeypatch.setattr(suite.rows, "__defaults__", (small, "float32"))
    monkeypatch.setattr(suite, "QUICK_SETTINGS", TINY)


@pytest.mark.usefixtures("tiny")
def test_command_measures_prints_and_saves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved, picture = tmp_path / "out.json", tmp_path / "out.png"
    assert command.main(["--quick", "--threads", "1,2", "--json", str(saved), "--plot", str(picture)]) == 0
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 4
    assert "[  4/4]" in printed.err
    assert "Losing rows:" in printed.out
    assert picture.read_bytes().startswith(b"\x89PNG")
    results = json.loads(saved.read_text())
    _assert_format(results)
    assert report.text(results) in printed.out


def _assert_format(results: dict[str, Any]) -> None:
    assert results["format"] == suite.FORMAT
    assert results.keys() == {"format", "date", "machine", "plan", "seconds", "rows"}
    assert results["machine"]["versions"]["numpy"] == np.__version__
    text = json.dumps(results)
    assert str(ROOT) not in text
    assert str(Path.home()) not in text
    for row in results["rows"]:
        assert row.keys() == {"family", "op", "size", "dtype", "bytes", "entries"}
        systems = {entry["system"] for entry in row["entries"] if entry["kind"] == "contender"}
        assert systems >= set(SYSTEMS)  # and JAX, where it is installed
        kinds = {(entry["kind"], entry["destination"], entry["threads"]) for entry in row["entries"]}
        assert {("copy", "reused", 1), ("copy", "reused", 2)} <= kinds
        assert (("copy", "fresh", 2) in kinds) == (row["family"] in ("batch_norm", "dropout"))
        for entry in row["entries"]:
            assert 0 < entry["low"] <= entry["median"] <= entry["high"]
            assert entry["calls"] >= entry["blocks"]


@pytest.mark.usefixtures("tiny")
def test_filter_and_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list", "--filter", "adam"]) == 0
    assert capsys.readouterr().out == "optimizers adam tensors\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--filter", "no such row"], "expected words of a row's name"),
        (["--threads", "0"], "expected positive integers"),
        (["--threads", "two"], "expected positive integers"),
        (["--json", "/no/such/folder/x.json"], "expected a file in an existing folder"),
    ],
)
def test_wrong_arguments_get_words(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_traffic_counts_what_must_move() -> None:
    """By hand: elements times four bytes times the arrays read and written."""
    case = {case.name: case for case in CASES}
    level2 = 512 << 10

    def bytes_of(name: str, size: Size) -> tuple[int, int]:
        traffic = case[name].traffic
        assert traffic is not None
        moved = traffic(case[name].inputs(size, "float32"), level2)
        return moved.read, moved.written

    matrix = Size("128x256", ((128, 256),))
    assert bytes_of("batch_norm", matrix) == (4 * 128 * 256, 4 * 128 * 256)
    assert bytes_of("batch_norm_backward", matrix) == (2 * 4 * 128 * 256, 4 * 128 * 256)
    tall = Size("20000x16", ((20_000, 16),))  # a cache line of channels is 1.28 MB: two passes over the input
    assert bytes_of("batch_norm", tall) == (2 * 4 * 320_000, 4 * 320_000)
    assert bytes_of("batch_norm_inference", tall) == (4 * 320_000, 4 * 320_000)
    assert bytes_of("dropout", Size("80", ((80,),))) == (320, 330)
    tensors = Size("t", ((1000,), (24,)))
    assert bytes_of("adam", tensors) == (4 * 4096, 3 * 4096)
    assert bytes_of("sgd", tensors) == (2 * 4096, 4096)
    assert bytes_of("clip_grad_norm", tensors) == (4096, 4096)
    assert bytes_of("clip_grad_norm", Size("big", ((200_000,),))) == (2 * 800_000, 800_000)
    assert bytes_of("global_norm", tensors) == (4096, 0)


# --- README's table --------------------------------------------------------------------------------------------------


@pytest.fixture
def readme_table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("readme_table", ROOT / "tools" / "readme_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_readme_table_round_trip(
    readme_table: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(readme_table, "ROOT", tmp_path)
    (tmp_path / "results.json").write_text(json.dumps(_results()))
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- benchmark table: results.json -->\nold\n<!-- end of benchmark table -->\nafter\n")
    assert readme_table.main(["--check", str(readme)]) == 1
    assert "README.md" in capsys.readouterr().out
    assert "old" in readme.read_text()
    assert readme_table.main([str(readme)]) == 0
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert report.markdown(_results()) in text
    assert "old" not in text
    assert readme_table.main(["--check", str(readme)]) == 0
    readme.write_text(text.replace("8.0x", "9.0x"))
    assert readme_table.main(["--check", str(readme)]) == 1


def test_readme_without_markers_is_an_error(readme_table: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("nothing here\n")
    with pytest.raises(ValueError, match="expected <!-- benchmark table"):
        readme_table.main(["--check", str(tmp_path / "README.md")])


# --- sweep, overhead, instruction counts -----------------------------------------------------------------------------


def test_sweep_draws_the_same_sizes_for_a_seed_and_measures_them(capsys: pytest.CaptureFixture[str]) -> None:
    case = next(case for case in CASES if case.name == "batch_norm_backward")
    drawn = sweep.sizes(case, 40, seed=1)
    assert drawn == sweep.sizes(case, 40, seed=1)
    assert drawn != sweep.sizes(case, 40, seed=2)
    assert {len(size.shape) for size in drawn} == {2, 3, 4}
    assert {size.axis for size in drawn} == {1, -1}
    assert max(np.prod(size.shape) for size in drawn) <= 2 * sweep.LARGEST
    if torch_if_installed() is None:
        with pytest.raises(SystemExit):
            sweep.main(["--count", "1"])
        assert "PyTorch" in capsys.readouterr().err
        return
    plan = suite.Plan(False, "dropout_backward", (1,), TINY, systems=("PyTorch", "kitae"))
    results = sweep.run(plan, 2, 7, lambda *_: None)
    assert len(results["rows"]) == 2
    assert "dropout, backward" in sweep.text(results)


def test_scaling_measures_every_size_with_every_number_of_threads(tmp_path: Path) -> None:
    results = scaling.run(suite.Plan(threads=(1, 2), settings=TINY, systems=("kitae",)), lambda *_: None, (1000, 4000))
    found = scaling.points(results)
    assert set(found) == set(itertools.product(scaling.OPS, (1, 2)))
    for line in found.values():
        assert [elements for elements, _, _ in line] == [1000, 4000]
    assert scaling.text(results).count("4,000") == len(scaling.OPS)
    scaling.plot(results, tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").stat().st_size > 10_000


def test_overhead_rows_are_those_with_a_wanted_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overhead, "_adam", lambda *_, **__: lambda: None)  # 1,000 tensors a row take long
    measured = overhead.measure(TINY)
    assert set(overhead.WANTED) < set(measured)
    assert all(micros > 0 for micros in measured.values())
    assert "at most" in overhead.text(measured)


def test_instruction_counts_must_stay_in_both_directions() -> None:
    spec = importlib.util.spec_from_file_location("count_instructions", ROOT / "tools" / "count_instructions.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    committed = {"a": 1000, "b": 1000, "c": 1000, "d": 1000}
    found = tool.differences({"a": 1000, "b": 1021, "c": 979, "e": 1}, committed)
    assert [line.split(":")[0] for line in found] == ["b", "c", "d", "e"]
    assert "slower" in found[0]
    assert "faster" in found[1]
