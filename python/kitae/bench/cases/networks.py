"""Whole networks: a training step of a convolutional one, and one of the demo's fully connected one."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kitae.demo.contenders import DROP, LEARNING_RATE, MAX_NORM, layer_sizes

from .. import textbook, textbook_convolution
from .row import Case, Expected, Inputs, Results, Size, Traffic

FAMILY = "network"
CHANNELS, CLASSES = (16, 32), 10


def _make_convolutional(rng: np.random.Generator, size: Size, dtype: np.dtype) -> Inputs:
    _, in_channels, height, width = size.shape
    weights = []
    for channels in CHANNELS:
        deviation = np.sqrt(2 / (9 * in_channels))
        weights.append((deviation * rng.standard_normal((channels, in_channels, 3, 3))).astype(dtype))
        in_channels = channels
    sizes = [in_channels * (height // 2) * (width // 2), CLASSES]
    return _inputs(rng, size, [*weights, *textbook.he_weights(sizes, rng, dtype)], (*CHANNELS, CLASSES))


def _make_fully_connected(rng: np.random.Generator, size: Size, dtype: np.dtype) -> Inputs:
    """``drop`` and ``max_norm`` are the demo's unless the size's options say otherwise."""
    sizes = layer_sizes(size.shape[1], CLASSES)
    inputs = _inputs(rng, size, textbook.he_weights(sizes, rng, dtype), sizes[1:])
    return inputs | {"drop": DROP, "max_norm": MAX_NORM} | dict(size.options)


def _inputs(rng: np.random.Generator, size: Size, weights: Sequence[np.ndarray], units: Sequence[int]) -> Inputs:
    """Images, labels, and the parameters to start from in the order in which every network lists its own."""
    params: dict[str, np.ndarray] = {}
    for i, (weight, count) in enumerate(zip(weights, units, strict=True), 1):
        params |= {f"W{i}": weight, f"b{i}": np.zeros(count, weight.dtype)}
        if i < len(weights):
            params |= {f"gamma{i}": np.ones(count, weight.dtype), f"beta{i}": np.zeros(count, weight.dtype)}
    return {
        "x": rng.standard_normal(size.shape).astype(weights[0].dtype),
        "labels": rng.integers(CLASSES, size=size.shape[0]),
        "params": params,
    }


def _call(inputs: Inputs, out: Mapping[str, np.ndarray]) -> Results:
    from ..contenders.networks import kitae_step

    call, results = kitae_step(inputs)
    return results(call())


def _convolutional_expected(inputs: Inputs) -> dict[str, Expected]:
    """The loss and all gradients of the first step, by the textbook in float64."""
    params = {name: array.astype(np.float64) for name, array in inputs["params"].items()}
    network = textbook_convolution.Network(params)
    loss = network.step(inputs["x"].astype(np.float64), inputs["labels"])
    return {"loss": Expected(loss)} | {name: Expected(grad) for name, grad in network.grads.items()}


def _fully_connected_expected(inputs: Inputs) -> dict[str, Expected]:
    """The same, the gradients as they are before clipping; "new W1" and so on: the parameters after the clipped step.

    Only without dropout: everyone draws masks of their own.
    """
    assert inputs["drop"] == 0
    names = list(inputs["params"])
    weights = [array.astype(np.float64) for name, array in inputs["params"].items() if name.startswith("W")]
    network = textbook.Network(weights, drop=0.0)
    loss, grads = network.gradient(inputs["x"].astype(np.float64), inputs["labels"])
    expected = {name: Expected(grad.copy()) for name, grad in zip(names, grads.values(), strict=True)}
    textbook.clip_grads(grads.values(), inputs["max_norm"])
    textbook.Adam(lr=LEARNING_RATE).update(network.params, grads)
    after = {f"new {name}": Expected(array) for name, array in zip(names, network.params.values(), strict=True)}
    return {"loss": Expected(loss)} | expected | after


def _traffic(inputs: Inputs, level2: int) -> Traffic:
    """What no implementation can keep on the chip: the images, the parameters and Adam's two moments."""
    params: Any = inputs["params"]
    update = 3 * sum(array.nbytes for array in params.values())
    return Traffic(inputs["x"].nbytes + update, update)


CASES: tuple[Case, ...] = (
    Case(
        name="convolutional_step",
        family=FAMILY,
        dtypes=("float32",),
        test_sizes=(),
        make=_make_convolutional,
        call=_call,
        expected=_convolutional_expected,
        tolerance={},
        bench_sizes=(Size("100x1x28x28", ((100, 1, 28, 28),), quick=True),),
        traffic=_traffic,
    ),
    Case(
        name="fully_connected_step",
        family=FAMILY,
        dtypes=("float32",),
        test_sizes=(),
        make=_make_fully_connected,
        call=_call,
        expected=_fully_connected_expected,
        tolerance={},
        bench_sizes=(Size("128x784", ((128, 784),), quick=True),),
        traffic=_traffic,
    ),
)
