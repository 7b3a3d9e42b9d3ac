"""Batch normalization by the book, in NumPy without temporaries, by PyTorch and by kitae."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

import kitae

from .. import textbook
from ..cases import Inputs, Results
from ..cases.normalization import EPS, RUNNING_DECAY
from .contender import Contender, Contenders, array_over, in_numpys_arithmetic, tensor_over, torch_if_installed

_Running = tuple[np.ndarray, np.ndarray]


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


def _running(inputs: Inputs) -> _Running:
    """Each contender's own running statistics."""
    return inputs["running_mean"].copy(), inputs["running_var"].copy()


# --- by the book -----------------------------------------------------------------------------------------------------


def _textbook(case: str, inputs: Inputs) -> Contenders:
    x, gamma, beta, axis = (inputs[name] for name in ("x", "gamma", "beta", "axis"))
    running = _running(inputs)
    relu = textbook.ReLU()

    def forward() -> Any:
        return textbook.batch_norm_forward(x, gamma, beta, *running, axis=axis, eps=EPS, running_decay=RUNNING_DECAY)

    def one(call: Callable[[], Any], results: Callable[[Any], Results]) -> Contenders:
        return [Contender("textbook", "", "fresh", call, results)]

    if case == "batch_norm":
        return one(lambda: forward()[0], _y)
    if case == "batch_norm_relu":
        return one(lambda: relu.forward(forward()[0]), _y)
    if case == "batch_norm_inference":
        return one(lambda: textbook.batch_norm_inference(x, gamma, beta, *running, axis=axis, eps=EPS), _y)
    y, cache = forward()
    dout = inputs["dout"]
    if case == "batch_norm_backward":
        return one(lambda: textbook.batch_norm_backward(dout, cache), _gradients)
    relu.forward(y)
    return one(lambda: textbook.batch_norm_backward(relu.backward(dout), cache), _gradients)


# --- NumPy at its best -----------------------------------------------------------------------------------------------


