"""Optimizers: one row a rule, three steps each, against the same rule in wide arithmetic."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import kitae

from .row import Case, Expected, Inputs, Results, Size, Tolerance, Traffic, element_dtype, ulp, wide
from .tensors import BENCH_SIZES, NAN_SIZE, TEST_SIZES, tensors, total_bytes

STEPS = 3
LR = 0.01
MOMENTUM = 0.9
ADAGRAD_EPS = 1e-7
RMSPROP_RHO, RMSPROP_EPS = 0.99, 1e-8
ADAM_BETA1, ADAM_BETA2, ADAM_EPS = 0.9, 0.999, 1e-8
ADAMW_DECAY = 0.05
MAX_NORM = 0.5
#: Rounding errors of one update: the longest rule (AMSGrad with decay) rounds so often. Each is relative to what the
#: update would be if nothing in it cancelled: the rule on absolute values.
_ROUNDINGS = 14

State = dict[str, np.ndarray]
#: (parameter, gradient, state, number of the step) -> what is added to the parameter.
Rule = Callable[[np.ndarray, np.ndarray, State, int], np.ndarray]
#: All gradients of a step -> all gradients of a step, before any rule sees them.
Preparation = Callable[[list[np.ndarray]], list[np.ndarray]]


def _slot(state: State, name: str, like: np.ndarray, start: float = 0.0) -> np.ndarray:
    return state.setdefault(name, np.full_like(like, start))


def _sgd(p: np.ndarray, g: np.ndarray, state: State, t: int, *, lr: float) -> np.ndarray:
    return -lr * g


def _momentum(p: np.ndarray, g: np.ndarray, state: State, t: int, *, lr: float, mu: float) -> np.ndarray:
    state["velocity"] = mu * _slot(state, "velocity", p) - lr * g
    return state["velocity"]


def _nesterov(p: np.ndarray, g: np.ndarray, state: State, t: int, *, lr: float, mu: float, form: str) -> np.ndarray:
    old = _slot(state, "velocity", p)
    if form == "torch":
        state["velocity"] = mu * old + g
        return -lr * (g + mu * state["velocity"])
    state["velocity"] = mu * old - lr * g
    velocity = old if form == "keras" else state["velocity"]
    return mu**2 * velocity - (1 + mu) * lr * g


def _adagrad(
    p: np.ndarray, g: np.ndarray, state: State, t: int, *, lr: float, eps: float, eps_inside: bool, initial: float
) -> np.ndarray:
    state["squares"] = _slot(state, "squares", p, initial) + g**2
    return -lr * g / _root(state["squares"], eps, eps_inside)


def _adadelta(p: np.ndarray, g: np.ndarray, state: State, t: int, *, lr: float, rho: float, eps: float) -> np.ndarray:
    state["squares"] = rho * _slot(state, "squares", p) + (1 - rho) * g**2
    old = _slot(state, "updates", p)
    update = np.sqrt(old + eps) / np.sqrt(state["squares"] + eps) * g
    state["updates"] = rho * old + (1 - rho) * update**2
    return -lr * update


def _rmsprop(
    p: np.ndarray,
    g: np.ndarray,
    state: State,
    t: int,
    *,
    lr: float,
    rho: float,
    eps: float,
    eps_inside: bool = False,
    centered: bool = False,
    mu: float = 0.0,
) -> np.ndarray:
    state["squares"] = rho * _slot(state, "squares", p) + (1 - rho) * g**2
    variance = state["squares"]
    if centered:
        state["mean"] = rho * _slot(state, "mean", p) + (1 - rho) * g
        variance = variance - state["mean"] ** 2
    state["velocity"] = mu * _slot(state, "velocity", p) + g / _root(variance, eps, eps_inside)
    return -lr * state["velocity"]


def _average(old: np.ndarray, new: np.ndarray, keep: float) -> np.ndarray:
    return keep * old + (1 - keep) * new


def _by_differences(old: np.ndarray, new: np.ndarray, keep: float) -> np.ndarray:
    """The same, but an infinite average becomes NaN with the next value."""
    with np.errstate(invalid="ignore"):
        return old + (1 - keep) * (new - old)


def _adam(
    p: np.ndarray,
    g: np.ndarray,
    state: State,
    t: int,
    *,
    lr: float,
    beta1: float = ADAM_BETA1,
    beta2: float = ADAM_BETA2,
    eps: float = ADAM_EPS,
    decoupled: float = 0.0,
    amsgrad: bool = False,
    book: bool = False,
) -> np.ndarray:
    average = _by_differences if book else _average
    state["m"] = average(_slot(state, "m", p), g, beta1)
    state["v"] = average(_slot(state, "v", p), g**2, beta2)
    v = state["v"]
    if amsgrad:
        state["largest"] = v = np.maximum(_slot(state, "largest", p), v)
    if book:
        eps = eps / np.sqrt(1 - beta2**t)
    corrected = np.sqrt(v / (1 - beta2**t)) + eps
    return -lr * decoupled * p - lr * (state["m"] / (1 - beta1**t)) / corrected


def _adamax(
    p: np.ndarray,
    g: np.ndarray,
    state: State,
    t: int,
    *,
    lr: float,
    beta1: float = ADAM_BETA1,
    beta2: float = ADAM_BETA2,
    eps: float = ADAM_EPS,
) -> np.ndarray:
    state["m"] = beta1 * _slot(state, "m", p) + (1 - beta1) * g
    state["u"] = np.maximum(beta2 * _slot(state, "u", p), np.abs(g) + eps)
    return -lr / (1 - beta1**t) * state["m"] / state["u"]


def _root(squares: np.ndarray, eps: float, eps_inside: bool) -> np.ndarray:
    return np.sqrt(squares + eps) if eps_inside else np.sqrt(squares) + eps


def _norm(grads: list[np.ndarray]) -> float:
    return float(np.sqrt(sum(np.square(g).sum() for g in grads)))


def _clipped(grads: list[np.ndarray], *, max_norm: float) -> list[np.ndarray]:
    factor = min(1.0, max_norm / (_norm(grads) + 1e-6))
    return [factor * g for g in grads]


def _normalized(grads: list[np.ndarray], *, per: str) -> list[np.ndarray]:
    whole = _norm(grads)
    norms = [whole if per == "all" else _norm([g]) for g in grads]
    return [g / norm if norm > 0 else g for g, norm in zip(grads, norms, strict=True)]


def _unchanged(grads: list[np.ndarray]) -> list[np.ndarray]:
    return grads


def _construct(kind: str, params: list[np.ndarray], **options: Any) -> Any:
    return getattr(kitae, kind)(params, LR, **options)


def _tracked_adam(params: list[np.ndarray]) -> Any:
    """Steps that measure themselves go through loops and kernels of their own."""
    optimizer = kitae.Adam(params, LR)
    optimizer.track = True
    return optimizer


@dataclass(frozen=True)
class Optimizer:
    name: str
    construct: Callable[[list[np.ndarray]], Any]
    rule: Rule
    prepare: Preparation = _unchanged
    l2: float = 0.0
    l1: float = 0.0
    slots: tuple[str, ...] = ()
    #: Arrays of state that a step reads and writes, for the traffic; None: not benchmarked.
    states: int | None = None
    family: str = "optimizers"
    clips: bool = False
    #: How often a step rounds at the parameter's magnitude: once, or twice where decay or two terms are applied to it.
    parameter_roundings: int = 1


def _make(rng: np.random.Generator, size: Size, dtype: np.dtype) -> Inputs:
    inputs: Inputs = {"params": tensors(rng, size, dtype)}
    for step in range(size.options.get("steps", STEPS)):
        grads: list[np.ndarray | None] = [*tensors(rng, size, dtype, spread=0.1 * (step + 1))]
        for index in size.options.get("missing", ()):
            grads[index] = None
        inputs[f"grads{step}"] = grads
    if size.values == "nan":
        inputs["grads1"][0][2, 3] = np.nan
        inputs["grads1"][5][-1] = np.inf
    return inputs


def _steps(inputs: Inputs) -> list[list[np.ndarray | None]]:
    return [grads for name, grads in inputs.items() if name.startswith("grads")]


def _call(inputs: Inputs, out: Mapping[str, np.ndarray], *, optimizer: Optimizer) -> Results:
    params = inputs["params"]
    steps = optimizer.construct(params)
    for grads in _steps(inputs):
        steps.step(grads)
    results = {f"params.{i}": p for i, p in enumerate(params)}
    for name, arrays in steps.state_dict()["slots"].items():
        results |= {f"slots.{name}.{i}": array for i, array in enumerate(arrays) if array is not None}
    return results


def _expected(inputs: Inputs, *, optimizer: Optimizer) -> dict[str, Expected]:
    params = [wide(p) for p in inputs["params"]]
    states: list[State] = [{} for _ in params]
    uncancelled: list[State] = [{} for _ in params]
    element = element_dtype(inputs["params"][0])
    unit = float(ulp(1.0, element))
    errors = [np.zeros(p.shape) for p in params]
    for step, grads in enumerate(_steps(inputs)):
        present = {i: wide(g) for i, g in enumerate(grads) if g is not None}
        prepared = optimizer.prepare([*present.values()])
        for i, g in zip(present, prepared, strict=True):
            penalized, bound = g, np.abs(g)
            if optimizer.l2 or optimizer.l1:  # 0 times an infinite parameter would be NaN
                penalized = g + optimizer.l2 * params[i] + optimizer.l1 * np.sign(params[i])
                bound = np.abs(g) + optimizer.l2 * np.abs(params[i]) + optimizer.l1
            largest = np.abs(optimizer.rule(np.abs(params[i]), bound, uncancelled[i], step + 1))
            params[i] = params[i] + optimizer.rule(params[i], penalized, states[i], step + 1)
            errors[i] = errors[i] + _ROUNDINGS * unit * largest
            errors[i] += optimizer.parameter_roundings * 0.5 * ulp(params[i], element)
    expected = {f"params.{i}": Expected(p, extra=e) for i, (p, e) in enumerate(zip(params, errors, strict=True))}
    for name in optimizer.slots:
        for i, state in enumerate(states):
            if name in state:
                expected[f"slots.{name}.{i}"] = Expected(state[name], uncancelled[i][name])
    return expected


def _traffic(inputs: Inputs, level2: int, *, optimizer: Optimizer) -> Traffic:
    params, grads = total_bytes(inputs["params"]), total_bytes(inputs["grads0"])
    states = (optimizer.states or 0) * params
    norm = grads if optimizer.clips and grads > level2 else 0  # a norm needs every gradient before the first update
    return Traffic(params + grads + states + norm, params + states)


def _case(optimizer: Optimizer) -> Case:
    elementwise = optimizer.prepare is _unchanged
    benchmark = optimizer.states is not None
    tolerances = {"params": Tolerance(0.5, "stored once; each step's roundings of update and sum are in `extra`")}
    tolerances |= {
        name: Tolerance(4 * STEPS, "two products and a sum a step, and the square's own error") for name in ("m", "v")
    }
    return Case(
        name=optimizer.name,
        family=optimizer.family,
        dtypes=("float32", "float64", "float16", "bfloat16"),
        test_sizes=(*TEST_SIZES, NAN_SIZE) if elementwise else TEST_SIZES,
        make=_make,
        call=partial(_call, optimizer=optimizer),
        expected=partial(_expected, optimizer=optimizer),
        tolerance=tolerances,
        changes=("params",),
        bench_sizes=BENCH_SIZES if benchmark else (),
        traffic=partial(_traffic, optimizer=optimizer) if benchmark else None,
    )


OPTIMIZERS = (
    Optimizer("sgd", lambda p: kitae.SGD(p, LR), partial(_sgd, lr=LR), states=0),
    Optimizer(
        "momentum",
        lambda p: kitae.Momentum(p, LR, momentum=MOMENTUM),
        partial(_momentum, lr=LR, mu=MOMENTUM),
        states=1,
    ),
    *(
        Optimizer(
            f"nesterov_{form}",
            partial(_construct, "Nesterov", momentum=MOMENTUM, form=form),
            partial(_nesterov, lr=LR, mu=MOMENTUM, form=form),
            parameter_roundings=2,
        )
        for form in ("keras", "torch", "chainer")
    ),
    Optimizer(
        "adagrad",
        lambda p: kitae.AdaGrad(p, LR, eps=ADAGRAD_EPS, eps_inside=False, initial=0.0),
        partial(_adagrad, lr=LR, eps=ADAGRAD_EPS, eps_inside=False, initial=0.0),
        states=1,
    ),
    Optimizer(
        "adagrad_eps_inside",
        lambda p: kitae.AdaGrad(p, LR, eps=ADAGRAD_EPS, eps_inside=True, initial=0.1),
        partial(_adagrad, lr=LR, eps=ADAGRAD_EPS, eps_inside=True, initial=0.1),
    ),
    Optimizer(
        "adadelta",
        lambda p: kitae.AdaDelta(p, 1.0, rho=0.95, eps=1e-6),
        partial(_adadelta, lr=1.0, rho=0.95, eps=1e-6),
    ),
    Optimizer(
        "adadelta_dezero",
        lambda p: kitae.AdaDelta(p, 1.0, rho=0.95, eps=1e-6, semantics="dezero"),
        partial(_adadelta, lr=1.0, rho=0.95, eps=1e-6),
    ),
    Optimizer(
        "rmsprop",
        lambda p: kitae.RMSProp(p, LR, rho=RMSPROP_RHO, eps=RMSPROP_EPS, eps_inside=False),
        partial(_rmsprop, lr=LR, rho=RMSPROP_RHO, eps=RMSPROP_EPS),
        states=1,
    ),
    Optimizer(
        "rmsprop_dlfs2",
        lambda p: kitae.RMSProp(p, LR, rho=RMSPROP_RHO, eps=RMSPROP_EPS, semantics="dlfs2"),
        partial(_rmsprop, lr=LR, rho=RMSPROP_RHO, eps=RMSPROP_EPS),
    ),
    Optimizer(
        "rmsprop_momentum_eps_inside",
        lambda p: kitae.RMSProp(p, LR, rho=0.9, eps=1e-7, eps_inside=True, momentum=MOMENTUM),
        partial(_rmsprop, lr=LR, rho=0.9, eps=1e-7, eps_inside=True, mu=MOMENTUM),
    ),
    Optimizer(
        "rmsprop_centered",
        lambda p: kitae.RMSProp(p, LR, rho=0.9, eps=1e-4, eps_inside=True, centered=True),
        partial(_rmsprop, lr=LR, rho=0.9, eps=1e-4, eps_inside=True, centered=True),
    ),
    Optimizer("adam", lambda p: kitae.Adam(p, LR), partial(_adam, lr=LR), slots=("m", "v"), states=2),
    Optimizer("adam_tracked", _tracked_adam, partial(_adam, lr=LR), slots=("m", "v")),
    Optimizer(
        "adam_l2_l1",
        lambda p: kitae.Adam(p, LR, weight_decay=0.02, l1=0.003),
        partial(_adam, lr=LR),
        l2=0.02,
        l1=0.003,
    ),
    Optimizer(
        "adamw",
        lambda p: kitae.AdamW(p, LR, weight_decay=ADAMW_DECAY),
        partial(_adam, lr=LR, decoupled=ADAMW_DECAY),
        parameter_roundings=2,
        slots=("m", "v"),
        states=2,
    ),
    *(
        Optimizer(
            f"adam_{semantics}",
            partial(_construct, "Adam", eps=ADAM_EPS, semantics=semantics),
            partial(_adam, lr=LR, book=True),
            slots=("m", "v"),
        )
        for semantics in ("dlfs2", "dezero")
    ),
    Optimizer("amsgrad", lambda p: kitae.AMSGrad(p, LR), partial(_adam, lr=LR, amsgrad=True), slots=("m", "v")),
    Optimizer("adamax", lambda p: kitae.AdaMax(p, LR), partial(_adamax, lr=LR), slots=("m",)),
    Optimizer(
        "adam_max_norm",
        lambda p: kitae.Adam(p, LR, max_norm=MAX_NORM),
        partial(_adam, lr=LR),
        prepare=partial(_clipped, max_norm=MAX_NORM),
        states=2,
        family="clipping",
        clips=True,
    ),
    *(
        Optimizer(
            f"normalized_gd_{per}",
            partial(_construct, "NormalizedGD", per=per),
            partial(_sgd, lr=LR),
            prepare=partial(_normalized, per=per),
        )
        for per in ("all", "tensor")
    ),
)

CASES = tuple(_case(optimizer) for optimizer in OPTIMIZERS)


def optimizer_named(name: str) -> Optimizer:
    return next(optimizer for optimizer in OPTIMIZERS if optimizer.name == name)
