"""DL4J's five gradient normalizations and adaptive clipping: numbers worked in float64, optax, and refusals."""

import math

import ml_dtypes
import numpy as np
import pytest

import kitae

BACKENDS = ["reference", "cpu"]
MODES = {
    "none": "None",
    "renormalize_l2_per_layer": "RenormalizeL2PerLayer",
    "renormalize_l2_per_param_type": "RenormalizeL2PerParamType",
    "clip_elementwise_absolute_value": "ClipElementWiseAbsoluteValue",
    "clip_l2_per_layer": "ClipL2PerLayer",
    "clip_l2_per_param_type": "ClipL2PerParamType",
}


def dense(rng, spread, dtype=np.float64):
    """The gradients of DL4J's TestGradientNormalization: a dense layer of 10 inputs and 20 units."""
    return {
        name: (spread * rng.uniform(-1, 1, shape)).astype(dtype) for name, shape in (("W", (10, 20)), ("b", (1, 20)))
    }


def norm(*arrays):
    """Exactly, then rounded once."""
    return math.sqrt(math.fsum(float(v) ** 2 for a in arrays for v in a.reshape(-1)))


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("spelling", [0, 1], ids=["ours", "dl4j"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("spread", [0.01, 5.0], ids=["below 3", "above 3"])
def test_the_properties_of_dl4js_own_test(name, spelling, mode, spread, rng):
    """org.deeplearning4j.nn.updater.TestGradientNormalization: W (10, 20), b (1, 20), threshold 3."""
    layers = [dense(rng, spread), dense(rng, 1.5 * spread)]
    before = [{key: g.copy() for key, g in layer.items()} for layer in layers]
    with kitae.use_backend(name):
        kitae.normalize_gradients(layers, (mode, MODES[mode])[spelling], 3.0)
    for layer, old in zip(layers, before, strict=True):
        of_layer = norm(old["W"], old["b"])
        for key in ("W", "b"):
            own = norm(old[key])
            factor = {
                "none": 1.0,
                "renormalize_l2_per_layer": 1 / of_layer,
                "renormalize_l2_per_param_type": 1 / own,
                "clip_l2_per_layer": 3 / of_layer if of_layer > 3 else 1.0,
                "clip_l2_per_param_type": 3 / own if own > 3 else 1.0,
            }.get(mode)
            expected = np.clip(old[key], -3, 3) if factor is None else old[key] * factor
            # Norm, factor and product round in double: 4 units in the last place.
            np.testing.assert_allclose(layer[key], expected, rtol=4 * 2.0**-52, atol=0)
        if mode == "renormalize_l2_per_layer":
            assert math.isclose(norm(layer["W"], layer["b"]), 1.0, rel_tol=1e-14)
        if mode == "clip_l2_per_layer":
            assert norm(layer["W"], layer["b"]) <= 3 * (1 + 1e-14)
    changed = mode != "none" and (spread == 5.0 or mode.startswith("renormalize"))
    assert changed == any((layer["W"] != old["W"]).any() for layer, old in zip(layers, before, strict=True))


@pytest.mark.parametrize("name", BACKENDS)
def test_worked_by_hand(name):
    def layers():
        return [{"W": np.array([[3.0, 0.0]]), "b": np.array([4.0])}, [np.array([0.6, 0.8])], np.zeros(3), {}]

    with kitae.use_backend(name):
        g = layers()
        assert kitae.normalize_gradients(g, "renormalize_l2_per_layer") == [5.0, 1.0, 0.0, 0.0]
        np.testing.assert_allclose(g[0]["W"], [[0.6, 0]], rtol=2.0**-52)
        np.testing.assert_allclose(g[0]["b"], [0.8], rtol=2.0**-52)
        np.testing.assert_array_equal(g[2], np.zeros(3))  # DL4J divides a norm of 0 by 1e-5: zeros stay zeros
        g = layers()
        norms = kitae.normalize_gradients(g, "clip_l2_per_param_type", 3.0)
        assert norms == [{"W": 3.0, "b": 4.0}, [1.0], [0.0], {}]
        np.testing.assert_array_equal(g[0]["W"], [[3, 0]])  # the comparison is strict
        np.testing.assert_array_equal(g[0]["b"], [3])
        g = layers()
        assert kitae.normalize_gradients(g, "clip_l2_per_layer", 2.5) == [5.0, 1.0, 0.0, 0.0]
        np.testing.assert_array_equal(g[0]["W"], [[1.5, 0]])
        np.testing.assert_array_equal(g[1][0], [0.6, 0.8])
        g = layers()
        assert kitae.normalize_gradients(g, "clip_elementwise_absolute_value", 0.7) is None
        np.testing.assert_array_equal(g[0]["b"], [0.7])
        assert kitae.normalize_gradients(g, "none") is None
        assert kitae.normalize_gradients([], "clip_l2_per_layer") == []


@pytest.mark.parametrize("name", BACKENDS)
def test_layers_themselves_and_missing_gradients(name):
    class Layer:
        def __init__(self, **grads):
            self.grads = grads

    layers = [Layer(W=np.full((2, 2), 1.0, np.float32), b=None), Layer(), Layer(W=np.full(9, 2.0, np.float16))]
    with kitae.use_backend(name):
        assert kitae.normalize_gradients(layers, "renormalize_l2_per_layer") == [2.0, 0.0, 6.0]
        np.testing.assert_array_equal(layers[0].grads["W"], np.full((2, 2), 0.5))
        np.testing.assert_array_equal(layers[2].grads["W"], np.full(9, 1 / 3, np.float16))
        assert kitae.normalize_gradients(layers, "renormalize_l2_per_param_type")[0] == {"W": 1.0, "b": 0.0}
        # A tied array belongs to the first layer that has it, and is divided once.
        tied = np.full(4, 3.0)
        assert kitae.normalize_gradients([[tied], [tied, np.full(1, 2.0)]], "renormalize_l2_per_layer") == [6.0, 2.0]
        np.testing.assert_array_equal(tied, np.full(4, 0.5))


@pytest.mark.parametrize("mode", [m for m in MODES if m != "none"])
def test_backends_and_numbers_of_threads_have_the_same_bits(mode, rng):
    shapes = [[(300, 100), (100,)], [(7,)], [(64, 3, 3, 3), (5000,)], [(20_000,), ()]]
    dtypes = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
    original = [
        [np.asarray(rng.standard_normal(s)).astype(d) for s in layer] for layer, d in zip(shapes, dtypes, strict=True)
    ]
    original[1].append(rng.standard_normal((40, 30))[::3, ::-2].astype(np.float64))
    original.append([np.array([1e200, 3e200]), np.array([1e-3])])  # squares overflow: the scaled pass
    results = []
    for name, threads in (("reference", 1), *(("cpu", t) for t in (1, 2, 3, 7))):
        kitae.set_num_threads(threads)
        layers = [[np.array(g, order="K") for g in layer] for layer in original]
        with kitae.use_backend(name):
            results.append((kitae.normalize_gradients(layers, mode, 0.5), layers))
    for norms, layers in results[1:]:
        assert norms == results[0][0]
        for layer, expected in zip(layers, results[0][1], strict=True):
            for a, b in zip(layer, expected, strict=True):
                assert a.tobytes() == b.tobytes()
    if mode.endswith("per_layer"):
        assert math.isclose(results[0][0][-1], math.hypot(1e200, 3e200), rel_tol=1e-15)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("mode", ["renormalize_l2_per_layer", "clip_l2_per_param_type"])
def test_nonfinite_rules(name, mode):
    def layers():
        return [[np.full(4, 4.0, np.float32)], {"W": np.array([3, np.nan, 4], np.float32)}]

    with kitae.use_backend(name):
        g = layers()
        with pytest.raises(
            FloatingPointError, match=r"normalize_gradients: grads\[1\]: expected finite elements, got 1"
        ):
            kitae.normalize_gradients(g, mode)
        kitae.normalize_gradients(g, mode, nonfinite="skip")
        np.testing.assert_array_equal(g[0], [np.full(4, 4.0)])
        kitae.normalize_gradients(g, mode, nonfinite="zero")
        np.testing.assert_allclose(g[1]["W"], [0.6, 0, 0.8], rtol=2.0**-22)
        g = layers()
        kitae.normalize_gradients(g, mode, nonfinite="propagate")
        assert np.isnan(g[1]["W"]).all()
        np.testing.assert_array_equal(g[0], [np.full(4, 0.5)])  # another layer is not touched by it


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (([[np.ones(2)]], "l2"), ValueError, "mode: expected one of 'none'"),
        (([[np.ones(2)]], 2), TypeError, "mode: expected one of"),
        (([[np.ones(2)]], "clip_l2_per_layer", 0.0), ValueError, r"threshold: expected a number in \(0"),
        (([[np.ones(2)]], "clip_l2_per_layer", "1"), TypeError, "threshold"),
        (({"W": np.ones(2)}, "clip_l2_per_layer"), TypeError, "layers: expected a list of layers"),
        (([[np.ones(2)], [5]], "clip_l2_per_layer"), TypeError, r"grads\[1\]: expected a numpy.ndarray"),
        (([5], "clip_l2_per_layer"), TypeError, "grads: expected a numpy.ndarray"),
        (([[np.ones(2, int)]], "clip_l2_per_layer"), TypeError, r"grads\[0\]: expected dtype float32"),
    ],
)
def test_wrong_arguments(arguments, kind, message):
    with pytest.raises(kind, match=f"kitae.normalize_gradients: {message}"):
        kitae.normalize_gradients(*arguments)


