"""The benchmark's rows of whole networks: every contender takes the same step, with the row's number of threads."""

from collections.abc import Iterator

import numpy as np
import pytest

import kitae
from kitae.bench import blas, command, report, suite, timing
from kitae.bench.cases import Case, Inputs, Results, Size, networks
from kitae.bench.contenders import Contender, contenders, torch_if_installed

CONVOLUTIONAL, FULLY_CONNECTED = networks.CASES
WITHOUT_DROPOUT = {"drop": 0.0}
SIZES = {
    CONVOLUTIONAL.name: Size("3x1x8x6", ((3, 1, 8, 6),)),
    # Nobody clips at infinity, so everyone's gradients can be compared.
    FULLY_CONNECTED.name: Size("32x20", ((32, 20),), options=WITHOUT_DROPOUT | {"max_norm": np.inf}),
}
#: Among Adam's first updates, lr g / (|g| + 1e-8), this norm makes small ones: they show how far g was scaled down.
CLIPPED = Size("32x20 clipped", ((32, 20),), options=WITHOUT_DROPOUT | {"max_norm": 1e-7})
SYSTEMS = {"textbook", "kitae"} | ({"PyTorch"} if torch_if_installed() else set())

both = pytest.mark.parametrize("case", networks.CASES, ids=lambda case: case.name)


def steps(case: Case, size: Size) -> Iterator[tuple[Contender, Inputs, Results]]:
    """Every contender and what its first step gives."""
    for index in range(len(contenders(case, case.inputs(size, "float32")))):
        inputs = case.inputs(size, "float32")
        contender = contenders(case, inputs)[index]
        yield contender, inputs, contender.results(contender.call())


@both
def test_every_contender_takes_the_same_step(case):
    """Against the textbook's float64 step. Sums of up to 144 floats behind two batch norms, or of 100 behind five,
    whose gradients are small differences: 1e-4 of the largest gradient of an array."""
    seen = set()
    for contender, inputs, results in steps(case, SIZES[case.name]):
        expected = case.expected(inputs)
        assert results.keys() == expected.keys(), contender.name
        for name in ("loss", *inputs["params"]):
            wanted = np.asarray(expected[name].value)
            scale = np.abs(wanted).max()
            np.testing.assert_allclose(
                results[name], wanted, rtol=0, atol=1e-4 * scale + 1e-6, err_msg=f"{contender.name} {name}"
            )
        for name, array in case.inputs(SIZES[case.name], "float32")["params"].items():
            np.testing.assert_array_equal(inputs["params"][name], array, err_msg=contender.name)  # everyone has a copy
        seen.add(contender.system)
    assert seen == SYSTEMS


def test_every_contender_clips_before_the_update():
    """The parameters after a step whose clipping shows, to 1e-3 of an array's largest update (the gradients' 1e-4,
    with room), the rounding of the parameters themselves, and a millionth of the rate for biases before a batch norm,
    whose gradients are only rounding."""
    for contender, inputs, results in steps(FULLY_CONNECTED, CLIPPED):
        expected = FULLY_CONNECTED.expected(inputs)
        for name, start in inputs["params"].items():
            wanted = expected[f"new {name}"].value
            largest = np.abs(wanted - start).max()
            assert largest < 0.95 * networks.LEARNING_RATE, name  # where nothing clips, an update is the rate itself
            atol = 1e-3 * largest + np.spacing(np.abs(start).max()) + 1e-6 * networks.LEARNING_RATE
            np.testing.assert_allclose(
                results[f"new {name}"], wanted, rtol=0, atol=atol, err_msg=f"{contender.name} {name}"
            )


def test_everyone_drops():
    """With dropout nobody has the loss of a step without, which agrees to 1e-5. Masks are the same in every run."""
    kitae.seed(0)
    torch = torch_if_installed()
    if torch is not None:
        torch.manual_seed(0)
    size = Size("32x20", ((32, 20),))
    whole = FULLY_CONNECTED.expected(FULLY_CONNECTED.inputs(SIZES[FULLY_CONNECTED.name], "float32"))["loss"].value
    for contender, inputs, results in steps(FULLY_CONNECTED, size):
        assert (inputs["drop"], inputs["max_norm"]) == (0.2, 1.0)
        assert abs(results["loss"] - whole) > 1e-4, contender.name


@both
def test_the_step_learns(case):
    """The loss of one batch falls under a tenth of ln 10 within 30 steps of kitae's network."""
    from kitae.bench.contenders.networks import kitae_step

    images = (20, 1, 8, 8) if case is CONVOLUTIONAL else (20, 64)
    call, _ = kitae_step(case.inputs(Size("20 images", (images,), options=WITHOUT_DROPOUT), "float32"))
    losses = [call() for _ in range(30)]
    assert losses[-1] < 0.23 < losses[0]


@both
def test_case_is_the_kitae_step(case):
    inputs = case.inputs(SIZES[case.name], "float32")
    results = case.call(inputs, {})
    assert results["loss"] == pytest.approx(float(case.expected(inputs)["loss"].value), rel=1e-5)


