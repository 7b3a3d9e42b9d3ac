"""kitae.dlfs.layers: numbers worked out by hand, the stand-ins' formulas, and what the books' code does with layers."""

import copy
import inspect

import numpy as np
import pytest

import kitae
from dlfs_books import module
from kitae.dlfs import _masks, layers, set_rng, time_layers, util


@pytest.fixture
def theirs():
    return module("one", "common.layers")


def test_batch_normalization_by_hand() -> None:
    """x = 1, 3: mean 2, variance 1. momentum 0.9 keeps 0.9 of the old value, and variances are biased."""
    layer = layers.BatchNormalization(np.array([2.0]), np.array([0.5]))
    y = layer.forward(np.array([[1.0], [3.0]]))
    root = np.sqrt(1 + 1e-6)
    np.testing.assert_allclose(y, [[0.5 - 2 / root], [0.5 + 2 / root]], rtol=1e-15)
    np.testing.assert_allclose([layer.running_mean, layer.running_var], [[0.2], [0.1]], rtol=1e-15)
    inference = layer.forward(np.array([[0.2]]), False)
    np.testing.assert_allclose(inference, [[0.5]], rtol=1e-15)
    assert "momentum * running + (1 - momentum) * batch" in inspect.getdoc(layers.BatchNormalization).splitlines()[0]


@pytest.mark.parametrize("shape", [(7, 5), (1, 5), (4, 2, 3, 2), (1, 2, 3, 2)])
@pytest.mark.parametrize("kind", ["vectors", "numbers"])
def test_batch_normalization_against_the_formula(shape, kind, rng, theirs) -> None:
    features = int(np.prod(shape[1:]))
    gamma, beta = (rng.normal(size=features), rng.normal(size=features)) if kind == "vectors" else (1.5, 0)
    start = rng.random(features)
    pair = [cls(gamma, beta, 0.8, start, start + 1) for cls in (theirs.BatchNormalization, layers.BatchNormalization)]
    before = start.copy()
    for step in range(3):
        x, dout = rng.normal(step, 2, shape), rng.normal(size=shape)
        results = [(layer.forward(x, True), layer.backward(dout.copy()), layer.forward(x, False)) for layer in pair]
        # dx of one sample is a difference of equal numbers divided by 0.001
        np.testing.assert_allclose(results[1], results[0], rtol=1e-11, atol=1e-11)
        for name in ("running_mean", "running_var", "dgamma", "dbeta", "xc", "std", "batch_size", "input_shape"):
            expected = getattr(pair[0], name)
            np.testing.assert_allclose(getattr(pair[1], name), expected, rtol=1e-11, atol=1e-12, err_msg=name)
    np.testing.assert_array_equal(start, before)  # arrays that were passed in stay


def test_batch_normalization_dtypes_are_the_books() -> None:
    x = np.random.default_rng(0).random((4, 3), np.float32)
    float64 = layers.BatchNormalization(np.ones(3), np.zeros(3))
    float32 = layers.BatchNormalization(np.ones(3, "f"), np.zeros(3, "f"))
    assert float64.forward(x).dtype == np.float64
    assert float32.forward(x).dtype == np.float32
    assert float32.running_mean.dtype == np.float64


def test_batch_normalization_before_forward() -> None:
    layer = layers.BatchNormalization(1.0, 0.0)
    assert (layer.running_mean, layer.batch_size, layer.dgamma, layer.xc, layer.std) == (None,) * 5
    assert not hasattr(layer, "xn")
    with pytest.raises(RuntimeError, match="forward pass before"):
        layer.backward(np.ones((2, 2)))
    with pytest.raises(ValueError, match="2 or 4 dimensions"):
        layer.forward(np.ones((2, 2, 2)))