@pytest.mark.parametrize("name", BACKENDS)
def test_overlap_is_refused(name):
    memory = np.ones(10, np.float32)
    with kitae.use_backend(name), pytest.raises(ValueError, match=r"grads\[1\]: expected memory of its own"):
        kitae.normalize_gradients([[memory[:6]], [memory[5:]]], "renormalize_l2_per_layer")
    np.testing.assert_array_equal(memory, np.ones(10))


def test_adaptive_clipping_worked_by_hand():
    # Units are columns of a matrix: norms of W are 5, 0 (taken as eps) and 10, those of G 5, 1 and 0.5.
    w = np.array([[3.0, 0, 6], [4, 0, 8]])
    g = np.array([[3.0, 1, 0.3], [4, 0, 0.4]])
    kitae.clip_grad_adaptive([w], [g], 0.1, eps=0.5)
    np.testing.assert_allclose(g, [[0.3, 0.05, 0.3], [0.4, 0, 0.4]], rtol=4e-16)
    # Rows of PyTorch's (units, inputs), and of a convolution's (outputs, inputs, height, width).
    w, g = np.array([[3.0, 4], [0, 0]]), np.array([[3.0, 4], [1, 0]])
    for shape, keywords in (((2, 2), {"axis": 0}), ((2, 1, 1, 2), {}), ((2, 1, 2), {})):
        own = g.reshape(shape).copy()
        kitae.clip_grad_adaptive({"W": w.reshape(shape)}, {"W": own}, 0.1, eps=0.5, **keywords)
        np.testing.assert_allclose(own.reshape(2, 2), [[0.3, 0.4], [0.05, 0]], rtol=4e-16)
    # A vector is one unit; below the limit not a bit changes.
    bias, of_bias = np.array([3.0, 4]), np.array([0.3, 0.4])
    kitae.clip_grad_adaptive([bias, w], [of_bias, None], 0.11)
    np.testing.assert_array_equal(of_bias, [0.3, 0.4])
    kitae.clip_grad_adaptive((bias,), (of_bias,), 0.05)
    np.testing.assert_allclose(of_bias, [0.15, 0.2], rtol=4e-16)


