"""Bad input that takes two: memory shared between arguments, lists and dicts that do not fit, damaged state.

As in the bad-input matrix: the stated exception, a message with op, argument, expected and got, nothing written.
"""

import copy
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import kitae
from bad_input_targets import OPTIMIZERS
from test_bad_input import assert_same


def numbers(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.5, 2.0, shape).astype(np.float32)


def overlapping() -> tuple[np.ndarray, np.ndarray]:
    """Two arrays of 12 elements that share one."""
    memory = numbers(1, 23)
    return memory[:12].reshape(3, 4), memory[11:].reshape(3, 4)


def refused(call: Callable[[], Any], error: type[Exception], name: str, *arrays: np.ndarray, got: str = ".+") -> None:
    """``call`` raises in words that name ``name``, and leaves the arrays alone, on both backends."""
    for backend in ("cpu", "reference"):
        before = [array.copy() for array in arrays]
        with (
            kitae.use_backend(backend),
            pytest.raises(error, match=rf"^kitae\.{re.escape(name)}: expected .+, got {got}"),
        ):
            call()
        assert_same(list(arrays), before, "array ")


@pytest.fixture(params=list(OPTIMIZERS))
def optimizer(request: pytest.FixtureRequest) -> Any:
    return getattr(kitae, request.param)


def test_gradient_is_the_parameter(optimizer):
    w = numbers(1, 3, 4)
    refused(lambda: optimizer([w]).step([w]), ValueError, f"{optimizer.__name__}.step: grads[0]", w)


def test_gradient_meets_a_parameter_in_one_element(optimizer):
    w, g = overlapping()
    other = numbers(2, 5)
    refused(
        lambda: optimizer([other, w]).step([other.copy(), g]), ValueError, f"{optimizer.__name__}.step: grads[1]", w, g
    )


def test_gradient_is_another_parameter(optimizer):
    first, second = numbers(1, 4), numbers(2, 4)
    refused(
        lambda: optimizer([first, second]).step([second, first]),
        ValueError,
        f"{optimizer.__name__}.step: grads[0]",
        first,
        second,
    )


def test_parameters_meet_in_one_element(optimizer):
    refused(
        lambda: optimizer(list(overlapping())), ValueError, f"{optimizer.__name__}.attach: params[1]", *overlapping()
    )


def test_two_gradients_may_be_the_same_array(optimizer):
    results = []
    for shared in (True, False):
        params, g = [numbers(1, 4), numbers(2, 4)], numbers(3, 4)
        optimizer(params).step([g, g if shared else g.copy()])
        results.append(params)
    assert_same(results[0], results[1], "parameters")


def test_wrong_number_of_gradients(optimizer):
    w = numbers(1, 4)
    name = f"{optimizer.__name__}.step: grads"
    for grads in ([], [numbers(2, 4)] * 2):
        opt = optimizer([w])
        refused(lambda opt=opt, grads=grads: opt.step(grads), ValueError, name, w, got=str(len(grads)))
        assert opt.steps == 0


@pytest.mark.parametrize("grads", [numbers(2, 4), "no", iter([]), {"w": numbers(2, 4)}, 3])
def test_gradients_of_another_structure(grads):
    w = numbers(1, 4)
    refused(lambda: kitae.Adam([w]).step(grads), TypeError, "Adam.step: grads", w)
    refused(lambda: kitae.Adam([w]).bind(grads), TypeError, "Adam.bind: grads", w)


@pytest.mark.parametrize("grads", [{"a": numbers(2, 4)}, {"a": numbers(2, 4), "b": numbers(3, 4), "c": numbers(4, 4)}])
def test_missing_and_unknown_keys(grads):
    a, b = numbers(1, 4), numbers(2, 4)
    refused(lambda: kitae.Adam({"a": a, "b": b}).step(grads), ValueError, "Adam.step: grads", a, b, got="missing")


@pytest.mark.parametrize("params", [[], {}, [{"params": []}]])
def test_no_parameters(params):
    refused(lambda: kitae.Adam(params), ValueError, "Adam.attach: params")


def test_groups():
    w = numbers(1, 4)
    refused(lambda: kitae.Adam([{"lr": 0.1}]), ValueError, "Adam.attach: params[0]")
    refused(lambda: kitae.Adam([{"params": [w], "learning_rate": 0.1}]), ValueError, "Adam.attach: params[0]", w)
    refused(lambda: kitae.Adam([{"params": [w], "lr": -0.1}]), ValueError, "Adam: lr", w)


