"""Everybody's layer normalization, forward and backward."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

import kitae

from .. import textbook
from ..cases import Inputs, Results
from ..cases.layer_normalization import EPS
from .contender import Contender, Contenders, array_over, in_numpys_arithmetic, tensor_over, torch_if_installed


def contenders(case: str, inputs: Inputs) -> Contenders:
    makers = [_textbook, _numpy, _kitae] if in_numpys_arithmetic(inputs["x"]) else [_kitae]
    torch = torch_if_installed()
    if torch is not None:
        makers.append(lambda case, inputs: _torch(torch, case, inputs))
    return [contender for maker in makers for contender in maker(case, inputs)]


def _y(y: Any) -> Results:
    return {"y": np.asarray(y)}


def _gradients(gradients: Any) -> Results:
    return dict(zip(("dx", "dgamma", "dbeta"), (np.asarray(g) for g in gradients), strict=True))


def _textbook(case: str, inputs: Inputs) -> Contenders:
    x, gamma, beta, dout = (inputs[name] for name in ("x", "gamma", "beta", "dout"))
    if not case.endswith("backward"):
        call: Callable[[], Any] = lambda: textbook.layer_norm_forward(x, gamma, beta, eps=EPS)[0]  # noqa: E731
        return [Contender("textbook", "", "fresh", call, _y)]
    _, cache = textbook.layer_norm_forward(x, gamma, beta, eps=EPS)
    return [Contender("textbook", "", "fresh", lambda: textbook.layer_norm_backward(dout, cache), _gradients)]


class _BestNumPy:
    """Few passes over the array, none of them allocating; sums by einsum."""

    def __init__(self, inputs: Inputs) -> None:
        self.shape = inputs["x"].shape
        self.x, self.dout = (inputs[name].reshape(-1, self.shape[-1]) for name in ("x", "dout"))
        self.gamma, self.beta = inputs["gamma"], inputs["beta"]
        self.count = self.x.dtype.type(self.shape[-1])
        self.normalized, self.g = np.empty_like(self.x), np.empty_like(self.x)
        self.inv_std = self.standardize(self.normalized)

    def standardize(self, out: np.ndarray) -> np.ndarray:
        """out = (x - mean) inv_std; returns inv_std."""
        np.subtract(self.x, (np.einsum("nc->n", self.x) / self.count)[:, np.newaxis], out=out)
        variance = np.einsum("nc,nc->n", out, out) / self.count
        inv_std = (1 / np.sqrt(variance + variance.dtype.type(EPS)))[:, np.newaxis]
        out *= inv_std
        return inv_std

    def forward(self, out: np.ndarray) -> np.ndarray:
        y = out.reshape(self.x.shape)
        self.standardize(y)
        y *= self.gamma
        y += self.beta
        return out

    def backward(self, out: np.ndarray) -> tuple[np.ndarray, ...]:
        dx = out.reshape(self.x.shape)
        dbeta = np.einsum("nc->c", self.dout)
        dgamma = np.einsum("nc,nc->c", self.dout, self.normalized)
        g = np.multiply(self.dout, self.gamma, out=self.g)
        along = np.einsum("nc,nc->n", g, self.normalized)[:, np.newaxis] / -self.count
        np.multiply(self.normalized, along, out=dx)
        dx += g
        dx -= (np.einsum("nc->n", g) / self.count)[:, np.newaxis]
        dx *= self.inv_std
        return out, dgamma, dbeta


def _numpy(case: str, inputs: Inputs) -> Contenders:
    best = _BestNumPy(inputs)
    call: Callable[[np.ndarray], Any] = best.backward if case.endswith("backward") else best.forward
    results = _gradients if case.endswith("backward") else _y
    out = np.empty_like(inputs["x"])
    return [
        Contender("NumPy", "out=", "reused", lambda: call(out), results),
        Contender("NumPy", "", "fresh", lambda: call(np.empty_like(out)), results),
    ]


def _torch(torch: ModuleType, case: str, inputs: Inputs) -> Contenders:
    """PyTorch's functions without autograd: the public one and the operator below it, fresh and into given tensors."""
    aten = torch.ops.aten
    x, gamma, beta, dout = (tensor_over(torch, inputs[name]) for name in ("x", "gamma", "beta", "dout"))
    shape = list(gamma.shape)
    y, mean, inv_std = torch.native_layer_norm(x, shape, gamma, beta, EPS)
    y_of: Callable[[Any], Results] = lambda value: _y(array_over(torch, value))  # noqa: E731
    gradients_of: Callable[[Any], Results] = lambda values: _gradients(array_over(torch, v) for v in values)  # noqa: E731
    if not case.endswith("backward"):

        def into_given() -> Any:
            return aten.native_layer_norm.out(x, shape, gamma, beta, EPS, out0=y, out1=mean, out2=inv_std)[0]

        function = torch.nn.functional.layer_norm
        return [
            Contender("PyTorch", "layer_norm", "fresh", lambda: function(x, shape, gamma, beta, EPS), y_of),
            Contender("PyTorch", "native_layer_norm.out", "reused", into_given, y_of),
        ]
    arguments = (dout, x, shape, mean, inv_std, gamma, beta, [True] * 3)
    given = torch.empty_like(x), torch.empty_like(gamma), torch.empty_like(beta)

    def backward_into_given() -> Any:
        return aten.native_layer_norm_backward.out(*arguments, out0=given[0], out1=given[1], out2=given[2])

    def fresh() -> Any:
        return aten.native_layer_norm_backward(*arguments)

    return [
        Contender("PyTorch", "native_layer_norm_backward", "fresh", fresh, gradients_of),
        Contender("PyTorch", "native_layer_norm_backward.out", "reused", backward_into_given, gradients_of),
    ]


def _kitae(case: str, inputs: Inputs) -> Contenders:
    x, gamma, beta, dout = (inputs[name] for name in ("x", "gamma", "beta", "dout"))
    out = np.empty_like(x)

    def forward(out: np.ndarray | None = None) -> Any:
        return kitae.layer_norm(x, gamma, beta, eps=EPS, out=out)

    if not case.endswith("backward"):
        return [
            Contender("kitae", "out=", "reused", lambda: forward(out), lambda result: _y(result[0])),
            Contender("kitae", "", "fresh", forward, lambda result: _y(result[0])),
        ]
    saved = forward()[1]
    return [
        Contender("kitae", "out=", "reused", lambda: kitae.layer_norm_backward(dout, saved, out=out), _gradients),
        Contender("kitae", "", "fresh", lambda: kitae.layer_norm_backward(dout, saved), _gradients),
    ]