@pytest.mark.requires_optax
def test_optax_clips_alike(rng):
    import optax

    # optax takes the inputs of a matrix first, as kitae does, and of a convolution the outputs last.
    params = {"W": rng.standard_normal((30, 20)), "b": rng.standard_normal(20), "K": rng.standard_normal((3, 3, 4, 8))}
    params = {name: value.astype(np.float32) for name, value in params.items()}
    grads = {name: (rng.standard_normal(p.shape) * 0.02).astype(np.float32) for name, p in params.items()}
    clip = optax.adaptive_grad_clip(0.01)
    theirs, _ = clip.update(grads, clip.init(params), params)
    ours = {name: g.copy() for name, g in grads.items()}
    kitae.clip_grad_adaptive(
        {name: p.transpose(3, 2, 0, 1) if name == "K" else p for name, p in params.items()},
        {name: g.transpose(3, 2, 0, 1) if name == "K" else g for name, g in ours.items()},
    )
    for name in params:
        # Theirs sums squares in float32.
        np.testing.assert_allclose(ours[name], np.asarray(theirs[name]), rtol=2e-6, err_msg=name)
        assert (ours[name] != grads[name]).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_adaptive_clipping_of_other_dtypes_rounds_once(dtype, rng):
    w, g = (rng.standard_normal((40, 30)).astype(dtype) for _ in range(2))
    wide_w, wide_g = w.astype(np.float64), g.astype(np.float64)
    most = 0.01 * np.maximum(np.sqrt((wide_w**2).sum(0)), 1e-3)
    factor = np.minimum(1, most / np.sqrt((wide_g**2).sum(0)))
    kitae.clip_grad_adaptive([w], [g])
    # The factor rounds to float32 and the product twice: to float32, to the dtype.
    allowed = 2.0**-22 + 2.0 ** -(ml_dtypes.finfo(dtype).nmant + 1)
    np.testing.assert_allclose(g.astype(np.float64), wide_g * factor, rtol=allowed, atol=2.0**-25)


