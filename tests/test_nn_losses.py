"""Losses against PyTorch, mpmath and numbers worked by hand; their gradients against differences; reductions."""

import math

import ml_dtypes
import mpmath
import numpy as np
import pytest

from kitae import nn
from kitae.nn import losses
from mistakes import assert_named

RNG = np.random.default_rng(17)


def differences(value, array, step=1e-6):
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        kept = array[index]
        array[index] = kept + step
        above = value()
        array[index] = kept - step
        gradient[index] = (above - value()) / (2 * step)
        array[index] = kept
    return gradient


ELEMENT_WISE = [
    (kind, reduction)
    for kind in (nn.SigmoidCrossEntropy, nn.MeanSquaredError, nn.ReconstructionCrossEntropy)
    for reduction in kind.reductions
]


@pytest.mark.parametrize(("kind", "reduction"), [*ELEMENT_WISE, (nn.SoftmaxCrossEntropy, "sum")])
def test_gradients_match_finite_differences(kind, reduction):
    loss, x = kind(reduction=reduction), RNG.standard_normal((4, 3))
    targets = np.array([0, 1, 2, 1]) if kind is nn.SoftmaxCrossEntropy else RNG.uniform(0, 1, (4, 3))
    loss.forward(x, targets)
    gradient = loss.backward()
    # Central differences: step^2, and rounding (1e-16 of a sum of size 30) over the step.
    np.testing.assert_allclose(gradient, differences(lambda: loss.forward(x, targets), x), rtol=1e-7, atol=1e-8)


class TestReductions:
    # x = 0 gives log 2 an element and (1/2 - t); differences 1 .. 6 give squares 1 + 4 + 9 + 16 + 25 + 36 = 91.
    @pytest.mark.parametrize(
        ("kind", "reduction", "value", "first"),
        [
            (nn.SigmoidCrossEntropy, "mean", math.log(2), -0.5 / 6),
            (nn.SigmoidCrossEntropy, "batch_mean", 3 * math.log(2), -0.5 / 2),
            (nn.SigmoidCrossEntropy, "sum", 6 * math.log(2), -0.5),
            (nn.ReconstructionCrossEntropy, "batch_mean", 3 * math.log(2), -0.5 / 2),
        ],
    )
    def test_cross_entropy(self, kind, reduction, value, first):
        loss = kind(reduction=reduction)
        targets = np.array([[1, 0, 1], [0, 1, 0]])
        assert loss.forward(np.zeros((2, 3)), targets) == pytest.approx(value, rel=1e-15)
        np.testing.assert_allclose(loss.backward(), first * np.array([[1, -1, 1], [-1, 1, -1]]), rtol=1e-15)

    @pytest.mark.parametrize(
        ("reduction", "value", "factor"),
        [("mean", 91 / 6, 2 / 6), ("batch_mean", 91 / 2, 2 / 2), ("sum", 91, 2), ("half_sum", 45.5, 1)],
    )
    def test_squares(self, reduction, value, factor):
        loss, difference = nn.MeanSquaredError(reduction=reduction), np.array([[1.0, -2, 3], [-4, 5, -6]])
        targets = np.array([[7, 8, 9], [1, 2, 3]])
        assert loss.forward(targets + difference, targets) == pytest.approx(value, rel=1e-15)
        np.testing.assert_allclose(loss.backward(), factor * difference, rtol=1e-15)

    def test_defaults(self):
        assert nn.SigmoidCrossEntropy().reduction == nn.MeanSquaredError().reduction == "mean"
        assert nn.SoftmaxCrossEntropy().reduction == "mean"
        assert nn.ReconstructionCrossEntropy().reduction == "batch_mean"

    def test_the_sum_of_softmax_losses_is_batch_times_their_mean(self):
        x, labels = RNG.standard_normal((5, 3)), np.array([0, 1, 2, 0, 1])
        mean, total = nn.SoftmaxCrossEntropy(), nn.SoftmaxCrossEntropy(reduction="sum")
        assert total.forward(x, labels) == pytest.approx(5 * mean.forward(x, labels), rel=1e-15)
        np.testing.assert_allclose(total.backward(), 5 * mean.backward(), rtol=1e-15)


