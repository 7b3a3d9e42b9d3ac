"""Optimizers of torch.optim: one native call a step over all tensors, state where PyTorch's state dicts have it."""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from operator import is_
from typing import Any, ClassVar

import numpy as np
import torch
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from kitae import _checks, _dispatch
from kitae._checks import Rejected
from kitae._parameters import Places
from kitae.gradients import CLIP_EPS, NONFINITE_CODES, SCOPE_CODES
from kitae.optimizers import Numbers
from kitae.torch import _tensors

Group = Mapping[str, Any]
_PROPAGATE, _NO_NORM = NONFINITE_CODES["propagate"], SCOPE_CODES["none"]


class _RulePlan:
    """The parameters that one rule updates, their state, and the native plan over both.

    ``places``: of the parameters, in the list of all. ``names``: the rule's state as PyTorch names it. ``arrays``: the
    memory of ``tensors(...)``; as long as the tensors are still there, the plan is right. ``seen``: the optimizer's
    state when the plan was made, its keys and its values: where it still has these, ``states`` are those of the
    parameters, and nobody has to look them up by tensors, whose hashes are slow.
    """

    def __init__(self, op: str, rule: str, names: Sequence[str], counted: bool, group_count: int) -> None:
        self.op, self.rule, self.names, self.counted = op, rule, tuple(names), counted
        self.group_count = group_count
        self.places: list[int] = []
        self.groups: list[int] = []
        self.fresh: set[int] = set()  # members whose state was made for the step to come

    def add(self, place: int, group: int, fresh: bool) -> None:
        if fresh:
            self.fresh.add(len(self.places))
        self.places.append(place)
        self.groups.append(group)

    def finish(self, params: list[Any], state: Mapping[Any, Any]) -> None:
        members = [params[place] for place in self.places]
        values = _tensors.arrays(self.op, "params", members)
        orders = [_tensors.memory_order(value) for value in values]
        for place, member, order in zip(self.places, members, orders, strict=True):
            for name in self.names:
                own = state[member]
                own[name] = _laid_out_like(self.op, f"state[{place}][{name!r}]", own[name], member, order)
        self.counts = np.zeros(0, np.float32)
        self.even = b""  # the bytes of counts that are equal
        if self.counted:  # one buffer, so that one addition counts every parameter's step
            kind = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
            counts = torch.tensor([float(state[member]["step"]) for member in members], dtype=kind, device="cpu")
            for member, count in zip(members, counts.unbind(), strict=True):
                state[member]["step"] = count
            self.counts = counts.numpy()
        self.seen = list(state), list(state.values())
        self.states = [state.get(member) for member in members]
        self.members = members
        self.arrays = _tensors.arrays(self.op, "params", self.tensors(params, state))
        slots = [self.arrays[(1 + i) * len(members) :][: len(members)] for i in range(len(self.names))]
        self.distinct_groups = tuple(set(self.groups))
        self.backend = _dispatch.backend_for(values[0], self.op, "params")
        self.numbers: dict[int, Numbers] = {}
        try:
            with _tensors.stream_of(values[0]):
                self.plan = self.backend.OptimizerPlan(
                    rule=self.rule,
                    parameters=[_tensors.transposed(value, order) for value, order in zip(values, orders, strict=True)],
                    masters=[None] * len(members),
                    slots=[[_tensors.transposed(slot[i], order) for slot in slots] for i, order in enumerate(orders)],
                    groups=self.groups,
                    places=list(enumerate(orders)),
                    group_count=self.group_count,
                )
        except Rejected as rejected:
            raise _checks.explain(self.op, rejected, {"params": values}) from None

    def tensors(self, params: list[Any], state: Mapping[Any, Any]) -> list[Any]:
        """Everything that the plan points to. KeyError or TypeError where state is gone."""
        members = [params[place] for place in self.places]
        if not self.names and not self.counted:
            return members
        keys, values = self.seen
        seen = len(state) == len(keys) and all(map(is_, state, keys)) and all(map(is_, state.values(), values))
        states: list[Any] = self.states
        if not seen or not all(map(is_, members, self.members)):
            states = [state.get(member) for member in members]
        names = (*self.names, "step") if self.counted else self.names
        return members + [own[name] for name in names for own in states]

    def holds(self, params: list[Any], state: Mapping[Any, Any]) -> bool:
        """Whether the plan's memory is still that of the parameters and of their state."""
        if _dispatch.backend_for(self.arrays[0], self.op, "params") is not self.backend:
            return False
        try:
            return _tensors.holds(self.tensors(params, state), self.arrays)
        except (KeyError, TypeError, Rejected):
            return False

    def step(self, grads: list[Any], numbers: Callable[[int, int, bool], Numbers], depends: tuple[bool, bool]) -> None:
        """One update. ``numbers(group, step, fresh)``: the rule's; ``depends``: whether on step, on fresh."""
        own = grads if len(grads) == len(self.places) else [grads[place] for place in self.places]
        present = [i for i, gradient in enumerate(own) if gradient is not None]
        if not present:
            return
        by_step, by_fresh = depends
        before = int(self.counts.item(present[0])) if by_step else 0
        fresh, self.fresh = self.fresh if by_fresh else set(), set()
        even = not by_step or self.counts.tobytes() == self.even or bool((self.counts == before).all())
        if even and not fresh:
            self._call(own, before + 1, False, numbers)
        else:  # parameters that have missed a step, or make their first one, have other numbers: a call for each kind
            kinds = {i: (int(self.counts[i]) + 1 if by_step else 1, i in fresh) for i in present}
            for kind in sorted(set(kinds.values())):
                chosen = [gradient if kinds.get(i) == kind else None for i, gradient in enumerate(own)]
                self._call(chosen, *kind, numbers)
        if not self.counted:
            return
        if len(present) == len(own):
            self.counts += 1
            self.even = self.counts.tobytes() if even and by_step else b""
        else:
            self.counts[present] += 1

    def _call(self, grads: list[Any], step: int, fresh: bool, numbers: Callable[[int, int, bool], Numbers]) -> None:
        with _tensors.stream_of(self.arrays[0]):
            for group in self.distinct_groups:
                values = numbers(group, step, fresh)
                if values != self.numbers.get(group):
                    self.plan.set_numbers(group, values)
                    self.numbers[group] = values
            try:
                self.plan.step(grads, step, _NO_NORM, 0.0, CLIP_EPS, _PROPAGATE)
            except Rejected as rejected:
                wanted = {"grads": "the parameter's, or float32"}
                raise _checks.explain(self.op, rejected, {"grads": grads}, wanted) from None


