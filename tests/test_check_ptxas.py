"""The reader of ptxas's reports finds spills, and a kernel's source without a report."""

from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[1] / "tools"
REPORT = """\
ptxas info    : Compiling entry function '_Z3runI6KernelIfEEvT_' for 'sm_90'
ptxas info    : Function properties for _Z3runI6KernelIfEEvT_
    {stack} bytes stack frame, {stores} bytes spill stores, 0 bytes spill loads
ptxas info    : Used 63 registers, used 1 barriers
"""


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.syspath_prepend(TOOLS)
    import check_ptxas

    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "op.cu").touch()
    monkeypatch.setattr(check_ptxas, "SOURCES", tmp_path / "sources")
    return check_ptxas


def test_no_spills(check, tmp_path, capsys):
    (tmp_path / "op.cu.o.txt").write_text(REPORT.format(stack=0, stores=0))
    assert check.main(tmp_path) == 0
    assert "op.cu: 1 kernels for sm_90; at most 63 registers" in capsys.readouterr().out


def test_a_spill_is_found(check, tmp_path, capsys):
    (tmp_path / "op.cu.o.txt").write_text(REPORT.format(stack=8, stores=4))
    assert check.main(tmp_path) == 1
    assert "for sm_90 spills 4 bytes" in capsys.readouterr().out


def test_a_missing_architecture_is_found(check, tmp_path, capsys):
    (tmp_path / "op.cu.o.txt").write_text(REPORT.format(stack=0, stores=0))
    assert check.main(tmp_path, ["90", "120"]) == 1
    assert "WRONG: op.cu: not compiled for sm_120" in capsys.readouterr().out


def test_a_missing_report_is_found(check, tmp_path, capsys):
    assert check.main(tmp_path) == 1
    assert "op.cu: no report" in capsys.readouterr().out
