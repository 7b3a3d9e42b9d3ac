"""Optimizers: values against PyTorch, mpmath and formulas worked in float64, and the promises about memory."""

import copy
import math
import sys

import ml_dtypes
import mpmath
import numpy as np
import pytest

import kitae
from kitae import reference
from kitae.reference.optimizers import bias_correction

CLASSES = [
    (kitae.SGD, {}),
    (kitae.Momentum, {}),
    (kitae.Momentum, {"semantics": "torch"}),
    (kitae.Nesterov, {"form": "keras"}),
    (kitae.Nesterov, {"form": "torch"}),
    (kitae.Nesterov, {"form": "chainer"}),
    (kitae.AdaGrad, {}),
    (kitae.AdaGrad, {"eps_inside": True, "initial": 0.1}),
    (kitae.AdaDelta, {}),
    (kitae.RMSProp, {}),
    (kitae.RMSProp, {"centered": True}),
    (kitae.RMSProp, {"momentum": 0.9}),
    (kitae.RMSProp, {"momentum": 0.9, "centered": True, "eps_inside": True}),
    (kitae.Adam, {}),
    (kitae.Adam, {"weight_decay": 0.1, "l1": 0.01}),
    (kitae.AdamW, {"weight_decay": 0.1}),
    (kitae.AMSGrad, {}),
    (kitae.AMSGrad, {"semantics": "optax"}),
    (kitae.AdaMax, {}),
    (kitae.AdaMax, {"semantics": "keras"}),
    (kitae.NormalizedGD, {}),
    (kitae.NormalizedGD, {"per": "tensor"}),
]
IDS = [f"{cls.__name__}-{'-'.join(f'{k}={v}' for k, v in kw.items())}" for cls, kw in CLASSES]
DTYPES = [np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]


def bits(array):
    """The array's bits, every NaN as the same one."""
    kind = {2: np.uint16, 4: np.uint32, 8: np.uint64}[array.itemsize]
    plain = np.ascontiguousarray(array)
    return np.where(np.isnan(plain.astype(np.float64)), kind(0x7FFF), plain.view(kind))


def formula(cls, kw):
    """An update in float64, written from the papers: f(w, g, state, t) -> w."""
    lr = {"SGD": 0.01, "Momentum": 0.01, "Nesterov": 0.01, "AdaGrad": 0.01, "AdaDelta": 1.0}.get(cls.__name__, 1e-3)
    if kw.get("semantics") == "torch":
        lr = 1e-3

    def sgd(w, g, s, t):
        return w - lr * g

    def momentum(w, g, s, t):
        if kw.get("semantics") == "torch":
            s["v"] = 0.9 * s.get("v", 0) + g
            return w - lr * s["v"]
        s["v"] = 0.9 * s.get("v", 0) - lr * g
        return w + s["v"]

    def nesterov(w, g, s, t):
        v0 = s.get("v", np.zeros_like(w))
        if kw["form"] == "keras":
            s["v"] = 0.9 * v0 - lr * g
            return w + 0.81 * v0 - 1.9 * lr * g
        if kw["form"] == "torch":
            s["v"] = 0.9 * v0 + g
            return w - lr * (g + 0.9 * s["v"])
        s["v"] = 0.9 * v0 - lr * g
        return w + 0.81 * s["v"] - 1.9 * lr * g

    def adagrad(w, g, s, t):
        s["h"] = s.get("h", kw.get("initial", 0.0)) + g * g
        return w - lr * g / (np.sqrt(s["h"] + 1e-8) if kw.get("eps_inside") else np.sqrt(s["h"]) + 1e-8)

    def adadelta(w, g, s, t):
        s["h"] = 0.95 * s.get("h", 0) + 0.05 * g * g
        d = g * np.sqrt(s.get("d", 0) + 1e-6) / np.sqrt(s["h"] + 1e-6)
        s["d"] = 0.95 * s.get("d", 0) + 0.05 * d * d
        return w - d

    def rmsprop(w, g, s, t):
        s["h"] = 0.9 * s.get("h", 0) + 0.1 * g * g
        variance = s["h"]
        if kw.get("centered"):
            s["a"] = 0.9 * s.get("a", 0) + 0.1 * g
            variance = variance - s["a"] ** 2
        root = np.sqrt(variance + 1e-8) if kw.get("eps_inside") else np.sqrt(variance) + 1e-8
        s["u"] = kw.get("momentum", 0) * s.get("u", 0) + lr * g / root
        return w - s["u"]

    def adam(w, g, s, t):
        if cls is kitae.AdamW:
            w = w * (1 - lr * kw["weight_decay"])
        else:
            g = g + kw.get("weight_decay", 0) * w + kw.get("l1", 0) * np.sign(w)
        s["m"] = 0.9 * s.get("m", 0) + 0.1 * g
        s["v"] = 0.999 * s.get("v", 0) + 0.001 * g * g
        if kw.get("semantics") == "optax":
            s["x"] = np.maximum(s.get("x", 0), s["v"] / (1 - 0.999**t))
            return w - lr * (s["m"] / (1 - 0.9**t)) / (np.sqrt(s["x"]) + 1e-8)
        s["x"] = np.maximum(s.get("x", 0), s["v"]) if cls is kitae.AMSGrad else s["v"]
        return w - lr * (s["m"] / (1 - 0.9**t)) / (np.sqrt(s["x"] / (1 - 0.999**t)) + 1e-8)

    def adamax(w, g, s, t):
        s["m"] = 0.9 * s.get("m", 0) + 0.1 * g
        if kw.get("semantics") == "keras":
            s["u"] = np.maximum(0.999 * s.get("u", 0), np.abs(g))
            return w - 0.001 / (1 - 0.9**t) * s["m"] / (s["u"] + 1e-7)
        s["u"] = np.maximum(0.999 * s.get("u", 0), np.abs(g) + 1e-8)
        return w - 0.002 / (1 - 0.9**t) * s["m"] / s["u"]

    def normalized(w, g, s, t):
        return w - 0.01 * g / np.linalg.norm(g)

    names = {
        kitae.SGD: sgd,
        kitae.Momentum: momentum,
        kitae.Nesterov: nesterov,
        kitae.AdaGrad: adagrad,
        kitae.AdaDelta: adadelta,
        kitae.RMSProp: rmsprop,
        kitae.AdaMax: adamax,
        kitae.NormalizedGD: normalized,
    }
    return names.get(cls, adam)


