"""kitae.onnx and the preset "onnx", against ONNX's reference evaluator and its published node tests."""

import inspect
import re
import runpy
from pathlib import Path

import numpy as np
import pytest

import kitae
import kitae.onnx
from kitae.semantics import PRESETS

DOMAIN = "ai.onnx.preview.training"
# The evaluator computes float32 tensors in float32 in an order of its own; a few roundings a step, the last of them of
# the result. In float64 its scalars are doubles, as ours.
TOLERANCE = {np.float32: {"rtol": 3e-6, "atol": 1e-6}, np.float64: {"rtol": 1e-13, "atol": 1e-14}}
DTYPES = [np.float32, np.float64]


def evaluate(name, inputs, outputs, domain="", opset=None, **attributes):
    """One node, run by ONNX's reference evaluator."""
    import onnx
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    names = [f"i{i}" for i in range(len(inputs))]
    results = [f"o{i}" for i in range(outputs)]
    node = helper.make_node(name, names, results, domain=domain, **attributes)
    declared = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(np.asarray(v).dtype), None)
        for n, v in zip(names, inputs, strict=True)
    ]
    infos = [helper.make_tensor_value_info(n, onnx.TensorProto.UNDEFINED, None) for n in results]
    graph = helper.make_graph([node], "one", declared, infos)
    opsets = [helper.make_opsetid("", opset or onnx.defs.onnx_opset_version()), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets)
    return ReferenceEvaluator(model).run(None, dict(zip(names, inputs, strict=True)))


TRAINING = [  # name, states, attributes
    ("Adagrad", 1, {}),
    ("Adagrad", 1, {"norm_coefficient": 0.1, "epsilon": 0.25, "decay_factor": 0.3}),
    ("Adam", 2, {}),
    ("Adam", 2, {"alpha": 0.5, "beta": 0.75, "epsilon": 0.25, "norm_coefficient": 0.1}),
    ("Adam", 2, {"norm_coefficient": 0.1, "norm_coefficient_post": 0.25}),
    ("Momentum", 1, {"alpha": 0.9, "beta": 0.3, "mode": "standard", "norm_coefficient": 0.1}),
    ("Momentum", 1, {"alpha": 0.9, "beta": 0.3, "mode": "nesterov", "norm_coefficient": 0.1}),
]


@pytest.mark.requires_onnx
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "states", "attributes"), TRAINING)
def test_training_operators(name, states, attributes, dtype, rng):
    """Three tensors, eight updates from T = 0, the learning rate changed on the way: the states go round."""
    shapes = [(4, 3), (), (5,)]
    x = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    state = [np.zeros(shape, dtype) for _ in range(states) for shape in shapes]
    ours = theirs = (*x, *state)
    for t in range(8):
        rate = np.array(0.05 if t < 4 else 0.01, dtype)
        g = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
        before = [np.array(value) for value in ours]
        got = getattr(kitae.onnx, name)(rate, np.array(t, np.int64), *ours[:3], *g, *ours[3:], **attributes)
        for value, kept in zip(ours, before, strict=True):
            np.testing.assert_array_equal(value, kept)  # inputs are inputs
        theirs = evaluate(
            name, [rate, np.array(t, np.int64), *theirs[:3], *g, *theirs[3:]], len(ours), DOMAIN, **attributes
        )
        if name == "Adam":  # the evaluator makes float32 of Adam's results, and so would carry its errors on
            theirs = [np.asarray(value) for value in theirs]
            tolerance = TOLERANCE[np.float32]
        else:
            tolerance = TOLERANCE[dtype]
        assert len(got) == len(theirs)
        for mine, other in zip(got, theirs, strict=True):
            assert mine.dtype == dtype
            np.testing.assert_allclose(mine, other, **tolerance)
        ours = theirs = got  # one step at a time
    assert not np.array_equal(ours[0], x[0])