def _laid_out_like(op: str, argument: str, state: Any, parameter: Any, order: list[int] | None) -> Any:
    """The state itself where a plan can take it: of the arithmetic type, dense and in the parameter's memory order.

    Otherwise (state of 16-bit parameters, or of a parameter that was turned to channels_last) a copy that is.
    """
    kind = torch.float64 if parameter.dtype == torch.float64 else torch.float32
    if state.dtype == kind and state.shape == parameter.shape:
        (array,) = _tensors.named_arrays(op, (argument,), [state])
        if _tensors.transposed(array, order).flags.c_contiguous:
            return state
    if state.shape != parameter.shape:
        got = _checks.Words(f"shape {tuple(state.shape)}")
        raise _checks.error(ValueError, op, argument, f"shape {tuple(parameter.shape)}", got)
    return torch.empty_like(parameter, dtype=kind, requires_grad=False).copy_(state)


class _Optimizer(torch.optim.Optimizer):
    """What kitae's optimizers for PyTorch share: a ``step`` of one native call for each rule in the groups.

    Everything else is the class of torch.optim that stands behind it in each class below: constructor, defaults, state
    dict, hooks, ``zero_grad``.
    """

    _counted: ClassVar[bool] = True  # whether state has "step"

    # What a rule defines.

    def _rule(self, group: Group) -> tuple[str, tuple[str, ...]]:
        """The kernel's rule and the names of its state in PyTorch's state dict, in the rule's order."""
        raise NotImplementedError

    def _numbers(self, group: Group, step: int, fresh: bool) -> Numbers:
        """The kernel's neutral numbers; ``fresh``: at a parameter's first step."""
        raise NotImplementedError

    def _initial(self, name: str) -> float:
        return 0.0

    def _depends(self, group: Group) -> tuple[bool, bool]:
        """Whether numbers depend on the step's number, and on its being the first."""
        return False, False

    # Parameters.

    _plans: list[_RulePlan] | None = None  # None: to be made
    _idle: tuple[int, ...] = ()  # places of parameters in no plan
    _shape: Any = None

    # GradScaler asks whether a step looks after infinite gradients itself: no, so it unscales and skips.
    @property
    def _step_supports_amp_scaling(self) -> bool:
        return False

    @_step_supports_amp_scaling.setter
    def _step_supports_amp_scaling(self, value: bool) -> None:
        pass

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        try:
            self._check_group(self.param_groups[-1])
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise

    def _check_group(self, group: Group) -> None:
        op = f"torch.{type(self).__name__}"
        for name in ("capturable", "differentiable"):
            if group.get(name):
                expected = f"False (torch.optim.{type(self).__name__} has it)"
                raise _checks.error(ValueError, op, name, expected, group[name])
        for place, parameter in enumerate(group["params"]):
            if not parameter.is_floating_point():
                got = _checks.Words(f"{parameter.dtype}")
                raise _checks.error(TypeError, op, f"params[{place}]", f"dtype {_checks.FLOATS}", got)
        if len(set(map(id, group["params"]))) < len(group["params"]):
            got = _checks.Words("one of them twice")
            raise _checks.error(ValueError, op, "params", "distinct tensors", got)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._plans = None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in PyTorch, which rounds state to the parameter's dtype; kitae's own float32 state stays as it is."""
        super().load_state_dict(state_dict)
        if self._optimizer_load_state_dict_pre_hooks:
            return  # what was loaded is known to the hooks alone
        numbers = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        params = chain.from_iterable(group["params"] for group in self.param_groups)
        for number, parameter in zip(numbers, params, strict=True):
            if parameter.element_size() == 2:
                for name, value in state_dict["state"].get(number, {}).items():
                    if name != "step" and torch.is_tensor(value) and value.dtype == torch.float32:
                        self.state[parameter][name] = value.to(parameter.device)

    # Steps.

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient; returns what ``closure`` does."""
        if not (torch.compiler.is_compiling() or self._watched()):
            return self._step(closure)
        # What PyTorch has wrapped of a subclass with a step of its own is that one.
        step = self._watched_step if type(self).step is _Optimizer.step else self._step_apart
        return step() if closure is None else step(closure)

    # PyTorch would wrap what is not marked in a record for the profiler and in the hooks: two steps' worth of time for
    # a small network where nobody looks.
    step.hooked = True  # type: ignore[attr-defined]

    def _watched(self) -> bool:
        return bool(
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or _global_optimizer_pre_hooks
            or _global_optimizer_post_hooks
            or torch.autograd._profiler_enabled()
        )

    def _step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = self.param_groups
        params = [parameter for group in groups for parameter in group["params"]]
        gradients = [parameter.grad for parameter in params]
        written = [parameter for parameter, gradient in zip(params, gradients, strict=True) if gradient is not None]
        if any(group.get("maximize") for group in groups):
            gradients = self._uphill(gradients)
        arrays = _tensors.arrays(f"torch.{type(self).__name__}.step", "gradients", gradients)
        plans = self._current_plans(params, arrays)

        def numbers(group: int, step: int, fresh: bool) -> Numbers:
            return self._numbers(groups[group], step, fresh)

        for plan in plans:
            on_step, on_fresh = zip(*[self._depends(groups[group]) for group in plan.distinct_groups], strict=True)
            plan.step(arrays, numbers, (any(on_step), any(on_fresh)))
        torch.autograd.graph.increment_version(written)
        return loss

    _step_apart = torch.compiler.disable(_step)
    _watched_step = torch.optim.Optimizer.profile_hook_step(_step_apart)

    def _uphill(self, gradients: list[Any]) -> list[Any]:
        """Negated copies of the gradients of groups with ``maximize``."""
        signs = chain.from_iterable([bool(group.get("maximize"))] * len(group["params"]) for group in self.param_groups)
        with torch.no_grad():
            return [
                -gradient if sign and gradient is not None else gradient
                for sign, gradient in zip(signs, gradients, strict=True)
            ]

    def _current_plans(self, params: list[Any], arrays: list[Any]) -> list[_RulePlan]:
        shape = [(len(group["params"]), self._rule(group)) for group in self.param_groups]
        plans = self._plans
        if (
            plans is None
            or shape != self._shape
            or any(arrays[place] is not None for place in self._idle)
            or not all(plan.holds(params, self.state) for plan in plans)
        ):
            self._plans = None
            plans = self._made_plans(params, arrays)
            self._plans, self._shape = plans, shape
        return plans

    def _made_plans(self, params: list[Any], arrays: list[Any]) -> list[_RulePlan]:
        """Plans over the parameters that have state, or a gradient and now get state, as in PyTorch."""
        op = f"torch.{type(self).__name__}"
        planned: list[tuple[int, int, bool]] = []  # (place, group, whether it has its state)
        groups = [number for number, group in enumerate(self.param_groups) for _ in group["params"]]
        for place, (parameter, number) in enumerate(zip(params, groups, strict=True)):
            names = self._rule(self.param_groups[number])[1]
            state = self.state.get(parameter, {})
            started = all(state.get(name) is not None for name in names) and (not self._counted or "step" in state)
            if arrays[place] is not None or (started and (names or self._counted)):
                planned.append((place, number, started))
        self._refuse_bad_parameters(op, [params[place] for place, *_ in planned])
        plans: dict[tuple[str, Any], _RulePlan] = {}
        for place, number, started in planned:
            rule, names = self._rule(self.param_groups[number])
            if not started:
                self._start(params[place], names)
            kind = rule, params[place].device
            if kind not in plans:
                plans[kind] = _RulePlan(op, rule, names, self._counted, len(self.param_groups))
            plans[kind].add(place, number, fresh=not started)
        for plan in plans.values():
            plan.finish(params, self.state)
        self._idle = tuple(set(range(len(params))).difference(place for place, *_ in planned))
        return list(plans.values())

    def _refuse_bad_parameters(self, op: str, parameters: list[Any]) -> None:
        for group in self.param_groups:
            self._check_group(group)  # a checkpoint may have brought options
        values = _tensors.arrays(op, "params", parameters)
        if len(Places(op, values).first) < len(values):
            got = _checks.Words("several with the same memory")
            raise _checks.error(ValueError, op, "params", "tensors with memory of their own", got)

    def _start(self, parameter: Any, names: Sequence[str]) -> None:
        """State of a parameter that has none yet, or less than the group's options need."""
        state = self.state[parameter] if names or self._counted else {}
        if self._counted:
            state.setdefault("step", torch.tensor(0.0, device="cpu"))
        kind = torch.float64 if parameter.dtype == torch.float64 else torch.float32
        for name in names:
            if state.get(name) is None:
                initial = self._initial(name)
                state[name] = torch.full_like(parameter, initial, dtype=kind, requires_grad=False)


