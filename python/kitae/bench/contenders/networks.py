"""A training step of the same convolutional network: forward, loss, backward, Adam."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

import kitae
from kitae import nn

from .. import textbook, textbook_convolution
from ..cases import Inputs, Results
from ..cases.networks import CHANNELS, CLASSES, LEARNING_RATE
from .contender import Contender, Contenders, torch_if_installed

# From layer to layer, as every network lists its own.
_NAMES = ("W1", "b1", "gamma1", "beta1", "W2", "b2", "gamma2", "beta2", "W3", "b3")

Step = tuple[Callable[[], Any], Callable[[Any], Results]]


def contenders(case: str, inputs: Inputs) -> Contenders:
    made = [Contender("textbook", "", "in place", *_textbook_step(inputs))]
    torch = torch_if_installed()
    if torch is not None:
        made += [
            Contender("PyTorch", variant, "in place", *_torch_step(torch, inputs, **options))
            for variant, options in (
                ("", {}),
                ("fused Adam", {"fused": True}),
                ("channels_last, fused Adam", {"fused": True, "channels_last": True}),
            )
        ]
    return [*made, Contender("kitae", "", "in place", *kitae_step(inputs))]


def _textbook_step(inputs: Inputs) -> Step:
    network = textbook_convolution.Network({name: array.copy() for name, array in inputs["params"].items()})
    optimizer = textbook.Adam(lr=LEARNING_RATE)

    def call() -> float:
        loss = network.step(inputs["x"], inputs["labels"])
        optimizer.update(network.params, network.grads)
        return float(loss)

    return call, lambda loss: {"loss": np.asarray(loss), **network.grads}


def kitae_step(inputs: Inputs) -> Step:
    network = nn.Sequential(
        nn.Conv2D(CHANNELS[0], 3, padding=1),
        kitae.BatchNorm(activation="relu"),
        nn.Conv2D(CHANNELS[1], 3, padding=1),
        kitae.BatchNorm(activation="relu"),
        nn.MaxPool2D(2),
        nn.Flatten(),
        nn.Dense(CLASSES),
    )
    network.build(inputs["x"].shape, inputs["x"].dtype)
    params, grads = network.params, network.grads
    names = dict(zip(_NAMES, params, strict=True))
    for name, array in inputs["params"].items():
        params[names[name]][...] = array
    loss, optimizer = nn.SoftmaxCrossEntropy(), kitae.Adam(params, LEARNING_RATE)
    optimizer.bind(grads)

    def call() -> float:
        value = loss.forward(network.forward(inputs["x"]), inputs["labels"])
        network.backward(loss.backward(), input_gradient=False)
        optimizer.step()
        return value

    def results(value: float) -> Results:
        return {"loss": np.asarray(value)} | {name: np.asarray(grads[ours]) for name, ours in names.items()}

    return call, results


def _torch_step(torch: ModuleType, inputs: Inputs, *, fused: bool = False, channels_last: bool = False) -> Step:
    modules, (_, in_channels, height, width) = torch.nn, inputs["x"].shape
    network = modules.Sequential(
        modules.Conv2d(in_channels, CHANNELS[0], 3, padding=1),
        modules.BatchNorm2d(CHANNELS[0]),
        modules.ReLU(inplace=True),
        modules.Conv2d(CHANNELS[0], CHANNELS[1], 3, padding=1),
        modules.BatchNorm2d(CHANNELS[1]),
        modules.ReLU(inplace=True),
        modules.MaxPool2d(2),
        modules.Flatten(),
        modules.Linear(CHANNELS[1] * (height // 2) * (width // 2), CLASSES),
    )
    parameters = dict(zip(_NAMES, network.parameters(), strict=True))
    with torch.no_grad():
        for name, parameter in parameters.items():
            start = torch.from_numpy(inputs["params"][name])
            parameter.copy_(start.T if name == "W3" else start)
    x, labels = torch.from_numpy(inputs["x"]), torch.from_numpy(inputs["labels"])
    if channels_last:
        network, x = (part.to(memory_format=torch.channels_last) for part in (network, x))
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE, fused=fused)

    def call() -> Any:
        optimizer.zero_grad()
        loss = modules.functional.cross_entropy(network(x), labels)
        loss.backward()
        optimizer.step()
        return loss

    def results(loss: Any) -> Results:
        grads = {name: parameter.grad.numpy() for name, parameter in parameters.items()}
        return {"loss": loss.detach().numpy()} | grads | {"W3": grads["W3"].T}

    return call, results