@pytest.mark.requires_onnx
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("single", [{}, {"norm_coefficient": 0.1}, {"norm_coefficient_post": 0.25}])
def test_adam_of_one_tensor(single, dtype, rng):
    """With one tensor the evaluator computes in the tensor's type: float64 to the last digits. (1 - 0.25 is exact in
    float32, in which it computes 1 - norm_coefficient_post.)"""
    x, v, h = rng.standard_normal(6).astype(dtype), np.zeros(6, dtype), np.zeros(6, dtype)
    for t in range(6):
        g, rate, count = rng.standard_normal(6).astype(dtype), np.array(0.05, dtype), np.array(t, np.int64)
        ours = kitae.onnx.Adam(rate, count, x, g, v, h, **single)
        theirs = evaluate("Adam", [rate, count, x, g, v, h], 3, DOMAIN, **single)
        for mine, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(mine, other, **TOLERANCE[dtype])
        x, v, h = ours


PRESET = [  # our class, our keywords, the operator, its attributes
    (kitae.Momentum, {}, "Momentum", {"alpha": 0.9, "beta": 1.0, "mode": "standard", "norm_coefficient": 0.0}),
    (
        kitae.Momentum,
        {"dampening": 0.75, "weight_decay": 0.125},
        "Momentum",
        {"alpha": 0.9, "beta": 0.25, "mode": "standard", "norm_coefficient": 0.125},
    ),
    (
        kitae.Nesterov,
        {"dampening": 0.75, "weight_decay": 0.125},
        "Momentum",
        {"alpha": 0.9, "beta": 0.25, "mode": "nesterov", "norm_coefficient": 0.125},
    ),
    (kitae.AdaGrad, {}, "Adagrad", {}),
    (
        kitae.AdaGrad,
        {"lr_decay": 0.25, "weight_decay": 0.125},
        "Adagrad",
        {"decay_factor": 0.25, "norm_coefficient": 0.125},
    ),
    (kitae.Adam, {}, "Adam", {}),
    (kitae.Adam, {"weight_decay": 0.125}, "Adam", {"norm_coefficient": 0.125}),
    (kitae.AdamW, {"weight_decay": 0.125}, "Adam", {"norm_coefficient_post": 0.125}),
]


@pytest.mark.requires_onnx
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("number", range(len(PRESET)))
def test_preset(number, dtype, rng):
    """A whole run of ours; theirs carries its own results on."""
    cls, keywords, name, attributes = PRESET[number]
    w = rng.standard_normal(7).astype(dtype)
    theirs = [w.copy(), *(np.zeros(7, dtype) for _ in range(2 if name == "Adam" else 1))]
    if "alpha" in attributes:
        keywords = {**keywords, "momentum": float(np.float32(attributes["alpha"]))}
    optimizer = cls(w, semantics="onnx", **keywords)
    for t in range(12):
        optimizer.lr = 0.25 if t < 6 else 0.0625
        g = rng.standard_normal(7).astype(dtype)
        optimizer.step(g)
        inputs = [np.array(optimizer.lr, dtype), np.array(t, np.int64), theirs[0], g, *theirs[1:]]
        theirs = evaluate(name, inputs, len(theirs), DOMAIN, **attributes)
    # Twelve steps, each with a few roundings of numbers up to 10 (float32) that stay.
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype is np.float32 else {"rtol": 1e-12, "atol": 1e-13}
    np.testing.assert_allclose(w, theirs[0], **tolerance)


@pytest.mark.requires_onnx
def test_defaults_are_the_schemas():
    import onnx

    for name in ("Adagrad", "Adam", "Momentum", "BatchNormalization"):
        schema = onnx.defs.get_schema(name, domain=DOMAIN if name != "BatchNormalization" else "")
        parameters = inspect.signature(getattr(kitae.onnx, name)).parameters
        for attribute, definition in schema.attributes.items():
            ours = parameters[attribute].default
            if definition.required:
                assert ours is inspect.Parameter.empty
            else:
                assert np.float32(ours) == np.float32(onnx.helper.get_attribute_value(definition.default_value))
    adam, adagrad, norm = (PRESETS["onnx"][kind] for kind in ("Adam", "AdaGrad", "BatchNorm"))
    values = {
        ("Adam", "alpha"): adam["beta1"],
        ("Adam", "beta"): adam["beta2"],
        ("Adam", "epsilon"): adam["eps"],
        ("Adagrad", "epsilon"): adagrad["eps"],
        ("BatchNormalization", "epsilon"): norm["eps"],
        ("BatchNormalization", "momentum"): norm["running_decay"],
    }
    for (name, attribute), value in values.items():
        schema = onnx.defs.get_schema(name, domain=DOMAIN if name != "BatchNormalization" else "")
        assert value == onnx.helper.get_attribute_value(schema.attributes[attribute].default_value)


