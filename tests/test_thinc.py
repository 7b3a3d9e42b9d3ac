"""kitae.thinc against thinc itself: its ops, its optimizers, a network."""

import copy
import re
import runpy
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.requires_thinc
# Single precision in another order of operations: a few units in the last place a step.
CLOSE = {"rtol": 1e-5, "atol": 2e-6}


@pytest.fixture
def ours():
    import kitae.thinc

    return kitae.thinc


def test_ops_are_registered(ours):
    from thinc.api import get_current_ops, get_ops, use_ops

    ops = get_ops("kitae")
    assert type(ops) is ours.KitaeOps
    with use_ops("kitae"):
        assert type(get_current_ops()) is ours.KitaeOps
    assert get_ops("kitae", rng="numpy").rng == "numpy"
    assert get_ops("cpu").name == "numpy"  # nobody is moved who did not ask


def test_optimizers_are_registered(ours):
    from thinc.api import Config, registry

    config = Config().from_str('[optimizer]\n@optimizers = "kitae.Adam.v1"\nlearn_rate = 0.25\nL2 = 0.5')
    optimizer = registry.resolve(config)["optimizer"]
    assert type(optimizer) is ours.Optimizer
    assert (optimizer.learn_rate, optimizer.L2, optimizer.b1) == (0.25, 0.5, 0.9)
    assert registry.optimizers.get("kitae.SGD.v1") is ours.SGD


def test_defaults_are_thinc_s(ours):
    import inspect

    from thinc import optimizers

    for name in ("Adam", "SGD"):
        mine, theirs = (inspect.signature(getattr(module, name)).parameters for module in (ours, optimizers))
        assert {n: p.default for n, p in mine.items()} == {n: p.default for n, p in theirs.items()}


# Ops


@pytest.mark.parametrize("size", [1, 64, 1001])
def test_adam_of_the_ops(ours, size, rng):
    from thinc.api import NumpyOps

    mine = [rng.standard_normal(size).astype("f") for _ in range(2)] + [np.zeros(size, "f") for _ in range(2)]
    theirs = [array.copy() for array in mine]
    for step in range(1, 6):
        rate = 0.05 * (1 - 0.999**step) ** 0.5 / (1 - 0.9**step)
        g = rng.standard_normal(size).astype("f")
        for ops, arrays in ((ours.KitaeOps(), mine), (NumpyOps(), theirs)):
            arrays[1][:] = g
            results = ops.adam(*arrays, 0.9, 0.999, 1e-3, rate)
            assert all(a is b for a, b in zip(results, arrays, strict=True))
        assert not mine[1].any()
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(a, b, **CLOSE)


@pytest.mark.parametrize("threshold", [0.5, 5.0, 50.0])
def test_clip_gradient(ours, threshold):
    from thinc.api import NumpyOps

    g = np.array([[3.0, 0.0], [0.0, 4.0]], "f")  # norm 5
    mine = g.copy()
    assert ours.KitaeOps().clip_gradient(mine, threshold) is mine
    np.testing.assert_allclose(mine, NumpyOps().clip_gradient(g.copy(), threshold), rtol=2e-7)


