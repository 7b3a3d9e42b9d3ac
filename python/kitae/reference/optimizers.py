"""The optimizers' update rules (csrc/ops/adam.h, gradient_descent.h, adaptive_gradient.h) in NumPy."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from kitae._checks import Rejected
from kitae.reference._arrays import array_argument, compute_type, flush, store, widen
from kitae.reference._order import sum_in_order
from kitae.reference.gradients import (
    RAISE,
    SCOPE_ALL,
    SCOPE_NONE,
    SCOPE_TENSOR,
    SKIP,
    ZERO,
    finite_or_zero,
    gradient_factor,
    norms_of,
)

Numbers = dict[str, float]
Slots = list[np.ndarray]
Tracked = tuple[float, ...]

_SPLIT = 134217729.0  # 2**27 + 1


def _exact_product(a: float, b: float) -> tuple[float, float]:
    """Dekker's product: (a * b rounded, its error)."""
    a_scaled, b_scaled = _SPLIT * a, _SPLIT * b
    a_high, b_high = a_scaled - (a_scaled - a), b_scaled - (b_scaled - b)
    a_low, b_low = a - a_high, b - b_high
    product = a * b
    return product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


def _multiply(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    product, error = _exact_product(a[0], b[0])
    low = error + (a[0] * b[1] + a[1] * b[0])
    high = product + low
    return high, low - (high - product)


def bias_correction(beta: float, step: int) -> float:
    """1 - beta**step, the power by squaring in double-double arithmetic (csrc/ops/bias_correction.h)."""
    power, square = (1.0, 0.0), (beta, 0.0)
    while step > 0:
        if step & 1:
            power = _multiply(power, square)
        square = _multiply(square, square)
        step >>= 1
    difference = 1.0 - power[0]
    rest = (1.0 - difference) - power[0]
    return difference + (rest - power[1])


def _gradient_descent(n: Numbers, kind: type, step: int, w: np.ndarray, g: np.ndarray, slots: Slots) -> np.ndarray:
    return w + kind(n["gradient_gain"]) * g


def _average(n: Numbers, kind: type, step: int, w: np.ndarray, g: np.ndarray, slots: Slots) -> np.ndarray:
    gain = kind(n["gain"])
    return g if gain == 1 else w + gain * (g - w)


def _velocity(n: Numbers, kind: type, step: int, w: np.ndarray, g: np.ndarray, slots: Slots) -> np.ndarray:
    slots[0] = kind(n["velocity_keep"]) * slots[0] + kind(n["velocity_gain"]) * g
    return w + kind(n["parameter_gain"]) * slots[0]


def _nesterov(n: Numbers, kind: type, step: int, w: np.ndarray, g: np.ndarray, slots: Slots) -> np.ndarray:
    return _velocity(n, kind, step, w, g, slots) + kind(n["gradient_gain"]) * g


def _root(n: Numbers, kind: type, squares: np.ndarray) -> np.ndarray:
    return np.sqrt(squares + kind(n["eps_inside"])) + kind(n["eps_outside"])


def _adagrad(n: Numbers, kind: type, step: int, w: np.ndarray, g: np.ndarray, slots: Slots) -> np.ndarray:
    slots[0] = slots[0] + g * g
    return w - kind(n["learning_rate"]) * g / _root(n, kind, slots[0])


def _adadelta(n: Numbers, kind: type, step: int, w: np.ndarray, g: np.ndarray, slots: Slots) -> np.ndarray:
    rho, gain = kind(n["rho"]), kind(1.0 - n["rho"])
    squares = rho * slots[0] + gain * (g * g)
    delta = g * _root(n, kind, slots[1]) / _root(n, kind, squares)
    slots[0], slots[1] = squares, rho * slots[1] + gain * (delta * delta)
    return w - kind(n["learning_rate"]) * delta


def _adadelta_of_quotient(n: Numbers, kind: type, step: int, w: np.ndarray, g: np.ndarray, slots: Slots) -> np.ndarray:
    rho, gain, eps = kind(n["rho"]), kind(1.0 - n["rho"]), kind(n["eps_inside"])
    squares = rho * slots[0] + gain * g * g
    delta = np.sqrt((slots[1] + eps) / (squares + eps)) * g
    slots[0], slots[1] = squares, rho * slots[1] + gain * delta * delta
    return w - kind(n["learning_rate"]) * delta


def _rmsprop_scaled_first(n: Numbers, kind: type, step: int, w: np.ndarray, g: np.ndarray, slots: Slots) -> np.ndarray:
    slots[0] = kind(n["rho"]) * slots[0] + kind(1.0 - n["rho"]) * g * g
    return w - kind(n["learning_rate"]) * g / _root(n, kind, slots[0])


def _rmsprop(centered: bool, with_velocity: bool) -> Callable[..., np.ndarray]:
    def update(n: Numbers, kind: type, step: int, w: np.ndarray, g: np.ndarray, slots: Slots) -> np.ndarray:
        rho, gain = kind(n["rho"]), kind(1.0 - n["rho"])
        slots[0] = rho * slots[0] + gain * (g * g)
        variance = slots[0]
        if centered:
            slots[1] = rho * slots[1] + gain * g
            variance = variance - slots[1] * slots[1]
            variance = np.where(variance < 0, kind(0), variance)
        if with_velocity:
            slots[-1] = kind(n["velocity_keep"]) * slots[-1] + kind(n["velocity_gain"]) * g / _root(n, kind, variance)
            return w + kind(n["parameter_gain"]) * slots[-1]
        return w - kind(n["learning_rate"]) * g / _root(n, kind, variance)

    return update


def _adam(amsgrad: bool) -> Callable[..., np.ndarray]:
    def update(n: Numbers, kind: type, step: int, w: np.ndarray, g: np.ndarray, slots: Slots) -> np.ndarray:
        beta1, beta2 = n["beta1"], n["beta2"]
        correction2 = bias_correction(beta2, step)
        corrected = amsgrad and n["correct_before_maximum"] != 0
        root = 1.0 if corrected else math.sqrt(correction2)
        step_size = kind(n["learning_rate"] * root / bias_correction(beta1, step))
        eps = kind(n["eps"] * root if n["eps_after_correction"] else n["eps"])
        slots[0] = kind(beta1) * slots[0] + kind(1.0 - beta1) * g
        slots[1] = kind(beta2) * slots[1] + kind(1.0 - beta2) * (g * g)
        second_moment = slots[1]
        if amsgrad:
            now = second_moment * kind(1.0 / correction2 if corrected else 1.0)
            slots[2] = second_moment = np.where(slots[2] >= now, slots[2], now)
        return w - step_size * slots[0] / (np.sqrt(second_moment) + eps)

    return update


def _adam_by_differences(float64_step: bool) -> Callable[..., np.ndarray]:
    def update(n: Numbers, kind: type, step: int, w: np.ndarray, g: np.ndarray, slots: Slots) -> np.ndarray:
        corrected = n["corrected_by_caller"] != 0
        root = 1.0 if corrected else math.sqrt(bias_correction(n["beta2"], step))
        divisor = 1.0 if corrected else bias_correction(n["beta1"], step)
        eps = kind(n["eps"] * root if n["eps_after_correction"] else n["eps"])
        slots[0] = slots[0] + kind(1.0 - n["beta1"]) * (g - slots[0])
        slots[1] = slots[1] + kind(1.0 - n["beta2"]) * (g * g - slots[1])
        step_kind = np.float64 if float64_step else kind
        step_size = step_kind(n["learning_rate"] * root / divisor)
        quotient = step_size * slots[0].astype(step_kind) / (np.sqrt(slots[1]) + eps).astype(step_kind)
        return np.asarray(w.astype(step_kind) - quotient, kind)

    return update


def _adamax(n: Numbers, kind: type, step: int, w: np.ndarray, g: np.ndarray, slots: Slots) -> np.ndarray:
    beta1 = n["beta1"]
    slots[0] = kind(beta1) * slots[0] + kind(1.0 - beta1) * g
    decayed, now = kind(n["beta2"]) * slots[1], np.abs(g) + kind(n["eps"])
    slots[1] = np.where(decayed >= now, decayed, now)
    divisor = slots[1] + kind(n["eps_outside"])
    return w - kind(n["learning_rate"] / bias_correction(beta1, step)) * slots[0] / divisor


_ADAM = (
    "learning_rate",
    "beta1",
    "beta2",
    "eps",
    "eps_after_correction",
    "correct_before_maximum",
    "eps_outside",
    "corrected_by_caller",
)
_DESCENT = ("velocity_keep", "velocity_gain", "parameter_gain", "gradient_gain")
_ADAPTIVE = (
    "learning_rate",
    "rho",
    "eps_inside",
    "eps_outside",
    "velocity_keep",
    "velocity_gain",
    "parameter_gain",
)
_COMMON = {"weight_keep": 1.0, "l2": 0.0, "l1": 0.0}

# name: (update, slots, names of its numbers)
RULES: dict[str, tuple[Callable[..., np.ndarray], int, tuple[str, ...]]] = {
    "gradient_descent": (_gradient_descent, 0, _DESCENT),
    "average": (_average, 0, ("gain",)),
    "velocity": (_velocity, 1, _DESCENT),
    "nesterov": (_nesterov, 1, _DESCENT),
    "adagrad": (_adagrad, 1, _ADAPTIVE),
    "adadelta": (_adadelta, 2, _ADAPTIVE),
    "adadelta_of_quotient": (_adadelta_of_quotient, 2, _ADAPTIVE),
    "rmsprop": (_rmsprop(False, False), 1, _ADAPTIVE),
    "rmsprop_scaled_first": (_rmsprop_scaled_first, 1, _ADAPTIVE),
    "rmsprop_centered": (_rmsprop(True, False), 2, _ADAPTIVE),
    "rmsprop_velocity": (_rmsprop(False, True), 2, _ADAPTIVE),
    "rmsprop_centered_velocity": (_rmsprop(True, True), 3, _ADAPTIVE),
    "adam": (_adam(False), 2, _ADAM),
    "adam_by_differences": (_adam_by_differences(False), 2, _ADAM),
    "adam_by_differences_float64_step": (_adam_by_differences(True), 2, _ADAM),
    "amsgrad": (_adam(True), 3, _ADAM),
    "adamax": (_adamax, 2, _ADAM),
}


class OptimizerPlan:
    """Parameters and states of one optimizer, updated in one call a step."""

    def __init__(
        self,
        rule: str,
        parameters: list[Any],
        masters: list[Any],
        slots: list[list[Any]],
        groups: list[int],
        places: list[tuple[int, list[int] | None]],
        group_count: int,
    ) -> None:
        if rule not in RULES:
            raise ValueError(f"kitae: no rule named {rule}")
        self._update, slot_count, names = RULES[rule]
        self._parameters = [array_argument(p, "params", write=True, index=i) for i, p in enumerate(parameters)]
        for i, (parameter, master, state) in enumerate(zip(self._parameters, masters, slots, strict=True)):
            kind = np.dtype(compute_type(parameter.dtype))
            if len(state) != slot_count:
                raise Rejected("slots", "length", i)
            if master is not None:
                self._check_state(master, parameter, np.dtype(np.float32), "master", i)
            for slot in state:
                self._check_state(slot, parameter, kind, "slots", i)
        self._masters, self._slots, self._groups, self._places = masters, slots, groups, places
        self._numbers: list[Numbers] = [{**dict.fromkeys(names, 0.0), **_COMMON} for _ in range(group_count)]
        self._bound: list[Any] | None = None
        self._result = (True, 0.0, 0, -1, 0)
        self._tracking = False
        self._tracked: list[Tracked] = []

    @staticmethod
    def _check_state(array: Any, parameter: np.ndarray, dtype: np.dtype, argument: str, index: int) -> None:
        array_argument(array, argument, write=True, index=index)
        if array.dtype != dtype:
            raise Rejected(argument, "dtype", index)
        if array.shape != parameter.shape:
            raise Rejected(argument, "shape", index)
        if not array.flags.c_contiguous:
            raise Rejected(argument, "contiguous", index)

    def set_numbers(self, group: int, numbers: dict[str, float]) -> None:
        """The group's numbers, by name."""
        for name, value in numbers.items():
            if name not in self._numbers[group]:
                raise ValueError(f"kitae: the rule has no number {name}")
            self._numbers[group][name] = float(value)

    def bind(self, grads: list[Any]) -> None:
        """Fixes the gradient arrays."""
        self._bound = None
        self._check_gradients(grads)
        self._bound = list(grads)

    def bound(self) -> bool:
        """Whether gradient arrays are fixed."""
        return self._bound is not None

    def refresh(self) -> None:
        """Brings changed numbers to where a captured step reads them."""

    def set_tracking(self, tracking: bool) -> None:
        """Whether steps fill tracked()."""
        self._tracking, self._tracked = tracking, []

    def tracked(self) -> list[Tracked]:
        """For each parameter of the last step (count of non-finite elements, then sums: squares of the gradient,
        magnitudes of update and weight, squares of update and weight); waits for a GPU."""
        return self._tracked

    def set_steps(self, steps: int) -> None:
        """Sets the number of steps written so far."""
        self._result = (*self._result[:4], steps)

    def result(self) -> tuple[bool, float, int, int, int]:
        """What the last step saw, as step gives it, and the number of steps; waits for a GPU."""
        return self._result

    def _check_gradients(self, grads: list[Any]) -> None:
        if len(grads) != len(self._places):
            raise Rejected("grads", "length")
        written = [*self._parameters, *(slot for state in self._slots for slot in state)]
        written += [master for master in self._masters if master is not None]
        for i, (grad, (number, axes)) in enumerate(zip(grads, self._places, strict=True)):
            if grad is None:
                continue
            parameter = self._parameters[number]
            array_argument(grad, "grads", index=i)
            if grad.dtype not in (parameter.dtype, np.dtype(np.float32)):
                raise Rejected("grads", "dtype", i)
            if (grad.shape if axes is None else grad.transpose(axes).shape) != parameter.shape:
                raise Rejected("grads", "shape", i)
            if any(np.shares_memory(grad, array) for array in written):
                raise Rejected("grads", "overlap", i)

    def step(
        self, grads: list[Any] | None, number: int, scope: int, max_norm: float, eps: float, nonfinite: int
    ) -> tuple[bool, float, int, int]:
        """One update; (written, norm, count of non-finite elements, first parameter with one); -1: not waited for."""
        self._tracked = []
        found = self._step(grads, number, scope, max_norm, eps, nonfinite)
        self._result = (*found, number if found[0] else number - 1)
        return found

    def _step(
        self, grads: list[Any] | None, number: int, scope: int, max_norm: float, eps: float, nonfinite: int
    ) -> tuple[bool, float, int, int]:
        if grads is None:
            if self._bound is None:
                raise Rejected("grads", "type")
            grads = self._bound
        else:
            self._bound = None
            self._check_gradients(grads)
        zero = nonfinite == ZERO
        gradients, bad_elements = self._effective(grads, zero)
        bad = sum(bad_elements)
        norm, first_bad = math.nan, -1
        factors = [1.0] * len(gradients)
        if scope != SCOPE_NONE or nonfinite in (RAISE, SKIP):
            norm, each, first_bad, _ = norms_of([np.zeros(0, np.float32) if g is None else g for g in gradients])
            if first_bad >= 0 and nonfinite in (RAISE, SKIP):
                return False, norm, 0, first_bad
            if scope in (SCOPE_ALL, SCOPE_TENSOR):
                norms = each if scope == SCOPE_TENSOR else [norm] * len(each)
                factors = [gradient_factor(n, max_norm, eps) for n in norms]
        tracked = []
        with np.errstate(all="ignore"):
            for i, gradient in enumerate(gradients):
                sums: tuple[float, ...] = (0.0,) * 5
                if gradient is not None:
                    before, after = self._update_one(i, gradient, factors[i], number)
                    if self._tracking:
                        sums = _sums_of_update(gradient, before, after)
                tracked.append((bad_elements[i], *sums))
        if self._tracking:
            self._tracked = tracked
        return True, norm, bad, first_bad

    def _effective(self, grads: list[Any], zero: bool) -> tuple[list[np.ndarray | None], list[int]]:
        """Each parameter's gradient in its arithmetic type, the sum over the places where it is listed, and its number
        of non-finite elements."""
        gradients: list[np.ndarray | None] = [None] * len(self._parameters)
        for grad, (number, axes) in zip(grads, self._places, strict=True):
            if grad is None:
                continue
            value = widen(grad if axes is None else grad.transpose(axes), compute_type(self._parameters[number].dtype))
            total = gradients[number]
            with np.errstate(all="ignore"):
                gradients[number] = value if total is None else total + value
        bad = [0 if g is None else int(np.count_nonzero(~np.isfinite(g))) for g in gradients]
        if zero:
            gradients = [None if g is None else finite_or_zero(g) for g in gradients]
        return gradients, bad

    def _update_one(self, i: int, g: np.ndarray, factor: float, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The parameter before and after, in its arithmetic type."""
        parameter, master, state = self._parameters[i], self._masters[i], self._slots[i]
        n = self._numbers[self._groups[i]]
        kind = compute_type(parameter.dtype)
        w = widen(parameter)
        if master is not None:
            w = np.where(master.astype(parameter.dtype).astype(np.float32) == w, master, w)
        g = kind(factor) * g
        if n["l2"] or n["l1"]:
            sign = np.where(w > 0, kind(1), np.where(w < 0, kind(-1), kind(0)))
            g = (g + kind(n["l2"]) * w) + kind(n["l1"]) * sign
        slots = list(state)
        before = w
        w = self._update(n, kind, step, w * kind(n["weight_keep"]), g, slots)
        for slot, value in zip(state, slots, strict=True):
            slot[...] = flush(value)
        if master is not None:
            master[...] = w
        store(parameter, w)
        return before, w


def _sums_of_update(gradient: np.ndarray, before: np.ndarray, after: np.ndarray) -> tuple[float, ...]:
    g, weight = gradient.astype(np.float64), before.astype(np.float64)
    update = after.astype(np.float64) - weight
    terms = (g * g, np.abs(update), np.abs(weight), update * update, weight * weight)
    return tuple(sum_in_order(term.reshape(-1)) for term in terms)