def test_label_smoothing_by_hand():
    # Probabilities 1/4 and 3/4, targets 0.5 + 0.25 and 0.25: log 4 - 0.25 log 3, and 1/4 - 3/4, 3/4 - 1/4.
    loss = nn.SoftmaxCrossEntropy(label_smoothing=0.5)
    value = loss.forward(np.array([[0.0, math.log(3)]]), np.array([0]))
    assert value == pytest.approx(math.log(4) - 0.25 * math.log(3), rel=1e-15)
    np.testing.assert_allclose(loss.backward(), [[-0.5, 0.5]], rtol=1e-15)


def test_sigmoid_cross_entropy_of_any_logit():
    """One element each, against mpmath: the loss of a confident right answer keeps its digits too."""
    for x in (-800.0, -40.0, -2.0, -1e-9, 0.0, 0.3, 30.0, 700.0, 1e4):
        for t in (0.0, 1.0, 0.25):
            loss = nn.SigmoidCrossEntropy()
            with mpmath.workdps(40):
                z = mpmath.mpf(x)
                exact = t * mpmath.log1p(mpmath.exp(-z)) + (1 - t) * mpmath.log1p(mpmath.exp(z))
                slope = float(1 / (1 + mpmath.exp(-z)) - t)
            value = loss.forward(np.array([[x]]), np.array([[t]]))
            assert value == pytest.approx(float(exact), rel=1e-15, abs=1e-300)
            # s is within a few units of its last place, and s - t cancels to no less than eps.
            assert loss.backward()[0, 0] == pytest.approx(slope, rel=1e-15, abs=3e-16)


def test_book_numbers():
    # "Deep Learning from Scratch", section 4.2: y and t of its examples, half the sum of squares 0.0975 and 0.5975;
    # the cross entropy of the same y, -log 0.6 = 0.5108 and -log 0.1 = 2.3026, with logits log y.
    y = np.array([[0.1, 0.05, 0.6, 0.0, 0.05, 0.1, 0.0, 0.1, 0.0, 0.0]])
    wrong = np.array([[0.1, 0.05, 0.1, 0.0, 0.05, 0.1, 0.0, 0.6, 0.0, 0.0]])
    t = np.eye(10)[[2]]
    squares = nn.MeanSquaredError(reduction="half_sum")
    assert squares.forward(y, t) == pytest.approx(0.0975, rel=1e-12)
    assert squares.forward(wrong, t) == pytest.approx(0.5975, rel=1e-12)
    with np.errstate(divide="ignore"):
        logits, wrong_logits = np.log(y), np.log(wrong)
    cross_entropy = nn.SoftmaxCrossEntropy()
    assert cross_entropy.forward(logits, t) == pytest.approx(0.510825623765990, rel=1e-12)
    assert cross_entropy.forward(wrong_logits, t) == pytest.approx(2.302585092994045, rel=1e-12)


@pytest.mark.requires_torch
class TestPyTorch:
    def compare(self, loss, peer, x, targets, torch_targets):
        import torch

        tensor = torch.tensor(x, requires_grad=True)
        expected = peer(tensor, torch.tensor(torch_targets))
        expected.backward()
        assert loss.forward(x, targets) == pytest.approx(expected.item(), rel=1e-14)
        np.testing.assert_allclose(loss.backward(), tensor.grad.numpy(), rtol=1e-13, atol=1e-16)

    @pytest.mark.parametrize("reduction", ["mean", "sum"])
    def test_element_wise(self, reduction):
        from torch import nn as peers

        x, t = 3 * RNG.standard_normal((6, 5)), RNG.uniform(0, 1, (6, 5))
        self.compare(nn.SigmoidCrossEntropy(reduction=reduction), peers.BCEWithLogitsLoss(reduction=reduction), x, t, t)
        self.compare(nn.MeanSquaredError(reduction=reduction), peers.MSELoss(reduction=reduction), x, t, t)

    @pytest.mark.parametrize("reduction", ["mean", "sum"])
    @pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
    def test_softmax(self, reduction, smoothing):
        from torch import nn as peers

        x, labels = 3 * RNG.standard_normal((6, 5)), np.array([0, 1, 2, 3, 4, 0])
        peer = peers.CrossEntropyLoss(reduction=reduction, label_smoothing=smoothing)
        loss = nn.SoftmaxCrossEntropy(reduction=reduction, label_smoothing=smoothing)
        self.compare(loss, peer, x, labels, labels)
        self.compare(loss, peer, x, np.eye(5)[labels], labels)