@pytest.mark.parametrize("t", [0, 1, 10, 10**6])
def test_update_averages(ours, t, rng):
    from thinc.api import NumpyOps

    ema, weights = rng.standard_normal((2, 3, 5)).astype("f")
    theirs, before = ema.copy(), weights.copy()
    ours.KitaeOps().update_averages(ema, weights, t)
    NumpyOps().update_averages(theirs, weights, t)
    np.testing.assert_allclose(ema, theirs, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(weights, before)


def test_dropout_masks(ours):
    from thinc.api import NumpyOps, fix_random_seed

    ops = ours.KitaeOps()
    fix_random_seed(3)
    first = ops.get_dropout_mask((200, 50), 0.25)
    other = ops.get_dropout_mask((200, 50), 0.25)
    fix_random_seed(3)
    np.testing.assert_array_equal(ops.get_dropout_mask((200, 50), 0.25), first)
    assert first.dtype == np.float32
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(np.unique(first), np.array([0, 1 / 0.75], "f"))
    assert abs((first > 0).mean() - 0.75) < 5 * np.sqrt(0.25 * 0.75 / first.size)
    for drop in (None, 0.0, 1.0):
        expected = NumpyOps().get_dropout_mask((2, 3), drop)
        np.testing.assert_array_equal(ops.get_dropout_mask((2, 3), drop), expected)
    fix_random_seed(3)
    expected = NumpyOps().get_dropout_mask((4, 5), 0.25)
    fix_random_seed(3)
    np.testing.assert_array_equal(ours.KitaeOps(rng="numpy").get_dropout_mask((4, 5), 0.25), expected)


# Optimizers


OPTIMIZERS = [
    ("Adam", {}),
    ("Adam", {"L2": 0.1}),
    ("Adam", {"L2": 0.1, "L2_is_weight_decay": False}),
    ("Adam", {"grad_clip": 0.0, "use_averages": False, "eps": 0.1}),
    ("Adam", {"grad_clip": 100.0, "beta1": 0.5, "beta2": 0.75}),
    ("SGD", {}),
    ("SGD", {"L2": 0.1}),
    ("SGD", {"L2": 0.1, "L2_is_weight_decay": False, "grad_clip": 0.0}),
]


@pytest.mark.parametrize(("name", "keywords"), OPTIMIZERS)
def test_optimizers(ours, name, keywords, rng):
    """Two parameters, a learning rate from a schedule, another scale for one of them."""
    from thinc import optimizers

    start = {(1, "W"): rng.standard_normal((6, 5)).astype("f"), (2, "b"): rng.standard_normal(5).astype("f")}
    runs = []
    grads = [{key: rng.standard_normal(w.shape).astype("f") for key, w in start.items()} for _ in range(25)]
    for module in (ours, optimizers):
        weights = copy.deepcopy(start)
        optimizer = getattr(module, name)([0.1, 0.05, 0.02, 0.01], **keywords)
        for step in grads:
            for key, gradient in step.items():
                gradient = gradient.copy()
                updated, left = optimizer(key, weights[key], gradient, lr_scale=0.5 if key[1] == "b" else 1.0)
                assert updated is weights[key] or np.shares_memory(updated, weights[key])
                assert not left.any()
            optimizer.step_schedules()
        runs.append((weights, optimizer))
    (mine, ours_), (theirs, thinc_s) = runs
    for key in start:
        assert not np.allclose(mine[key], start[key])
        np.testing.assert_allclose(mine[key], theirs[key], **CLOSE)
        assert ours_.nr_update[key] == thinc_s.nr_update[key] == 25
    for state in ("mom1", "mom2", "averages"):
        a, b = getattr(ours_, state), getattr(thinc_s, state)
        assert (a is None) == (b is None)
        if a is not None:
            assert a.keys() == b.keys()
            for key in a:
                assert a[key].shape == b[key].shape
                np.testing.assert_allclose(a[key], b[key], **CLOSE)


def test_plans_follow_their_arrays(ours, rng):
    """Another array under the same key, and state that somebody replaced, are seen."""
    w, g = rng.standard_normal((2, 8)).astype("f")
    optimizer, fresh = ours.Adam(0.1), ours.Adam(0.1)
    optimizer((1, "W"), w, g.copy())
    moved = w.copy()
    optimizer((1, "W"), moved, g.copy())
    assert not np.array_equal(moved, w)
    expected = w.copy()
    fresh.nr_update[1, "W"] = 1
    fresh.mom1[1, "W"], fresh.mom2[1, "W"] = (
        0.1 * g / max(1, np.linalg.norm(g)),
        0.001 * (g / max(1, np.linalg.norm(g))) ** 2,
    )
    fresh((1, "W"), expected, g.copy())
    np.testing.assert_allclose(moved, expected, **CLOSE)
    optimizer.mom1[1, "W"] = np.zeros(8, "f")
    before = moved.copy()
    optimizer((1, "W"), moved, np.zeros(8, "f"))
    np.testing.assert_array_equal(moved, before)


def test_copies_have_states_of_their_own(ours, rng):
    import pickle

    w, g = rng.standard_normal((2, 8)).astype("f")
    optimizer = ours.Adam(0.1, L2=0.01)
    optimizer((1, "W"), w, g.copy())
    results = []
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer)), optimizer):
        weights = w.copy()
        other((1, "W"), weights, g.copy())
        results.append(weights)
    np.testing.assert_array_equal(results[0], results[2])
    np.testing.assert_array_equal(results[1], results[2])