def test_dropout_is_not_inverted_and_draws_as_the_book(theirs) -> None:
    many = np.random.default_rng(1).normal(size=(80, 50))
    for x in (many, many[:3]):  # above and below the size where the kernel takes over
        results = []
        for cls in (theirs.Dropout, layers.Dropout):
            np.random.seed(4)
            layer = cls(0.3)
            results.append((layer.forward(x), layer.backward(x), layer.forward(x, False), layer.mask))
        np.testing.assert_array_equal(results[0], results[1])
        kept = results[1][3]
        assert kept.dtype == bool
        np.testing.assert_array_equal(results[1][0][kept], x[kept])  # not divided by 0.7
        np.testing.assert_array_equal(results[1][2], x * 0.7)


def test_a_number_equal_to_the_ratio_drops(monkeypatch) -> None:
    monkeypatch.setattr(np.random, "rand", lambda *shape: np.full(shape, 0.5))
    np.testing.assert_array_equal(layers.Dropout(0.5).forward(np.ones((2, 2))), 0.0)


@pytest.mark.parametrize("size", [10, 5000])
def test_dropped_elements_are_zero_whatever_they_were(size) -> None:
    x = np.full(size, np.inf)
    kept = np.arange(size) % 3 == 0
    y = _masks.keep(x, kept)
    np.testing.assert_array_equal(y, np.where(kept, np.inf, 0.0))
    assert not np.signbit(_masks.keep(-np.ones(size), np.zeros(size, bool))).any()


def test_masks_by_kitaes_generator() -> None:
    x = np.ones((200, 300))
    try:
        set_rng("philox")
        kitae.seed(3)
        classic, time = layers.Dropout(0.25), time_layers.TimeDropout(0.25)
        y, z = classic.forward(x), time.forward(x)
        assert set(np.unique(y)) == {0.0, 1.0}
        assert set(np.unique(z)) == {0.0, 1 / 0.75}
        assert abs(y.mean() - 0.75) < 0.01  # 60,000 draws: sigma 0.0018
        np.testing.assert_array_equal(classic.backward(x), y)
        np.testing.assert_array_equal(time.backward(x), z)
        assert not np.array_equal(classic.forward(x), y)
    finally:
        set_rng("numpy")
    with pytest.raises(ValueError, match="expected one of 'numpy', 'philox'"):
        set_rng("dice")


@pytest.mark.parametrize("shape", [(5, 6), (100, 50), (20, 3, 8, 9)])
def test_relu_and_its_overwritten_gradient(shape, rng) -> None:
    x = rng.normal(size=shape)
    x.flat[:4] = [np.nan, -0.0, np.inf, -np.inf]
    if len(shape) == 4:  # as a convolution's result lies in memory
        x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    layer = layers.Relu()
    y = layer.forward(x)
    expected = x.copy()
    expected[x <= 0] = 0
    np.testing.assert_array_equal(y, expected)
    assert not np.signbit(y).any()
    dout = rng.normal(size=shape)
    expected = dout.copy()
    expected[x <= 0] = 0
    dx = layer.backward(dout)
    assert dx is dout  # the book's aliasing: what the caller passed is changed
    np.testing.assert_array_equal(dout, expected)
    np.testing.assert_array_equal(layers.Relu().forward(np.array([-1, 0, 2])), [0, 0, 2])


def test_affine_as_both_books_use_it(rng) -> None:
    W, b, x = rng.normal(size=(12, 3)), rng.normal(size=3), rng.normal(size=(5, 3, 2, 2))
    layer = layers.Affine(W, b)
    assert layer.W is layer.params[0] is W
    y = layer.forward(x)
    np.testing.assert_allclose(y, x.reshape(5, 12) @ W + b, rtol=1e-13)
    dout = rng.normal(size=y.shape)
    assert layer.backward(dout).shape == x.shape
    first = layer.dW
    np.testing.assert_allclose(first, x.reshape(5, 12).T @ dout, rtol=1e-13)
    grads = layer.grads  # read after backward
    np.testing.assert_array_equal(grads[0], layer.dW)
    layer.backward(2 * dout)
    assert layer.dW is not first  # book 1: new arrays
    assert layer.grads[0] is grads[0]  # book 2: the same arrays
    np.testing.assert_array_equal(grads[0], layer.dW)
    layer.W = np.zeros((12, 3))  # load_params of book 1
    np.testing.assert_array_equal(layer.forward(x), np.tile(b, (5, 1)))
    tokens = rng.normal(size=(2, 4, 12))
    np.testing.assert_allclose(layers.Affine(W, b).forward(tokens), tokens @ W + b, rtol=1e-12)