@pytest.mark.parametrize(
    ("case", "images", "parameters"),
    [
        (CONVOLUTIONAL, 3 * 48, 16 * 9 + 3 * 16 + 32 * 16 * 9 + 3 * 32 + 32 * 4 * 3 * 10 + 10),
        (FULLY_CONNECTED, 32 * 20, 20 * 100 + 4 * 100 * 100 + 5 * 3 * 100 + 100 * 10 + 10),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_traffic_by_hand(case, images, parameters):
    """x; parameters and two moments of each, read and written."""
    moved = case.traffic(case.inputs(SIZES[case.name], "float32"), 1 << 20)
    assert (moved.read, moved.written) == (4 * (images + 3 * parameters), 12 * parameters)


def test_the_rows_are_listed(capsys):
    assert command.main(["--list", "--filter", "network"]) == 0
    listed = capsys.readouterr().out
    assert listed == "network convolutional_step 100x1x28x28\nnetwork fully_connected_step 128x784\n"
    for case in networks.CASES:
        assert (case, case.bench_sizes[0]) in suite.rows(suite.planned(quick=True))
        assert case.name in report.OP_NAMES
    plan = suite.planned(filter="network")
    assert not suite.rows(plan, dtype="float64") + suite.rows(plan, dtype="bfloat16")  # float32 alone is checked above


# --- threads ---------------------------------------------------------------------------------------------------------


def blas_threads() -> set[int]:
    from threadpoolctl import threadpool_info

    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


@both
def test_matrix_products_have_the_rows_threads(case, monkeypatch):
    """Seen from within every call; afterwards all is as before."""
    seen = set()
    before = blas_threads(), kitae.get_num_threads()

    def watched(case: Case, inputs: Inputs) -> list[Contender]:
        def replaced(contender: Contender) -> Contender:
            def call() -> None:
                if contender.system != "PyTorch":
                    seen.add((contender.system, *blas_threads()))

            return Contender(
                contender.system, "", contender.destination, call, contender.results, uses_blas=contender.uses_blas
            )

        return [replaced(contender) for contender in contenders(case, inputs)]

    monkeypatch.setattr(suite, "contenders", watched)
    settings = timing.Settings(1e-4, 2, 2, dropped_seconds=0.0, pause_seconds=0.0, pause_after_openmp=0.0)
    results = suite.run(suite.Plan(threads=(1, 2), settings=settings), lambda *_: None, [(case, SIZES[case.name])])
    assert seen == {("textbook", 1), ("textbook", 2), ("kitae", 1), ("kitae", 2)}
    assert (blas_threads(), kitae.get_num_threads()) == before
    measured = [(e["system"], e["threads"]) for e in results["rows"][0]["entries"] if e["kind"] == "contender"]
    assert set(measured) == {(system, count) for system in SYSTEMS for count in (1, 2)}
    assert "(NumPy and the textbook use one thread, in networks as many as the row)" in report.text(results)


def test_each_number_of_threads_has_its_textbook():
    """kitae with one thread against the textbook with one; with two against the better of one and two."""

    def entry(system: str, threads: int, median: float) -> dict:
        spread = {"variant": "", "destination": "in place", "threads": threads, "low": median, "high": median}
        return {"kind": "contender", "system": system, "median": median} | spread

    copies = [
        {"kind": "copy", "destination": "reused", "threads": count, "median": 1.0, "bytes": 8} for count in (1, 2)
    ]
    row = {"family": "network", "op": "fully_connected_step", "size": "2x2", "dtype": "float32"}
    row |= {"bytes": {"read": 4, "written": 4}}
    entries = [entry("textbook", 1, 8.0), entry("textbook", 2, 6.0), entry("kitae", 1, 2.0), entry("kitae", 2, 1.0)]
    one, two = report.row_lines(row | {"entries": [*entries, *copies]})
    assert (one.speedups, two.speedups) == ({"textbook": 4.0}, {"textbook": 6.0})


def test_without_threadpoolctl_the_rows_are_left_out_in_words(monkeypatch, capsys):
    monkeypatch.setattr(blas, "find_spec", lambda module: None)
    assert command.main(["--list", "--filter", "28"]) == 0
    listed = capsys.readouterr()
    assert "network" not in listed.out
    assert "threadpoolctl is not installed; pip install 'kitae[bench]'" in listed.err
    assert command.main(["--list", "--filter", "adam"]) == 0
    assert capsys.readouterr().err == ""
    with pytest.raises(SystemExit):
        command.main(["--filter", "network"])
    assert "left out" in capsys.readouterr().err


def test_an_unknown_library_of_matrix_products_leaves_the_rows_out_too(monkeypatch):
    class Nothing:
        lib_controllers = ()

    monkeypatch.setattr(blas, "_libraries", Nothing)
    assert not [case for case, _ in suite.rows(suite.planned()) if case.family == networks.FAMILY]
    assert "does not know" in suite.left_out(suite.planned())
