"""Optimizers: gradient descent and its family, in place on the caller's arrays, one native call a step."""

import fnmatch
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from types import ModuleType
from typing import Any, ClassVar, NamedTuple

import numpy as np

from kitae import _checks, _dispatch
from kitae._checks import Rejected
from kitae._parameters import Places, Structure, check_loaded, float32_copy, refuse_bad_arrays, write_loaded
from kitae.gradients import NONFINITE_CODES, SCOPE_CODES
from kitae.semantics import preset

__all__ = [
    "SGD",
    "AMSGrad",
    "AdaDelta",
    "AdaGrad",
    "AdaMax",
    "Adam",
    "AdamW",
    "Momentum",
    "Nesterov",
    "NormalizedGD",
    "RMSProp",
]

_MAX_STEPS = 2**63 - 1
Numbers = dict[str, float]


class ParameterStats(NamedTuple):
    """What a step that tracked saw of one parameter, or of all as one vector (``track``)."""

    norm: float  # Euclidean norm of the gradient, before clipping and penalties
    nonfinite: int  # infinite and NaN elements of the gradient
    ratio: float  # mean magnitude of the update / mean magnitude of the parameter before it
    ratio_l2: float  # Euclidean norm of the update / that of the parameter before it


class Stats(NamedTuple):
    """What the last step saw. On a GPU reading it waits for that step."""

    norm: float  # global norm of the gradients before clipping; NaN where the step took no norm and did not track
    nonfinite: int  # infinite and NaN elements of the gradients
    written: bool  # False where the step was skipped
    ratio: float = math.nan  # as in ParameterStats, over all parameters; NaN where the step did not track
    ratio_l2: float = math.nan
    parameters: dict[str, ParameterStats] | None = None  # by name, or number in a list; None without tracking


class _Range(NamedTuple):
    """Where a hyperparameter must lie."""

    low: float = 0.0
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False


_NOT_NEGATIVE = _Range()
_FRACTION = _Range(high=1.0, open_high=True)


