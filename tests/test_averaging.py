"""EMA and SWA: formulas in float64, PyTorch's AveragedModel, optax, and what they do with the parameters."""

import math

import ml_dtypes
import numpy as np
import pytest

import kitae

BACKENDS = ["reference", "cpu"]
SHAPES = {"W": (30, 20), "b": (20,), "scale": ()}


def walk(rng, steps, dtype=np.float32, shapes=SHAPES):
    """Parameters and, per step, what training adds to them."""
    params = {name: np.asarray(rng.standard_normal(shape)).astype(dtype) for name, shape in shapes.items()}
    changes = [{n: (0.1 * rng.standard_normal(s)).astype(dtype) for n, s in shapes.items()} for _ in range(steps)]
    return params, changes


def follow(average, params, changes):
    """The parameters after each change, in float64, as the average sees them."""
    seen = []
    for change in changes:
        for name, p in params.items():
            p += change[name]
        average.update()
        seen.append({name: p.astype(np.float64) for name, p in params.items()})
    return seen


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("options", [{}, {"debias": True}, {"warmup": True}], ids=["plain", "debias", "warmup"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ema_is_its_sum(name, options, dtype, rng):
    params, changes = walk(rng, 30, dtype)
    start = {key: p.astype(np.float64) for key, p in params.items()}
    with kitae.use_backend(name):
        ema = kitae.EMA(params, 0.9, **options)
        seen = follow(ema, params, changes)
    assert ema.updates == 30
    for key in params:
        expected = start[key]
        weights = [0.9 ** (30 - n) * 0.1 for n in range(1, 31)]
        if "debias" in options:
            expected = sum(w * p[key] for w, p in zip(weights, seen, strict=True)) / (1 - 0.9**30)
        elif "warmup" in options:
            for n, p in enumerate(seen, 1):
                decay = min(0.9, n / (9 + n))
                expected = decay * expected + (1 - decay) * p[key]
        else:
            expected = 0.9**30 * start[key] + sum(w * p[key] for w, p in zip(weights, seen, strict=True))
        # Each update rounds three times in the dtype; earlier roundings decay by 0.9, so 10 updates' worth remain.
        allowed = 30 * np.finfo(dtype).eps * max(1, np.abs(expected).max())
        np.testing.assert_allclose(ema.averages[key], expected, rtol=0, atol=allowed)


@pytest.mark.parametrize("name", BACKENDS)
def test_swa_is_the_mean(name, rng):
    params, changes = walk(rng, 25)
    with kitae.use_backend(name):
        swa = kitae.SWA(params)
        seen = follow(swa, params, changes)
    for key in params:
        mean = np.mean([p[key] for p in seen], axis=0)
        np.testing.assert_allclose(swa.averages[key], mean, rtol=0, atol=25 * 2.0**-24 * np.abs(mean).max() + 1e-7)


@pytest.mark.requires_torch
@pytest.mark.parametrize("kind", ["swa", "ema"])
def test_torch_averages_alike(kind, rng):
    import torch
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    params, changes = walk(rng, 20, np.float64, {"W": (7, 5), "b": (5,)})
    model = torch.nn.ParameterDict({name: torch.from_numpy(p) for name, p in params.items()})  # the same memory
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9) if kind == "ema" else None)
    ours = kitae.SWA(params) if kind == "swa" else kitae.EMA(params, 0.9)
    if kind == "ema":  # PyTorch starts with the parameters at the first update
        theirs.update_parameters(model)
    for change in changes:
        for name, p in params.items():
            p += change[name]
        ours.update()
        theirs.update_parameters(model)
    for name in params:
        value = theirs.module[name].detach().numpy()
        np.testing.assert_allclose(ours.averages[name], value, rtol=1e-14, atol=1e-15)


@pytest.mark.requires_optax
def test_optax_debiases_alike(rng):
    import optax

    params, changes = walk(rng, 12)
    theirs = optax.ema(0.9, debias=True)
    state = theirs.init(params)
    ema = kitae.EMA(params, 0.9, debias=True)
    for change in changes:
        for name, p in params.items():
            p += change[name]
        ema.update()
        value, state = theirs.update({name: p.copy() for name, p in params.items()}, state)
    for name in params:
        np.testing.assert_allclose(ema.averages[name], np.asarray(value[name]), rtol=0, atol=2e-6)


