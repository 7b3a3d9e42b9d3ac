"""The same curve: scripts of the stand-in books print what they print without kitae, losses and accuracies."""

import numpy as np
import pytest

import kitae.dlfs
from dlfs_books import BOOKS, book, run_script
from kitae.dlfs import _install


def before_and_after(number: str, script: str, *arguments: str) -> tuple[list[str], list[str]]:
    lines = []
    for installed in (False, True):
        with book(number):
            if installed:
                kitae.dlfs.install()
            lines.append(run_script(BOOKS / number / script, *arguments))
            if installed:  # what is left alone has the same curve without proving anything
                left = {name for names in _install._current.left_alone.values() for name in names}
                assert left <= {"smooth_curve", "to_words", "TimeReverse"}
    return lines[0], lines[1]


def losses(lines: list[str]) -> np.ndarray:
    return np.array([float(line.split()[1]) for line in lines if line.startswith("loss")])


@pytest.mark.parametrize("optimizer", ["SGD", "Momentum", "Nesterov", "AdaGrad", "RMSprop", "Adam"])
def test_book_1_float64(optimizer: str) -> None:
    before, after = before_and_after("one", "ch06/train.py", optimizer)
    assert losses(before)[-1] < 0.9 * losses(before)[0]
    # The promise: rounding differs in the last bit, and 100 steps of this network do not amplify it beyond 1e-10.
    np.testing.assert_allclose(losses(after)[:100], losses(before)[:100], rtol=1e-10)
    assert after[-1] == before[-1]
    assert "accuracy" in after[-1]


@pytest.mark.parametrize("optimizer", ["SGD", "Nesterov"])
def test_book_2_float32_bit_for_bit(optimizer: str) -> None:
    """Where nothing is clipped (a norm is never above 1e6), the layers and these optimizers round as the book's."""
    before, after = before_and_after("two", "ch06/rnnlm.py", optimizer, "1e6")
    assert len(losses(before)) == 100
    if optimizer == "SGD":
        assert after == before
    else:  # mu**2 v - (1 + mu) lr g is one expression there and two updates here
        np.testing.assert_allclose(losses(after), losses(before), rtol=1e-4)


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_book_2_float32_clipped(optimizer: str) -> None:
    """float32 rounds at 6e-8; the norm and Adam's averages are other sums: 100 steps stay within 1e-4."""
    before, after = before_and_after("two", "ch06/rnnlm.py", optimizer, "0.05")
    assert losses(before)[-1] != losses(before)[0]
    np.testing.assert_allclose(losses(after), losses(before), rtol=1e-4)