class Optimizer(ABC):
    """What all optimizers share. Not for direct use; every class below takes these keywords after its own.

    params: an array, a list or tuple of arrays, a dict of arrays (names), or groups
    ``[{"params": ..., "lr": ..., "weight_decay": ...}, ...]``; float32, float64, float16 or bfloat16, of any strides.
    They are updated where they lie, always. The same array listed twice (a transposed view too) is one parameter whose
    gradients are added; arrays that overlap in part are refused.
    weight_decay, l1: penalties ``weight_decay * w`` and ``l1 * sign(w)`` added to the gradient (AdamW, and semantics
    "keras" and "dl4j", decouple the decay: ``w *= 1 - lr * weight_decay`` before the update). no_decay: patterns of
    names ("*.b") that neither applies to; for dicts of parameters.
    max_norm: clip the gradients' global norm to it, in the same call (see ``kitae.clip_grad_norm``); gradients are not
    changed. nonfinite: what infinite and NaN gradients do: "raise" (default where a norm is taken), "skip", "zero",
    "propagate" (default elsewhere); ``stats`` counts them. master: keep float32 copies of 16-bit parameters
    (default), so that small updates are not lost; where the caller changes the parameter, the parameter wins.
    semantics: the preset of every keyword that is None, and of what no keyword says (kitae.semantics): "paper", "dlfs",
    "dlfs2", "dezero", "chainer", "keras", "torch", "onnx", "dl4j", "optax". A class that the system does not have is a
    ValueError that names those which do. Learning rates that change with the step count (lr_decay) are numbers of each
    call: a captured step keeps the one it was captured with.

    On CUDA nothing is waited for, except by ``stats``, ``steps`` and ``state_dict``; with nonfinite="raise" the GPU
    writes nothing and ``kitae.check()`` raises. Step count and numbers live on the GPU: after ``bind(grads)`` and one
    ``step()`` the next one can be captured in a CUDA graph, whose replays count on; setting ``lr`` reaches them.

    ``track = True`` makes each step measure itself, see there.

    ``step(grads)`` updates once. grads have the structure of params; a None entry leaves its parameter and state
    alone; the dtype is the parameter's or float32. ``bind(grads)`` fixes the gradient arrays, ``step()`` then uses
    them unseen.
    """

    _slot_names: ClassVar[tuple[str, ...]] = ()
    _ranges: ClassVar[dict[str, _Range]] = {}

    def __init__(self, params: Any, values: dict[str, Any], common: dict[str, Any], semantics: str) -> None:
        self._op = type(self).__name__
        self._step_op = f"{self._op}.step"
        self._semantics = semantics
        # A subclass that somebody derives has its parent's preset.
        kind = next((base.__name__ for base in type(self).__mro__ if base.__name__ in __all__), self._op)
        self._values = preset(semantics, kind, **values)
        self._check_options()
        self._defaults = {name: self._number(name, self._values[name]) for name in self._group_names()}
        self._defaults["l1"] = self._number("l1", common["l1"])
        self._no_decay = self._patterns(common["no_decay"])
        self._scope, self._max_norm = self._scaling(common["max_norm"])
        default = "propagate" if self._scope == "none" else "raise"
        self._nonfinite = _checks.one_of(self._op, "nonfinite", common["nonfinite"] or default, _checks.NONFINITE)
        self._scope_code, self._nonfinite_code = SCOPE_CODES[self._scope], NONFINITE_CODES[self._nonfinite]
        self._clip_eps = self._values["clip_eps"]
        self._master = _checks.boolean(self._op, "master", True if common["master"] is None else common["master"])
        self._steps = 0
        self._track = False
        self._tracked_by: Any = None  # the plan that has the sums of the last step
        self._waiting: Any = None  # the plan that the last step ran on without telling what it saw
        self._lag = 0  # by how many its count of that step was behind ours
        self.groups: list[dict[str, Any]] = []
        self._last: tuple[bool, float, int, int] = (True, math.nan, 0, -1)
        self._plans: dict[str, Any] = {}
        self._bound: list[Any] | None = None
        self._bound_to: Any = None  # the plan that reads them unseen
        if params is not None:
            self.attach(params)

    # What a rule defines.

    @abstractmethod
    def _rule(self) -> str:
        """The name of the kernel's rule."""

    @abstractmethod
    def _rule_numbers(self, group: Mapping[str, float]) -> Numbers:
        """The kernel's neutral numbers of a group."""

    def _check_options(self) -> None:
        """Check the options that are not numbers of a group."""
        return

    def _slots(self) -> tuple[str, ...]:
        return self._slot_names

    def _initial(self, slot: str) -> float:
        return 0.0

    def _phase(self) -> int:
        """What the numbers of a group depend on beside the group: a function of the number of steps so far."""
        return 0

    def _step_lag(self, steps: int) -> int:
        """By how many the number of the step after ``steps`` is behind ``steps + 1``."""
        return 0

    def _decay_numbers(self, group: Mapping[str, float]) -> Numbers:
        rate, decay = group["weight_decay"], self._values["decay"]
        keep = 1.0
        if decay == "decoupled":
            keep = 1.0 - group["lr"] * rate
        elif decay != "coupled":
            keep = 1.0 - rate
        return {"weight_keep": keep, "l2": rate if decay == "coupled" else 0.0, "l1": group["l1"]}

    def _numbers(self, group: Mapping[str, float]) -> Numbers:
        return {**self._rule_numbers(group), **self._decay_numbers(group)}

    # Hyperparameters.

    def _group_names(self) -> list[str]:
        return ["lr", *self._ranges, "weight_decay"]

    def _number(self, name: str, value: Any) -> float:
        allowed = self._ranges.get(name, _NOT_NEGATIVE)
        return _checks.number(self._op, name, value, **allowed._asdict())

    def _scaling(self, max_norm: Any) -> tuple[str, float]:
        if max_norm is None:
            return "none", 0.0
        return "all", _checks.number(self._op, "max_norm", max_norm, low=0, open_low=True, infinite=True)

    def _patterns(self, patterns: Any) -> tuple[str, ...]:
        if isinstance(patterns, str) or not isinstance(patterns, Iterable):
            raise _checks.error(TypeError, self._op, "no_decay", "a tuple of patterns", patterns)
        return tuple(patterns)

    @property
    def lr(self) -> float:
        """The learning rate: reading gives the first group's, setting sets every group's."""
        return self.groups[0]["lr"] if self.groups else self._defaults["lr"]

    @lr.setter
    def lr(self, value: float) -> None:
        value = self._number("lr", value)
        self._defaults["lr"] = value
        for group in self.groups:
            group["lr"] = value
        self._push_numbers()

    @property
    def steps(self) -> int:
        """How many updates were made. On a GPU, which may have skipped some or replayed a graph, reading it waits."""
        self._wait()
        return self._steps

    @steps.setter
    def steps(self, value: int) -> None:
        self._steps = value
        for plan in self._plans.values():
            plan.set_steps(value - self._step_lag(value))

    def _wait(self) -> None:
        if self._waiting is not None:
            *last, steps = self._waiting.result()
            self._last, self._steps = tuple(last), steps + self._lag

    @property
    def stats(self) -> Stats:
        """Norm, count of non-finite elements and whether anything was written, of the last step; with ``track`` the
        update:parameter ratios too, and all of it for every parameter."""
        self._wait()
        written, norm, nonfinite, _ = self._last
        tracked = [] if self._tracked_by is None else self._tracked_by.tracked()
        if not tracked:
            return Stats(norm, nonfinite, written)
        whole = _parameter_stats(tuple(map(sum, zip(*tracked, strict=True))))
        parameters = {name: _parameter_stats(sums) for name, sums in zip(self._names, tracked, strict=True)}
        norm = whole.norm if math.isnan(norm) else norm
        return Stats(norm, nonfinite, written, whole.ratio, whole.ratio_l2, parameters)

    @property
    def track(self) -> bool:
        """Whether steps measure themselves: ``stats`` then has, overall and for each parameter, the gradient's norm,
        its count of non-finite elements and the update:parameter ratio in two forms,

            ratio    = mean |w_new - w| / mean |w|      (Deeplearning4j's; healthy near 1:1000)
            ratio_l2 = norm(w_new - w) / norm(w)        (Stanford's cs231n)

        By-products of the update: summed in float64 while the elements pass, in a fixed order, no second pass over
        memory; what a step writes stays the same to the bit. False at first, and then it costs nothing. Set it at any
        time, also for single steps. A parameter of zeros has the ratio inf, one without a gradient NaN. The gradient is
        the caller's (with nonfinite="zero" its non-finite elements count as 0), squares are not scaled against overflow
        of float64. The update is all that the step changes, decay included; of 16-bit parameters that of the master.
        On a GPU a step still waits for nothing; reading ``stats`` does.
        """
        return self._track

    @track.setter
    def track(self, value: bool) -> None:
        value = _checks.boolean(self._op, "track", value)
        for plan in self._plans.values():
            plan.set_tracking(value)
        self._track = value
        self._tracked_by = None

    # Parameters.

    def attach(self, params: Any) -> None:
        """Take ``params`` as the parameters to update; state starts anew."""
        op = f"{self._op}.attach"
        structures, groups = self._grouped(op, params)
        arrays = [array for structure in structures for array in structure.arrays]
        if not arrays:
            raise _checks.error(ValueError, op, "params", "at least one array", _checks.Words("none"))
        backend = _dispatch.backend_for(arrays[0], op, "params[0]")
        group_of = [number for number, structure in enumerate(structures) for _ in structure.arrays]
        names = [name for structure in structures for name in structure.names or [""] * len(structure.arrays)]
        names = [name or str(place) for place, name in enumerate(names)]
        refuse_bad_arrays(op, arrays)
        listed = Places(op, arrays)
        parameters = [arrays[i] for i in listed.first]
        slots = [self._new_slots(parameter) for parameter in parameters]
        masters = [float32_copy(p) if self._master and p.itemsize == 2 else None for p in parameters]
        # Every group has two numbers in the plan: with its decay and, for the names that no_decay excludes, without.
        plain = [any(fnmatch.fnmatchcase(names[i], pattern) for pattern in self._no_decay) for i in listed.first]
        self._inputs: dict[str, Any] = {
            "rule": self._rule(),
            "parameters": parameters,
            "masters": masters,
            "slots": slots,
            "groups": [2 * group_of[i] + int(p) for i, p in zip(listed.first, plain, strict=True)],
            "places": listed.places,
            "group_count": 2 * len(groups),
        }
        self._structures, self.groups = structures, groups
        self._names = [names[i] for i in listed.first]
        self._members: list[list[int]] = [[] for _ in groups]
        for number, i in enumerate(listed.first):
            self._members[group_of[i]].append(number)
        self._group_key = itemgetter(*self._group_names(), "l1")
        self._plans, self._waiting, self._tracked_by = {}, None, None
        self._bound = self._bound_to = None
        self._steps = 0
        try:
            self._plan(backend)
        except Rejected as rejected:
            self.groups = []
            raise _checks.explain(op, rejected, {"params": parameters}) from None

    def _grouped(self, op: str, params: Any) -> tuple[list[Structure], list[dict[str, Any]]]:
        if isinstance(params, (list, tuple)) and params and all(isinstance(entry, Mapping) for entry in params):
            structures, groups = [], []
            for number, entry in enumerate(params):
                if "params" not in entry:
                    got = _checks.Words(f"keys {list(entry)}")
                    raise _checks.error(ValueError, op, f"params[{number}]", 'a group with the key "params"', got)
                unknown = set(entry) - set(self._defaults) - {"params"}
                if unknown:
                    words = ", ".join(sorted(map(repr, ["params", *self._defaults])))
                    got = _checks.Words(", ".join(sorted(map(repr, unknown))))
                    raise _checks.error(ValueError, op, f"params[{number}]", f"the keys {words}", got)
                values = {name: self._number(name, entry.get(name, self._defaults[name])) for name in self._defaults}
                structures.append(Structure(op, entry["params"]))
                groups.append({"params": entry["params"], **values})
            return structures, groups
        return [Structure(op, params)], [{"params": params, **self._defaults}]

    def _new_slots(self, parameter: Any) -> list[Any]:
        kind = np.float64 if parameter.dtype == np.float64 else np.float32
        slots = [_dispatch.empty_beside(parameter, kind) for _ in self._slots()]
        for slot, name in zip(slots, self._slots(), strict=True):
            slot.fill(self._initial(name))
        return slots

    def _slot_arrays(self, name: str) -> list[Any]:
        """The arrays themselves that hold the state of this name, one a parameter."""
        number = self._slots().index(name)
        return [state[number] for state in self._inputs["slots"]]

    # Steps.

    def _plan(self, backend: ModuleType) -> Any:
        plan = backend.OptimizerPlan(**self._inputs)
        if self._track:
            plan.set_tracking(True)
        self._plans[backend.__name__] = plan
        self._keys: list[Any] = [None] * len(self.groups)
        self._checked: list[dict[str, tuple[Any, Any]]] = [{} for _ in self.groups]
        return plan

    def _current(self, op: str) -> Any:
        if not self.groups:
            raise _checks.error(
                RuntimeError, op, "self", "parameters (call attach(params) first)", _checks.Words("none")
            )
        backend = _dispatch.backend_for(self._inputs["parameters"][0], op, "params")
        plan = self._plans.get(backend.__name__)
        return self._plan(backend) if plan is None else plan

    def _refresh(self, number: int, key: Any) -> None:
        group, checked = self.groups[number], self._checked[number]
        for name in self._defaults:  # a schedule changes one of them at every step
            given, before = group[name], checked.get(name)
            if before is None or before[0] is not given or type(given) not in (float, int):
                checked[name] = given, self._number(name, given)
        values = {name: value for name, (_, value) in checked.items()}
        numbers = self._numbers(values)
        penalties = values["weight_decay"] or values["l1"]
        plain = self._numbers({**values, "weight_decay": 0.0, "l1": 0.0}) if penalties else numbers
        for plan in self._plans.values():
            plan.set_numbers(2 * number, numbers)
            plan.set_numbers(2 * number + 1, plain)
        self._keys[number] = key

    def _push_numbers(self) -> None:
        """Let a captured step see changed numbers. Where steps are not captured, the next one looks by itself."""
        if self._waiting is None:
            return
        self._refresh_changed()
        self._waiting.refresh()

    def _refresh_changed(self) -> None:
        phase = self._phase()
        for number, group in enumerate(self.groups):
            key = self._group_key(group), phase
            if key != self._keys[number]:
                self._refresh(number, key)

    def _flatten(self, op: str, grads: Any) -> list[Any]:
        structures = self._structures
        arrays = structures[0].flatten(op, grads) if len(structures) == 1 else self._flatten_groups(op, grads)
        if type(self._inputs["parameters"][0]) is np.ndarray:
            return arrays
        return [_dispatch.as_array(array) for array in arrays]

    def _flatten_groups(self, op: str, grads: Any) -> list[Any]:
        if not isinstance(grads, (list, tuple)) or len(grads) != len(self._structures):
            got = _checks.Words(f"{len(grads)}") if isinstance(grads, (list, tuple)) else grads
            raise _checks.error(ValueError, op, "grads", f"a list of {len(self._structures)} entries, one a group", got)
        return [
            array
            for structure, entry in zip(self._structures, grads, strict=True)
            for array in structure.flatten(op, entry)
        ]

    def bind(self, grads: Any) -> None:
        """Fix the gradient arrays: ``step()`` without an argument reads these, and checks none of them again.

        For networks that write their gradients into the same arrays at every backward pass.
        """
        op = f"{self._op}.bind"
        plan = self._current(op)
        arrays = self._flatten(op, grads)
        self._bound = self._bound_to = None
        self._refresh_changed()
        try:
            plan.bind(arrays)
        except Rejected as rejected:
            raise self._explain(op, rejected, arrays) from None
        self._bound, self._bound_to = arrays, plan

    def step(self, grads: Any = None) -> None:
        """Update every parameter once, in place; ``grads`` have the structure of the parameters.

        Without an argument: the arrays of ``bind``. On an error nothing has been written. In-place work is never cut
        short: Ctrl-C takes effect after it.
        """
        op = self._step_op
        plan = self._current(op)
        arrays = None
        if grads is not None:
            arrays = self._flatten(op, grads)
        elif self._bound is None:
            raise _checks.error(TypeError, op, "grads", "gradients (or bind(grads) first)", None)
        elif self._bound_to is not plan:
            arrays = self._bound
        self._refresh_changed()
        if self._steps >= _MAX_STEPS:
            raise _checks.error(OverflowError, op, "steps", "at most 2**63 - 1", self._steps)
        lag = self._step_lag(self._steps)
        if arrays is not None:
            self._bound_to = None
        try:
            last = plan.step(
                arrays,
                self._steps + 1 - lag,
                self._scope_code,
                self._max_norm,
                self._clip_eps,
                self._nonfinite_code,
            )
        except Rejected as rejected:
            raise self._explain(op, rejected, arrays) from None
        self._last = last
        self._tracked_by = plan if self._track else None
        self._waiting, self._lag = plan if last[2] < 0 else None, lag
        if last[0]:
            self._steps += 1
        elif self._nonfinite == "raise":
            place = next(i for i, (number, _) in enumerate(self._inputs["places"]) if number == last[3])
            source = arrays if arrays is not None else self._bound
            raise _checks.nonfinite_gradient(op, place, source[place] if source else None)

    def _explain(self, op: str, rejected: Rejected, arrays: list[Any] | None) -> Exception:
        expected: dict[str, Any] = {}
        if rejected.index >= 0:
            number, axes = self._inputs["places"][rejected.index]
            parameter = self._inputs["parameters"][number]
            shape = parameter.shape
            if axes is not None:
                shape = tuple(parameter.shape[axes.index(axis)] for axis in range(parameter.ndim))
            dtype = parameter.dtype.name
            expected["grads"] = (
                shape if rejected.reason == "shape" else f"{dtype}" + ("" if dtype == "float32" else " or float32")
            )
        return _checks.explain(op, rejected, {"grads": arrays or []}, expected)

    # State.

    def state_dict(self) -> dict[str, Any]:
        """A copy of everything a resumed run needs: steps, hyperparameters, and the state as plain arrays by slot name.

        ``{"version": 1, "kind": "Adam", "semantics": ..., "steps": int, "groups": [{"lr": ..., "params": [0, 1]}],
        "names": [...], "slots": {"m": [...], "v": [...]}}``; "params" are numbers of parameters, in the order of
        "names". float32 masters of 16-bit parameters are the slot "master" (None for other parameters).
        """
        slots = {
            name: [state[i].copy() for state in self._inputs["slots"]] if self.groups else []
            for i, name in enumerate(self._slots())
        }
        if self.groups and any(master is not None for master in self._inputs["masters"]):
            slots["master"] = [None if m is None else m.copy() for m in self._inputs["masters"]]
        return {
            "version": 1,
            "kind": self._op,
            "semantics": self._semantics,
            "steps": self.steps,
            "groups": [
                {**{name: group[name] for name in self._defaults}, "params": list(self._members[number])}
                for number, group in enumerate(self.groups)
            ],
            "names": list(self._names) if self.groups else [],
            "slots": slots,
        }

    def load_state_dict(self, d: dict[str, Any]) -> None:
        """Load what ``state_dict`` gave. Everything is checked first, then written into the existing arrays.

        State on a GPU also takes NumPy arrays, which it copies there. Raises TypeError or ValueError, with nothing
        changed, where kind, names, shapes or dtypes differ.
        """
        op = f"{self._op}.load_state_dict"
        if not self.groups:
            self._current(op)
        if not isinstance(d, Mapping):
            raise _checks.error(TypeError, op, "d", "a dict made by state_dict()", d)
        own = self.state_dict()
        for key in own:
            if key not in d:
                raise _checks.error(ValueError, op, "d", f"the key {key!r}", _checks.Words(f"keys {list(d)}"))
        for key in ("version", "kind", "names"):
            if d[key] != own[key]:
                raise _checks.error(ValueError, op, key, repr(own[key]), _checks.Words(repr(d[key])))
        steps = _checks.integer(op, "steps", d["steps"], low=0, high=_MAX_STEPS)
        members = [group.get("params") if isinstance(group, Mapping) else None for group in d["groups"]]
        if members != self._members:
            raise _checks.error(ValueError, op, "groups", f"parameters {self._members}", _checks.Words(repr(members)))
        groups = [{name: self._number(name, group[name]) for name in self._defaults} for group in d["groups"]]
        if set(d["slots"]) != set(own["slots"]):
            raise _checks.error(
                ValueError, op, "slots", f"the slots {list(own['slots'])}", _checks.Words(str(list(d["slots"])))
            )
        pairs: list[tuple[Any, Any]] = []
        targets = {name: [state[i] for state in self._inputs["slots"]] for i, name in enumerate(self._slots())}
        targets["master"] = self._inputs["masters"]
        for name, loaded in d["slots"].items():
            if len(loaded) != len(targets[name]):
                got = _checks.Words(f"{len(loaded)}")
                raise _checks.error(ValueError, op, f"slots[{name!r}]", f"{len(targets[name])} arrays", got)
            for i, (target, array) in enumerate(zip(targets[name], loaded, strict=True)):
                check_loaded(op, f"slots[{name!r}][{i}]", target, array)
                if target is not None:
                    pairs.append((target, array))
        for target, array in pairs:
            write_loaded(target, array)
        for group, values in zip(self.groups, groups, strict=True):
            group.update(values)
        self.steps = steps
        self._push_numbers()


