"""The benchmark's rows whose caller is PyTorch: listed where it is installed, everyone's results right."""

from typing import Any

import numpy as np
import pytest

from kitae.bench import command, report, suite
from kitae.bench.cases import Case, Size, torch_face
from kitae.bench.contenders import contenders

pytestmark = pytest.mark.requires_torch

LISTS = (Size("tensors", ((7, 5), (5,), (40_001,)), options={"steps": 1}),)
SMALL = {
    "torch_batch_norm": (Size("4x3x5x7 NCHW", ((4, 3, 5, 7),)), Size("4x5x7x3 NHWC", ((4, 5, 7, 3),), axis=-1)),
    "torch_dropout": (Size("70001", ((70_001,),)),),
}
ROWS = [(case, size) for case in torch_face.CASES for size in SMALL.get(case.name, LISTS)]


def _names(rows: Any) -> list[str]:
    return [f"{case.name}-{size.label}" for case, size in rows]


@pytest.mark.parametrize(("case", "size"), ROWS, ids=_names(ROWS))
def test_every_contender_computes_the_same(case: Case, size: Size) -> None:
    """Against the case's float64 value, to the precision of a float32 sum taken in any order."""
    count = len(contenders(case, case.inputs(size, "float32")))
    seen = set()
    for index in range(count):
        inputs = case.inputs(size, "float32")
        expected = {name: np.asarray(e.value, np.float64) for name, e in case.expected(inputs).items()}
        contender = contenders(case, inputs)[index]  # anew each time: they share their inputs
        seen.add(contender.system)
        results = contender.results(contender.call())
        assert results, contender.name
        for name, value in results.items():
            if case.name == "torch_dropout":  # generators differ: one mask for both passes, at the right scale
                source = inputs["x" if name == "y" else "dout"]
                kept = results["y"] != 0
                np.testing.assert_allclose(value, np.where(kept, source / (1 - inputs["drop"]), 0), rtol=1e-6)
                continue
            scale = np.abs(expected[name]).max(initial=0)
            np.testing.assert_allclose(
                value, expected[name], rtol=1e-4, atol=1e-5 * scale + 1e-6, err_msg=f"{contender.name} {name}"
            )
    assert seen == {"PyTorch", "kitae"}


def test_a_row_for_each_name(capsys: pytest.CaptureFixture[str]) -> None:
    import kitae.torch as face

    assert command.main(["--list", "--filter", "torch_face"]) == 0
    listed = capsys.readouterr().out
    names = {report.OP_NAMES[case.name].removeprefix("kitae.torch.").partition(",")[0] for case in torch_face.CASES}
    alike = {"BatchNorm1d", "BatchNorm3d", "clip_grad_value_"}  # the kernels of BatchNorm2d, and of clip_grad_value
    assert names == set(face.__all__) - alike
    for case in torch_face.CASES:
        assert f"torch_face {case.name} " in listed
        if case.name not in SMALL:
            assert f"torch_face {case.name} MLP" in listed
            assert f"torch_face {case.name} ResNet-18" in listed


def test_traffic_of_both_passes() -> None:
    """By hand, batch norm of a channel that fits the cache: x in, y out; x and dout in, dx out."""
    case = next(case for case in torch_face.CASES if case.name == "torch_batch_norm")
    assert case.traffic is not None
    size = Size("8x4x8x8", ((8, 4, 8, 8),))
    moved, nbytes = case.traffic(case.inputs(size, "float32"), 1 << 20), 4 * 8 * 4 * 8 * 8
    assert (moved.read, moved.written) == (3 * nbytes, 2 * nbytes)


def test_rows_wait_for_pytorch(run_python: Any) -> None:
    script = """
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "torch" else found(name, *more)
from kitae.bench import suite
assert not any(case.family == "torch_face" for case, _ in suite.rows(suite.planned()))
"""
    run_python(script)
    assert any(case.family == "torch_face" for case, _ in suite.rows(suite.planned()))


def test_a_table_of_rows_that_not_every_peer_has() -> None:
    """Counts of comparisons are of those that there were."""
    entry: dict[str, Any] = {"kind": "contender", "variant": "", "destination": "in place", "threads": 1}
    spread = {"low": 1.0, "high": 1.0, "blocks": 3, "calls": 3}
    row = {
        "family": "optimizers",
        "op": "adam",
        "size": "s",
        "dtype": "float32",
        "bytes": {"read": 5e8, "written": 5e8},
    }

    def with_peers(**medians: float) -> dict[str, Any]:
        entries = [entry | spread | {"system": name, "median": median} for name, median in medians.items()]
        copy = {"kind": "copy", "variant": "split", "destination": "reused", "threads": 1, "median": 1.0, "bytes": 1e9}
        return row | {"entries": [*entries, copy | spread]}

    machine = {
        "processor": "p",
        "cores": 2,
        "instruction_set": "v3",
        "level2_bytes": 1 << 19,
        "level3_bytes": 1 << 25,
        "busy_cpus": 0.0,
        "versions": {},
    }
    rows = [with_peers(kitae=1.0, NumPy=2.0, PyTorch=3.0), with_peers(kitae=1.0, PyTorch=0.5) | {"op": "torch_adam"}]
    table = report.markdown({"rows": rows, "machine": machine, "date": "2026-01-02"})
    assert "| Adam | 1 | 2.0x (2.0x) | 3.0x (3.0x) |" in table
    assert "| kitae.torch.Adam | 1 | - | 0.50x (0.50x) |" in table
    assert "0 of 1 against best NumPy, 1 of 2 against best PyTorch" in table


def test_contenders_share_parameters() -> None:
    """No copy of 11 million numbers for each."""
    case = next(case for case in torch_face.CASES if case.name == "torch_adam")
    inputs = case.inputs(LISTS[0], "float32")
    before = [p.copy() for p in inputs["params"]]
    for contender in contenders(case, inputs):
        contender.call()
        changed = [not np.array_equal(p, b) for p, b in zip(inputs["params"], before, strict=True)]
        assert all(changed), contender.name
        before = [p.copy() for p in inputs["params"]]