def _l2(group: Group) -> Numbers:
    return {"weight_keep": 1.0, "l2": float(group["weight_decay"])}


class SGD(_Optimizer, torch.optim.SGD):
    """``torch.optim.SGD``: ``v = momentum * v + (1 - dampening) * g; w -= lr * v``; the first v is g.

    nesterov: ``w -= lr * (g + momentum * v)``. weight_decay is added to g as ``weight_decay * w``.
    """

    _counted = False

    def _rule(self, group: Group) -> tuple[str, tuple[str, ...]]:
        if group["momentum"] == 0:
            return "gradient_descent", ()
        return "nesterov" if group["nesterov"] else "velocity", ("momentum_buffer",)

    def _depends(self, group: Group) -> tuple[bool, bool]:
        return False, group["dampening"] != 0

    def _numbers(self, group: Group, step: int, fresh: bool) -> Numbers:
        lr, momentum = float(group["lr"]), float(group["momentum"])
        numbers = {"gradient_gain": -lr, **_l2(group)}
        if momentum:
            numbers |= {
                "velocity_keep": momentum,
                "velocity_gain": 1.0 if fresh else 1.0 - float(group["dampening"]),
                "parameter_gain": -lr * momentum if group["nesterov"] else -lr,
            }
        return numbers


class Adam(_Optimizer, torch.optim.Adam):
    """``torch.optim.Adam``: ``m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2``,

    ``w -= lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)``; amsgrad divides by the largest v so far.
    """

    def _rule(self, group: Group) -> tuple[str, tuple[str, ...]]:
        if group["amsgrad"]:
            return "amsgrad", ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
        return "adam", ("exp_avg", "exp_avg_sq")

    def _depends(self, group: Group) -> tuple[bool, bool]:
        return True, False

    def _numbers(self, group: Group, step: int, fresh: bool) -> Numbers:
        lr, (beta1, beta2) = float(group["lr"]), map(float, group["betas"])
        numbers = {
            "learning_rate": lr,
            "beta1": beta1,
            "beta2": beta2,
            "eps": group["eps"],
            "eps_after_correction": 1.0,
        }
        if group["decoupled_weight_decay"]:
            return {**numbers, "weight_keep": 1.0 - lr * group["weight_decay"], "l2": 0.0}
        return {**numbers, **_l2(group)}