def _parameter_stats(sums: tuple[float, ...]) -> ParameterStats:
    nonfinite, squares, update, weight, update_squares, weight_squares = sums
    norms = math.sqrt(update_squares), math.sqrt(weight_squares)
    return ParameterStats(math.sqrt(squares), int(nonfinite), _ratio(update, weight), _ratio(*norms))


def _ratio(update: float, weight: float) -> float:
    if weight == 0:
        return math.nan if update == 0 or math.isnan(update) else math.inf
    return update / weight


def _common(l1: Any, max_norm: Any, nonfinite: Any, master: Any, no_decay: Any) -> dict[str, Any]:
    return {"l1": l1, "max_norm": max_norm, "nonfinite": nonfinite, "master": master, "no_decay": no_decay}


class _WithVelocity(Optimizer):
    """Momentum and Nesterov. The first gradient enters the velocity whole, later ones times 1 - dampening."""

    _slot_names = ("velocity",)
    _ranges: ClassVar[dict[str, _Range]] = {"momentum": _Range(high=1.0), "dampening": _Range(low=-math.inf)}

    def _phase(self) -> int:
        return min(self._steps, 1)

    def _numbers(self, group: Mapping[str, float]) -> Numbers:
        numbers = super()._numbers(group)
        if self._steps:
            numbers["velocity_gain"] *= 1.0 - group["dampening"]
        return numbers