# BatchNormalization


@pytest.mark.requires_onnx
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (2, 3, 4, 5)])
@pytest.mark.parametrize("attributes", [{}, {"epsilon": 0.1, "momentum": 0.3}])
def test_batch_normalization(attributes, shape, dtype, rng):
    x = (2 * rng.standard_normal(shape) + 1).astype(dtype)
    scale, b, mean = rng.standard_normal((3, 3)).astype(dtype)
    var = rng.uniform(0.5, 2, 3).astype(dtype)
    inputs = [x, scale, b, mean, var]
    before = [array.copy() for array in inputs]
    # The evaluator's moments of float32 are sums in float32.
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype is np.float32 else {"rtol": 1e-12, "atol": 1e-13}
    y = kitae.onnx.BatchNormalization(*inputs, **attributes)
    np.testing.assert_allclose(y, evaluate("BatchNormalization", inputs, 1, **attributes)[0], **tolerance)
    ours = kitae.onnx.BatchNormalization(*inputs, training_mode=1, **attributes)
    theirs = evaluate("BatchNormalization", inputs, 3, training_mode=1, **attributes)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == dtype
        np.testing.assert_allclose(mine, other, **tolerance)
    for array, kept in zip(inputs, before, strict=True):
        np.testing.assert_array_equal(array, kept)


def test_batch_normalization_of_one_dimension_and_mixed_types(rng):
    x = rng.standard_normal(8).astype(np.float32)
    one = np.ones(1, np.float32)
    y, mean, var = kitae.onnx.BatchNormalization(x, one, 0 * one, 0 * one, one, training_mode=1)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(y, (wide - wide.mean()) / np.sqrt(wide.var() + 1e-5), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose([mean[0], var[0]], [0.1 * wide.mean(), 0.9 + 0.1 * wide.var()], rtol=1e-6)
    half = np.array([1.5], np.float16)
    y, mean, var = kitae.onnx.BatchNormalization(x, half, 0 * half, 0 * half, half, training_mode=1)
    assert (y.dtype, mean.dtype, var.dtype) == (np.float32, np.float16, np.float16)
    np.testing.assert_allclose(y, 1.5 * (wide - wide.mean()) / np.sqrt(wide.var() + 1e-5), rtol=1e-5, atol=1e-6)


# Dropout


@pytest.mark.requires_onnx
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.5, 0.75])
@pytest.mark.parametrize("training", [False, True])
def test_dropout_of_the_evaluator_s_generator(training, ratio, dtype, rng):
    x = rng.standard_normal((3, 4, 5)).astype(dtype)
    inputs = [x, np.array(ratio, dtype), np.array(training)]
    output, mask = kitae.onnx.Dropout(*inputs, seed=7, rng="numpy")
    expected, expected_mask = evaluate("Dropout", inputs, 2, seed=7)
    assert (output.dtype, mask.dtype) == (dtype, bool)
    np.testing.assert_array_equal(mask, expected_mask)
    # 1 / (1 - ratio) is theirs in the ratio's type.
    np.testing.assert_allclose(output, expected, rtol=4 * np.finfo(dtype).eps)


def test_dropout():
    x = np.arange(1.0, 10001.0, dtype=np.float32).reshape(100, 100)
    output, mask = kitae.onnx.Dropout(x, np.array(0.25, np.float32), np.array(True), seed=-3)
    np.testing.assert_allclose(output, np.where(mask, x.astype(np.float64) / 0.75, 0), rtol=2**-23)
    assert abs(mask.mean() - 0.75) < 5 * np.sqrt(0.25 * 0.75 / x.size)
    np.testing.assert_array_equal(kitae.onnx.Dropout(x, 0.25, True, seed=-3)[1], mask)
    assert not np.array_equal(kitae.onnx.Dropout(x, 0.25, True)[1], kitae.onnx.Dropout(x, 0.25, True)[1])
    output, mask = kitae.onnx.Dropout(x)
    assert output is x
    assert mask.all()
    assert mask.shape == x.shape


