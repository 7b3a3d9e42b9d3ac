"""kitae.dlfs.optimizer: the stand-ins' formulas, numbers by hand, and what the books' scripts do with optimizers."""

import copy

import numpy as np
import pytest

import kitae
from dlfs_books import module
from kitae.dlfs import optimizer

NAMES = ["SGD", "Momentum", "Nesterov", "AdaGrad", "RMSprop", "Adam"]


def start(rng, kind="d"):
    return {"W": rng.normal(size=(5, 4)).astype(kind), "b": rng.normal(size=4).astype(kind)}


@pytest.mark.parametrize("name", NAMES)
def test_dicts_of_book_1(name, rng) -> None:
    theirs, mine = getattr(module("one", "common.optimizer"), name)(), getattr(optimizer, name)()
    params = start(rng)
    ours, arrays = copy.deepcopy(params), None
    arrays = dict(ours)
    for step in range(30):
        grads = start(rng)
        if step == 10:
            theirs.lr = mine.lr = 0.05
        kept = copy.deepcopy(grads)
        theirs.update(params, grads)
        mine.update(ours, grads)
        np.testing.assert_equal(grads, kept)
    for key in params:
        assert ours[key] is arrays[key]  # updated where it lies
        np.testing.assert_allclose(ours[key], params[key], rtol=1e-12, atol=1e-14)
    for state in ("v", "h", "m"):
        if hasattr(theirs, state):
            for key in params:
                np.testing.assert_allclose(
                    getattr(mine, state)[key], getattr(theirs, state)[key], rtol=1e-11, atol=1e-14
                )
    assert getattr(mine, "iter", 30) == 30


@pytest.mark.parametrize("name", ["SGD", "Nesterov", "Adam"])
def test_lists_of_book_2(name, rng) -> None:
    theirs, mine = getattr(module("two", "common.optimizer"), name)(), getattr(optimizer, name)()
    params = list(start(rng).values())
    ours = copy.deepcopy(params)
    for _ in range(20):
        grads = list(start(rng).values())
        theirs.update(params[:], grads)  # remove_duplicate makes new lists at every step
        mine.update(ours[:], grads)
    for own, their in zip(ours, params, strict=True):
        np.testing.assert_allclose(own, their, rtol=1e-12, atol=1e-14)
    assert isinstance(getattr(mine, "v", []), list)


@pytest.mark.parametrize("name", NAMES)
def test_float32_has_the_bits_of_book_2(name, rng) -> None:
    """100 updates with gradients from 1e-6 to 10, some of them 0; the rate changes."""
    theirs, mine = getattr(module("two", "common.optimizer"), name)(), getattr(optimizer, name)()
    params = [rng.normal(size=(9, 40)).astype("f"), np.asfortranarray(rng.normal(size=(17, 5)).astype("f"))]
    ours = copy.deepcopy(params)
    for step in range(100):
        grads = [(rng.normal(size=p.shape) * 10.0 ** rng.integers(-6, 2, p.shape)).astype("f") for p in params]
        grads[0][rng.random(grads[0].shape) < 0.2] = 0
        theirs.lr = mine.lr = 0.003 if step < 50 else 0.001
        theirs.update(params, grads)
        mine.update(ours, grads)
    np.testing.assert_equal(ours, params)
    for state in ("v", "h", "m"):
        np.testing.assert_equal(getattr(mine, state, None), getattr(theirs, state, None))


@pytest.mark.parametrize("semantics", ["dlfs", "dlfs2"])
@pytest.mark.parametrize(("name", "preset"), [("Adam", kitae.Adam), ("RMSprop", kitae.RMSProp)])
def test_presets_round_as_the_book(name, preset, semantics, rng) -> None:
    """Adam's own bias correction is more exact than the book's: where a product lies between two float32, once in
    millions, the other one may be taken. In the paper's form a third of the elements differ."""
    theirs = getattr(module("two", "common.optimizer"), name)()
    params = [rng.normal(size=(200, 50)).astype("f")]
    ours = copy.deepcopy(params)
    mine = preset(ours, semantics=semantics)
    for _ in range(20):
        grads = [rng.normal(size=p.shape).astype("f") for p in params]
        theirs.update(params, grads)
        mine.step(grads)
    assert np.count_nonzero(ours[0] != params[0]) <= 10


def test_nesterov_of_the_two_books_by_hand() -> None:
    """w = v = 0, g = 1, lr 1, mu 0.5: book 1 gives -(1.5), book 2 -(1.5 + 0.25); then v = -1 for both."""
    for container, expected in (({"w": np.zeros(1)}, -1.5), ([np.zeros(1)], -1.75)):
        rule = optimizer.Nesterov(lr=1.0, momentum=0.5)
        key = "w" if isinstance(container, dict) else 0
        rule.update(container, {"w": np.ones(1)} if key == "w" else [np.ones(1)])
        assert container[key][0] == expected
        assert rule.v[key][0] == -1.0