@pytest.mark.parametrize("make", [lambda p: kitae.EMA(p, 0.99), lambda p: kitae.EMA(p, debias=True), kitae.SWA])
def test_reference_and_native_have_the_same_bits(make, rng):
    shapes = {"large": (40_000,), "odd": (33, 7), "empty": (0,), "one": ()}
    for dtype in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16):
        start, changes = walk(rng, 4, dtype, shapes)
        results = []
        for name, threads in (("reference", 1), ("cpu", 1), ("cpu", 3)):
            kitae.set_num_threads(threads)
            params = {key: p.copy() for key, p in start.items()}
            with kitae.use_backend(name):
                average = make(params)
                follow(average, params, changes)
            results.append(average.state_dict()["slots"])
        for slots in results[1:]:
            for kind, arrays in slots.items():
                for a, b in zip(arrays, results[0][kind], strict=True):
                    assert (a is None and b is None) or a.tobytes() == b.tobytes()


def test_a_parameter_that_stands_still_is_its_average_exactly(rng):
    p = rng.standard_normal(1000).astype(np.float32)
    for average in (kitae.EMA([p], 0.9999), kitae.EMA([p], debias=True), kitae.EMA([p], warmup=True), kitae.SWA([p])):
        for _ in range(100):
            average.update()
        np.testing.assert_array_equal(average.averages[0], p)
    first = kitae.SWA([p])
    p += np.float32(1e-3)
    first.update()
    np.testing.assert_array_equal(first.averages[0], p)


def test_small_steps_of_float16_are_kept():
    p = np.ones(4, np.float16)
    ema = kitae.EMA(p, 0.999)
    p[:] = 2
    for _ in range(1000):
        ema.update()
    expected = 2 - 0.999**1000
    assert ema.averages.dtype == np.float16
    np.testing.assert_allclose(ema.averages.astype(float), expected, rtol=2.0**-11 + 1e-5)


def test_applied_swaps_and_gives_back(rng):
    params = [rng.standard_normal((4, 6)).astype(np.float32)[:, ::2], np.asfortranarray(rng.standard_normal((3, 2)))]
    ema = kitae.EMA(params, 0.5)
    start = [p.copy() for p in params]
    for p in params:
        p += 1
    ema.update()
    own = [p.copy() for p in params]
    with ema.applied():
        for p, s in zip(params, start, strict=True):
            np.testing.assert_allclose(p, s + 0.5, rtol=1e-6)
        with pytest.raises(RuntimeError, match=r"EMA.update: self: expected parameters of their own"):
            ema.update()
        with pytest.raises(RuntimeError, match=r"EMA.applied: self"), ema.applied():
            pass
        params[0][:] = np.nan
    for p, value in zip(params, own, strict=True):
        np.testing.assert_array_equal(p, value)
    with pytest.raises(ZeroDivisionError), ema.applied():
        raise ZeroDivisionError
    for p, value in zip(params, own, strict=True):
        np.testing.assert_array_equal(p, value)
    ema.update()
    assert ema.updates == 2


def test_structures_tied_parameters_and_copies(rng):
    w = rng.standard_normal((3, 2))
    for params, pick in ((w, lambda a: a), ([w], lambda a: a[0]), ((w,), lambda a: a[0]), ({"w": w}, lambda a: a["w"])):
        swa = kitae.SWA(params)
        w += 1
        swa.update()
        np.testing.assert_array_equal(pick(swa.averages), w)
        assert not np.shares_memory(pick(swa.averages), w)
    tied = kitae.SWA({"in": w, "out": w.T, "again": w})
    assert tied.averages["out"].base is tied.averages["in"] or np.shares_memory(*list(tied.averages.values())[:2])
    w *= 3
    tied.update()
    np.testing.assert_array_equal(tied.averages["out"], w.T)
    np.testing.assert_array_equal(tied.averages["again"], w)
    assert len(tied.state_dict()["slots"]["average"]) == 1
    copy = {"again": np.zeros((3, 2)), "out": np.zeros((2, 3)), "in": np.zeros((3, 2))}
    tied.copy_to(copy)
    for name, array in copy.items():
        np.testing.assert_array_equal(array, tied.averages[name])
    bad = {"in": np.zeros((3, 2)), "out": np.zeros((3, 2)), "again": np.zeros((3, 2))}
    with pytest.raises(ValueError, match=r"SWA.copy_to: params\[1\]: expected shape \(2, 3\)"):
        tied.copy_to(bad)
    assert not bad["in"].any()
    with pytest.raises(ValueError, match=r"SWA\.copy_to: params: expected the keys"):
        tied.copy_to({"in": np.zeros((3, 2))})
    with pytest.raises(TypeError, match=r"SWA\.copy_to: params: expected the structure"):
        tied.copy_to([np.zeros((3, 2))])


