"""DeZero's optimizers (``dezero/optimizers.py``) on kitae's kernels: one native call an update, in place.

``Optimizer().setup(target)``, ``update()``, ``add_hook(f)``; state is kept by ``id(parameter)``, as in DeZero. A
subclass that overrides ``update_one`` is called for every parameter, as in DeZero.
"""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from kitae.dlfs._names import not_covered
from kitae.dlfs._updates import Updates, new_state
from kitae.dlfs.util import clip

__all__ = [
    "SGD",
    "AdaDelta",
    "AdaGrad",
    "Adam",
    "ClipGrad",
    "FreezeParam",
    "MomentumSGD",
    "Optimizer",
    "WeightDecay",
]


class Optimizer:
    """Updates the parameters of ``target``, anything with ``params()``, that have a gradient; hooks run before."""

    def __init__(self) -> None:
        self.target: Any = None
        self.hooks: list[Callable[[list[Any]], None]] = []

    def setup(self, target: Any) -> "Optimizer":
        self.target = target
        return self

    def update(self) -> None:
        params = [p for p in self.target.params() if p.grad is not None]
        for hook in self.hooks:
            hook(params)
        self._update_all([p for p in params if p.grad is not None])  # FreezeParam takes some away

    def _update_all(self, params: list[Any]) -> None:
        for param in params:
            self.update_one(param)

    def update_one(self, param: Any) -> None:
        raise NotImplementedError

    def add_hook(self, f: Callable[[list[Any]], None]) -> None:
        self.hooks.append(f)


class _Kernel(Optimizer):
    """An optimizer whose rule is one of kitae's kernels."""

    _rule: ClassVar[str]
    _state: ClassVar[tuple[str, ...]] = ()
    _updates: Updates | None = None

    def _numbers(self) -> dict[str, float]:
        raise NotImplementedError

    def _in_turn(self, w: Any, g: Any, *states: Any) -> None:
        """The rule in NumPy, in DeZero's order, for the one mixture of dtypes that the kernels don't take."""
        raise NotImplementedError

    def _count(self) -> int | None:
        return None

    def _update_all(self, params: list[Any]) -> None:
        if type(self).update_one is not _Kernel.update_one:
            super()._update_all(params)
            return
        states = [getattr(self, name) for name in self._state]
        for param in params:
            for state in states:
                if id(param) not in state:
                    state[id(param)] = new_state(param.data)
        for param in filter(_needs_float64, params):
            self._in_turn(param.data, param.grad.data, *(state[id(param)] for state in states))
        params = [param for param in params if not _needs_float64(param)]
        if self._updates is None:
            self._updates = Updates(self._rule)
        self._updates.step(
            f"dlfs.dezero.{type(self).__name__}.update",
            [param.name or place for place, param in enumerate(params)],
            [param.data for param in params],
            [[state[id(param)] for state in states] for param in params],
            [param.grad.data for param in params],
            self._numbers(),
            self._count(),
        )

    def update_one(self, param: Any) -> None:
        _Kernel._update_all(self, [param])

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_updates"}


def _needs_float64(param: Any) -> bool:
    """A float32 parameter whose gradient labels or inputs have made float64: NumPy computes with the gradient as it
    is, and rounds what it stores."""
    w, g = param.data, param.grad.data
    return type(w) is type(g) is np.ndarray and w.dtype == np.float32 and g.dtype == np.float64 and w.shape == g.shape


class SGD(_Kernel):
    """``w -= lr * g``."""

    _rule = "gradient_descent"

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__()
        self.lr = lr

    def _numbers(self) -> dict[str, float]:
        return {"gradient_gain": -float(self.lr)}

    def _in_turn(self, w: Any, g: Any, *states: Any) -> None:
        w -= self.lr * g


class MomentumSGD(_Kernel):
    """``v = momentum * v - lr * g;  w += v``. State: ``vs``."""

    _rule = "velocity"
    _state = ("vs",)

    def __init__(self, lr: float = 0.01, momentum: float = 0.9) -> None:
        super().__init__()
        self.lr = lr
        self.momentum = momentum
        self.vs: dict[int, Any] = {}

    def _numbers(self) -> dict[str, float]:
        return {"velocity_keep": float(self.momentum), "velocity_gain": -float(self.lr), "parameter_gain": 1.0}

    def _in_turn(self, w: Any, g: Any, *states: Any) -> None:
        (v,) = states
        v *= self.momentum
        v -= self.lr * g
        w += v