@pytest.mark.parametrize("labels", ["numbers", "one_hot"])
def test_softmax_with_loss(labels, rng, theirs) -> None:
    x, t = rng.normal(size=(6, 4)), rng.integers(0, 4, 6)
    t = t if labels == "numbers" else np.eye(4)[t]
    mine, book = layers.SoftmaxWithLoss(), theirs.SoftmaxWithLoss()
    np.testing.assert_allclose(mine.forward(x, t), book.forward(x, t), rtol=1e-14)
    np.testing.assert_allclose(mine.backward(), book.backward(), rtol=1e-14, atol=1e-17)
    assert mine.t is t
    np.testing.assert_allclose(mine.backward(2.0), 2 * book.backward(), rtol=1e-14, atol=1e-17)


@pytest.mark.parametrize(("stride", "pad"), [(1, 0), (2, 1), (3, 2)])
def test_convolution_im2col_col2im(stride, pad, rng, theirs) -> None:
    W, b, x = rng.normal(size=(4, 3, 3, 2)), rng.normal(size=4), rng.normal(size=(2, 3, 7, 6))
    pair = [cls(W, b, stride, pad) for cls in (theirs.Convolution, layers.Convolution)]
    y = [layer.forward(x) for layer in pair]
    dout = rng.normal(size=y[0].shape)
    dx = [layer.backward(dout) for layer in pair]
    np.testing.assert_allclose(y[1], y[0], rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(dx[1], dx[0], rtol=1e-12, atol=1e-13)
    for name in ("dW", "db", "col", "col_W"):
        np.testing.assert_allclose(getattr(pair[1], name), getattr(pair[0], name), rtol=1e-12, atol=1e-13)
    many = rng.normal(size=(300, 8, 12, 12))  # more than one block of samples
    col = util.im2col(many, 3, 3, 1, 1)
    ours, their = util.col2im(col, many.shape, 3, 3, 1, 1), many * 9
    np.testing.assert_allclose(ours[:, :, 1:-1, 1:-1], their[:, :, 1:-1, 1:-1], rtol=1e-14)


@pytest.mark.parametrize(("size", "stride"), [(2, 2), (3, 2), (2, 1), (3, 3)])
def test_pooling(size, stride, rng, theirs) -> None:
    x = rng.integers(0, 4, (2, 3, 7, 8)).astype(float)  # many equal maxima: the first counts
    pair = [cls(size, size, stride) for cls in (theirs.Pooling, layers.Pooling)]
    y = [layer.forward(x) for layer in pair]
    np.testing.assert_array_equal(y[1], y[0])
    np.testing.assert_array_equal(pair[1].arg_max, pair[0].arg_max)
    dout = rng.normal(size=y[0].shape)
    np.testing.assert_allclose(pair[1].backward(dout), pair[0].backward(dout), rtol=1e-13)
    assert pair[1].forward(x.astype(np.float16)).dtype == np.float64


def test_clip_grads_by_hand() -> None:
    grads = [np.array([3.0]), np.array([[4.0]])]
    util.clip_grads(grads, 5.1)
    np.testing.assert_array_equal([grads[0][0], grads[1][0, 0]], [3, 4])
    util.clip_grads(grads, 2.5)
    rate = 2.5 / (5 + 1e-6)
    np.testing.assert_allclose([grads[0][0], grads[1][0, 0]], [3 * rate, 4 * rate], rtol=1e-15)
    # An array listed twice counts twice and is scaled twice, as by the book's loop.
    shared = np.array([3.0])
    util.clip_grads([shared, shared], 1.0)
    np.testing.assert_allclose(shared, 3 * (1 / (np.sqrt(18) + 1e-6)) ** 2, rtol=1e-14)
    for bad, expected in ((np.nan, [np.nan, 1.0]), (np.inf, [np.nan, 0.0])):
        grads = [np.array([bad]), np.array([1.0])]
        with np.errstate(invalid="ignore"):
            util.clip_grads(grads, 0.5)
        np.testing.assert_array_equal([grads[0][0], grads[1][0]], expected)
    with pytest.raises(ValueError, match="max_norm"):
        util.clip_grads([np.ones(2)], -1.0)


@pytest.mark.parametrize("max_norm", [0.1, 5, 1e9, np.float64(0.1)])
def test_clip_grads_of_float32_has_the_books_bits(max_norm) -> None:
    """C and Fortran order, rows with gaps, an array listed twice, none and no dimensions."""
    outcomes = []
    for clip_grads in (module("two", "common.util").clip_grads, util.clip_grads):
        rng = np.random.default_rng(3)
        big, gaps = (rng.normal(size=(300, 401)).astype("f") for _ in range(2))
        twice = rng.normal(size=5).astype("f")
        grads = [big, gaps[:, ::2], np.asfortranarray(gaps[:7, 1::2]), twice, twice, np.float32([]), np.array(0.5, "f")]
        clip_grads(grads, max_norm)
        outcomes.append([*grads, gaps])
    np.testing.assert_equal(outcomes[1], outcomes[0])


def test_clip_grads_where_float32_overflows() -> None:
    """The book's norm is infinite there and its gradients become 0; by hand: 3, 4 of 1e30 each to 0.6 and 0.8."""
    grads = [np.float32([3e30]), np.float32([4e30])]
    util.clip_grads(grads, 1.0)
    np.testing.assert_allclose(np.concatenate(grads), [0.6, 0.8], rtol=2e-7)


def test_embedding_adds_in_order(rng) -> None:
    W = rng.normal(size=(6, 3)).astype("f")
    idx, dout = rng.integers(0, 6, 50), rng.normal(size=(50, 3)).astype("f")
    pair = [cls(W) for cls in (module("two", "common.layers").Embedding, layers.Embedding)]
    for layer in pair:
        np.testing.assert_array_equal(layer.forward(idx), W[idx])
        layer.backward(dout)
    np.testing.assert_array_equal(pair[1].grads[0], pair[0].grads[0])  # the same order: the same bits


def test_subclasses_that_set_the_books_attributes_themselves(rng) -> None:
    """As in the books' own classes, there is nothing else to initialize."""

    class Scaled(layers.Affine):
        def __init__(self, W, b, scale):
            self.W = W * scale
            self.b = b

    class Fixed(layers.BatchNormalization):
        def __init__(self, gamma, beta):
            self.gamma, self.beta, self.momentum = gamma, beta, 0.5
            self.running_mean = self.running_var = None

    W, x = rng.normal(size=(3, 2)), rng.normal(size=(4, 3))
    layer = Scaled(W, np.ones(2), 2.0)
    np.testing.assert_allclose(layer.forward(x), 2 * x @ W + 1, rtol=1e-13)
    layer.backward(np.ones((4, 2)))
    np.testing.assert_array_equal(layer.grads[0], layer.dW)
    norm = Fixed(np.ones(3), np.zeros(3))
    norm.forward(x)
    np.testing.assert_allclose(norm.running_mean, 0.5 * x.mean(axis=0), rtol=1e-13)
    assert norm.backward(x).shape == x.shape


def test_subclasses_copies_and_isinstance() -> None:
    class Noisy(layers.BatchNormalization):
        def __init__(self, gamma, beta):
            super().__init__(gamma, beta)
            self.xc = "mine"  # an attribute of the book's that a reader overwrites

    layer = Noisy(np.ones(2), np.zeros(2))
    layer.forward(np.array([[1.0, 2.0], [3.0, 5.0]]))
    assert layer.xc == "mine"
    assert isinstance(layers.Dropout(), layers.Dropout)
    again = copy.deepcopy(layer)
    dout = np.array([[1.0, 0.0], [0.0, 2.0]])
    np.testing.assert_array_equal(again.backward(dout), layer.backward(dout))