def test_adaptive_clipping_and_nonfinite_gradients():
    def pair():
        return [np.ones((2, 2)), np.ones(3)], [np.ones((2, 2)), np.array([1, np.inf, 0])]

    params, grads = pair()
    with pytest.raises(FloatingPointError, match=r"clip_grad_adaptive: grads\[1\]: expected finite elements, got 1"):
        kitae.clip_grad_adaptive(params, grads)
    kitae.clip_grad_adaptive(params, grads, nonfinite="skip")
    np.testing.assert_array_equal(grads[0], np.ones((2, 2)))
    kitae.clip_grad_adaptive(params, grads, nonfinite="zero")
    np.testing.assert_allclose(grads[0], np.full((2, 2), 0.01), rtol=1e-15)
    np.testing.assert_allclose(grads[1], [0.01 * math.sqrt(3), 0, 0], rtol=1e-15)
    params, grads = pair()
    kitae.clip_grad_adaptive(params, grads, nonfinite="propagate")
    assert math.isnan(grads[1][1])


@pytest.mark.parametrize("name", BACKENDS)
def test_adaptive_clipping_knows_no_overflow(name):
    # Squares beyond float64's range on both sides, and a norm that overflows itself.
    params = [np.array([3.0, 4.0]), np.zeros(2), np.array([3e200, 4e200]), np.ones(4)]
    grads = [np.array([3e200, 4e200]), np.array([3e-200, 4e-200]), np.array([3.0, 4.0]), np.full(4, -1.5e308)]
    with kitae.use_backend(name):
        kitae.clip_grad_adaptive(params[:1], grads[:1], 0.1)
        kitae.clip_grad_adaptive(params[1:2], grads[1:2], 1.0, eps=1e-201)
        kitae.clip_grad_adaptive(params[2:], grads[2:], 0.1)
    # A root each, the limit, the quotient and the product: 5 units in the last place.
    np.testing.assert_allclose(grads[0], [0.3, 0.4], rtol=5 * 2.0**-52)
    np.testing.assert_allclose(grads[1], [6e-202, 8e-202], rtol=5 * 2.0**-52)
    np.testing.assert_array_equal(grads[2], [3, 4])
    # The factor, 0.2 / 3e308, is subnormal, with 47 of its 53 bits.
    np.testing.assert_allclose(grads[3], np.full(4, -0.1), rtol=2.0**-46)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("rule", ["raise", "skip"])
