"""The optimizers of books 1 and 2 ("Deep Learning from Scratch", ``common/optimizer.py``) on kitae's kernels.

``update(params, grads)`` takes dicts (book 1) or lists (book 2) and updates the arrays where they lie, in one native
call. Names, signatures, attributes (``lr``, ``v``, ``h``, ``m``, ``iter``) and numbers are the books'; attributes may
be reassigned between updates. A parameter may be a Python number: its entry is replaced. State is float64 for float64
parameters and numbers, else float32. Operations run in the books' order and give their bits, except that subnormal
state becomes 0 and book 1's ``Nesterov`` is rearranged.
"""

from typing import Any, ClassVar

import numpy as np

from kitae import _dispatch
from kitae.dlfs._names import not_covered
from kitae.dlfs._updates import Updates, new_state, state_dtype

__all__ = ["SGD", "AdaGrad", "Adam", "Momentum", "Nesterov", "RMSprop"]

_EPS = 1e-7  # in every rule of the books that divides by a root


class _Optimizer:
    """What the books' optimizers share, which they have no class for."""

    _rule: ClassVar[str]
    _state: ClassVar[tuple[str, ...]] = ()  # the attributes that hold state, an array a parameter
    _updates: Updates | None = None

    def _numbers(self, params: Any) -> dict[str, float]:
        """The kernel's neutral numbers."""
        raise NotImplementedError

    def update(self, params: Any, grads: Any) -> None:
        """Update ``params`` in place from ``grads``: dicts with the same keys, or lists in the same order."""
        keys = list(params) if _by_key(params) else list(range(len(params)))
        values = [params[key] for key in keys]
        arrays = [_boxed(value) for value in values]
        listed = [grads[key] for key in keys]
        slots = self._slots(params, keys, arrays)
        if self._updates is None:
            self._updates = Updates(self._rule)
        op, count = f"dlfs.{type(self).__name__}.update", self._count()
        self._updates.step(op, keys, arrays, slots, listed, self._numbers(params), count)
        for key, value, array in zip(keys, values, arrays, strict=True):
            if array is not value:
                params[key] = array[()]

    def _count(self) -> int | None:
        return None

    def _slots(self, params: Any, keys: list[Any], arrays: list[Any]) -> list[list[Any]]:
        """The state of each parameter, made at the first update; arrays that the kernel can't use are replaced."""
        for name in self._state:
            if getattr(self, name, None) is None:
                made = [new_state(array) for array in arrays]
                state = dict(zip(keys, made, strict=True)) if _by_key(params) else made
                setattr(self, name, state)
        states = [getattr(self, name) for name in self._state]
        if not states:
            return [[] for _ in arrays]
        slots = []
        for key, array in zip(keys, arrays, strict=True):
            for state in states:
                slot = state[key]
                if not _usable(slot, array):
                    fresh = new_state(array)
                    fresh[...] = slot
                    state[key] = fresh
            slots.append([state[key] for state in states])
        return slots

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_updates"}


def _by_key(params: Any) -> bool:
    return hasattr(params, "keys")


def _boxed(value: Any) -> Any:
    """An array as it is; a number as an array without dimensions."""
    if type(value) is np.ndarray:
        return value
    return np.array(value, dtype=np.float64) if isinstance(value, (int, float, np.number)) else value


def _usable(slot: Any, array: Any) -> bool:
    return (
        isinstance(slot, _dispatch.array_module(array).ndarray)
        and slot.dtype == state_dtype(array)
        and slot.shape == array.shape
        and slot.flags.c_contiguous
    )


class SGD(_Optimizer):
    """``w -= lr * g``."""

    _rule = "gradient_descent"

    def __init__(self, lr: float = 0.01) -> None:
        self.lr = lr

    def _numbers(self, params: Any) -> dict[str, float]:
        return {"gradient_gain": -float(self.lr)}


