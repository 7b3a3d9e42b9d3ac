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


@pytest.mark.parametrize("clip", ["0.05", "1e6"])
@pytest.mark.parametrize("optimizer", ["SGD", "Momentum", "Nesterov", "AdaGrad", "RMSprop", "Adam"])
def test_book_2_float32_bit_for_bit(optimizer: str, clip: str) -> None:
    """Layers, norms and optimizers round as the book's; at every step something is clipped, or never anything."""
    before, after = before_and_after("two", "ch06/rnnlm.py", optimizer, clip)
    assert len(losses(before)) == 100
    assert losses(before)[-1] != losses(before)[0]
    assert after == before