@pytest.mark.parametrize(("cls", "kw"), CLASSES, ids=IDS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_formula_of_the_paper(cls, kw, dtype, backend, rng):
    name = backend.__name__.rpartition(".")[2].lstrip("_")
    w = rng.standard_normal((5, 7)).astype(dtype)
    opt = cls(w, **kw)
    expected, state = w.astype(np.float64), {}
    update = formula(cls, kw)
    for t in range(1, 21):
        g = rng.standard_normal(w.shape).astype(dtype)
        with kitae.use_backend(name):
            opt.step(g)
        expected = update(expected, g.astype(np.float64), state, t)
    # A step makes about ten roundings of numbers of the size of w (<= 3.5) or smaller; 20 steps add them up. The
    # centered variance cancels by up to 1/(1 - rho) and passes through a root.
    tolerance = 20 * 10 * np.finfo(dtype).eps * (10 if kw.get("centered") else 1)
    np.testing.assert_allclose(w, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("cls", "kw"), CLASSES, ids=IDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("extra", [{}, {"l1": 0.01, "weight_decay": 0.02}, {"nonfinite": "zero"}], ids=str)
def test_reference_and_native_have_the_same_bits(cls, kw, dtype, extra, rng):
    shapes = [(3, 5), (17,), (1,), (), (0, 4), (9000,), (130, 97)]
    start = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    steps = [[rng.standard_normal(shape).astype(dtype) for shape in shapes] for _ in range(4)]
    for grads in steps:
        grads[1][3] = np.inf if extra.get("nonfinite") else 0
    results = []
    for name in ("reference", "cpu"):
        params = [np.asarray(p).copy() for p in start]
        params[-1] = np.asfortranarray(params[-1])
        wide = np.zeros((6, 10), dtype)
        wide[::2, ::2] = start[0]
        params[0] = wide[::2, ::2]
        opt = cls(params, **{**kw, **extra})
        for grads in steps:
            with kitae.use_backend(name):
                opt.step(grads)
        state = opt.state_dict()["slots"]
        results.append((params, [a for name in sorted(state) for a in state[name] if a is not None], opt.stats, wide))
    (params, state, stats, wide), (other_params, other_state, other_stats, other_wide) = results
    for a, b in zip([*params, *state, wide], [*other_params, *other_state, other_wide], strict=True):
        np.testing.assert_array_equal(bits(a), bits(b))
    assert repr(stats) == repr(other_stats)


@pytest.mark.parametrize(("cls", "kw"), CLASSES, ids=IDS)
def test_same_bits_for_any_number_of_threads(cls, kw, rng):
    start = [rng.standard_normal(n).astype(np.float32) for n in (50000, 3, 16384, 16385, 70001)]
    grads = [rng.standard_normal(p.shape).astype(np.float32) for p in start]
    extra = {} if cls is kitae.NormalizedGD else {"max_norm": 1.0}
    results = []
    for threads in (1, 2, 3, 4, 7, 8, 16):
        kitae.set_num_threads(threads)
        params = [p.copy() for p in start]
        opt = cls(params, **kw, **extra)
        for _ in range(3):
            opt.step(grads)
        results.append((params, opt.stats))
    for params, stats in results[1:]:
        assert repr(stats) == repr(results[0][1])
        for a, b in zip(params, results[0][0], strict=True):
            np.testing.assert_array_equal(bits(a), bits(b))


def torch_pairs():
    """(ours, PyTorch's name, PyTorch's keywords)."""
    return [
        (lambda p: kitae.SGD(p, lr=0.01, weight_decay=0.1), "SGD", {"lr": 0.01, "weight_decay": 0.1}),
        (lambda p: kitae.Momentum(p, lr=0.01, semantics="torch"), "SGD", {"lr": 0.01, "momentum": 0.9}),
        (
            lambda p: kitae.Nesterov(p, lr=0.01, semantics="torch"),
            "SGD",
            {"lr": 0.01, "momentum": 0.9, "nesterov": True},
        ),
        (lambda p: kitae.AdaGrad(p, semantics="torch"), "Adagrad", {}),
        (lambda p: kitae.AdaDelta(p, semantics="torch"), "Adadelta", {}),
        (lambda p: kitae.RMSProp(p, semantics="torch"), "RMSprop", {}),
        (
            lambda p: kitae.RMSProp(p, semantics="torch", momentum=0.9, centered=True),
            "RMSprop",
            {"momentum": 0.9, "centered": True},
        ),
        (lambda p: kitae.Adam(p, semantics="torch"), "Adam", {}),
        (lambda p: kitae.Adam(p, weight_decay=0.1, semantics="torch"), "Adam", {"weight_decay": 0.1}),
        (lambda p: kitae.AMSGrad(p, semantics="torch"), "Adam", {"amsgrad": True}),
        (lambda p: kitae.AdamW(p, semantics="torch"), "AdamW", {}),
        (lambda p: kitae.AdaMax(p, semantics="torch"), "Adamax", {}),
    ]


@pytest.mark.requires_torch
@pytest.mark.parametrize("number", range(12))
def test_torch_is_within_an_ulp_a_step(number, rng):
    import torch

    make, name, kw = torch_pairs()[number]
    w = rng.standard_normal(300).astype(np.float32)
    tensor = torch.nn.Parameter(torch.from_numpy(w.copy()))
    opt, peer = make(w), getattr(torch.optim, name)([tensor], **kw)
    steps = 1000
    size = np.maximum(np.abs(w), opt.lr)  # the largest on the way: an error made there stays
    for _ in range(steps):
        g = rng.standard_normal(w.shape).astype(np.float32)
        opt.step(g)
        tensor.grad = torch.from_numpy(g)
        peer.step()
        size = np.maximum(size, np.abs(w))
    # Two roundings that differ at each step accumulate like a random walk or worse: one ulp a step at most (promise
    # 11).
    assert np.max(np.abs(w - tensor.detach().numpy()) / (size * np.finfo(np.float32).eps)) <= steps


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.999, 0.9999999])
@pytest.mark.parametrize("step", [1, 2, 3, 10, 1000, 10**9, 2**40, 2**62])
def test_bias_correction_is_correctly_rounded(beta, step):
    with mpmath.workprec(400):
        exact = 1 - mpmath.power(mpmath.mpf(beta), step)
        ours = bias_correction(beta, step)
        assert abs(mpmath.mpf(ours) - exact) <= mpmath.mpf(math.ulp(ours)) / 2