def test_adam_has_the_books_eps() -> None:
    """One step with g = 1e-7: lr sqrt(1 - b2) / (1 - b1) * (0.1 g) / (sqrt(0.001) g + 1e-7) = lr * 0.0316 / 1.0316."""
    params = {"w": np.zeros(1)}
    optimizer.Adam(lr=1.0).update(params, {"w": np.full(1, 1e-7)})
    root = np.sqrt(0.001)
    np.testing.assert_allclose(params["w"], -root / (root + 1), rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_python_numbers(name) -> None:
    theirs, mine = getattr(module("one", "common.optimizer"), name)(lr=0.3), getattr(optimizer, name)(lr=0.3)
    params, ours = {"x": -7.0, "y": 2.0}, {"x": -7.0, "y": 2}
    for _ in range(30):
        theirs.update(params, {"x": params["x"] / 10, "y": 2.0 * params["y"]})
        mine.update(ours, {"x": ours["x"] / 10, "y": 2.0 * ours["y"]})
    np.testing.assert_allclose([ours["x"], ours["y"]], [params["x"], params["y"]], rtol=1e-10)
    assert isinstance(ours["x"], float)


def test_one_optimizer_for_two_networks_and_changed_arrays(rng) -> None:
    """ch06/batch_norm_test.py updates two networks in turn; load_params puts other arrays into the dict."""
    theirs, mine = module("one", "common.optimizer").Momentum(), optimizer.Momentum()
    networks = [start(rng), start(rng)]
    ours = copy.deepcopy(networks)
    for step in range(12):
        grads = start(rng)
        if step == 6:
            networks[0]["W"], ours[0]["W"] = np.ones((5, 4)), np.ones((5, 4))
        for number in (0, 1):
            theirs.update(networks[number], grads)
            mine.update(ours[number], grads)
    for number in (0, 1):
        for key in networks[number]:
            np.testing.assert_allclose(ours[number][key], networks[number][key], rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_memory_that_is_listed_twice_is_updated_twice(name, rng) -> None:
    """The books' loops do so, with a state each; W.T and slices of W count."""
    theirs, mine = getattr(module("one", "common.optimizer"), name)(), getattr(optimizer, name)()
    results = []
    for rule in (theirs, mine):
        W = np.arange(12.0).reshape(4, 3)
        params = {"W": W, "tied": W.T, "rows": W[1:3], "other": np.ones(2)}
        for step in range(3):
            rule.update(params, {key: np.full(value.shape, 1.0 + step) for key, value in params.items()})
        results.append(W)
    np.testing.assert_allclose(results[1], results[0], rtol=1e-12)


def test_shared_memory_is_updated_in_order_by_many_threads() -> None:
    """Two updates of a million elements by Adam without corrections: the second starts where the first ended."""
    W = np.zeros((1000, 1000))
    kitae.set_num_threads(4)
    rule = optimizer.Adam(lr=1.0, beta1=0.0, beta2=0.0)
    rule.update([W, W], [np.ones((1000, 1000)), np.ones((1000, 1000))])
    np.testing.assert_allclose(W, -2 / (1 + 1e-7), rtol=1e-15)
    assert rule.m[0] is not rule.m[1]


def test_transposed_views_are_updated_where_they_lie(rng) -> None:
    W = np.asfortranarray(rng.normal(size=(6, 3)).astype("f"))
    expected = W.copy()
    rule = optimizer.Adam()
    rule.update([W], [np.ones((6, 3), "f")])
    assert np.abs(W - expected).min() > 0
    assert W.flags.f_contiguous
    assert rule.m[0].dtype == np.float32


def test_gradients_as_numpys_operators_take_them(rng) -> None:
    params = {"a": np.zeros(3, "f"), "b": np.zeros((2, 3))}
    optimizer.SGD(lr=1.0).update(params, {"a": np.ones(3), "b": np.arange(3), "unused": None})
    np.testing.assert_array_equal(params["a"], [-1, -1, -1])
    np.testing.assert_array_equal(params["b"], [[0, -1, -2]] * 2)
    optimizer.SGD(lr=1.0).update(params, {"a": 1, "b": 2.0})
    np.testing.assert_array_equal(params["a"], [-2, -2, -2])


@pytest.mark.parametrize(
    ("params", "grads", "kind", "words"),
    [
        ({"W": np.zeros(3)}, {}, KeyError, "W"),
        ({"W": np.zeros(3)}, {"W": None}, TypeError, r"grads\['W'\]: expected an array of real numbers, got None"),
        ({"W": np.zeros(3)}, {"W": np.zeros(2)}, ValueError, r"grads\['W'\]: expected shape \(3,\)"),
        ({"W": np.zeros(3)}, {"W": np.zeros(3, complex)}, TypeError, r"grads\['W'\]: expected an array of real"),
        ({"W": np.zeros(3, int)}, {"W": np.zeros(3)}, TypeError, r"params\['W'\]: expected dtype"),
        ({"W": [0.0]}, {"W": np.zeros(1)}, TypeError, r"params\['W'\]"),
        ([np.zeros(3)], [], IndexError, "out of range"),
    ],
)
def test_bad_input_names_the_argument_and_changes_nothing(params, grads, kind, words) -> None:
    before = copy.deepcopy(params)
    with pytest.raises(kind, match=words):
        optimizer.SGD().update(params, grads)
    np.testing.assert_equal(params, before)


def test_nothing_to_update() -> None:
    optimizer.Adam().update({}, {})
    optimizer.SGD().update([], [])


def test_state_can_be_set_and_copied(rng) -> None:
    rule = optimizer.Adam()
    params = start(rng)
    rule.update(params, start(rng))
    resumed = copy.deepcopy(rule)
    others = copy.deepcopy(params)
    grads = start(rng)
    rule.update(params, grads)
    resumed.update(others, grads)
    np.testing.assert_equal(others, params)
    rule.iter, rule.m, rule.v = 0, None, None  # starts anew
    fresh, copied = optimizer.Adam(), copy.deepcopy(params)
    rule.update(params, grads)
    fresh.update(copied, grads)
    np.testing.assert_equal(params, copied)


def test_a_subclass_without_super_init(rng) -> None:
    class Decaying(optimizer.SGD):
        def __init__(self):
            self.lr = 1.0

        def update(self, params, grads):
            super().update(params, grads)
            self.lr *= 0.5

    params = {"w": np.zeros(1)}
    rule = Decaying()
    for _ in range(3):
        rule.update(params, {"w": np.ones(1)})
    assert params["w"][0] == -1.75