# Errors


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda f, i: kitae.onnx.Adam(0.1, 0, f, f), ValueError, "onnx.Adam: tensors: expected n each of X, G, V, H"),
        (lambda f, i: kitae.onnx.Adagrad(0.1, 0, f, i, f), TypeError, "onnx.Adagrad: G1: expected float32 or float64"),
        (lambda f, i: kitae.onnx.Adagrad(0.1, 0, f, f[:1], f), ValueError, "onnx.Adagrad: G1: expected shape"),
        (lambda f, i: kitae.onnx.Adagrad(0.1, -1, f, f, f), ValueError, "onnx.Adagrad: T: expected an integer"),
        (lambda f, i: kitae.onnx.Adagrad("x", 0, f, f, f), TypeError, "onnx.Adagrad: R: expected a number"),
        (lambda f, i: kitae.onnx.Adam(0.1, 0, f, f, f, f, alpha=1.0), ValueError, "onnx.Adam: alpha: expected"),
        (lambda f, i: kitae.onnx.Dropout(f, 1.5), ValueError, "onnx.Dropout: ratio: expected a number"),
        (lambda f, i: kitae.onnx.Dropout(f, 0.5, 1), TypeError, "onnx.Dropout: training_mode: expected True or False"),
        (
            lambda f, i: kitae.onnx.BatchNormalization(f, f, f, f, f),
            ValueError,
            r"onnx.BatchNormalization: scale: expected an array of shape \(1,\)",
        ),
        (
            lambda f, i: kitae.onnx.BatchNormalization([1.0], f, f, f, f),
            TypeError,
            "onnx.BatchNormalization: X: expected",
        ),
        (
            lambda f, i: kitae.onnx.BatchNormalization(f, f, f, f, f, training_mode=2),
            ValueError,
            "onnx.BatchNormalization: training_mode: expected",
        ),
        (lambda f, i: kitae.onnx.Relu(f), AttributeError, "kitae.onnx has no 'Relu'; it covers Adagrad, Adam, Batch"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call(np.ones(3, np.float32), np.ones(3, np.int32))


@pytest.mark.requires_onnx
def test_example(capsys):
    runpy.run_path(str(Path(__file__).parent.parent / "examples" / "onnx_digits.py"))
    text = capsys.readouterr().out
    assert [float(right) > 95 for right in re.findall(r"([\d.]+)% of the test images", text)] == [True, True]
    # Rounding of single precision, grown by 200 steps of training: seen 1e-3, where weights are of size 1.
    assert float(re.search(r"largest difference of a parameter is (\S+)", text)[1]) < 0.02


# ONNX's published node tests


NODE_TESTS = {
    "adagrad": "Adagrad",
    "adam": "Adam",
    "momentum": "Momentum",
    "batch_normalization": "BatchNormalization",
    "dropout": "Dropout",
}


@pytest.mark.requires_onnx
@pytest.mark.parametrize("module", NODE_TESTS)
def test_published_node_tests(module, monkeypatch):
    """Run the module's exports with `expect` replaced by a comparison."""
    import importlib

    import onnx

    node_tests = importlib.import_module(f"onnx.backend.test.case.node.{module}")
    seen = []

    def expect(node, inputs, outputs, name, **keywords):
        if keywords.get("opset_imports") and node.op_type == "Dropout":
            return  # opset 11: no training there
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        attributes = {k: v.decode() if isinstance(v, bytes) else v for k, v in attributes.items()}
        if node.op_type == "Dropout":
            attributes["rng"] = "numpy"
        results = getattr(kitae.onnx, node.op_type)(*inputs, **attributes)
        results = results if isinstance(results, tuple) else (results,)
        for ours, theirs in zip(results, outputs, strict=node.op_type != "Dropout"):
            assert ours.dtype == theirs.dtype
            np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=2e-6)
        seen.append(name)

    monkeypatch.setattr(node_tests, "expect", expect)
    case = getattr(node_tests, NODE_TESTS[module])
    exports = [getattr(case, name) for name in dir(case) if name.startswith("export")]
    for export in exports:
        np.random.seed(0)  # noqa: NPY002  the tests' own generator
        export()
    assert len(seen) >= len(exports) - (2 if module == "dropout" else 0)
