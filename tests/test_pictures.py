"""Pictures of a run: the numbers in them, labels and units, files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kitae
from kitae import nn
from kitae.train import (
    Doctor,
    Trainer,
    plot_activation_histograms,
    plot_gradient_histograms,
    plot_learning_rate,
    plot_run,
    plot_update_ratios,
)
from kitae.train.doctor.journal import Journal, LayerLook, Look, ParameterLook
from kitae.train.pictures import histogram_over_time

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def journal() -> Any:
    kitae.seed(4)
    rng = np.random.default_rng(4)
    x, t = rng.standard_normal((40, 4)).astype(np.float32), rng.integers(0, 3, 40)
    doctor = Doctor(every=2, verbose=False)
    model = nn.Sequential(nn.Dense(5), nn.ReLU(), nn.Dense(3))
    trainer = Trainer(model, nn.SoftmaxCrossEntropy(), kitae.SGD(lr=0.1), callbacks=[doctor])
    trainer.fit(x, t, batch_size=8, epochs=2, validation_data=(x, t), verbose=0)
    return doctor.journal


def test_update_ratios_are_the_looks(journal: Any) -> None:
    axes = plot_update_ratios(journal).axes[0]
    *curves, healthy = axes.lines
    assert list(healthy.get_ydata()) == [-3, -3]
    assert [curve.get_label() for curve in curves] == ["0 Dense", "2 Dense"]
    expected = [np.log10(float(look.layers[0].parameters["W"].ratio_l2)) for look in journal.looks]
    np.testing.assert_array_equal(curves[0].get_ydata(), expected)
    np.testing.assert_array_equal(curves[0].get_xdata(), [0, 1, 2, 4, 6, 8])
    assert axes.get_ylabel().startswith("log10")


def test_histogram_by_hand() -> None:
    """Gradients of 1e-3, 1e-1 and a zero: logarithms -3 and -1, half each; the zero is left out."""
    weights = ParameterLook("W", 2, (1, 3), None, gradient=np.array([1e-3, -1e-1, 0.0]))
    look = Look(0, [LayerLook("0", "Dense", None, frozenset(), parameters={"W": weights})])
    edges, shares = histogram_over_time([look], 0, True)
    assert edges[0] == pytest.approx(-2.99, abs=0.011)  # half-percentiles of two values
    assert edges[-1] == pytest.approx(-1.01, abs=0.011)
    np.testing.assert_array_equal(shares[[0, -1], 0], [0.5, 0.5])
    assert shares.sum() == 1


def test_shares_add_to_one(journal: Any) -> None:
    for gradients in (False, True):
        _, shares = histogram_over_time(journal.looks, 0, gradients)
        np.testing.assert_allclose(shares.sum(axis=0), 1, rtol=1e-12)


def test_a_look_that_is_not_finite_is_empty() -> None:
    looks = [
        Look(step, [LayerLook("0", "Dense", None, frozenset(), output=np.full(3, value))])
        for step, value in enumerate((1.0, np.nan))
    ]
    _, shares = histogram_over_time(looks, 0, False)
    np.testing.assert_array_equal(shares.sum(axis=0), [1, 0])


@pytest.mark.parametrize(
    "plot",
    [plot_run, plot_update_ratios, plot_learning_rate, plot_activation_histograms, plot_gradient_histograms],
    ids=lambda plot: plot.__name__,
)
def test_files_and_labels(plot: Any, journal: Any, tmp_path: Path) -> None:
    figure = plot(journal, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    for axes in figure.axes:
        if axes.get_visible() and axes.get_label() != "<colorbar>":
            assert axes.get_title()
            assert axes.get_xlabel()
            assert axes.get_ylabel()
    with pytest.raises(ValueError, match=f"kitae.train.{plot.__name__}: journal: expected at least one looked-at step"):
        plot(Journal())


def test_missing_package_in_words(journal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "kitae\[train\]"'):
        plot_run(journal)