class TestDtypes:
    @pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
    @pytest.mark.parametrize("kind", [nn.SigmoidCrossEntropy, nn.MeanSquaredError])
    def test_narrow_outputs_are_computed_in_float32(self, kind, dtype):
        x, t = RNG.standard_normal((6, 4)).astype(dtype), RNG.integers(0, 2, (6, 4))
        loss, exact = kind(), kind()
        # A few roundings to float32 of numbers up to 10.
        assert loss.forward(x, t) == pytest.approx(exact.forward(x.astype(float), t), rel=1e-6)
        gradient = loss.backward()
        assert gradient.dtype == np.float32
        np.testing.assert_allclose(gradient, exact.backward(), atol=1e-7)

    @pytest.mark.parametrize("dtype", [bool, np.int8, np.uint8, np.float32, ml_dtypes.bfloat16])
    def test_targets_of_any_real_dtype(self, dtype):
        x, t = RNG.standard_normal((6, 4)), RNG.integers(0, 2, (6, 4))
        for kind in (nn.SigmoidCrossEntropy, nn.MeanSquaredError):
            loss, same = kind(), kind()
            assert loss.forward(x, t.astype(dtype)) == same.forward(x, t.astype(float))
            np.testing.assert_array_equal(loss.backward(), same.backward())

    def test_the_caller_keeps_outputs_and_targets(self):
        x, t = RNG.standard_normal((6, 4)), RNG.uniform(0, 1, (6, 4))
        copies = x.copy(), t.copy()
        for kind, _ in ELEMENT_WISE:
            loss = kind()
            loss.forward(x, t)
            assert not np.shares_memory(loss.backward(), x)
            np.testing.assert_array_equal(x, copies[0])
            np.testing.assert_array_equal(t, copies[1])

    def test_squares_beyond_float32(self):
        x = np.array([[1e30, -1e30]], np.float32)
        assert nn.MeanSquaredError().forward(x, np.zeros((1, 2))) == pytest.approx(1e60, rel=1e-7)

    @pytest.mark.parametrize("kind", [nn.SigmoidCrossEntropy, nn.MeanSquaredError, nn.ReconstructionCrossEntropy])
    def test_what_is_not_finite_shows_without_warnings(self, kind):
        for bad in (np.nan, np.inf):
            loss = kind()
            assert not math.isfinite(loss.forward(np.array([[bad, 0.0]]), np.array([[0.5, 0]])))
            # Only the element itself is spoilt.
            assert math.isfinite(loss.backward()[0, 1])


def test_by_name():
    assert {name: type(nn.loss(name)) for name in losses.BY_NAME} == {
        "softmax_cross_entropy": nn.SoftmaxCrossEntropy, "sigmoid_cross_entropy": nn.SigmoidCrossEntropy,
        "mean_squared_error": nn.MeanSquaredError, "mse": nn.MeanSquaredError,
        "reconstruction_cross_entropy": nn.ReconstructionCrossEntropy,
    }  # fmt: skip
    own = nn.MeanSquaredError(reduction="sum")
    assert nn.loss(own) is own