def test_native_bias_correction_is_the_reference_s(rng):
    # lr / (1 - beta1^t) with m = g: the first moment's correction shows in the step; eps and v are out of the way.
    for steps in (0, 2, 998, 10**9 - 1, 2**40 - 1):
        results = []
        for name in ("reference", "cpu"):
            w = np.zeros(3)
            opt = kitae.Adam(w, lr=1.0, eps=0.0)
            opt.steps = steps
            with kitae.use_backend(name):
                opt.step(np.array([1.0, -2.0, 3.0]))
            results.append(w)
        np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize(("cls", "kw"), CLASSES, ids=IDS)
def test_zero_gradient_of_16_bits_changes_nothing(cls, kw, dtype, backend):
    if kw.get("weight_decay"):
        kw = {**kw, "weight_decay": 0.0, "l1": 0.0}
    w = np.array([1.0, -2.0, 0.5], dtype)
    before = w.copy()
    opt = cls(w, **kw)
    with kitae.use_backend(backend.__name__.rpartition(".")[2].lstrip("_")):
        opt.step(np.zeros(3, dtype))
    np.testing.assert_array_equal(bits(w), bits(before))


def test_master_keeps_updates_that_bfloat16_would_lose():
    w = np.ones(4, ml_dtypes.bfloat16)
    w32 = np.ones(4, np.float32)
    g = np.ones(4, np.float32)
    opt, opt32 = kitae.Adam(w), kitae.Adam(w32)
    lost = np.ones(4, ml_dtypes.bfloat16)
    without = kitae.Adam(lost, master=False)
    for _ in range(50):
        opt.step(g)
        opt32.step(g)
        without.step(g)
    np.testing.assert_array_equal(w, w32.astype(ml_dtypes.bfloat16))
    assert float(w[0]) < 0.96
    assert float(lost[0]) == 1.0


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("step", [1, 2])
def test_a_master_stands_exactly_where_rounded_it_is_the_parameter(backend, dtype, step):
    name = backend.__name__.rpartition(".")[2].lstrip("_")
    rng = np.random.default_rng(5)
    # Mostly ordinary numbers; one odd pair in 1,024, as whole rows are compared at first.
    masters = rng.standard_normal(1024 * 240).astype(np.float32)
    odd = slice(77, None, 1024)
    bits = rng.integers(0, 2**32, 240, dtype=np.uint32)
    bits[::3] = bits[::3] & 0xFFFF0000 | 0x8000  # halfway between two of bfloat16's
    bits[1::3] = rng.choice(np.array([0, 0x7F800000, 0x7F800001, 0x7FFF8001, 0xFFFFFFFF], np.uint32), 80)
    bits[bits & 0x7F800000 == 0] = 0  # as load_state_dict makes it of subnormals
    masters.view(np.uint32)[odd] = bits
    with np.errstate(all="ignore"):
        values = masters.astype(dtype)
    of_values = values.view(np.uint16)[odd]
    of_values += rng.integers(0, 3, 240).astype(np.uint16) - np.uint16(1)
    of_values[1::6] = rng.choice(np.array([0, 0x8000, 0x7F80, 0x7C00], np.uint16), 40)
    rest = np.zeros(step * values.size, dtype)[::step]
    rest[...] = values
    opt = kitae.SGD([rest], lr=1.0)
    with kitae.use_backend(name):
        opt.step([np.zeros_like(values)])
    state = opt.state_dict()
    state["slots"]["master"] = [masters.copy()]
    opt.load_state_dict(state)
    rest[...] = values
    with kitae.use_backend(name):
        opt.step([np.zeros_like(values)])

    wide = values.astype(np.float32)
    with np.errstate(all="ignore"):
        kept = np.where(masters.astype(dtype).astype(np.float32) == wide, masters, wide)
        rounded = kept.astype(dtype)
    got = opt.state_dict()["slots"]["master"][0]
    real = ~np.isnan(kept)
    assert 0 < real.sum() < real.size
    np.testing.assert_array_equal(np.isnan(got), ~real)
    np.testing.assert_array_equal(got.view(np.uint32)[real], kept.view(np.uint32)[real])
    np.testing.assert_array_equal(np.ascontiguousarray(rest).view(np.uint16)[real], rounded.view(np.uint16)[real])