def test_step_without_anything():
    w = numbers(1, 4)
    refused(lambda: kitae.Adam().step([w]), RuntimeError, "Adam.step: self", w)
    refused(lambda: kitae.Adam([w]).step(), TypeError, "Adam.step: grads", w)


def test_hyperparameter_made_wrong_between_steps():
    w, g = numbers(1, 4), numbers(2, 4)
    opt = kitae.Adam([w])
    opt.groups[0]["beta1"] = 1.5
    refused(lambda: opt.step([g]), ValueError, "Adam: beta1", w, g)
    assert opt.steps == 0


def damaged_states() -> list[Any]:
    def change(**entries: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
        return lambda state: {**state, **entries}

    def slot(array: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
        return lambda state: {**state, "slots": {**state["slots"], "v": [array]}}

    return [
        pytest.param(lambda state: None, TypeError, "d", id="none"),
        pytest.param(lambda state: [], TypeError, "d", id="list"),
        pytest.param(lambda state: {}, ValueError, "d", id="empty"),
        pytest.param(change(version=2), ValueError, "version", id="version"),
        pytest.param(change(kind="SGD"), ValueError, "kind", id="kind"),
        pytest.param(change(names=["other"]), ValueError, "names", id="names"),
        pytest.param(change(steps=-1), ValueError, "steps", id="negative steps"),
        pytest.param(change(steps=2**63), ValueError, "steps", id="steps 2**63"),
        pytest.param(change(steps=1.0), TypeError, "steps", id="steps 1.0"),
        pytest.param(change(groups=[]), ValueError, "groups", id="no groups"),
        pytest.param(change(slots={}), ValueError, "slots", id="no slots"),
        pytest.param(slot(numbers(1, 5)), ValueError, "slots['v'][0]", id="slot's shape"),
        pytest.param(slot(np.zeros(4)), ValueError, "slots['v'][0]", id="slot's dtype"),
        pytest.param(slot([0.0] * 4), TypeError, "slots['v'][0]", id="slot is a list"),
    ]


@pytest.mark.parametrize(("damage", "error", "argument"), damaged_states())
def test_damaged_state(damage, error, argument):
    w = numbers(1, 4)
    opt = kitae.Adam({"w": w})
    opt.step({"w": numbers(2, 4)})
    before = copy.deepcopy(opt.state_dict())
    state = damage(opt.state_dict())
    refused(lambda: opt.load_state_dict(state), error, f"Adam.load_state_dict: {argument}", w)
    assert_same(opt.state_dict(), before, "state")


def test_last_step_number():
    w = numbers(1, 4)
    opt = kitae.Adam({"w": w})
    opt.load_state_dict({**opt.state_dict(), "steps": 2**63 - 2})
    opt.step({"w": numbers(2, 4)})
    assert opt.steps == 2**63 - 1
    refused(lambda: opt.step({"w": numbers(2, 4)}), OverflowError, "Adam.step: steps", w)


@pytest.mark.parametrize("name", ["clip_grad_norm", "clip_grad_value"])
def test_clipped_arrays_meet_in_one_element(name):
    first, second = overlapping()
    refused(lambda: getattr(kitae, name)([first, second], 0.5), ValueError, f"{name}: grads[1]", first, second)


@pytest.mark.parametrize("name", ["clip_grad_norm", "clip_grad_value"])
def test_an_array_listed_twice_is_clipped_once(name):
    once, twice = numbers(1, 50), numbers(1, 50)
    getattr(kitae, name)([once], 0.75)
    getattr(kitae, name)([twice, twice], 0.75)
    assert_same(twice, once, "gradient")


@pytest.mark.parametrize("name", ["global_norm", "clip_grad_norm", "clip_grad_value"])
@pytest.mark.parametrize("grads", [(array for array in ()), iter([numbers(1, 4)]), None, "no", 3.0, {1, 2}])
def test_not_a_list_of_arrays(name, grads):
    arguments = [] if name == "global_norm" else [1.0]
    refused(lambda: getattr(kitae, name)(grads, *arguments), TypeError, f"{name}: grads")


def vectors() -> dict[str, np.ndarray]:
    return {name: numbers(i, 4) for i, name in enumerate(("gamma", "beta", "running_mean", "running_var"))}


@pytest.mark.parametrize(
    ("first", "second", "named"),
    [
        ("running_mean", "running_var", "running_mean"),
        ("gamma", "running_mean", "running_mean"),
        ("beta", "running_var", "running_var"),
    ],
)
def test_running_statistics_share_memory(first, second, named):
    given = vectors()
    given[second] = given[first]
    x = numbers(9, 3, 4)
    refused(
        lambda: kitae.batch_norm(x, *given.values(), training=True),
        ValueError,
        f"batch_norm: {named}",
        x,
        *given.values(),
    )


def test_running_statistics_inside_of_x():
    x = numbers(9, 3, 4)
    given = {**vectors(), "running_mean": x[1]}
    refused(
        lambda: kitae.batch_norm(x, *given.values(), training=True),
        ValueError,
        "batch_norm: running_mean",
        x,
        *given.values(),
    )


def test_one_running_statistic():
    x = numbers(9, 3, 4)
    given = vectors()
    for missing in ("running_mean", "running_var"):
        partly = {**given, missing: None}
        refused(
            lambda p=partly: kitae.batch_norm(x, *p.values(), training=True), TypeError, f"batch_norm: {missing}", x
        )


def test_normalized_in_place():
    given, x = vectors(), numbers(9, 3, 4)
    refused(lambda: kitae.batch_norm(x, *given.values(), training=True, out=x), ValueError, "batch_norm: out", x)
    expected, _ = kitae.batch_norm(x, *given.values(), training=False)
    kitae.batch_norm(x, *given.values(), training=False, out=x)
    assert_same(x, expected, "out")


def test_outputs_that_meet_inputs_in_one_element():
    x, out = overlapping()
    given = vectors()
    for training in (True, False):
        refused(
            lambda t=training: kitae.batch_norm(x, *given.values(), training=t, out=out),
            ValueError,
            "batch_norm: out",
            x,
            out,
            *given.values(),
        )
    refused(lambda: kitae.dropout(x, 0.5, seed=1, out=out), ValueError, "dropout: out", x, out)
    _, mask = kitae.dropout(numbers(3, 3, 4), 0.5, seed=1)
    refused(lambda: kitae.dropout_backward(x, mask, out=out), ValueError, "dropout_backward: out", x, out)
    _, saved = kitae.batch_norm(numbers(3, 3, 4), *given.values(), training=True)
    refused(lambda: kitae.batch_norm_backward(x, saved, out=out), ValueError, "batch_norm_backward: out", x, out)


def test_not_what_the_forward_pass_returned():
    dout = numbers(1, 3, 4)
    for wrong in (None, "mask", dout > 1, (1, 2)):
        refused(lambda w=wrong: kitae.dropout_backward(dout, w), TypeError, "dropout_backward: mask", dout)
        refused(lambda w=wrong: kitae.batch_norm_backward(dout, w), TypeError, "batch_norm_backward: saved", dout)


@pytest.mark.parametrize(
    ("bits", "error"),
    [
        (np.zeros(7, np.uint8), ValueError),
        (np.zeros(16, np.uint8)[::2], ValueError),
        (np.zeros(8, np.int8), TypeError),
        ([0] * 8, TypeError),
    ],
)
def test_damaged_mask(bits, error):
    dout = numbers(1, 3, 4)
    _, mask = kitae.dropout(dout, 0.5, seed=1)
    mask.bits = bits
    refused(lambda: kitae.dropout_backward(dout, mask), error, "dropout_backward: mask.bits", dout)


def test_both_rates():
    refused(lambda: kitae.Dropout(0.5, retain=0.5), ValueError, "Dropout: retain")


def test_backward_before_forward():
    dout = numbers(1, 3, 4)
    refused(lambda: kitae.Dropout().backward(dout), RuntimeError, "Dropout.backward: dout", dout)
    refused(lambda: kitae.BatchNorm(4).backward(dout), RuntimeError, "BatchNorm.backward: dout", dout)


@pytest.mark.parametrize("layer", [None, 3, object(), np.zeros(3)])
def test_connect_to_no_layer(layer):
    refused(lambda: kitae.DropConnect(layer), TypeError, "DropConnect: layer")


@pytest.mark.parametrize("shape", [(-1,), (2, 1.5), ("3",), [2**62, 4], (None,)])
def test_mask_of_a_bad_shape(shape):
    with pytest.raises((TypeError, ValueError), match=r"^kitae\.dropout_mask: shape.*: expected .+, got "):
        kitae.dropout_mask(shape, 0.5, seed=1)
