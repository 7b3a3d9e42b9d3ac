"""What a step tells of itself: norms, ratios and counts against float64, and the same parameters to the bit."""

import math

import ml_dtypes
import numpy as np
import pytest

import kitae

BACKENDS = ["reference", "cpu"]
RULES = {
    "SGD": lambda p, **k: kitae.SGD(p, 0.1, **k),
    "Nesterov": lambda p, **k: kitae.Nesterov(p, 0.1, **k),
    "Adam": lambda p, **k: kitae.Adam(p, 0.01, **k),
    "AMSGrad with decay": lambda p, **k: kitae.AMSGrad(p, 0.01, weight_decay=0.01, l1=0.001, **k),
    "AdamW clipped": lambda p, **k: kitae.AdamW(p, 0.01, weight_decay=0.1, max_norm=0.5, **k),
    "RMSProp zeroed": lambda p, **k: kitae.RMSProp(p, 0.01, nonfinite="zero", **k),
}


def tensors(rng, dtype, spread=1.0):
    large = np.asfortranarray(rng.standard_normal((130, 97)))
    arrays = {"W": rng.standard_normal((150, 101)), "F": large, "b": rng.standard_normal(9), "s": rng.standard_normal()}
    arrays["every other"] = rng.standard_normal((40, 30))
    made = {name: np.array(spread * np.asarray(a), order="K").astype(dtype) for name, a in arrays.items()}
    made["every other"] = made["every other"][::3, ::-2]
    return made


def copied(arrays):
    return {name: np.array(a, order="K") for name, a in arrays.items()}


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_stats_are_those_of_what_was_written(name, rule, dtype, rng):
    params = tensors(rng, dtype)
    with kitae.use_backend(name):
        optimizer = RULES[rule](params)
        optimizer.track = True
        for _ in range(2):
            grads = tensors(rng, dtype, 0.1)
            before = {key: p.astype(np.float64) for key, p in params.items()}
            optimizer.step(grads)
        stats = optimizer.stats
    update = {key: p.astype(np.float64) - before[key] for key, p in params.items()}
    assert list(stats.parameters) == list(params)

    def check(found, g, u, w):
        # Sums in double of exact terms: rounding walks over n / 16 additions, far below this.
        expected = (
            np.sqrt((g**2).sum()),
            0,
            np.abs(u).mean() / np.abs(w).mean(),
            np.linalg.norm(u) / np.linalg.norm(w),
        )
        np.testing.assert_allclose(found, expected, rtol=1e-12)

    for key, found in stats.parameters.items():
        check(found, grads[key].astype(np.float64), update[key], before[key])
    whole = [np.concatenate([a.astype(np.float64).reshape(-1) for a in d.values()]) for d in (grads, update, before)]
    check((stats.norm, stats.nonfinite, stats.ratio, stats.ratio_l2), *whole)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_tracking_changes_no_bit_and_backends_agree(rule, dtype, rng):
    start, grads = tensors(rng, dtype), [tensors(rng, dtype, 0.1) for _ in range(2)]
    results = []
    for name, threads, track in (("reference", 1, True), ("cpu", 1, True), ("cpu", 4, True), ("cpu", 1, False)):
        kitae.set_num_threads(threads)
        params = copied(start)
        with kitae.use_backend(name):
            optimizer = RULES[rule](params)
            optimizer.track = track
            for g in grads:
                optimizer.step(g)
            results.append((params, optimizer.state_dict()["slots"], optimizer.stats))
    for params, slots, stats in results[1:]:
        for key, p in params.items():
            assert p.tobytes() == results[0][0][key].tobytes()
        for slot, arrays in slots.items():
            for a, b in zip(arrays, results[0][1][slot], strict=True):
                assert (a is None and b is None) or a.tobytes() == b.tobytes()
        if stats.parameters is not None:
            assert stats == results[0][2]
    assert results[-1][2].parameters is None
    assert math.isnan(results[-1][2].ratio)


@pytest.mark.parametrize("name", BACKENDS)
def test_worked_by_hand(name):
    params = {"W": np.array([3.0, -4.0]), "zero": np.zeros(2), "left out": np.ones(2)}
    grads = {"W": np.array([0.3, 0.4]), "zero": np.array([0.0, 0.5]), "left out": None}
    with kitae.use_backend(name):
        optimizer = kitae.SGD(params, 0.1)
        optimizer.track = True
        assert optimizer.stats.parameters is None
        optimizer.step(grads)
        stats = optimizer.stats
    np.testing.assert_allclose(stats.parameters["W"], (0.5, 0, 0.07 / 7, 0.05 / 5), rtol=1e-14)
    assert stats.parameters["zero"][:2] == (0.5, 0)
    assert stats.parameters["zero"].ratio == stats.parameters["zero"].ratio_l2 == math.inf
    assert math.isnan(stats.parameters["left out"].ratio)
    np.testing.assert_allclose(stats[:2], (math.sqrt(0.5), 0), rtol=1e-15)
    np.testing.assert_allclose(stats[3:5], (0.12 / 7, math.hypot(0.05, 0.05) / 5), rtol=1e-14)
    optimizer.track = False
    optimizer.step(grads)
    assert optimizer.stats.parameters is None


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("penalties", [{}, {"weight_decay": 0.1}], ids=["plain", "decay"])
def test_nonfinite_elements_are_counted_where_they_are(name, penalties):
    grads = [np.ones(5000, np.float32), np.ones(3, np.float32)]
    grads[0][[7, 4095, 4096, 4999]] = np.nan, np.inf, -np.inf, np.nan
    with kitae.use_backend(name):
        for rule in ("propagate", "zero", "skip"):
            optimizer = kitae.SGD([np.ones(5000, np.float32), np.ones(3, np.float32)], 0.1, nonfinite=rule, **penalties)
            optimizer.track = True
            optimizer.step(grads)
            stats = optimizer.stats
            if rule == "skip":
                assert not stats.written
                assert stats.parameters is None
                continue
            assert [of.nonfinite for of in stats.parameters.values()] == [4, 0]
            assert stats.nonfinite == 4
            norm = stats.parameters["0"].norm
            assert math.isclose(norm, math.sqrt(4996), rel_tol=1e-14) if rule == "zero" else math.isnan(norm)
            assert math.isclose(stats.parameters["1"].norm, math.sqrt(3), rel_tol=1e-14)


def test_parameters_of_16_bits_are_measured_by_their_master():
    p = np.ones(4, np.float16)
    optimizer = kitae.SGD([p], 1e-5)
    optimizer.track = True
    optimizer.step([np.ones(4, np.float16)])
    assert (p == 1).all()
    np.testing.assert_allclose(optimizer.stats.ratio, 1e-5, rtol=1e-2)  # float32 next to 1 knows 1e-5 to 0.6 %


def test_track_takes_a_bool_and_lives_through_attach():
    optimizer = kitae.Adam([np.ones(2)])
    for value in (1, None, "yes"):
        with pytest.raises(TypeError, match=r"kitae.Adam: track: expected True or False"):
            optimizer.track = value
    optimizer.track = True
    optimizer.attach({"w": np.ones(3)})
    optimizer.step({"w": np.ones(3)})
    assert set(optimizer.stats.parameters) == {"w"}
    with kitae.use_backend("reference"):
        optimizer.step({"w": np.ones(3)})
    assert set(optimizer.stats.parameters) == {"w"}
