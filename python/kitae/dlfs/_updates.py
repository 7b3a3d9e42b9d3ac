"""One native call for an optimizer that, as the books' do, meets its parameters anew at every update."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kitae import _checks, _dispatch
from kitae._checks import Rejected
from kitae.gradients import CLIP_EPS, NONFINITE_CODES, SCOPE_CODES

# No norm is taken, and infinite and NaN gradients do what the formula says.
_PLAINLY = (SCOPE_CODES["none"], 0.0, CLIP_EPS, NONFINITE_CODES["propagate"])
_KEPT = 4  # one optimizer may serve several networks in turn


def state_dtype(parameter: Any) -> np.dtype:
    return np.dtype(np.float64 if parameter.dtype == np.float64 else np.float32)


def new_state(parameter: Any) -> Any:
    """Zeros, as the kernels keep an optimizer's state for a parameter."""
    state = _dispatch.empty(parameter.shape, state_dtype(parameter), parameter)
    state[...] = 0
    return state


class _Plan:
    """The backend's plans for these arrays, in rounds: an array that is listed again is updated after its first time,
    with a state of its own, as a loop over the list does it."""

    def __init__(self, backend: Any, rule: str, parameters: list[Any], slots: list[list[Any]]) -> None:
        self.arrays = (parameters, slots)  # references, so that no other array can take their ids
        self.numbers: dict[str, float] | None = None
        self.steps = 0
        self.rounds: list[tuple[list[int], Any]] = []
        for members in _rounds(parameters):
            plan = backend.OptimizerPlan(
                rule=rule,
                parameters=[parameters[i] for i in members],
                masters=[None] * len(members),
                slots=[slots[i] for i in members],
                groups=[0] * len(members),
                places=[(i, None) for i in range(len(members))],
                group_count=1,
            )
            self.rounds.append((members, plan))

    def set_numbers(self, numbers: dict[str, float]) -> None:
        if numbers != self.numbers:
            for _, plan in self.rounds:
                plan.set_numbers(0, {**numbers, "weight_keep": 1.0, "l2": 0.0, "l1": 0.0})
            self.numbers = numbers


def _rounds(parameters: list[Any]) -> list[list[int]]:
    may_share_memory = _dispatch.array_module(parameters[0]).may_share_memory
    rounds: list[list[int]] = []
    placed: list[int] = []
    for i, array in enumerate(parameters):
        earlier = [placed[j] for j in range(i) if may_share_memory(array, parameters[j])]
        number = max(earlier, default=-1) + 1
        placed.append(number)
        if number == len(rounds):
            rounds.append([])
        rounds[number].append(i)
    return rounds


class Updates:
    """Updates by one rule. Plans are kept while parameters and state are the same arrays."""

    def __init__(self, rule: str) -> None:
        self._rule = rule
        self._plans: dict[Any, _Plan] = {}

    def step(
        self,
        op: str,
        keys: Sequence[Any],
        parameters: list[Any],
        slots: list[list[Any]],
        grads: list[Any],
        numbers: dict[str, float],
        count: int | None = None,
    ) -> None:
        """Update number ``count`` (None: the next one) of every parameter, in place. ``keys`` name the arrays in
        errors."""
        if not parameters:
            return
        for name, grad in zip(keys, grads, strict=True):
            if grad is None:  # to the kernel: leave the parameter alone
                raise _not_numbers(op, name, grad)
        backend = _dispatch.backend_for(parameters[0], op, f"params[{keys[0]!r}]")
        key = (backend.__name__, *map(id, parameters), *(id(slot) for state in slots for slot in state))
        plan = self._plans.get(key)
        if plan is None:
            try:
                plan = _Plan(backend, self._rule, parameters, slots)
            except Rejected as rejected:
                raise _explain(op, rejected, "params", keys, parameters) from None
            if len(self._plans) == _KEPT:
                self._plans.clear()
            self._plans[key] = plan
        plan.set_numbers(numbers)
        plan.steps = plan.steps + 1 if count is None else count
        for members, native in plan.rounds:
            listed = [grads[i] for i in members]
            try:
                native.step(listed, plan.steps, *_PLAINLY)
            except Rejected:
                # Numbers, other dtypes and shapes that broadcast, which NumPy's operators take.
                names = [keys[i] for i in members]
                listed = [
                    _as_gradient(op, name, grad, parameters[i])
                    for i, name, grad in zip(members, names, listed, strict=True)
                ]
                try:
                    native.step(listed, plan.steps, *_PLAINLY)
                except Rejected as rejected:
                    raise _explain(op, rejected, "grads", names, listed) from None


def _as_gradient(op: str, key: Any, grad: Any, parameter: Any) -> Any:
    xp = _dispatch.array_module(parameter)
    if not isinstance(grad, (xp.ndarray, int, float, np.number)) or np.iscomplexobj(grad):
        raise _not_numbers(op, key, grad)
    array = xp.asarray(grad, dtype=parameter.dtype)
    if array.shape == parameter.shape:
        return array
    try:
        return xp.ascontiguousarray(xp.broadcast_to(array, parameter.shape))
    except ValueError:
        raise _checks.error(ValueError, op, f"grads[{key!r}]", f"shape {parameter.shape}", grad) from None


def _not_numbers(op: str, key: Any, grad: Any) -> Exception:
    return _checks.error(TypeError, op, f"grads[{key!r}]", "an array of real numbers", grad)


def _explain(op: str, rejected: Rejected, argument: str, keys: Sequence[Any], values: list[Any]) -> Exception:
    if rejected.index < 0:
        return _checks.explain(op, rejected, {})
    name = f"{argument}[{keys[rejected.index]!r}]"
    return _checks.explain(op, Rejected(name, rejected.reason), {name: values[rejected.index]})