ONES = np.ones((2, 3))
MISTAKES = {
    "reduction": (
        lambda: nn.SigmoidCrossEntropy(reduction="none"), ValueError, ["SigmoidCrossEntropy", "'batch_mean'", "'none'"],
    ),
    "softmax reduction": (
        lambda: nn.SoftmaxCrossEntropy(reduction="batch_mean"), ValueError,
        ["nn.SoftmaxCrossEntropy", "reduction", "'mean', 'sum'", "'batch_mean'"],
    ),
    "reduction None": (lambda: nn.MeanSquaredError(reduction=None), ValueError, ["reduction", "'half_sum'", "None"]),
    "smoothing": (
        lambda: nn.SoftmaxCrossEntropy(label_smoothing=1.0), ValueError, ["label_smoothing", "[0, 1)", "1.0"],
    ),
    "outputs": (lambda: nn.MeanSquaredError().forward([1.0], ONES), TypeError, ["forward", "outputs", "list"]),
    "targets": (lambda: nn.MeanSquaredError().forward(ONES, [1.0]), TypeError, ["forward", "targets", "list"]),
    "complex": (
        lambda: nn.MeanSquaredError().forward(ONES, ONES.astype(complex)), TypeError,
        ["targets", "real numbers", "complex128"],
    ),
    "shapes": (
        lambda: nn.MeanSquaredError().forward(ONES, np.ones((2, 1))), ValueError,
        ["nn.MeanSquaredError.forward", "targets", "(2, 3)", "(2, 1)"],
    ),
    "empty": (
        lambda: nn.MeanSquaredError().forward(np.ones((0, 3)), np.ones((0, 3))), ValueError,
        ["outputs", "at least one", "(0, 3)"],
    ),
    "2": (
        lambda: nn.SigmoidCrossEntropy().forward(ONES, 2 * ONES), ValueError,
        ["nn.SigmoidCrossEntropy.forward", "targets", "0 to 1", "2"],
    ),
    "-1": (lambda: nn.ReconstructionCrossEntropy().forward(ONES, -ONES), ValueError, ["targets", "0 to 1", "-1"]),
    "NaN": (lambda: nn.SigmoidCrossEntropy().forward(ONES, np.nan * ONES), ValueError, ["targets", "0 to 1", "nan"]),
    "no forward": (lambda: nn.MeanSquaredError().backward(), RuntimeError, ["nn.MeanSquaredError.backward"]),
    "twice": (
        lambda: [a := nn.MeanSquaredError(), a.forward(ONES, ONES), a.backward(), a.backward()], RuntimeError,
        ["nn.MeanSquaredError.backward", "forward"],
    ),
    "name": (lambda: nn.loss("l2"), ValueError, ["nn.loss", "'mse'", "'l2'"]),
    "class": (lambda: nn.loss(nn.MeanSquaredError), TypeError, ["nn.loss", "backward()", "type"]),
    "number": (lambda: nn.loss(3), TypeError, ["nn.loss", "or its name", "3"]),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(mistake):
    assert_named(*MISTAKES[mistake], "kitae.nn.")


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_mixed_targets_are_the_mean_of_their_labels(rng: np.random.Generator, smoothing: float) -> None:
    """The loss is linear in the target: a row with shares a and 1 - a costs a times the one label's loss and so on."""
    logits, share = rng.standard_normal((1, 4)), 0.3
    mixed = np.array([[0, share, 0, 1 - share]])
    loss = nn.SoftmaxCrossEntropy(label_smoothing=smoothing)
    value, dx = loss.forward(logits, mixed), loss.backward()
    parts = [(loss.forward(logits, np.array([label])), loss.backward()) for label in (1, 3)]
    expected = [share * one + (1 - share) * other for one, other in zip(*parts, strict=True)]
    np.testing.assert_allclose(value, expected[0], rtol=1e-14)  # a few roundings in float64
    np.testing.assert_allclose(dx, expected[1], rtol=1e-13, atol=1e-16)
    infinite = logits.copy()
    infinite[0, 0] = -np.inf
    assert np.isfinite(nn.SoftmaxCrossEntropy().forward(infinite, mixed))


def test_shares_that_do_not_sum_to_one() -> None:
    for row in ([0.5, 0.2, 0.2], [1.5, -0.5, 0.0], [np.nan, 0.5, 0.5]):
        with pytest.raises(ValueError, match=r"labels: expected rows of shares: none below 0, and their sum 1"):
            nn.SoftmaxCrossEntropy().forward(np.zeros((1, 3)), np.array([row]))


@pytest.mark.parametrize("dtype", ["i1", "u1", "<i4", ">i4", "<i8", ">i8"])
def test_class_ids_of_any_integer_dtype(dtype: str) -> None:
    """ln 4 for equal logits, whatever the bytes of a label; one out of range is named."""
    loss, logits = nn.SoftmaxCrossEntropy(), np.zeros((3, 4), np.float32)
    assert loss.forward(logits, np.array([0, 1, 3], dtype)) == pytest.approx(np.log(4), rel=1e-6)
    wrong = [0, 1, 4] if dtype == "u1" else [0, -1, 3]
    with pytest.raises(ValueError, match=f"class ids from 0 to 3, got values from {min(wrong)} to {max(wrong)}"):
        loss.forward(logits, np.array(wrong, dtype))
