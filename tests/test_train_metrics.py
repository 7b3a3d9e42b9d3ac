"""Metrics on hand-worked numbers and beside scikit-learn; the pictures of a run."""

import sys

import numpy as np
import pytest

import kitae
import kitae.nn
from kitae import train

# Classes 0, 0, 1, 1, 2 predicted as 0, 1, 1, 1, 0.
LOGITS = np.array([[3, 1, 0], [1, 2, 0], [0, 5, 1], [-3, -1, -2], [4, 0, 1]], np.float32)
IDS = np.array([0, 0, 1, 1, 2])
ONE_HOT = np.eye(3, dtype=np.float32)[IDS]


@pytest.mark.parametrize("targets", [IDS, ONE_HOT], ids=["ids", "one-hot"])
def test_hand_worked_numbers(targets):
    assert train.accuracy(LOGITS, targets) == 3 / 5
    np.testing.assert_array_equal(train.confusion_matrix(LOGITS, targets), [[1, 1, 0], [0, 2, 0], [1, 0, 0]])
    # by class: precision 1/2, 2/3, 0 (never predicted); recall 1/2, 1, 0; f1 1/2, 4/5, 0
    assert train.precision(LOGITS, targets) == pytest.approx((1 / 2 + 2 / 3) / 3)
    assert train.recall(LOGITS, targets) == pytest.approx((1 / 2 + 1) / 3)
    assert train.f1(LOGITS, targets) == pytest.approx((1 / 2 + 4 / 5) / 3)
    # weighted by 2, 2 and 1 of 5 samples; micro is the accuracy
    assert train.recall(LOGITS, targets, average="weighted") == pytest.approx((2 * 1 / 2 + 2 * 1) / 5)
    assert train.f1(LOGITS, targets, average="micro") == pytest.approx(3 / 5)


def test_accuracy_of_sequences():
    outputs = np.array([[[1, 0], [0, 1]], [[0, 1], [0, 1]]])  # (batch, time, classes): 0 1, 1 1
    assert train.accuracy(outputs, np.array([[0, 1], [0, 1]])) == 3 / 4


def test_binary_accuracy_and_absolute_error():
    outputs, targets = np.array([[0.2], [-1.0], [0.7], [3.0]]), np.array([[1], [1], [0], [1]])
    assert train.binary_accuracy(outputs, targets) == 2 / 4  # as logits
    assert train.binary_accuracy(outputs, targets, threshold=0.5) == 1 / 4
    assert train.mean_absolute_error(outputs, targets) == pytest.approx((0.8 + 2.0 + 0.7 + 2.0) / 4)


def test_whole_set_metrics_in_a_fit():
    """Taken of all samples of an evaluation at once, not as means over minibatches, and not in training."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((30, 4)).astype(np.float32), rng.integers(0, 3, 30)

    @train.of_whole_set
    def samples(outputs, targets):
        return float(len(outputs))

    trainer = train.Trainer(
        kitae.nn.Dense(3), "softmax_cross_entropy", kitae.SGD(lr=0.1), metrics=["f1", train.recall, samples, "accuracy"]
    )
    history = trainer.fit(x, y, epochs=2, validation_data=(x, y), batch_size=7, verbose=0).history
    assert list(history) == [
        "loss",
        "accuracy",
        "val_loss",
        "val_accuracy",
        "val_f1",
        "val_recall",
        "val_samples",
        "lr",
    ]
    assert history["val_samples"] == [30.0, 30.0]
    outputs = trainer.predict(x)
    assert history["val_f1"][-1] == train.f1(outputs, y)
    assert trainer.evaluate(x, y, batch_size=11)["recall"] == train.recall(outputs, y)


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (
            lambda: train.accuracy(LOGITS, IDS[:4]),
            ValueError,
            r"accuracy: targets: expected class ids of shape \(5,\)",
        ),
        (lambda: train.accuracy(LOGITS[0], IDS), ValueError, "train.accuracy: outputs: expected outputs of shape"),
        (lambda: train.f1(LOGITS, IDS, average="mean"), ValueError, "train.f1: average: expected one of 'macro'"),
        (lambda: train.confusion_matrix(LOGITS, IDS[:1]), ValueError, "train.confusion_matrix: targets"),
        (lambda: train.binary_accuracy(LOGITS, IDS), ValueError, "train.binary_accuracy: targets"),
        (lambda: train.mean_absolute_error(LOGITS, IDS), ValueError, "train.mean_absolute_error: targets"),
    ],
)
def test_bad_input(call, kind, words):
    with pytest.raises(kind, match=words):
        call()


@pytest.mark.parametrize(
    ("package", "call"),
    [
        ("sklearn", lambda: train.f1(LOGITS, IDS)),
        ("matplotlib.figure", lambda: history().plot()),
        (
            "tqdm",
            lambda: train.Trainer(kitae.nn.Dense(2), "softmax_cross_entropy", kitae.SGD(lr=1.0)).fit(
                LOGITS, IDS, verbose=1
            ),
        ),
    ],
)
def test_missing_packages_are_named(package, call, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r'pip install "kitae\[train\]"'):
        call()


# Pictures.


def history():
    made = train.History()
    made.on_epoch_end(0, {"loss": 2.0, "accuracy": 0.5, "lr": 0.1})
    made.on_epoch_end(1, {"loss": 1.0, "accuracy": 0.7, "val_loss": 1.5, "val_accuracy": 0.6, "lr": 0.05})
    return made


def test_history_has_lists_of_one_length():
    made = history()
    assert made.epoch == [0, 1]
    assert made.history["val_loss"] == [None, 1.5]
    assert all(len(values) == 2 for values in made.history.values())


def test_curves(tmp_path):
    figure = history().plot(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    loss, accuracy, rate = figure.axes
    assert [axes.get_xlabel() for axes in figure.axes] == ["epoch"] * 3
    training, validation = loss.lines
    assert (training.get_label(), validation.get_label()) == ("training", "validation")
    np.testing.assert_array_equal(training.get_xydata(), [[1, 2.0], [2, 1.0]])
    np.testing.assert_array_equal(validation.get_ydata(), [np.nan, 1.5])
    np.testing.assert_array_equal(accuracy.lines[1].get_ydata(), [np.nan, 0.6])
    np.testing.assert_array_equal(rate.lines[0].get_ydata(), [0.1, 0.05])
    assert rate.get_yscale() == "log"


def test_curve_of_a_range_test(tmp_path):
    lrs = [1e-4, 1e-3, 1e-2, 1e-1]
    result = train.RangeTest(lrs, [2.0, 1.5, 0.8, 5.0], [2.0, 1.7, 1.0, 2.5], False)
    (axes,) = result.plot(tmp_path / "range.png").axes
    assert (tmp_path / "range.png").stat().st_size > 10_000
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), list(zip(lrs, result.losses, strict=True)))
    assert axes.get_xscale() == "log"


def test_no_epochs_no_picture():
    with pytest.raises(ValueError, match=r"train.plot_history: history: expected at least one epoch"):
        train.History().plot()
