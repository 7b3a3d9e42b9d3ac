"""The benchmark's row of a whole network: every contender takes the same step."""

import numpy as np
import pytest

from kitae.bench import command, suite
from kitae.bench.cases import Size, networks
from kitae.bench.contenders import contenders, torch_if_installed

(CASE,) = networks.CASES
SIZE = Size("3x1x8x6", ((3, 1, 8, 6),))


def test_every_contender_takes_the_same_step():
    """Against the textbook's float64 step. Sums of up to 144 floats behind two batch norms, whose gradients are small
    differences: 1e-4 of the largest gradient of an array."""
    seen = set()
    count = len(contenders(CASE, CASE.inputs(SIZE, "float32")))
    for index in range(count):
        inputs = CASE.inputs(SIZE, "float32")
        expected = CASE.expected(inputs)
        start = {name: array.copy() for name, array in inputs["params"].items()}
        contender = contenders(CASE, inputs)[index]
        seen.add(contender.system)
        results = contender.results(contender.call())
        assert results.keys() == expected.keys(), contender.name
        for name, value in results.items():
            wanted = np.asarray(expected[name].value)
            scale = np.abs(wanted).max()
            np.testing.assert_allclose(
                value, wanted, rtol=0, atol=1e-4 * scale + 1e-6, err_msg=f"{contender.name} {name}"
            )
        for name, array in inputs["params"].items():
            np.testing.assert_array_equal(array, start[name], err_msg=contender.name)  # everyone has a copy
    assert seen == {"textbook", "kitae"} | ({"PyTorch"} if torch_if_installed() else set())


def test_the_step_learns():
    """The loss of one batch falls under a tenth of ln 10 within 30 steps of kitae's network."""
    from kitae.bench.contenders.networks import kitae_step

    call, _ = kitae_step(CASE.inputs(Size("20x1x8x8", ((20, 1, 8, 8),)), "float32"))
    losses = [call() for _ in range(30)]
    assert losses[-1] < 0.23 < losses[0]


def test_case_is_the_kitae_step():
    inputs = CASE.inputs(SIZE, "float32")
    results = CASE.call(inputs, {})
    assert results["loss"] == pytest.approx(float(CASE.expected(inputs)["loss"].value), rel=1e-5)


def test_traffic_by_hand():
    """x; ten parameters of 16 * 9 + 32 * 144 + 2 * 3 * 16 + ... elements and two moments each, read and written."""
    parameters = 16 * 9 + 3 * 16 + 32 * 16 * 9 + 3 * 32 + 32 * 4 * 3 * 10 + 10
    assert CASE.traffic is not None
    moved = CASE.traffic(CASE.inputs(SIZE, "float32"), 1 << 20)
    assert (moved.read, moved.written) == (4 * (3 * 48 + 3 * parameters), 12 * parameters)


def test_the_row_is_listed(capsys):
    assert command.main(["--list", "--filter", "convolutional_step"]) == 0
    assert "network convolutional_step 100x1x28x28" in capsys.readouterr().out
    assert (CASE, CASE.bench_sizes[0]) in suite.rows(suite.planned(quick=True))