def _eps_numbers(eps: float, inside: bool) -> Numbers:
    return {"eps_inside": eps, "eps_outside": 0.0} if inside else {"eps_inside": 0.0, "eps_outside": eps}


class SGD(Optimizer):
    """Gradient descent: ``w -= lr * g`` (Robbins and Monro 1951).

    lr >= 0. paper: 0.01; torch: 0.001. The other keywords are those of ``Optimizer``.
    """

    def __init__(
        self,
        params: Any = None,
        lr: float | None = None,
        *,
        weight_decay: float | None = None,
        l1: float = 0.0,
        max_norm: float | None = None,
        nonfinite: str | None = None,
        master: bool | None = None,
        no_decay: Sequence[str] = (),
        semantics: str = "paper",
    ) -> None:
        values = {"lr": lr, "weight_decay": weight_decay}
        super().__init__(params, values, _common(l1, max_norm, nonfinite, master, no_decay), semantics)

    def _rule(self) -> str:
        return "gradient_descent"

    def _rule_numbers(self, group: Mapping[str, float]) -> Numbers:
        return {"gradient_gain": -group["lr"]}


class Momentum(_WithVelocity):
    """Gradient descent with a velocity: ``v = momentum * v - lr * g; w += v`` (Polyak 1964; the book's form).

    momentum in [0, 1]; 0 is SGD. paper: lr 0.01, momentum 0.9. With semantics "torch", "onnx" and "optax" the learning
    rate stands outside, ``v = momentum * v + g; w -= lr * v``: the two differ once lr changes. dampening (0): from the
    second step on ``(1 - dampening) * g`` enters the velocity (PyTorch; in ONNX beta = 1 - dampening).
    """

    def __init__(
        self,
        params: Any = None,
        lr: float | None = None,
        *,
        momentum: float | None = None,
        dampening: float | None = None,
        weight_decay: float | None = None,
        l1: float = 0.0,
        max_norm: float | None = None,
        nonfinite: str | None = None,
        master: bool | None = None,
        no_decay: Sequence[str] = (),
        semantics: str = "paper",
    ) -> None:
        values = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        super().__init__(params, values, _common(l1, max_norm, nonfinite, master, no_decay), semantics)

    def _rule(self) -> str:
        return "velocity"

    def _rule_numbers(self, group: Mapping[str, float]) -> Numbers:
        lr, inside = group["lr"], self._values["form"] == "lr_inside"
        gain, parameter_gain = (-lr, 1.0) if inside else (1.0, -lr)
        return {"velocity_keep": group["momentum"], "velocity_gain": gain, "parameter_gain": parameter_gain}