@pytest.mark.parametrize("make", [lambda p: kitae.EMA(p, 0.9, warmup=True), kitae.SWA])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_resumed_is_uninterrupted(make, dtype, rng):
    start, changes = walk(rng, 10, dtype)
    params = {key: p.copy() for key, p in start.items()}
    whole = make(params)
    follow(whole, params, changes)
    params = {key: p.copy() for key, p in start.items()}
    first = make(params)
    follow(first, params, changes[:4])
    state = first.state_dict()
    follow(first, params, changes[4:6])  # copies: what comes after does not reach the state
    for key, change in changes[4].items():
        params[key] -= change + changes[5][key]
    params = {key: p.copy() for key, p in start.items()}
    for change in changes[:4]:
        for key, p in params.items():
            p += change[key]
    cold, resumed = make(params), make(params)
    resumed.load_state_dict(state)
    assert resumed.updates == 4
    follow(resumed, params, changes[4:])
    for key in params:
        assert resumed.averages[key].tobytes() == whole.averages[key].tobytes()
        assert cold.averages[key].tobytes() != whole.averages[key].tobytes()


def test_bad_states_change_nothing(rng):
    params = [rng.standard_normal(3).astype(np.float32), np.ones(2, np.float16)]
    ema = kitae.EMA(params, 0.9)
    ema.update()
    good = ema.state_dict()
    for change, message in (
        ({"kind": "SWA"}, "kind: expected 'EMA'"),
        ({"decay": 0.8}, "decay: expected 0.9"),
        ({"updates": -1}, r"updates: expected an integer in \[0"),
        ({"slots": {"average": good["slots"]["average"]}}, "slots: expected the slots"),
        ({"slots": {"average": [np.zeros(3), np.zeros(2)], "master": [None, None]}}, r"slots\['average'\]\[0\]"),
    ):
        with pytest.raises(ValueError, match=f"EMA.load_state_dict: {message}"):
            ema.load_state_dict({**good, **change})
    with pytest.raises(ValueError, match="the key 'names'"):
        ema.load_state_dict({key: value for key, value in good.items() if key != "names"})
    with pytest.raises(TypeError, match="d: expected a dict"):
        ema.load_state_dict([])
    assert ema.updates == 1
    np.testing.assert_array_equal(ema.averages[0], good["slots"]["average"][0])


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: kitae.EMA([], 0.9), ValueError, "EMA: params: expected at least one array"),
        (lambda: kitae.EMA([np.ones(2)], 1.0), ValueError, r"EMA: decay: expected a number in \[0, 1\)"),
        (lambda: kitae.EMA([np.ones(2)], debias=True, warmup=True), ValueError, "EMA: warmup: expected False beside"),
        (lambda: kitae.SWA([np.ones(2, int)]), TypeError, r"SWA: params\[0\]: expected dtype float32"),
        (lambda: kitae.SWA([1.0]), TypeError, r"SWA: params\[0\]: expected a numpy.ndarray"),
    ],
)
def test_wrong_arguments(call, kind, message):
    with pytest.raises(kind, match=f"kitae.{message}"):
        call()


def test_nonfinite_parameters_reach_their_average_alone():
    params = [np.ones(3), np.ones(2)]
    ema = kitae.EMA(params, 0.5)
    params[0][1] = math.inf
    ema.update()
    np.testing.assert_array_equal(ema.averages[0], [1, math.inf, 1])
    np.testing.assert_array_equal(ema.averages[1], [1, 1])