def test_a_changed_16_bit_parameter_wins_over_its_master(backend):
    name = backend.__name__.rpartition(".")[2].lstrip("_")
    w = np.array([1.0, 2.0], np.float16)
    opt = kitae.SGD(w, lr=2.0**-14)
    with kitae.use_backend(name):
        opt.step(np.ones(2, np.float16))
        np.testing.assert_array_equal(w, np.array([1.0, 2.0], np.float16))  # below half an ulp: only the master moved
        w[1] = 3.0
        opt.step(np.zeros(2, np.float16))
    master = opt.state_dict()["slots"]["master"][0]
    np.testing.assert_array_equal(master, np.array([1 - 2.0**-14, 3.0], np.float32))


def test_updates_land_in_the_view_and_nowhere_else(backend, rng):
    name = backend.__name__.rpartition(".")[2].lstrip("_")
    whole = rng.standard_normal((8, 10)).astype(np.float32)
    before = whole.copy()
    view = whole[1:-1:2, ::-3]
    g = rng.standard_normal((10, 8)).astype(np.float32).T[: view.shape[0], : view.shape[1]]
    opt = kitae.SGD(view, lr=1.0)
    with kitae.use_backend(name):
        opt.step(g)
    expected = before.copy()
    expected[1:-1:2, ::-3] -= g
    np.testing.assert_array_equal(whole, expected)


def test_gradients_are_never_written(rng):
    w = rng.standard_normal(2000).astype(np.float32)
    g = rng.standard_normal(2000).astype(np.float32)
    before = g.copy()
    g.flags.writeable = False
    kitae.Adam(w, max_norm=0.1, weight_decay=0.1, l1=0.1).step(g)
    np.testing.assert_array_equal(g, before)


def test_identity_dtype_and_memory_of_a_parameter_stay():
    for dtype in DTYPES:
        w = np.ones(3, dtype)
        where = w.ctypes.data
        params = [w]
        kitae.Adam(params).step([np.ones(3, dtype)])
        assert params[0] is w
        assert w.ctypes.data == where
        assert w.dtype == dtype


@pytest.mark.parametrize("transposed", [False, True])
def test_shared_memory_is_one_parameter_with_added_gradients(transposed, backend, rng):
    name = backend.__name__.rpartition(".")[2].lstrip("_")
    w = rng.standard_normal((4, 6)).astype(np.float32)
    alone = w.copy()
    a, b = (rng.standard_normal((4, 6)).astype(np.float32) for _ in range(2))
    opt = kitae.Adam([w, w.T if transposed else w], max_norm=0.5)
    single = kitae.Adam([alone], max_norm=0.5)
    with kitae.use_backend(name):
        for _ in range(3):
            opt.step([a, np.ascontiguousarray(b.T) if transposed else b])
            single.step([a + b])
    np.testing.assert_array_equal(w, alone)
    assert opt.stats == single.stats
    assert len(opt.state_dict()["slots"]["m"]) == 1