class Nesterov(_WithVelocity):
    """Gradient descent that looks ahead along its velocity (Nesterov 1983), in the three forms that systems compute:

    "keras" (also the book 1, pylearn2, DL4J): ``v = mu v - lr g;  w += mu v - lr g``
    "torch":                                   ``v = mu v + g;     w -= lr (g + mu v)``
    "chainer" (also the book 2):               ``v = mu v - lr g;  w += mu^2 v - (1 + mu) lr g``, v the new one

    The first two agree while lr is constant; the third counts the gradient twice and is kept for equal numbers only.
    momentum (mu) in [0, 1]. paper: lr 0.01, momentum 0.9, form "keras". dampening: as in ``Momentum``.
    """

    def __init__(
        self,
        params: Any = None,
        lr: float | None = None,
        *,
        momentum: float | None = None,
        form: str | None = None,
        dampening: float | None = None,
        weight_decay: float | None = None,
        l1: float = 0.0,
        max_norm: float | None = None,
        nonfinite: str | None = None,
        master: bool | None = None,
        no_decay: Sequence[str] = (),
        semantics: str = "paper",
    ) -> None:
        values = {
            "lr": lr,
            "momentum": momentum,
            "form": form,
            "dampening": dampening,
            "weight_decay": weight_decay,
        }
        super().__init__(params, values, _common(l1, max_norm, nonfinite, master, no_decay), semantics)

    def _check_options(self) -> None:
        _checks.one_of(self._op, "form", self._values["form"], ("keras", "torch", "chainer"))

    def _rule(self) -> str:
        return "nesterov"

    def _rule_numbers(self, group: Mapping[str, float]) -> Numbers:
        lr, mu = group["lr"], group["momentum"]
        gain, parameter_gain, gradient_gain = {
            "keras": (-lr, mu, -lr),
            "torch": (1.0, -lr * mu, -lr),
            "chainer": (-lr, mu * mu, -(1.0 + mu) * lr),
        }[self._values["form"]]
        return {
            "velocity_keep": mu,
            "velocity_gain": gain,
            "parameter_gain": parameter_gain,
            "gradient_gain": gradient_gain,
        }