class AdaGrad(_Kernel):
    """``h += g**2;  w -= lr * g / (sqrt(h) + eps)``. State: ``hs``."""

    _rule = "adagrad"
    _state = ("hs",)

    def __init__(self, lr: float = 0.001, eps: float = 1e-8) -> None:
        super().__init__()
        self.lr = lr
        self.eps = eps
        self.hs: dict[int, Any] = {}

    def _numbers(self) -> dict[str, float]:
        return {"learning_rate": float(self.lr), "eps_inside": 0.0, "eps_outside": float(self.eps)}

    def _in_turn(self, w: Any, g: Any, *states: Any) -> None:
        (h,) = states
        h += g * g
        w -= self.lr * g / (np.sqrt(h) + self.eps)


class AdaDelta(_Kernel):
    """``h = rho * h + (1 - rho) * g**2;  d = sqrt((s + eps) / (h + eps)) * g;  s = rho * s + (1 - rho) * d**2;
    w -= d``. State: ``msg`` (h), ``msdx`` (s)."""

    _rule = "adadelta_of_quotient"
    _state = ("msg", "msdx")

    def __init__(self, rho: float = 0.95, eps: float = 1e-6) -> None:
        super().__init__()
        self.rho = rho
        self.eps = eps
        self.msg: dict[int, Any] = {}
        self.msdx: dict[int, Any] = {}

    def _numbers(self) -> dict[str, float]:
        return {"learning_rate": 1.0, "rho": float(self.rho), "eps_inside": float(self.eps), "eps_outside": 0.0}

    def _in_turn(self, w: Any, g: Any, *states: Any) -> None:
        h, s = states
        h *= self.rho
        h += (1 - self.rho) * g * g
        d = np.sqrt((s + self.eps) / (h + self.eps)) * g
        s *= self.rho
        s += (1 - self.rho) * d * d
        w -= d


class Adam(_Kernel):
    """``m += (1 - beta1) * (g - m);  v += (1 - beta2) * (g**2 - v);  w -= lr * m / (sqrt(v) + eps)``

    with ``lr = alpha * sqrt(1 - beta2**t) / (1 - beta1**t)``: eps before the bias correction, unlike PyTorch. State:
    ``ms``, ``vs``, ``t``.
    """

    _rule = "adam_by_differences"
    _state = ("ms", "vs")

    def __init__(self, alpha: float = 0.001, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8) -> None:
        super().__init__()
        self.t = 0
        self.alpha = alpha
        self.beta1 = beta1
        self.beta2 = beta2
        self.eps = eps
        self.ms: dict[int, Any] = {}
        self.vs: dict[int, Any] = {}

    @property
    def lr(self) -> float:
        return self.alpha * math.sqrt(1.0 - self.beta2**self.t) / (1.0 - self.beta1**self.t)

    def update(self, *args: Any, **kwargs: Any) -> None:
        self.t += 1
        super().update(*args, **kwargs)

    def _count(self) -> int:
        return self.t

    def _numbers(self) -> dict[str, float]:
        return {
            "learning_rate": float(self.lr),
            "corrected_by_caller": 1.0,
            "beta1": float(self.beta1),
            "beta2": float(self.beta2),
            "eps": float(self.eps),
        }

    def _in_turn(self, w: Any, g: Any, *states: Any) -> None:
        m, v = states
        m += (1 - self.beta1) * (g - m)
        v += (1 - self.beta2) * (g * g - v)
        w -= self.lr * m / (np.sqrt(v) + self.eps)


class WeightDecay:
    """Hook: ``g += rate * w``."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __call__(self, params: list[Any]) -> None:
        for param in params:
            param.grad.data += self.rate * param.data


class ClipGrad:
    """Hook: ``kitae.dlfs.util.clip_grads`` over all gradients, the factor in float64 as DeZero has it."""

    def __init__(self, max_norm: float) -> None:
        self.max_norm = max_norm

    def __call__(self, params: list[Any]) -> None:
        clip([param.grad.data for param in params], self.max_norm, float64_rate=True)


class FreezeParam:
    """Hook: no gradient for these parameters, or the parameters of these layers."""

    def __init__(self, *layers: Any) -> None:
        self.freeze_params = []
        for layer in layers:
            self.freeze_params += list(layer.params()) if hasattr(layer, "params") else [layer]

    def __call__(self, params: list[Any]) -> None:
        for param in self.freeze_params:
            param.grad = None


__getattr__ = not_covered(__name__, "dezero.optimizers")