class _BestNumPy:
    """Five passes over the array, none of them allocating; sums by einsum, which beat mean() in every shape tried."""

    def __init__(self, inputs: Inputs) -> None:
        x, axis = inputs["x"], inputs["axis"] % inputs["x"].ndim
        self.shape = x.shape
        outer, channels = int(np.prod(x.shape[:axis])), x.shape[axis]
        self.flat = (outer, channels, -1) if axis < x.ndim - 1 else (outer, channels)
        self.along = (channels, 1) if axis < x.ndim - 1 else (channels,)
        self.letters = "nci" if axis < x.ndim - 1 else "nc"
        self.x, self.dout = x.reshape(self.flat), inputs["dout"].reshape(self.flat)
        self.gamma, self.beta, self.running = inputs["gamma"], inputs["beta"], _running(inputs)
        self.count = x.size // channels
        self.positive = np.empty(self.x.shape, bool)
        self.masked = np.empty_like(self.x)
        self.normalized = np.empty_like(self.x)
        self.inv_std = self.standardize(self.normalized)[1]
        self.normalized *= self.spread(self.inv_std)
        y = self.normalized * self.spread(self.gamma) + self.spread(self.beta)
        np.greater(y, 0, out=self.positive)

    def spread(self, values: np.ndarray) -> np.ndarray:
        return values.reshape(self.along)

    def standardize(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """y = x - mean; returns the variance and 1 / sqrt(variance + eps)."""
        mean = np.einsum(f"{self.letters}->c", self.x) / np.float32(self.count)
        np.subtract(self.x, self.spread(mean), out=y)
        variance = np.einsum(f"{self.letters},{self.letters}->c", y, y) / np.float32(self.count)
        for running, value in zip(self.running, (mean, variance), strict=True):
            running *= RUNNING_DECAY
            running += (1 - RUNNING_DECAY) * value
        return variance, 1 / np.sqrt(variance + np.float32(EPS))

    def forward(self, out: np.ndarray) -> np.ndarray:
        y = out.reshape(self.flat)
        inv_std = self.standardize(y)[1]
        y *= self.spread(self.gamma * inv_std)
        y += self.spread(self.beta)
        return out

    def forward_relu(self, out: np.ndarray) -> np.ndarray:
        return np.maximum(self.forward(out), 0, out=out)

    def inference(self, out: np.ndarray) -> np.ndarray:
        y = out.reshape(self.flat)
        np.subtract(self.x, self.spread(self.running[0]), out=y)
        y *= self.spread(self.gamma / np.sqrt(self.running[1] + np.float32(EPS)))
        y += self.spread(self.beta)
        return out

    def backward(self, out: np.ndarray, dout: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
        dout = self.dout if dout is None else dout
        dx = out.reshape(self.flat)
        dbeta = np.einsum(f"{self.letters}->c", dout)
        dgamma = np.einsum(f"{self.letters},{self.letters}->c", dout, self.normalized)
        np.multiply(self.normalized, self.spread(dgamma / np.float32(-self.count)), out=dx)
        dx += dout
        dx -= self.spread(dbeta / np.float32(self.count))
        dx *= self.spread(self.gamma * self.inv_std)
        return out, dgamma, dbeta

    def backward_relu(self, out: np.ndarray) -> tuple[np.ndarray, ...]:
        return self.backward(out, np.multiply(self.dout, self.positive, out=self.masked))


def _numpy(case: str, inputs: Inputs) -> Contenders:
    best = _BestNumPy(inputs)
    best.running = _running(inputs)
    calls: dict[str, Callable[[np.ndarray], Any]] = {
        "batch_norm": best.forward,
        "batch_norm_relu": best.forward_relu,
        "batch_norm_inference": best.inference,
        "batch_norm_backward": best.backward,
        "batch_norm_relu_backward": best.backward_relu,
    }
    call = calls[case]
    results = _gradients if case.endswith("backward") else _y
    out = np.empty_like(inputs["x"])
    return [
        Contender("NumPy", "out=", "reused", lambda: call(out), results),
        Contender("NumPy", "", "fresh", lambda: call(np.empty_like(out)), results),
    ]


# --- PyTorch ---------------------------------------------------------------------------------------------------------


def _torch(torch: ModuleType, case: str, inputs: Inputs) -> Contenders:
    """PyTorch's functions without autograd; NHWC is its channels_last memory format.

    Called two ways, the public function and the operator below it, into fresh memory and into given tensors.
    """
    aten, functional = torch.ops.aten, torch.nn.functional

    def tensor(array: np.ndarray) -> Any:
        view = tensor_over(torch, array)
        return view.movedim(inputs["axis"], 1) if view.ndim > 2 else view

    def back(value: Any) -> np.ndarray:
        return array_over(torch, value.movedim(1, inputs["axis"]) if value.ndim > 2 else value)

    def y_of(value: Any) -> Results:
        return {"y": back(value)}

    def gradients_of(values: Any) -> Results:
        return _gradients([back(value) for value in values])

    x, dout = tensor(inputs["x"]), tensor(inputs["dout"])
    gamma, beta = tensor(inputs["gamma"]), tensor(inputs["beta"])
    mean, var = (torch.from_numpy(values) for values in _running(inputs))
    training = case != "batch_norm_inference"
    y, dx = torch.empty_like(x), torch.empty_like(x)
    channels = gamma.shape[0]
    small = [torch.empty(channels if training else 0, dtype=mean.dtype) for _ in range(2)]

    def function() -> Any:
        return functional.batch_norm(x, mean, var, gamma, beta, training, 1 - RUNNING_DECAY, EPS)

    def into_given() -> Any:
        return torch.native_batch_norm(x, gamma, beta, mean, var, training, 1 - RUNNING_DECAY, EPS, out=(y, *small))[0]

    if case in ("batch_norm", "batch_norm_inference"):
        return [
            Contender("PyTorch", "batch_norm", "fresh", function, y_of),
            Contender("PyTorch", "native_batch_norm out=", "reused", into_given, y_of),
        ]
    if case == "batch_norm_relu":
        return [
            Contender("PyTorch", "batch_norm, relu_", "fresh", lambda: function().relu_(), y_of),
            Contender("PyTorch", "native_batch_norm out=, relu_", "reused", lambda: into_given().relu_(), y_of),
        ]
    saved_mean, saved_inv_std = torch.native_batch_norm(x, gamma, beta, None, None, True, 0.0, EPS)[1:]
    activated = torch.relu(function())
    masked = torch.empty_like(x)
    given = [torch.empty(channels, dtype=gamma.dtype) for _ in range(2)]
    arguments = (x, gamma, mean, var, saved_mean, saved_inv_std, True, EPS, [True] * 3)

    def backward(gradient: Any) -> Any:
        return aten.native_batch_norm_backward(gradient, *arguments)

    def backward_into_given(gradient: Any) -> Any:
        return aten.native_batch_norm_backward.out(gradient, *arguments, out0=dx, out1=given[0], out2=given[1])

    if case == "batch_norm_backward":
        return [
            Contender("PyTorch", "native_batch_norm_backward", "fresh", lambda: backward(dout), gradients_of),
            Contender(
                "PyTorch", "native_batch_norm_backward.out", "reused", lambda: backward_into_given(dout), gradients_of
            ),
        ]

    def relu_into_given() -> Any:
        return aten.threshold_backward.grad_input(dout, activated, 0, grad_input=masked)

    return [
        Contender(
            "PyTorch",
            "threshold_backward, native_batch_norm_backward",
            "fresh",
            lambda: backward(aten.threshold_backward(dout, activated, 0)),
            gradients_of,
        ),
        Contender(
            "PyTorch",
            "threshold_backward.out, native_batch_norm_backward.out",
            "reused",
            lambda: backward_into_given(relu_into_given()),
            gradients_of,
        ),
    ]


# --- kitae -----------------------------------------------------------------------------------------------------------


def _kitae(case: str, inputs: Inputs) -> Contenders:
    x, gamma, beta, axis, dout = (inputs[name] for name in ("x", "gamma", "beta", "axis", "dout"))
    running = _running(inputs)
    training = case != "batch_norm_inference"
    activation = "relu" if "relu" in case else None
    out = np.empty_like(x)

    def forward(out: np.ndarray | None = None) -> Any:
        return kitae.batch_norm(
            x,
            gamma,
            beta,
            *running,
            training=training,
            axis=axis,
            eps=EPS,
            running_decay=RUNNING_DECAY,
            activation=activation,
            out=out,
        )

    if not case.endswith("backward"):
        return [
            Contender("kitae", "out=", "reused", lambda: forward(out), lambda result: _y(result[0])),
            Contender("kitae", "", "fresh", forward, lambda result: _y(result[0])),
        ]
    saved = forward()[1]
    return [
        Contender("kitae", "out=", "reused", lambda: kitae.batch_norm_backward(dout, saved, out=out), _gradients),
        Contender("kitae", "", "fresh", lambda: kitae.batch_norm_backward(dout, saved), _gradients),
    ]
