"""A PyTorch user's calls, by PyTorch's own classes and by kitae.torch's: one import changed."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from ..cases import Inputs, Results
from ..cases.gradients import MAX_NORM
from ..cases.normalization import EPS, RUNNING_DECAY
from ..cases.optimizers import (
    ADAGRAD_EPS,
    ADAM_BETA1,
    ADAM_BETA2,
    ADAM_EPS,
    ADAMW_DECAY,
    LR,
    MOMENTUM,
    RMSPROP_EPS,
    RMSPROP_RHO,
)
from .contender import Contender, Contenders, Destination, System
from .gradients import ShrinkingLimit

# (PyTorch's class, its keywords, whether it has a fused implementation)
_OPTIMIZERS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "torch_sgd": ("SGD", {"lr": LR}, True),
    "torch_momentum": ("SGD", {"lr": LR, "momentum": MOMENTUM}, True),
    "torch_adagrad": ("Adagrad", {"lr": LR, "eps": ADAGRAD_EPS}, True),
    "torch_rmsprop": ("RMSprop", {"lr": LR, "alpha": RMSPROP_RHO, "eps": RMSPROP_EPS}, False),
    "torch_adam": ("Adam", {"lr": LR, "betas": (ADAM_BETA1, ADAM_BETA2), "eps": ADAM_EPS}, True),
    "torch_adamw": (
        "AdamW",
        {"lr": LR, "betas": (ADAM_BETA1, ADAM_BETA2), "eps": ADAM_EPS, "weight_decay": ADAMW_DECAY},
        True,
    ),
    "torch_adadelta": ("Adadelta", {"lr": 1.0, "rho": 0.95, "eps": 1e-6}, False),
}


def contenders(case: str, inputs: Inputs) -> Contenders:
    import torch

    import kitae.torch as face

    if case == "torch_batch_norm":
        return _modules(torch, face, lambda nn: _batch_norm(torch, nn, inputs), inputs)
    if case == "torch_dropout":
        return _modules(torch, face, lambda nn: nn.Dropout(inputs["drop"]), inputs)
    if case == "torch_clip_grad_norm":
        return _clipping(torch, face, inputs)
    return _optimizers(torch, face, case, inputs)


def _modules(torch: ModuleType, face: ModuleType, make: Callable[[Any], Any], inputs: Inputs) -> Contenders:
    """A forward and a backward pass through autograd; NHWC is PyTorch's channels_last memory format."""

    def tensor(array: np.ndarray) -> Any:
        view = torch.from_numpy(array)
        return view.movedim(inputs["axis"], 1) if "axis" in inputs else view

    def array(tensor: Any) -> np.ndarray:
        return (tensor.detach().movedim(1, inputs["axis"]) if "axis" in inputs else tensor.detach()).numpy()

    def contender(system: System, nn: ModuleType) -> Contender:
        layer, x, dout = make(nn), tensor(inputs["x"]).requires_grad_(), tensor(inputs["dout"])

        def call() -> Any:
            layer.zero_grad()
            x.grad = None
            y = layer(x)
            y.backward(dout)
            return y

        def results(y: Any) -> Results:
            named = {"y": array(y), "dx": array(x.grad)}
            gradients = zip(("dgamma", "dbeta"), layer.parameters(), strict=False)
            return named | {name: parameter.grad.numpy() for name, parameter in gradients}

        return Contender(system, "", "fresh", call, results)

    return [contender("PyTorch", torch.nn), contender("kitae", face)]


def _batch_norm(torch: ModuleType, nn: Any, inputs: Inputs) -> Any:
    layer = nn.BatchNorm2d(inputs["gamma"].size, eps=EPS, momentum=1 - RUNNING_DECAY)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(inputs["gamma"]))
        layer.bias.copy_(torch.from_numpy(inputs["beta"]))
    return layer


def _parameters(torch: ModuleType, arrays: list[np.ndarray], gradients: list[np.ndarray]) -> list[Any]:
    made = [torch.from_numpy(array) for array in arrays]
    for parameter, gradient in zip(made, gradients, strict=True):
        parameter.grad = torch.from_numpy(gradient)
    return made


def _in_place(system: System, variant: str, call: Callable[[], Any], name: str, arrays: list[np.ndarray]) -> Contender:
    destination: Destination = "in place"
    return Contender(system, variant, destination, call, lambda _: {f"{name}.{i}": a for i, a in enumerate(arrays)})


def _optimizers(torch: ModuleType, face: ModuleType, case: str, inputs: Inputs) -> Contenders:
    arrays = inputs["params"]
    params = _parameters(torch, arrays, inputs["grads0"])
    name, keywords, fused = _OPTIMIZERS[case]
    variants: dict[str, dict[str, bool]] = {"native": {"foreach": False}, "foreach": {"foreach": True}}
    if fused:
        variants["fused"] = {"fused": True}
    peers = [(variant, getattr(torch.optim, name)(params, **keywords, **how)) for variant, how in variants.items()]
    ours = getattr(face, name)(params, **keywords)
    return [
        *(_in_place("PyTorch", variant, peer.step, "params", arrays) for variant, peer in peers),
        _in_place("kitae", "", ours.step, "params", arrays),
    ]


def _clipping(torch: ModuleType, face: ModuleType, inputs: Inputs) -> Contenders:
    arrays = inputs["grads"]
    holders = _parameters(torch, [np.empty_like(array) for array in arrays], arrays)
    limit = ShrinkingLimit(MAX_NORM)
    clip = torch.nn.utils.clip_grad_norm_
    calls: list[tuple[System, str, Callable[[], Any]]] = [
        ("PyTorch", "native", lambda: clip(holders, limit.next(), foreach=False)),
        ("PyTorch", "foreach", lambda: clip(holders, limit.next(), foreach=True)),
        ("kitae", "", lambda: face.clip_grad_norm_(holders, limit.next())),
    ]
    return [_in_place(system, variant, call, "grads", arrays) for system, variant, call in calls]