def test_partial_overlap_is_refused_and_interleaved_columns_are_not(rng):
    memory = rng.standard_normal(20).astype(np.float32)
    with pytest.raises(ValueError, match=r"Adam.attach: params\[1\]: expected memory of its own"):
        kitae.Adam([memory[:11], memory[10:]])
    matrix = rng.standard_normal((5, 4)).astype(np.float32)
    columns = [matrix[:, ::2], matrix[:, 1::2]]
    before = matrix.copy()
    grads = [np.ones((5, 2), np.float32)] * 2
    kitae.SGD(columns, lr=0.5).step(grads)
    np.testing.assert_array_equal(matrix, before - np.float32(0.5))


def test_a_gradient_that_shares_the_parameter_s_memory_is_refused(backend):
    name = backend.__name__.rpartition(".")[2].lstrip("_")
    memory = np.ones(10, np.float32)
    w = memory[:6]
    opt = kitae.SGD([w])
    for bad in (w, memory[4:]):
        with (
            kitae.use_backend(name),
            pytest.raises(ValueError, match=r"SGD.step: grads\[0\]: expected memory of its own"),
        ):
            opt.step([bad])
    assert np.all(memory == 1)
    assert opt.steps == 0


def test_a_gradient_between_the_parameter_s_elements_is_looked_at_again(backend):
    """Where it begins and ends as one that was apart, its other elements may not be."""
    name = backend.__name__.rpartition(".")[2].lstrip("_")
    memory = np.ones(12, np.float32)

    def view(first: int, *steps: int) -> np.ndarray:
        return np.lib.stride_tricks.as_strided(memory[first:], (2, 3), tuple(4 * step for step in steps))

    w, apart, shared = view(0, 2, 4), view(1, 2, 4), view(1, 4, 3)
    assert np.lib.array_utils.byte_bounds(apart) == np.lib.array_utils.byte_bounds(shared)
    opt = kitae.SGD([w], lr=1.0)
    with kitae.use_backend(name):
        for _ in range(2):
            opt.step([apart])
        assert np.all(w == -1)
        with pytest.raises(ValueError, match=r"SGD.step: grads\[0\]: expected memory of its own"):
            opt.step([shared])
    assert np.all(w == -1)


def test_bound_gradients_are_read_again_after_others(backend, rng):
    name = backend.__name__.rpartition(".")[2].lstrip("_")
    w = np.zeros(3, np.float32)
    bound, other = np.ones(3, np.float32), np.full(3, 10, np.float32)
    opt = kitae.SGD([w], lr=1.0)
    with kitae.use_backend(name):
        opt.bind([bound])
        for grads, expected in ((None, -1), ([other], -11), (None, -12), (None, -13)):
            opt.step(grads)
            assert np.all(w == expected)
        opt.bind([other])
        opt.step()
    assert np.all(w == -23)


def test_none_leaves_parameter_and_state_alone(backend, rng):
    name = backend.__name__.rpartition(".")[2].lstrip("_")
    params = [rng.standard_normal(4).astype(np.float32) for _ in range(3)]
    before = [p.copy() for p in params]
    opt = kitae.Adam(params)
    with kitae.use_backend(name):
        opt.step([np.ones(4, np.float32), None, np.ones(4, np.float32)])
    np.testing.assert_array_equal(params[1], before[1])
    assert np.all(opt.state_dict()["slots"]["m"][1] == 0)
    assert np.all(params[0] != before[0])
    assert np.all(params[2] != before[2])