class Momentum(_Optimizer):
    """``v = momentum * v - lr * g;  w += v``. ``v``: None, then the velocities."""

    _rule = "velocity"
    _state = ("v",)

    def __init__(self, lr: float = 0.01, momentum: float = 0.9) -> None:
        self.lr = lr
        self.momentum = momentum
        self.v: Any = None

    def _numbers(self, params: Any) -> dict[str, float]:
        return {"velocity_keep": float(self.momentum), "velocity_gain": -float(self.lr), "parameter_gain": 1.0}


class Nesterov(_Optimizer):
    """Nesterov's momentum, in the form of the book whose containers ``update`` gets.

    dicts (book 1): ``v1 = momentum * v0 - lr * g;  w += momentum**2 * v0 - (1 + momentum) * lr * g``
    lists (book 2): the same with the new v1 in place of v0, which counts the gradient twice.
    """

    _rule = "nesterov"
    _state = ("v",)

    def __init__(self, lr: float = 0.01, momentum: float = 0.9) -> None:
        self.lr = lr
        self.momentum = momentum
        self.v: Any = None

    def _numbers(self, params: Any) -> dict[str, float]:
        lr, mu = float(self.lr), float(self.momentum)
        gains = {"parameter_gain": mu, "gradient_gain": -lr}
        if not _by_key(params):
            gains = {"parameter_gain": mu * mu, "gradient_gain": -(1.0 + mu) * lr}
        return {"velocity_keep": mu, "velocity_gain": -lr, **gains}


class AdaGrad(_Optimizer):
    """``h += g**2;  w -= lr * g / (sqrt(h) + 1e-7)``. ``h``: None, then the sums of squares."""

    _rule = "adagrad"
    _state = ("h",)

    def __init__(self, lr: float = 0.01) -> None:
        self.lr = lr
        self.h: Any = None

    def _numbers(self, params: Any) -> dict[str, float]:
        return {"learning_rate": float(self.lr), "eps_inside": 0.0, "eps_outside": _EPS}


class RMSprop(_Optimizer):
    """``h = decay_rate * h + (1 - decay_rate) * g**2;  w -= lr * g / (sqrt(h) + 1e-7)``."""

    _rule = "rmsprop_scaled_first"
    _state = ("h",)

    def __init__(self, lr: float = 0.01, decay_rate: float = 0.99) -> None:
        self.lr = lr
        self.decay_rate = decay_rate
        self.h: Any = None

    def _numbers(self, params: Any) -> dict[str, float]:
        return {
            "learning_rate": float(self.lr),
            "rho": float(self.decay_rate),
            "eps_inside": 0.0,
            "eps_outside": _EPS,
        }


class Adam(_Optimizer):
    """``m += (1 - beta1) * (g - m);  v += (1 - beta2) * (g**2 - v)``
    ``w -= lr * sqrt(1 - beta2**t) / (1 - beta1**t) * m / (sqrt(v) + 1e-7)``, t = ``iter``, counted from 1.

    Differs from the paper's algorithm, PyTorch and ``kitae.Adam()``: the constant stands before the bias correction.
    As in the book under NumPy 2, the last line is computed in float64 and rounded to the parameter's dtype: its rate is
    a numpy.float64.
    """

    _rule = "adam_by_differences_float64_step"
    _state = ("m", "v")

    def __init__(self, lr: float = 0.001, beta1: float = 0.9, beta2: float = 0.999) -> None:
        self.lr = lr
        self.beta1 = beta1
        self.beta2 = beta2
        self.iter = 0
        self.m: Any = None
        self.v: Any = None

    def _count(self) -> int:
        self.iter += 1
        return self.iter

    def _numbers(self, params: Any) -> dict[str, float]:
        # The book's own bias correction, to the bit; the kernel's is more exact.
        rate = self.lr * np.sqrt(1.0 - self.beta2**self.iter) / (1.0 - self.beta1**self.iter)
        return {
            "learning_rate": float(rate),
            "corrected_by_caller": 1.0,
            "beta1": float(self.beta1),
            "beta2": float(self.beta2),
            "eps": _EPS,
        }


__getattr__ = not_covered(__name__, "common.optimizer")
