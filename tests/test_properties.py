"""Hypothesis: any shape, memory layout and dtype gives the reference's bits, and values near a plain formula."""

import ml_dtypes
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kitae

DTYPES = [np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]
# The slowest example is a first call of the reference; the number of examples bounds the time, not each one's clock.
COMMON = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


def bits(array):
    kind = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}[array.itemsize]
    plain = np.ascontiguousarray(array)
    if kind is np.uint8:
        return plain
    return np.where(np.isnan(plain.astype(np.float64)), kind(0x7FFF), plain.view(kind))


def same(a, b):
    np.testing.assert_array_equal(bits(a), bits(b))


@st.composite
def laid_out(draw, *, low=1, high=4, sides=9, dtypes=DTYPES):
    """An array of normal numbers: permuted axes, steps, reversed axes, an offset into larger memory."""
    shape = tuple(draw(st.lists(st.integers(0, sides), min_size=low, max_size=high)))
    dtype = draw(st.sampled_from(dtypes))
    order = draw(st.permutations(range(len(shape))))
    steps = [draw(st.sampled_from((1, 1, 1, 2, -1))) for _ in shape]
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    memory = rng.standard_normal([shape[axis] * abs(steps[axis]) + 1 for axis in order]).astype(dtype)
    view = memory.transpose(np.argsort(order))
    cut = tuple(slice(1, None) if step > 0 else slice(None, 0, -1) for step in steps)
    thin = tuple(slice(None, None, abs(step)) for step in steps)
    view = view[(*cut, ...)][(*thin, ...)]
    assert view.shape == shape
    return view


def clone(view):
    """The same layout in fresh memory."""
    base = view if view.base is None else view.base
    while base.base is not None:
        base = base.base
    memory = base.copy(order="K")
    offset = view.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    return np.ndarray(view.shape, view.dtype, memory.reshape(-1).view(np.uint8).data, offset, view.strides)


@COMMON
@given(x=laid_out(low=2, high=5), data=st.data())
def test_batch_norm(x, data):
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    activation = data.draw(st.sampled_from([None, "relu", "leaky_relu"]))
    channels = x.shape[axis]
    kind = np.float64 if x.dtype == np.float64 else np.float32
    gamma, beta = np.linspace(0.5, 2, channels).astype(kind), np.linspace(-1, 1, channels).astype(kind)
    residual = x[::-1].copy() if data.draw(st.booleans()) else None
    results = []
    for name in ("reference", "cpu"):
        running = np.zeros(channels, kind), np.ones(channels, kind)
        with kitae.use_backend(name):
            y, saved = kitae.batch_norm(
                x, gamma, beta, *running, training=True, axis=axis, activation=activation, residual=residual
            )
            grads = kitae.batch_norm_backward(np.flip(x).copy(), saved)
            inference, _ = kitae.batch_norm(
                x, gamma, beta, *running, training=False, axis=axis, activation=activation, residual=residual
            )
        results.append([y, *grads, inference, *running, saved.mean, saved.inv_std])
    for a, b in zip(*results, strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        same(a, b)
    if x.size and activation is None and residual is None and kind is np.float64:
        over = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
        shape = [channels if i == axis % x.ndim else 1 for i in range(x.ndim)]
        plain = (x - x.mean(over, keepdims=True)) / np.sqrt(x.var(over, keepdims=True) + 1e-5)
        expected = plain * gamma.reshape(shape) + beta.reshape(shape)
        # The plain formula's own roundings: its mean of n numbers and a division by no less than sqrt(eps).
        np.testing.assert_allclose(results[1][0], expected, rtol=1e-9, atol=x.size * 2.0**-52 / np.sqrt(1e-5))


@COMMON
@given(
    x=laid_out(low=0, high=4),
    drop=st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1)),
    seed=st.integers(0, 2**64 - 1),
    offset=st.integers(0, 2**63 - 1),
    scale=st.sampled_from(["inverted", "classic"]),
    store=st.sampled_from(["bits", "replay"]),
)
def test_dropout(x, drop, seed, offset, scale, store):
    results = []
    for name in ("reference", "cpu"):
        with kitae.use_backend(name):
            y, mask = kitae.dropout(x, drop, seed=seed, offset=offset, scale=scale, store=store)
            dx = kitae.dropout_backward(x, mask)
            kept = kitae.dropout_mask(x.shape, drop, seed=seed, offset=offset).unpack()
        same(y, dx)
        assert np.all(y[~kept] == 0)
        factor = 1 if scale == "classic" or drop == 1 else 1 / (1 - drop)
        with np.errstate(over="ignore"):
            wide = x.astype(np.float64 if x.dtype == np.float64 else np.float32)
            expected = (wide * wide.dtype.type(factor)).astype(x.dtype)
        same(y[kept], expected[kept])
        results.append([y, kept])
    for a, b in zip(*results, strict=True):
        same(a, b)


@COMMON
@given(params=st.lists(laid_out(low=0, high=3), min_size=1, max_size=5), data=st.data())
def test_optimizers(params, data):
    make = data.draw(
        st.sampled_from(
            [
                lambda p: kitae.Adam(p, max_norm=0.7),
                lambda p: kitae.AdamW(p, l1=0.01),
                lambda p: kitae.Nesterov(p, weight_decay=0.1),
                lambda p: kitae.RMSProp(p, centered=True, momentum=0.5),
                lambda p: kitae.NormalizedGD(p, per="tensor"),
            ]
        )
    )
    grads = [np.array(np.flip(p), order=data.draw(st.sampled_from("CF"))) for p in params]
    results = []
    for name in ("reference", "cpu"):
        copies = [clone(p) for p in params]
        whole = [c.base for c in copies]
        opt = make(copies)
        for _ in range(2):
            with kitae.use_backend(name):
                opt.step(grads)
        state = opt.state_dict()["slots"]
        arrays = [a for slot in sorted(state) for a in state[slot] if a is not None]
        results.append(([np.array(c) for c in copies], arrays, [np.asarray(w).tobytes() for w in whole], opt.stats))
    for a, b in zip(results[0][0] + results[0][1], results[1][0] + results[1][1], strict=True):
        same(a, b)
    assert results[0][2] == results[1][2]  # memory around the views included
    assert repr(results[0][3]) == repr(results[1][3])


@COMMON
@given(grads=st.lists(laid_out(low=0, high=3), min_size=1, max_size=5), limit=st.floats(1e-3, 1e3))
def test_gradients(grads, limit):
    exact = np.sqrt(sum(np.sum(g.astype(np.longdouble) ** 2) for g in grads))
    results = []
    for name in ("reference", "cpu"):
        copies = [clone(g) for g in grads]
        whole = [c.base for c in copies]
        with kitae.use_backend(name):
            norm = kitae.clip_grad_norm(copies, limit)
            kitae.clip_grad_value(copies, limit / 4)
        assert abs(norm - exact) <= 1e-13 * exact
        results.append((norm, [np.asarray(w).tobytes() for w in whole]))
    assert results[0] == results[1]
