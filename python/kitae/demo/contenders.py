"""The three networks of the demo: the same definition and the same initial weights, three implementations."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import kitae
from kitae import nn
from kitae.bench import textbook

HIDDEN_LAYERS = 5
HIDDEN_UNITS = 100
DROP = 0.2
LEARNING_RATE = 1e-3
MAX_NORM = 1.0

# What the time of a step is split into.
DENSE, BATCH_NORM, DROPOUT, LOSS, UPDATE = KERNELS = (
    "dense",
    "batch norm + ReLU",
    "dropout",
    "softmax + loss",
    "clip + Adam",
)


@dataclass
class Contender:
    """One implementation. ``layers``: (kernel, layer) in forward order, the kernel saying where its time is counted.

    ``update()`` clips and applies the gradients of the latest backward pass; ``state()`` is a dict of all parameters,
    running statistics and optimizer slots; ``backend`` names kitae's backend, None for the textbook.
    """

    name: str
    backend: str | None
    layers: list[tuple[str, Any]]
    loss: Any
    update: Callable[[], object]
    state: Callable[[], dict[str, Any]]

    def active(self) -> AbstractContextManager[Any]:
        """The context in which this contender's code runs."""
        return nullcontext() if self.backend is None else kitae.use_backend(self.backend)

    def predict(self, x: NDArray[Any]) -> NDArray[np.intp]:
        for _, layer in self.layers:
            x = layer.forward(x, training=False)
        return x.argmax(axis=1)


def layer_sizes(pixels: int, classes: int) -> list[int]:
    return [pixels] + [HIDDEN_UNITS] * HIDDEN_LAYERS + [classes]


def make_contenders(weights: list[NDArray[Any]], seed: int) -> list[Contender]:
    """Textbook, reference and native, each with its own copy of ``weights`` (one matrix a dense layer)."""
    return [
        textbook_contender("textbook NumPy", weights, seed),
        kitae_contender("kitae reference", "reference", weights, seed),
        kitae_contender("kitae native", "cpu", weights, seed),
    ]


def textbook_contender(name: str, weights: list[NDArray[Any]], seed: int, drop: float = DROP) -> Contender:
    network = textbook.Network([w.copy() for w in weights], drop, np.random.default_rng(seed))
    optimizer = textbook.Adam(lr=LEARNING_RATE)

    def update() -> None:
        grads = network.grads
        textbook.clip_grads(grads.values(), MAX_NORM)
        optimizer.update(network.params, grads)

    kernel_of: dict[type, str] = {
        textbook.Affine: DENSE,
        textbook.BatchNormalization: BATCH_NORM,
        textbook.ReLU: BATCH_NORM,
        textbook.Dropout: DROPOUT,
    }
    layers = [(kernel_of[type(layer)], layer) for layer in network.layers]
    return Contender(name, None, layers, network.loss, update, lambda: dict(network.params))


def kitae_contender(name: str, backend: str, weights: list[NDArray[Any]], seed: int, drop: float = DROP) -> Contender:
    """The same network from kitae's layers."""
    kitae.seed(seed)
    layers = kitae_layers(weights, drop)
    with kitae.use_backend(backend):
        network = nn.Sequential(layer for _, layer in layers)
        network.build((1, weights[0].shape[0]), np.float32)
        optimizer = kitae.Adam(network.params, LEARNING_RATE, max_norm=MAX_NORM)
        optimizer.bind(network.grads)

    def state() -> dict[str, Any]:
        values = {**network.params, **network.buffers}
        for slot, arrays in optimizer.state_dict()["slots"].items():
            values |= {f"{slot} of {name}": array for name, array in zip(network.params, arrays, strict=True)}
        return values

    return Contender(name, backend, layers, nn.SoftmaxCrossEntropy(), optimizer.step, state)


def kitae_layers(weights: list[NDArray[Any]], drop: float) -> list[tuple[str, Any]]:
    """(kernel, layer) in forward order.

    ``unbiased=False`` and ``scale="classic"`` are the textbook's conventions where kitae's defaults are others: the
    biased running variance, and dropout that scales at inference instead of in training.
    """
    layers: list[tuple[str, Any]] = []
    for weight in weights[:-1]:
        layers += [
            (DENSE, nn.Dense(weight.shape[1], init=given(weight))),
            (BATCH_NORM, kitae.BatchNorm(activation="relu", unbiased=False)),
            (DROPOUT, kitae.Dropout(drop, scale="classic")),
        ]
    return [*layers, (DENSE, nn.Dense(weights[-1].shape[1], init=given(weights[-1])))]


def given(weight: NDArray[Any]) -> Callable[..., NDArray[Any]]:
    """An initialization that ignores the generator: all contenders start from the same weights."""
    return lambda shape, generator: weight