@pytest.mark.parametrize("bad", [np.inf, np.nan])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_adaptive_clipping_that_stops_writes_nothing(name, rule, bad, dtype, rng):
    params = {f"{i}": rng.standard_normal((300, 200)).astype(dtype) for i in range(3)}
    grads = {key: (5 * value[::-1, ::2]).repeat(2, 1)[:, ::2] for key, value in params.items()}
    params = {key: value[:, ::2] for key, value in params.items()}  # strided: copied inside
    grads["2"][299, 7] = bad
    before = [g.tobytes() for g in grads.values()]
    with kitae.use_backend(name):
        if rule == "raise":
            with pytest.raises(FloatingPointError, match=r"grads\['2'\]: expected finite elements, got 1 .*\(299, 7\)"):
                kitae.clip_grad_adaptive(params, grads)
        else:
            kitae.clip_grad_adaptive(params, grads, nonfinite="skip")
        assert [g.tobytes() for g in grads.values()] == before
        kitae.clip_grad_adaptive(params, grads, nonfinite="zero")
    limits = 0.01 * np.linalg.norm(params["2"].astype(np.float64), axis=0)
    np.testing.assert_allclose(np.linalg.norm(grads["2"].astype(np.float64), axis=0), limits, rtol=1e-6)
    assert grads["2"][299, 7] == 0


@pytest.mark.parametrize("name", BACKENDS)
def test_adaptive_clipping_of_parameters_that_are_not_finite(name):
    params, grads = [np.array([1.0, bad]) for bad in (np.nan, np.inf)], [np.full(2, 1e9) for _ in range(2)]
    with kitae.use_backend(name):
        kitae.clip_grad_adaptive(params, grads)
    np.testing.assert_array_equal(grads, np.full((2, 2), 1e9))


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("step", [1, 2])
def test_adaptive_clipping_of_shared_gradients(name, step):
    memory = np.full(12, 8.0)
    shared = memory[::step][:4]
    with kitae.use_backend(name):
        kitae.clip_grad_adaptive([np.ones(4), np.full(4, 1e-9)], [shared, shared], 0.5)
        np.testing.assert_allclose(shared, np.full(4, 0.5), rtol=1e-15)  # once, by the first
        with pytest.raises(ValueError, match=r"grads\[1\]: expected memory of its own"):
            kitae.clip_grad_adaptive([np.ones(4)] * 2, [memory[:4], memory[3:7]])


@pytest.mark.parametrize(
    ("params", "grads", "kind", "message"),
    [
        ([np.ones(2)], [np.ones(3)], ValueError, r"grads\[0\]: expected shape \(2,\), that of the parameter"),
        ([np.ones(2)], [np.ones(2), np.ones(2)], ValueError, "grads: expected 1 entries, one a parameter, got 2"),
        ({"W": np.ones(2)}, {"b": np.ones(2)}, ValueError, "grads: expected a dict with the keys of params"),
        ({"W": np.ones(2)}, {"W": np.ones(2, int)}, TypeError, r"grads\['W'\]: expected dtype float32"),
        ([None], [np.ones(2)], TypeError, r"params\[0\]: expected a numpy.ndarray"),
    ],
)
def test_adaptive_clipping_refuses(params, grads, kind, message):
    with pytest.raises(kind, match=f"kitae.clip_grad_adaptive: {message}"):
        kitae.clip_grad_adaptive(params, grads)
    shared = np.ones(4)
    with pytest.raises(ValueError, match="memory of its own"):
        kitae.clip_grad_adaptive([shared], [shared])
    np.testing.assert_array_equal(shared, np.ones(4))