class AdaGrad(Optimizer):
    """AdaGrad: ``h += g^2;  w -= lr * g / (sqrt(h) + eps)`` (Duchi, Hazan and Singer 2011).

    eps_inside=True: ``sqrt(h + eps)`` (Keras, optax). initial: the value h starts at (Keras, optax: 0.1).
    lr_decay: step t, from 0, uses ``lr / (1 + t * lr_decay)`` (PyTorch; ONNX calls it decay_factor).
    paper: lr 0.01, eps 1e-8, initial 0, lr_decay 0; torch: eps 1e-10. The book: eps 1e-7.
    """

    _slot_names = ("squares",)
    _ranges: ClassVar[dict[str, _Range]] = {"eps": _NOT_NEGATIVE, "lr_decay": _NOT_NEGATIVE}

    def __init__(
        self,
        params: Any = None,
        lr: float | None = None,
        *,
        eps: float | None = None,
        eps_inside: bool | None = None,
        initial: float | None = None,
        lr_decay: float | None = None,
        weight_decay: float | None = None,
        l1: float = 0.0,
        max_norm: float | None = None,
        nonfinite: str | None = None,
        master: bool | None = None,
        no_decay: Sequence[str] = (),
        semantics: str = "paper",
    ) -> None:
        values = {
            "lr": lr,
            "eps": eps,
            "eps_inside": eps_inside,
            "initial": initial,
            "lr_decay": lr_decay,
            "weight_decay": weight_decay,
        }
        super().__init__(params, values, _common(l1, max_norm, nonfinite, master, no_decay), semantics)

    def _check_options(self) -> None:
        self._values["eps_inside"] = _checks.boolean(self._op, "eps_inside", self._values["eps_inside"])
        self._number("initial", self._values["initial"])

    def _rule(self) -> str:
        return "adagrad"

    def _initial(self, slot: str) -> float:
        return float(self._values["initial"])

    def _phase(self) -> int:
        return self._steps if any(group["lr_decay"] for group in self.groups) else 0

    def _rule_numbers(self, group: Mapping[str, float]) -> Numbers:
        rate = group["lr"] / (1.0 + self._steps * group["lr_decay"])
        return {"learning_rate": rate, **_eps_numbers(group["eps"], self._values["eps_inside"])}