class AdamW(Adam, torch.optim.AdamW):
    """``torch.optim.AdamW``: ``w *= 1 - lr * weight_decay``, then Adam's step."""


class RMSprop(_Optimizer, torch.optim.RMSprop):
    """``torch.optim.RMSprop``: ``h = alpha h + (1 - alpha) g^2; w -= lr * g / (sqrt(h) + eps)``.

    momentum: ``u = momentum u + g / (sqrt(h) + eps); w -= lr * u``. centered: ``h - a^2`` in place of h, with
    ``a = alpha a + (1 - alpha) g``; a difference that rounding makes negative counts as 0 (PyTorch: NaN).
    """

    def _rule(self, group: Group) -> tuple[str, tuple[str, ...]]:
        centered, velocity = bool(group["centered"]), group["momentum"] > 0
        names = ("square_avg",) + ("grad_avg",) * centered + ("momentum_buffer",) * velocity
        return "rmsprop" + "_centered" * centered + "_velocity" * velocity, names

    def _numbers(self, group: Group, step: int, fresh: bool) -> Numbers:
        lr = float(group["lr"])
        return {
            "learning_rate": lr,
            "rho": float(group["alpha"]),
            "eps_outside": float(group["eps"]),
            "velocity_keep": float(group["momentum"]),
            "velocity_gain": 1.0,
            "parameter_gain": -lr,
            **_l2(group),
        }