def test_training_a_network(ours, rng):
    """The same network, batches and random numbers on thinc alone and on kitae: the same curve."""
    from thinc import optimizers
    from thinc.api import Relu, Softmax, chain, fix_random_seed, get_ops, use_ops

    x = rng.standard_normal((96, 12)).astype("f")
    y = np.eye(3, dtype="f")[(x[:, :3].argmax(axis=1))]
    losses = []
    for name, keywords, module in (("numpy", {}, optimizers), ("kitae", {"rng": "numpy"}, ours)):
        with use_ops(name, **keywords):
            fix_random_seed(0)
            model = chain(Relu(16, dropout=0.2), Relu(16, dropout=0.2), Softmax())
            model.initialize(X=x, Y=y)
            assert all(type(node.ops) is type(get_ops(name)) for node in model.walk())
            optimizer, curve = module.Adam(0.01), []
            for _ in range(60):
                guess, backprop = model.begin_update(x)
                curve.append(-np.log(guess[np.arange(96), y.argmax(axis=1)]).mean())
                backprop((guess - y) / 96)
                model.finish_update(optimizer)
            losses.append(curve)
    assert losses[1][-1] < 0.6 * losses[1][0]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)  # errors of single precision grow along a run


def test_example(capsys):
    runpy.run_path(str(Path(__file__).parent.parent / "examples" / "thinc_digits.py"))
    text = capsys.readouterr().out
    assert [float(right) > 95 for right in re.findall(r"([\d.]+)% of the test images", text)] == [True] * 3
    # Rounding of single precision, grown by 300 steps of training: seen 2e-2, where weights are of size 1.
    assert float(re.search(r"largest difference of a parameter is (\S+)", text)[1]) < 0.2


# Errors


def test_errors(ours):
    w, g = np.ones(3, "f"), np.ones(3, "f")
    with pytest.raises(ValueError, match=r"kitae\.thinc\.Optimizer: use_radam: expected False"):
        ours.Optimizer(0.1, use_radam=True)
    with pytest.raises(AttributeError, match=r"kitae\.thinc has no 'RAdam'; it covers SGD, Adam, KitaeOps, Optimizer"):
        ours.RAdam(0.1)
    with pytest.raises(ValueError, match=r"kitae\.thinc\.Optimizer: gradient: expected shape \(3,\), got shape \(2,\)"):
        ours.Adam(0.1)((1, "W"), w, g[:2])
    with pytest.raises(TypeError, match=r"kitae\.thinc\.Optimizer: gradient: expected dtype"):
        ours.Adam(0.1)((1, "W"), w, np.ones(3, np.int32))
    with pytest.raises(NotImplementedError, match="beta1: expected a number above 0"):
        ours.Adam(0.1, beta1=0.0)((1, "W"), w, g)
    with pytest.raises(ValueError, match=r"kitae\.thinc\.KitaeOps: rng: expected one of"):
        ours.KitaeOps(rng="torch")
    np.testing.assert_array_equal(w, np.ones(3, "f"))
    np.testing.assert_array_equal(g, np.ones(3, "f"))