@pytest.mark.parametrize("position", [0, 2, 4])
@pytest.mark.parametrize("count", [5, 40, 120])
def test_empty_tensors_anywhere_change_nothing_for_the_others(position, count, rng):
    full = [rng.standard_normal(int(n)).astype(np.float32) for n in rng.integers(1, 50, count)]
    grads = [rng.standard_normal(p.shape).astype(np.float32) for p in full]
    with_empty = [p.copy() for p in full]
    at = min(position * count // 4, count)
    listed = [*with_empty[:at], np.zeros((0, 3), np.float32), *with_empty[at:]]
    kitae.Adam(full, max_norm=1.0).step(grads)
    kitae.Adam(listed, max_norm=1.0).step([*grads[:at], np.zeros((0, 3), np.float32), *grads[at:]])
    for a, b in zip(full, with_empty, strict=True):
        np.testing.assert_array_equal(a, b)


def test_dicts_go_by_key_in_any_order():
    params = {"a": np.zeros(2, np.float32), "b": np.zeros(3, np.float32)}
    opt = kitae.SGD(params, lr=1.0)
    opt.step({"b": np.full(3, 2, np.float32), "a": np.ones(2, np.float32)})
    np.testing.assert_array_equal(params["a"], [-1, -1])
    np.testing.assert_array_equal(params["b"], [-2, -2, -2])
    for wrong in ({"a": np.ones(2, np.float32)}, {**params, "c": np.ones(1, np.float32)}):
        with pytest.raises(ValueError, match="expected the parameters' keys"):
            opt.step(wrong)


def test_groups_have_their_own_numbers():
    a, b = np.ones(2, np.float32), np.ones(2, np.float32)
    opt = kitae.SGD([{"params": [a]}, {"params": {"w": b}, "lr": 0.25, "weight_decay": 1.0}], lr=0.5)
    g = np.ones(2, np.float32)
    opt.step([[g], {"w": g}])
    np.testing.assert_array_equal(a, [0.5, 0.5])
    np.testing.assert_array_equal(b, [0.5, 0.5])  # 1 - 0.25 * (1 + 1)
    opt.groups[0]["lr"] = 0.125
    opt.step([[g], {"w": g}])
    np.testing.assert_array_equal(a, [0.375, 0.375])
    opt.lr = 0.0
    opt.step([[g], {"w": g}])
    np.testing.assert_array_equal(a, [0.375, 0.375])
    with pytest.raises(ValueError, match=r"params\[0\]: expected the keys .* got 'learning_rate'"):
        kitae.SGD([{"params": [a], "learning_rate": 1.0}])


def test_no_decay_skips_names():
    params = {"0.W": np.ones(2, np.float32), "0.b": np.ones(2, np.float32)}
    opt = kitae.SGD(params, lr=1.0, weight_decay=0.5, l1=0.25, no_decay=("*.b",))
    opt.step({name: np.zeros(2, np.float32) for name in params})
    np.testing.assert_array_equal(params["0.W"], [0.25, 0.25])
    np.testing.assert_array_equal(params["0.b"], [1, 1])


def test_bound_gradients_are_read_where_they_lie(backend):
    name = backend.__name__.rpartition(".")[2].lstrip("_")
    w, g = np.zeros(3, np.float32), np.ones(3, np.float32)
    opt = kitae.SGD([w], lr=1.0)
    with pytest.raises(TypeError, match=r"SGD.step: grads: expected gradients \(or bind\(grads\) first\), got None"):
        opt.step()
    opt.bind([g])
    with kitae.use_backend(name):
        opt.step()
        g[:] = 2
        opt.step()
    np.testing.assert_array_equal(w, [-3, -3, -3])
    held = sys.getrefcount(g)
    del opt
    assert sys.getrefcount(g) < held


def test_clipping_inside_the_step_is_clip_grad_norm_before_it(rng):
    shapes = [(300, 100), (100,), (100, 10)]
    a = [rng.standard_normal(s).astype(np.float32) for s in shapes]
    b = [p.copy() for p in a]
    grads = [rng.standard_normal(s).astype(np.float32) for s in shapes]
    inside, outside = kitae.Adam(a, max_norm=1.5), kitae.Adam(b)
    for _ in range(3):
        clipped = [g.copy() for g in grads]
        norm = kitae.clip_grad_norm(clipped, 1.5)
        outside.step(clipped)
        inside.step(grads)
        assert inside.stats.norm == norm
    for p, q in zip(a, b, strict=True):
        np.testing.assert_array_equal(p, q)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nonfinite_rules(value, backend):
    name = backend.__name__.rpartition(".")[2].lstrip("_")
    start = [np.ones(3, np.float32), np.ones(4, np.float32)]
    grads = [np.ones(3, np.float32), np.array([1, 1, value, 1], np.float32)]

    def run(**kw):
        params = [p.copy() for p in start]
        opt = kitae.SGD(params, lr=1.0, **kw)
        with kitae.use_backend(name):
            opt.step(grads)
        return params, opt

    message = r"SGD.step: grads\[1\]: expected finite elements, got 1 infinite or NaN, the first at \(2,\)"
    for kw in ({"max_norm": 1e9}, {"nonfinite": "raise"}):
        params = [p.copy() for p in start]
        opt = kitae.SGD(params, lr=1.0, **kw)
        with kitae.use_backend(name), pytest.raises(FloatingPointError, match=message):
            opt.step(grads)
        assert all(np.all(p == 1) for p in params)
        assert opt.steps == 0
    params, opt = run(nonfinite="skip")
    assert all(np.all(p == 1) for p in params)
    assert opt.steps == 0
    assert not opt.stats.written
    params, opt = run(nonfinite="zero")
    np.testing.assert_array_equal(params[1], [0, 0, 1, 0])
    assert opt.stats.nonfinite == 1
    params, opt = run()
    np.testing.assert_array_equal(params[1], np.array([0, 0, 1 - value, 0], np.float32))
    assert opt.stats.nonfinite == 1
    assert opt.steps == 1


@pytest.mark.parametrize(("cls", "kw"), CLASSES, ids=IDS)
def test_resumed_run_has_the_same_bits_and_a_cold_start_has_not(cls, kw, rng):
    start = [rng.standard_normal(s).astype(np.float32) for s in [(4, 3), (5,)]]
    steps = [[rng.standard_normal(p.shape).astype(np.float32) for p in start] for _ in range(8)]

    def run(resume):
        params = [p.copy() for p in start]
        opt = cls(params, **kw)
        for grads in steps[:4]:
            opt.step(grads)
        if resume is not None:
            saved = copy.deepcopy(opt.state_dict())
            opt = cls(params, **kw)
            if resume:
                opt.load_state_dict(saved)
                assert opt.steps == 4
        for grads in steps[4:]:
            opt.step(grads)
        return params

    uninterrupted, resumed, cold = run(None), run(True), run(False)
    for a, b in zip(uninterrupted, resumed, strict=True):
        np.testing.assert_array_equal(a, b)
    if cls not in (kitae.SGD, kitae.NormalizedGD):  # without state a cold start is the same run
        assert any(np.any(a != c) for a, c in zip(uninterrupted, cold, strict=True))


def test_state_dict_is_a_copy_and_loading_writes_into_place():
    w = np.ones(3, np.float32)
    opt = kitae.Adam({"w": w}, lr=0.5)
    opt.step({"w": np.ones(3, np.float32)})
    saved = opt.state_dict()
    assert saved["kind"] == "Adam"
    assert saved["version"] == 1
    assert saved["steps"] == 1
    assert saved["names"] == ["w"]
    assert saved["groups"][0]["lr"] == 0.5
    assert saved["groups"][0]["params"] == [0]
    saved["slots"]["m"][0][:] = 7
    assert np.all(opt.state_dict()["slots"]["m"][0] != 7)
    inside = opt._inputs["slots"][0][0]
    opt.load_state_dict(saved)
    assert np.all(inside == 7)
    assert opt._inputs["slots"][0][0] is inside


def test_loading_checks_everything_before_it_writes():
    opt = kitae.Adam([np.ones(3, np.float32), np.ones(2, np.float32)])
    opt.step([np.ones(3, np.float32), np.ones(2, np.float32)])
    good = opt.state_dict()

    def broken(change):
        bad = copy.deepcopy(good)
        bad["slots"]["m"][0][:] = 9
        change(bad)
        return bad

    cases = [
        (lambda d: d.pop("slots"), "expected the key 'slots'"),
        (lambda d: d.update(version=2), "version: expected 1, got 2"),
        (lambda d: d.update(kind="SGD"), "kind: expected 'Adam', got 'SGD'"),
        (lambda d: d.update(names=["a", "b"]), "names"),
        (lambda d: d.update(steps=-1), "steps: expected an integer in"),
        (lambda d: d["slots"].pop("v"), "slots: expected the slots"),
        (lambda d: d["slots"].update(v=d["slots"]["v"][:1]), "expected 2 arrays, got 1"),
        (lambda d: d["slots"]["v"].__setitem__(1, np.ones(3, np.float32)), r"slots\['v'\]\[1\]: expected shape \(2,\)"),
        (lambda d: d["slots"]["v"].__setitem__(1, np.ones(2)), "dtype float32"),
        (lambda d: d["groups"][0].update(lr=math.nan), "lr: expected a number"),
        (lambda d: d["groups"][0].update(params=[1, 0]), "groups: expected parameters"),
    ]
    for change, message in cases:
        with pytest.raises((ValueError, TypeError), match=message):
            opt.load_state_dict(broken(change))
        now = opt.state_dict()
        for name in ("m", "v"):
            for a, b in zip(now["slots"][name], good["slots"][name], strict=True):
                np.testing.assert_array_equal(a, b)
        assert now["steps"] == good["steps"]


def test_subnormal_state_becomes_zero(backend):
    name = backend.__name__.rpartition(".")[2].lstrip("_")
    w = np.ones(4, np.float32)
    opt = kitae.Adam([w])
    saved = opt.state_dict()
    saved["slots"]["m"][0][:] = 1e-40
    opt.load_state_dict(saved)
    assert np.all(opt.state_dict()["slots"]["m"][0] == 0)
    with kitae.use_backend(name):
        opt.step([np.full(4, 1e-38, np.float32)])  # (1 - beta1) g and g^2 are below the smallest normal number
    slots = opt.state_dict()["slots"]
    assert np.all(slots["m"][0] == 0)
    assert np.all(slots["v"][0] == 0)


@pytest.mark.parametrize(
    ("cls", "kw", "kind", "message"),
    [
        (kitae.Adam, {"lr": -1.0}, ValueError, r"Adam: lr: expected a number in \[0, inf\), got -1.0"),
        (kitae.Adam, {"lr": math.nan}, ValueError, "Adam: lr"),
        (kitae.Adam, {"lr": "fast"}, TypeError, "Adam: lr: .* got 'fast'"),
        (kitae.Adam, {"beta1": 1.0}, ValueError, r"Adam: beta1: expected a number in \[0, 1\), got 1.0"),
        (kitae.Adam, {"beta2": -0.1}, ValueError, "Adam: beta2"),
        (kitae.Adam, {"eps": -1e-8}, ValueError, "Adam: eps"),
        (kitae.Adam, {"weight_decay": math.inf}, ValueError, "Adam: weight_decay"),
        (kitae.Adam, {"l1": -1}, ValueError, "Adam: l1"),
        (kitae.Adam, {"max_norm": -1}, ValueError, "Adam: max_norm"),
        (kitae.Adam, {"max_norm": 0}, ValueError, "Adam: max_norm"),
        (kitae.Adam, {"nonfinite": "ignore"}, ValueError, "Adam: nonfinite: expected one of 'raise'"),
        (kitae.Adam, {"master": 1}, TypeError, "Adam: master"),
        (kitae.Adam, {"semantics": "pytorch"}, ValueError, "Adam: semantics: expected one of 'paper'"),
        (kitae.Adam, {"no_decay": "*.b"}, TypeError, "Adam: no_decay"),
        (kitae.Nesterov, {"form": "book"}, ValueError, "Nesterov: form"),
        (kitae.Momentum, {"momentum": 1.5}, ValueError, "Momentum: momentum"),
        (kitae.RMSProp, {"rho": 1.0}, ValueError, "RMSProp: rho"),
        (kitae.RMSProp, {"centered": "yes"}, TypeError, "RMSProp: centered"),
        (kitae.NormalizedGD, {"per": "layer"}, ValueError, "NormalizedGD: per"),
        (kitae.NormalizedGD, {"max_norm": 1.0}, ValueError, "NormalizedGD: max_norm: expected None"),
    ],
)
def test_bad_hyperparameters(cls, kw, kind, message):
    with pytest.raises(kind, match=message):
        cls([np.ones(2, np.float32)], **kw)


@pytest.mark.parametrize(
    ("params", "kind", "message"),
    [
        ([], ValueError, "expected at least one array"),
        ([[1.0, 2.0]], TypeError, r"params\[0\]: expected a numpy.ndarray or cupy.ndarray"),
        ([np.ones(2, np.int64)], TypeError, r"params\[0\]: expected dtype float32.*got int64"),
        ([np.ones(2, ">f4")], TypeError, r"params\[0\]: expected native byte order"),
        ([np.broadcast_to(np.ones(1, np.float32), (4,))], ValueError, r"params\[0\]: expected a writeable array"),
        ([np.ma.masked_array([1.0, 2.0])], TypeError, r"params\[0\]: .*filled"),
        ([np.zeros(9, np.uint8)[1:].view(np.float32)], ValueError, r"params\[0\]: expected memory aligned"),
        (
            [np.lib.stride_tricks.as_strided(np.zeros(4, np.float32), (3, 2), (4, 4))],
            ValueError,
            r"params\[0\]: expected distinct elements",
        ),
    ],
)
def test_bad_parameters(params, kind, message):
    with pytest.raises(kind, match=message):
        kitae.Adam(params)


@pytest.mark.parametrize(
    ("grads", "kind", "message"),
    [
        ([np.ones(3, np.float32)], ValueError, r"Adam.step: grads\[0\]: expected shape \(2,\), got shape \(3,\)"),
        ([np.ones(2)], TypeError, r"Adam.step: grads\[0\]: expected dtype float32, got float64"),
        ([], ValueError, "Adam.step: grads: expected 1 entries"),
        ([[1.0, 2.0]], TypeError, r"Adam.step: grads\[0\]: expected a numpy.ndarray"),
        ("gradient", TypeError, "Adam.step: grads: expected a list"),
        ([np.ones(2, ">f4")], TypeError, r"Adam.step: grads\[0\]: expected native byte order"),
    ],
)
def test_bad_gradients_leave_everything_as_it_was(grads, kind, message, backend):
    name = backend.__name__.rpartition(".")[2].lstrip("_")
    w = np.ones(2, np.float32)
    opt = kitae.Adam([w])
    with kitae.use_backend(name), pytest.raises(kind, match=message):
        opt.step(grads)
    assert np.all(w == 1)
    assert opt.steps == 0
    opt.step([np.ones(2, np.float32)])


def test_steps_run_out():
    opt = kitae.Adam([np.ones(2, np.float32)])
    opt.steps = 2**63 - 1
    with pytest.raises(OverflowError, match="steps"):
        opt.step([np.ones(2, np.float32)])


def test_an_optimizer_without_parameters_says_so():
    opt = kitae.Adam()
    with pytest.raises(RuntimeError, match=r"attach\(params\) first"):
        opt.step([np.ones(2, np.float32)])
    w = np.ones(2, np.float32)
    opt.attach([w])
    opt.step([np.ones(2, np.float32)])
    assert np.all(w < 1)


def test_plans_of_both_backends_share_one_state(rng):
    w = rng.standard_normal(5)
    other = w.copy()
    opt, single = kitae.Adam([w]), kitae.Adam([other])
    for t in range(6):
        g = [rng.standard_normal(5)]
        with kitae.use_backend("reference" if t % 2 else "cpu"):
            opt.step(g)
        single.step(g)
    np.testing.assert_array_equal(w, other)
    assert reference.OptimizerPlan.__name__ == "OptimizerPlan"


@pytest.mark.parametrize(("semantics", "first", "second"), [("paper", -1.0, -1.5), ("torch", 2.0, 3.0)])
def test_velocity_has_the_sign_of_its_formula(semantics: str, first: float, second: float) -> None:
    """By hand: v = mu v - lr g, or mu v + g, with lr = mu = 0.5 and g = 2."""
    w, g = np.array([1.0]), np.array([2.0])
    optimizer = kitae.Momentum([w], 0.5, momentum=0.5, semantics=semantics)
    for velocity in (first, second):
        optimizer.step([g])
        assert optimizer.state_dict()["slots"]["velocity"][0].tolist() == [velocity]
    assert w.tolist() == [1.0 - 1.0 - 1.5]
