"""A training step of the same network: forward, loss, backward, Adam; the fully connected one clips before Adam."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

import kitae
from kitae import nn
from kitae.demo.contenders import kitae_layers

from .. import textbook, textbook_convolution
from ..cases import Inputs, Results
from ..cases.networks import CHANNELS, CLASSES, LEARNING_RATE
from .contender import Contender, Contenders, torch_if_installed

Step = tuple[Callable[[], Any], Callable[[Any], Results]]

_TORCH_VARIANTS: dict[str, dict[str, dict[str, bool]]] = {
    "convolutional_step": {
        "": {},
        "fused Adam": {"fused": True},
        "channels_last, fused Adam": {"fused": True, "channels_last": True},
    },
    "fully_connected_step": {
        "": {},
        "fused Adam": {"fused": True},
        "fused Adam, foreach clipping": {"fused": True, "foreach": True},
    },
}


def contenders(case: str, inputs: Inputs) -> Contenders:
    convolutional = case == "convolutional_step"
    step = (_textbook_convolutional_step if convolutional else _textbook_fully_connected_step)(inputs)
    made = [Contender("textbook", "", "in place", *step, uses_blas=True)]
    torch = torch_if_installed()
    if torch is not None:
        made += [
            Contender("PyTorch", variant, "in place", *_torch_step(torch, inputs, **options))
            for variant, options in _TORCH_VARIANTS[case].items()
        ]
    return [*made, Contender("kitae", "", "in place", *kitae_step(inputs), uses_blas=True)]


def _results(inputs: Inputs, loss: Any, grads: Any, params: Any) -> Results:
    """The loss and the gradients as the step leaves them: where it clips them itself, clipped.

    Where a step clips, the parameters after it too: kitae clips on the way to Adam, its gradients stay as they are.
    """
    names = inputs["params"]
    results = {"loss": np.asarray(loss)} | {name: np.asarray(grad) for name, grad in zip(names, grads, strict=True)}
    if "max_norm" in inputs:
        results |= {f"new {name}": np.asarray(array) for name, array in zip(names, params, strict=True)}
    return results


def _textbook_convolutional_step(inputs: Inputs) -> Step:
    network = textbook_convolution.Network({name: array.copy() for name, array in inputs["params"].items()})
    optimizer = textbook.Adam(lr=LEARNING_RATE)

    def call() -> float:
        loss = network.step(inputs["x"], inputs["labels"])
        optimizer.update(network.params, network.grads)
        return float(loss)

    return call, lambda loss: _results(inputs, loss, network.grads.values(), network.params.values())


def _textbook_fully_connected_step(inputs: Inputs) -> Step:
    weights = [weight.copy() for weight in _weights(inputs)]
    network = textbook.Network(weights, inputs["drop"], np.random.default_rng(0))
    optimizer = textbook.Adam(lr=LEARNING_RATE)

    def call() -> float:
        return textbook.train_step(network, optimizer, inputs["x"], inputs["labels"], inputs["max_norm"])

    return call, lambda loss: _results(inputs, loss, network.grads.values(), network.params.values())


def _weights(inputs: Inputs) -> list[np.ndarray]:
    return [array for name, array in inputs["params"].items() if name.startswith("W")]


def kitae_step(inputs: Inputs) -> Step:
    network = nn.Sequential(_kitae_layers(inputs))
    network.build(inputs["x"].shape, inputs["x"].dtype)
    params, grads = network.params, network.grads
    for ours, start in zip(params.values(), inputs["params"].values(), strict=True):
        ours[...] = start
    loss, optimizer = nn.SoftmaxCrossEntropy(), kitae.Adam(params, LEARNING_RATE, max_norm=inputs.get("max_norm"))
    optimizer.bind(grads)

    def call() -> float:
        value = loss.forward(network.forward(inputs["x"]), inputs["labels"])
        network.backward(loss.backward(), input_gradient=False)
        optimizer.step()
        return value

    return call, lambda value: _results(inputs, value, (grads[name] for name in params), params.values())


def _kitae_layers(inputs: Inputs) -> list[Any]:
    if inputs["x"].ndim == 2:
        return [layer for _, layer in kitae_layers(_weights(inputs), inputs["drop"])]
    return [
        nn.Conv2D(CHANNELS[0], 3, padding=1),
        kitae.BatchNorm(activation="relu"),
        nn.Conv2D(CHANNELS[1], 3, padding=1),
        kitae.BatchNorm(activation="relu"),
        nn.MaxPool2D(2),
        nn.Flatten(),
        nn.Dense(CLASSES),
    ]


def _torch_step(
    torch: ModuleType,
    inputs: Inputs,
    *,
    fused: bool = False,
    channels_last: bool = False,
    foreach: bool | None = None,
) -> Step:
    network = torch.nn.Sequential(*_torch_modules(torch.nn, inputs))
    # PyTorch's dense weights are (outputs, inputs).
    with torch.no_grad():
        for parameter, start in zip(network.parameters(), inputs["params"].values(), strict=True):
            parameter.copy_(torch.from_numpy(start.T if start.ndim == 2 else start))
    x, labels = torch.from_numpy(inputs["x"]), torch.from_numpy(inputs["labels"])
    if channels_last:
        network, x = (part.to(memory_format=torch.channels_last) for part in (network, x))
    parameters, max_norm = list(network.parameters()), inputs.get("max_norm")
    optimizer = torch.optim.Adam(parameters, LEARNING_RATE, fused=fused)

    def call() -> Any:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(x), labels)
        loss.backward()
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, max_norm, foreach=foreach)
        optimizer.step()
        return loss

    def as_ours(tensors: list[Any]) -> list[np.ndarray]:
        arrays = [tensor.detach().numpy() for tensor in tensors]
        return [array.T if array.ndim == 2 else array for array in arrays]

    def results(loss: Any) -> Results:
        grads = as_ours([parameter.grad for parameter in parameters])
        return _results(inputs, loss.detach().numpy(), grads, as_ours(parameters))

    return call, results


def _torch_modules(modules: Any, inputs: Inputs) -> list[Any]:
    if inputs["x"].ndim == 2:
        *hidden, last = _weights(inputs)
        made: list[Any] = []
        for weight in hidden:
            made += [modules.Linear(*weight.shape), modules.BatchNorm1d(weight.shape[1])]
            made += [modules.ReLU(inplace=True), modules.Dropout(inputs["drop"])]
        return [*made, modules.Linear(*last.shape)]
    _, in_channels, height, width = inputs["x"].shape
    return [
        modules.Conv2d(in_channels, CHANNELS[0], 3, padding=1),
        modules.BatchNorm2d(CHANNELS[0]),
        modules.ReLU(inplace=True),
        modules.Conv2d(CHANNELS[0], CHANNELS[1], 3, padding=1),
        modules.BatchNorm2d(CHANNELS[1]),
        modules.ReLU(inplace=True),
        modules.MaxPool2d(2),
        modules.Flatten(),
        modules.Linear(CHANNELS[1] * (height // 2) * (width // 2), CLASSES),
    ]