class AdaDelta(Optimizer):
    """AdaDelta (Zeiler 2012): a learning rate that units agree on, from two decaying averages of squares.

    ``h = rho h + (1 - rho) g^2;  d = g sqrt(s + eps) / sqrt(h + eps);  w -= lr d;  s = rho s + (1 - rho) d^2``
    rho in [0, 1). paper: lr 1, rho 0.95, eps 1e-6; torch: rho 0.9.
    """

    _slot_names = ("squares", "deltas")
    _ranges: ClassVar[dict[str, _Range]] = {"rho": _FRACTION, "eps": _NOT_NEGATIVE}

    def __init__(
        self,
        params: Any = None,
        lr: float | None = None,
        *,
        rho: float | None = None,
        eps: float | None = None,
        weight_decay: float | None = None,
        l1: float = 0.0,
        max_norm: float | None = None,
        nonfinite: str | None = None,
        master: bool | None = None,
        no_decay: Sequence[str] = (),
        semantics: str = "paper",
    ) -> None:
        values = {"lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, values, _common(l1, max_norm, nonfinite, master, no_decay), semantics)

    def _rule(self) -> str:
        return "adadelta_of_quotient" if self._values.get("order") == "book" else "adadelta"

    def _rule_numbers(self, group: Mapping[str, float]) -> Numbers:
        return {"learning_rate": group["lr"], "rho": group["rho"], "eps_inside": group["eps"]}


class RMSProp(Optimizer):
    """RMSProp: ``h = rho h + (1 - rho) g^2;  w -= lr * g / (sqrt(h) + eps)`` (Tieleman and Hinton 2012).

    eps_inside=True: ``sqrt(h + eps)`` (Keras, optax). centered=True: divide by ``sqrt(h - a^2)`` with
    ``a = rho a + (1 - rho) g`` (Graves 2013); a difference that rounding makes negative counts as 0 (PyTorch: NaN).
    momentum > 0 adds a velocity: ``u = momentum u + lr g / root;  w -= u``; with semantics="torch" lr stands outside.
    rho in [0, 1), momentum in [0, 1]. paper: lr 0.001, rho 0.9, eps 1e-8; torch: lr 0.01, rho 0.99.
    Whether there is a velocity is decided when the optimizer is made.
    """

    _ranges: ClassVar[dict[str, _Range]] = {"rho": _FRACTION, "eps": _NOT_NEGATIVE, "momentum": _Range(high=1.0)}

    def __init__(
        self,
        params: Any = None,
        lr: float | None = None,
        *,
        rho: float | None = None,
        eps: float | None = None,
        eps_inside: bool | None = None,
        centered: bool | None = None,
        momentum: float | None = None,
        weight_decay: float | None = None,
        l1: float = 0.0,
        max_norm: float | None = None,
        nonfinite: str | None = None,
        master: bool | None = None,
        no_decay: Sequence[str] = (),
        semantics: str = "paper",
    ) -> None:
        values = {
            "lr": lr,
            "rho": rho,
            "eps": eps,
            "eps_inside": eps_inside,
            "centered": centered,
            "momentum": momentum,
            "weight_decay": weight_decay,
        }
        super().__init__(params, values, _common(l1, max_norm, nonfinite, master, no_decay), semantics)

    def _check_options(self) -> None:
        for name in ("eps_inside", "centered"):
            self._values[name] = _checks.boolean(self._op, name, self._values[name])
        self._with_velocity = self._number("momentum", self._values["momentum"]) > 0

    def _rule(self) -> str:
        variants = "_centered" * self._values["centered"] + "_velocity" * self._with_velocity
        return "rmsprop" + (variants or "_scaled_first" * (self._values.get("order") == "book"))

    def _slots(self) -> tuple[str, ...]:
        return ("squares",) + ("average",) * self._values["centered"] + ("velocity",) * self._with_velocity

    def _initial(self, slot: str) -> float:
        initial = self._values["initial"] if slot == "squares" else 0.0
        return float(self._values["eps"] if initial == "eps" else initial)

    def _rule_numbers(self, group: Mapping[str, float]) -> Numbers:
        lr, inside = group["lr"], self._values["form"] == "lr_inside"
        gain, parameter_gain = (lr, -1.0) if inside else (1.0, -lr)
        return {
            "learning_rate": group["lr"],
            "rho": group["rho"],
            "velocity_keep": group["momentum"],
            "velocity_gain": gain,
            "parameter_gain": parameter_gain,
            **_eps_numbers(group["eps"], self._values["eps_inside"]),
        }


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015).

    ``m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2``
    ``w -= lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)``, t counting steps from 1.

    lr, eps, weight_decay >= 0; beta1, beta2 in [0, 1). paper and torch: 1e-3, 0.9, 0.999, 1e-8, weight_decay 0 (as an
    L2 penalty in the gradient; ``AdamW`` decouples it). State: m, v, in float32 or float64; subnormal state becomes 0.
    Systems that add eps before the bias correction (the book, Keras, Chainer, ONNX, DL4J: ``w -= step * m / (sqrt(v) +
    eps)``) get smaller first steps. ONNX numbers its steps from 0, and step 0 has no bias correction.
    """

    _slot_names: ClassVar[tuple[str, ...]] = ("m", "v")
    _ranges: ClassVar[dict[str, _Range]] = {"beta1": _FRACTION, "beta2": _FRACTION, "eps": _NOT_NEGATIVE}

    def __init__(
        self,
        params: Any = None,
        lr: float | None = None,
        *,
        beta1: float | None = None,
        beta2: float | None = None,
        eps: float | None = None,
        weight_decay: float | None = None,
        l1: float = 0.0,
        max_norm: float | None = None,
        nonfinite: str | None = None,
        master: bool | None = None,
        no_decay: Sequence[str] = (),
        semantics: str = "paper",
    ) -> None:
        values = {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, values, _common(l1, max_norm, nonfinite, master, no_decay), semantics)

    def _rule(self) -> str:
        if self._values.get("moments") != "differences":
            return "adam"
        return "adam_by_differences" + "_float64_step" * self._values.get("float64_step", False)

    def _phase(self) -> int:
        return min(self._steps, 1) if self._values["counts_from_zero"] else 0

    def _step_lag(self, steps: int) -> int:
        return int(self._values["counts_from_zero"] and steps > 0)

    def _rule_numbers(self, group: Mapping[str, float]) -> Numbers:
        rate = group["lr"]
        if self._values["counts_from_zero"] and self._steps == 0:
            # The kernel will correct by the first step's numbers, which cancel.
            rate *= (1.0 - group["beta1"]) / math.sqrt(1.0 - group["beta2"])
        if self._values["decay"] == "after":
            # (1 - d) (w - u), where the kernel computes (1 - d) w - u'.
            rate *= 1.0 - group["weight_decay"]
        return {
            "learning_rate": rate,
            "beta1": group["beta1"],
            "beta2": group["beta2"],
            "eps": group["eps"],
            "eps_after_correction": float(self._values["eps_after_correction"]),
        }


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019): ``w *= 1 - lr * weight_decay``, then Adam's step.

    Keywords and state as ``Adam``; weight_decay is 0.01 by default. l1 stays a penalty in the gradient. chainer:
    ``w *= 1 - weight_decay``, whatever lr is; onnx: the same, after the update (norm_coefficient_post of its Adam).
    """


