"""kitae.dlfs.time_layers against the stand-in of book 2, bit for bit in float32."""

import numpy as np
import pytest

from dlfs_books import module
from kitae.dlfs import time_layers


@pytest.fixture(scope="module")
def theirs():
    return module("two", "common.time_layers")


def float32(rng, *shape):
    return rng.normal(size=shape).astype("f")


def same(theirs, mine, names=("h", "c", "dh")) -> None:
    for own, their in zip(mine.grads, theirs.grads, strict=True):
        np.testing.assert_array_equal(own, their)
    for name in names:
        if hasattr(theirs, name):
            np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))


@pytest.mark.parametrize("stateful", [False, True])
@pytest.mark.parametrize(("name", "gates"), [("TimeRNN", 1), ("TimeLSTM", 4)])
def test_recurrent_layers(name, gates, stateful, rng, theirs) -> None:
    D, H = 5, 7
    weights = float32(rng, D, gates * H), float32(rng, H, gates * H), float32(rng, gates * H)
    pair = [getattr(source, name)(*weights, stateful=stateful) for source in (theirs, time_layers)]
    grads = list(pair[1].grads)
    for _ in range(3):
        xs, dhs = float32(rng, 4, 6, D), float32(rng, 4, 6, H)
        np.testing.assert_array_equal(*(layer.forward(xs) for layer in pair))
        np.testing.assert_array_equal(*(layer.backward(dhs) for layer in pair))
        same(*pair)
    assert all(own is kept for own, kept in zip(pair[1].grads, grads, strict=True))  # written in place
    h = float32(rng, 2, H)
    xs = float32(rng, 2, 3, D)
    for layer in pair:
        layer.stateful = True
        layer.reset_state()
        layer.set_state(h)
    np.testing.assert_array_equal(*(layer.forward(xs) for layer in pair))


@pytest.mark.parametrize(("name", "gates", "states"), [("RNN", 1, 1), ("LSTM", 4, 2)])
def test_single_steps(name, gates, states, rng, theirs) -> None:
    weights = float32(rng, 5, gates * 3), float32(rng, 3, gates * 3), float32(rng, gates * 3)
    x, before, after = float32(rng, 4, 5), *([float32(rng, 4, 3) for _ in range(states)] for _ in range(2))
    pair = [getattr(source, name)(*weights) for source in (theirs, time_layers)]
    np.testing.assert_array_equal(*(layer.forward(x, *before) for layer in pair))
    for own, their in zip(*(layer.backward(*after) for layer in pair), strict=True):
        np.testing.assert_array_equal(own, their)
    same(*pair)


def test_one_lstm_step_by_hand() -> None:
    """All weights 0: f = i = o = 1/2, g = 0, so c = 0.5 c_prev and h = 0.5 tanh(c)."""
    layer = time_layers.LSTM(np.zeros((2, 4)), np.zeros((1, 4)), np.zeros(4))
    h, c = layer.forward(np.ones((1, 2)), np.ones((1, 1)), np.full((1, 1), 3.0))
    np.testing.assert_allclose([h[0, 0], c[0, 0]], [0.5 * np.tanh(1.5), 1.5], rtol=1e-15)


@pytest.mark.parametrize("words", [9, 900])
def test_embedding_with_repeated_words(words, rng, theirs) -> None:
    W = float32(rng, words, 4)
    xs, dout = rng.integers(0, 4, (40, 6)), float32(rng, 40, 6, 4)  # every word many times in every step
    pair = [source.TimeEmbedding(W) for source in (theirs, time_layers)]
    np.testing.assert_array_equal(*(layer.forward(xs) for layer in pair))
    for layer in pair:
        layer.backward(dout)
    same(*pair)
    assert time_layers.TimeEmbedding(W.astype("d")).forward(xs).dtype == np.float32


@pytest.mark.parametrize("tied", [False, True])
def test_affine(tied, rng, theirs) -> None:
    W = float32(rng, 8, 5).T if tied else float32(rng, 5, 8)
    b, x, dout = float32(rng, 8), float32(rng, 3, 4, 5), float32(rng, 3, 4, 8)
    pair = [source.TimeAffine(W, b) for source in (theirs, time_layers)]
    np.testing.assert_array_equal(*(layer.forward(x) for layer in pair))
    np.testing.assert_array_equal(*(layer.backward(dout) for layer in pair))
    same(*pair)


@pytest.mark.parametrize("ignored", [False, True])
def test_softmax_with_loss(ignored, rng, theirs) -> None:
    xs, ts = float32(rng, 3, 5, 6), rng.integers(0, 6, (3, 5))
    if ignored:
        ts[0, :3] = -1
    for dout in (1, 0.5):
        pair = [source.TimeSoftmaxWithLoss() for source in (theirs, time_layers)]
        assert len({float(layer.forward(xs, ts)) for layer in pair}) == 1
        np.testing.assert_array_equal(*(layer.backward(dout) for layer in pair))
    one_hot = np.eye(6, dtype=int)[np.where(ts < 0, 0, ts)]
    layer = time_layers.TimeSoftmaxWithLoss()
    assert layer.forward(xs, one_hot) == layer.forward(xs, one_hot.argmax(axis=2))


def test_dropout_is_inverted(rng, theirs) -> None:
    xs = float32(rng, 5, 6, 7)
    results = []
    for source in (theirs, time_layers):
        np.random.seed(3)
        layer = source.TimeDropout(0.4)
        results.append((layer.forward(xs), layer.backward(xs), layer.mask))
        layer.train_flg = False
        assert layer.forward(xs) is xs
    np.testing.assert_array_equal(results[1], results[0])
    assert set(np.unique(results[1][2])) == {np.float32(0), np.float32(1 / 0.6)}


def test_star_import_gives_np() -> None:
    names: dict[str, object] = {}
    exec("from kitae.dlfs.time_layers import *", names)
    assert names["np"] is np
    assert {"TimeLSTM", "Affine", "Embedding"} <= set(names)
