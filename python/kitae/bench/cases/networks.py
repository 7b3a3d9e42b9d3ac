"""Whole networks: a training step of a convolutional one."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import textbook_convolution
from .row import Case, Expected, Inputs, Results, Size, Traffic

FAMILY = "network"
CHANNELS, CLASSES = (16, 32), 10
LEARNING_RATE = 1e-3


def _make(rng: np.random.Generator, size: Size, dtype: np.dtype) -> Inputs:
    """Images, labels, and the parameters to start from: He's distribution, batch norms as they are at first."""
    samples, in_channels, height, width = size.shape
    params: dict[str, np.ndarray] = {}
    for i, channels in enumerate(CHANNELS, 1):
        deviation = np.sqrt(2 / (9 * in_channels))
        params[f"W{i}"] = (deviation * rng.standard_normal((channels, in_channels, 3, 3))).astype(dtype)
        params |= {f"{name}{i}": np.zeros(channels, dtype) for name in ("b", "beta")}
        params[f"gamma{i}"] = np.ones(channels, dtype)
        in_channels = channels
    inputs = in_channels * (height // 2) * (width // 2)
    params["W3"] = (np.sqrt(2 / inputs) * rng.standard_normal((inputs, CLASSES))).astype(dtype)
    params["b3"] = np.zeros(CLASSES, dtype)
    return {
        "x": rng.standard_normal(size.shape).astype(dtype),
        "labels": rng.integers(CLASSES, size=samples),
        "params": params,
    }


def _call(inputs: Inputs, out: Mapping[str, np.ndarray]) -> Results:
    from ..contenders.networks import kitae_step

    call, results = kitae_step(inputs)
    return results(call())


def _expected(inputs: Inputs) -> dict[str, Expected]:
    """The loss and all gradients of the first step, by the textbook in float64."""
    params = {name: array.astype(np.float64) for name, array in inputs["params"].items()}
    network = textbook_convolution.Network(params)
    loss = network.step(inputs["x"].astype(np.float64), inputs["labels"])
    return {"loss": Expected(loss)} | {name: Expected(grad) for name, grad in network.grads.items()}


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
        make=_make,
        call=_call,
        expected=_expected,
        tolerance={},
        bench_sizes=(Size("100x1x28x28", ((100, 1, 28, 28),), quick=True),),
        traffic=_traffic,
    ),
)