class AMSGrad(Adam):
    """Adam that divides by the largest v so far (Reddi, Kale and Kumar 2018): ``v_max = max(v_max, v)``.

    Keywords as ``Adam``; state m, v, v_max. As in PyTorch, the bias correction is applied to v_max; optax takes the
    maximum of corrected v.
    """

    _slot_names: ClassVar[tuple[str, ...]] = ("m", "v", "v_max")

    def _rule(self) -> str:
        return "amsgrad"

    def _rule_numbers(self, group: Mapping[str, float]) -> Numbers:
        numbers = super()._rule_numbers(group)
        return {**numbers, "correct_before_maximum": float(self._values.get("correct_before_maximum", False))}


class AdaMax(Adam):
    """Adam with the infinity norm of past gradients (Kingma and Ba 2015, section 7.1).

    ``m = beta1 m + (1 - beta1) g;  u = max(beta2 u, |g| + eps);  w -= lr / (1 - beta1^t) * m / u``

    Keywords as ``Adam``; state m, u. paper and torch: lr 0.002. The paper has no eps; PyTorch has it in the same place,
    Keras divides by ``u + eps`` with ``u = max(beta2 u, |g|)``.
    """

    _slot_names = ("m", "u")

    def _rule(self) -> str:
        return "adamax"

    def _rule_numbers(self, group: Mapping[str, float]) -> Numbers:
        eps, outside = group["eps"], self._values.get("eps_outside", False)
        places = {"eps": 0.0, "eps_outside": eps} if outside else {"eps": eps, "eps_outside": 0.0}
        return {**super()._rule_numbers(group), **places}


class NormalizedGD(Optimizer):
    """Normalized gradient descent: ``w -= lr * g / ||g||``; a zero gradient gives no update.

    per="all": the norm over all gradients; per="tensor": each gradient by its own norm. One textbook calls this
    AdaGrad. nonfinite is "raise" by default, as a norm is taken; max_norm has no meaning here and is refused.
    paper: lr 0.01.
    """

    def __init__(
        self,
        params: Any = None,
        lr: float | None = None,
        *,
        per: str | None = None,
        weight_decay: float | None = None,
        l1: float = 0.0,
        max_norm: float | None = None,
        nonfinite: str | None = None,
        master: bool | None = None,
        no_decay: Sequence[str] = (),
        semantics: str = "paper",
    ) -> None:
        values = {"lr": lr, "per": per, "weight_decay": weight_decay}
        super().__init__(params, values, _common(l1, max_norm, nonfinite, master, no_decay), semantics)

    def _check_options(self) -> None:
        _checks.one_of(self._op, "per", self._values["per"], ("all", "tensor"))

    def _scaling(self, max_norm: Any) -> tuple[str, float]:
        if max_norm is not None:
            raise _checks.error(
                ValueError, self._op, "max_norm", "None (gradients are divided by their norm)", max_norm
            )
        return self._values["per"], 0.0

    def _rule(self) -> str:
        return "gradient_descent"

    def _rule_numbers(self, group: Mapping[str, float]) -> Numbers:
        return {"gradient_gain": -group["lr"]}