class Adagrad(_Optimizer, torch.optim.Adagrad):
    """``torch.optim.Adagrad``: ``h += g^2; w -= lr / (1 + (t - 1) * lr_decay) * g / (sqrt(h) + eps)``."""

    def _rule(self, group: Group) -> tuple[str, tuple[str, ...]]:
        return "adagrad", ("sum",)

    def _initial(self, name: str) -> float:
        return float(self.defaults["initial_accumulator_value"])

    def _depends(self, group: Group) -> tuple[bool, bool]:
        return group["lr_decay"] != 0, False

    def _numbers(self, group: Group, step: int, fresh: bool) -> Numbers:
        lr = float(group["lr"]) / (1.0 + (step - 1) * float(group["lr_decay"]))
        return {"learning_rate": lr, "eps_outside": float(group["eps"]), **_l2(group)}


class Adadelta(_Optimizer, torch.optim.Adadelta):
    """``torch.optim.Adadelta``: ``h = rho h + (1 - rho) g^2; d = g sqrt(s + eps) / sqrt(h + eps); w -= lr * d``,

    ``s = rho s + (1 - rho) d^2``.
    """

    def _rule(self, group: Group) -> tuple[str, tuple[str, ...]]:
        return "adadelta", ("square_avg", "acc_delta")

    def _numbers(self, group: Group, step: int, fresh: bool) -> Numbers:
        lr, rho, eps = (float(group[name]) for name in ("lr", "rho", "eps"))
        return {"learning_rate": lr, "rho": rho, "eps_inside": eps, **_l2(group)}
