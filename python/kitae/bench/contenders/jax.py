"""The same work by JAX's jit on the CPU: a peer where it is installed.

XLA uses all cores, whatever number of threads others are given. Results are new arrays; parameters, states and
gradients that a step replaces are donated, so that XLA may write them where they lie. Every call waits for its result.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np

from ..cases import Inputs, Results
from ..cases.averaging import DECAY
from ..cases.gradients import CLIP_EPS, CLIPPING, LIMIT, UNIT_EPS, layers_of, others_than_units
from ..cases.gradients import MAX_NORM as CLIP_NORM
from ..cases.normalization import EPS, RUNNING_DECAY
from ..cases.optimizers import (
    ADAGRAD_EPS,
    ADAM_BETA1,
    ADAM_BETA2,
    ADAM_EPS,
    ADAMW_DECAY,
    LR,
    MAX_NORM,
    MOMENTUM,
    RMSPROP_EPS,
    RMSPROP_RHO,
)
from .contender import Contender, Contenders
from .gradients import ShrinkingLimit


def installed() -> bool:
    return find_spec("jax") is not None


def contenders(family: str, case: str, inputs: Inputs) -> Contenders:
    """Nobody where JAX is not installed, or where the caller is PyTorch."""
    if family in ("torch_face", "network") or not installed():
        return []
    if family == "batch_norm":
        return _batch_norm(case, inputs)
    if family == "layer_norm":
        return _layer_norm(case, inputs)
    if family == "dropout":
        return _dropout(case, inputs)
    if "averages" in inputs:
        return _average(inputs)
    return _optimizers(case, inputs) if "params" in inputs else _gradients(case, inputs)


def _waiting(call: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    import jax

    return lambda: jax.block_until_ready(call(*arguments))


def _arrays(names: tuple[str, ...], values: Any) -> Results:
    return {name: np.asarray(value) for name, value in zip(names, values, strict=True)}


def _batch_norm(case: str, inputs: Inputs) -> Contenders:
    import jax
    import jax.numpy as jnp

    axis = inputs["axis"] % inputs["x"].ndim
    axes = tuple(i for i in range(inputs["x"].ndim) if i != axis)
    along = [-1 if i == axis else 1 for i in range(inputs["x"].ndim)]
    names = ("x", "gamma", "beta", "running_mean", "running_var", "dout")
    x, gamma, beta, running_mean, running_var, dout = (jnp.asarray(inputs[name]) for name in names)

    def normalized(x: Any, gamma: Any, beta: Any, mean: Any, variance: Any) -> Any:
        spread = [value.reshape(along) for value in (gamma, beta, mean, variance)]
        y = (x - spread[2]) * (spread[0] * jax.lax.rsqrt(spread[3] + EPS)) + spread[1]
        return jax.nn.relu(y) if "relu" in case else y

    def training(x: Any, gamma: Any, beta: Any) -> tuple[Any, Any, Any]:
        mean = jnp.mean(x, axes)
        variance = jnp.mean(jnp.square(x - mean.reshape(along)), axes)
        return normalized(x, gamma, beta, mean, variance), mean, variance

    @jax.jit
    def forward(x: Any, gamma: Any, beta: Any, running_mean: Any, running_var: Any) -> tuple[Any, Any, Any]:
        y, mean, variance = training(x, gamma, beta)
        fresh = 1 - RUNNING_DECAY
        return y, RUNNING_DECAY * running_mean + fresh * mean, RUNNING_DECAY * running_var + fresh * variance

    def contender(call: Callable[[], Any], results: Callable[[Any], Results]) -> Contenders:
        return [Contender("JAX", "jit", "fresh", call, results)]

    if case == "batch_norm_inference":
        call = _waiting(jax.jit(normalized), x, gamma, beta, running_mean, running_var)
        return contender(call, lambda y: {"y": np.asarray(y)})
    if not case.endswith("backward"):
        call = _waiting(forward, x, gamma, beta, running_mean, running_var)
        return contender(call, lambda result: {"y": np.asarray(result[0])})
    # What the forward pass keeps for it is an argument of the backward pass.
    _, pull_back = jax.jit(lambda *values: jax.vjp(lambda *v: training(*v)[0], *values))(x, gamma, beta)
    call = _waiting(jax.jit(lambda pull_back, dout: pull_back(dout)), pull_back, dout)
    return contender(call, lambda result: _arrays(("dx", "dgamma", "dbeta"), result))


def _layer_norm(case: str, inputs: Inputs) -> Contenders:
    import jax
    import jax.numpy as jnp

    x, gamma, beta, dout = (jnp.asarray(inputs[name]) for name in ("x", "gamma", "beta", "dout"))

    @jax.jit
    def forward(x: Any, gamma: Any, beta: Any) -> Any:
        mean = jnp.mean(x, -1, keepdims=True)
        variance = jnp.mean(jnp.square(x - mean), -1, keepdims=True)
        return (x - mean) * jax.lax.rsqrt(variance + EPS) * gamma + beta

    if not case.endswith("backward"):
        call = _waiting(forward, x, gamma, beta)
        return [Contender("JAX", "jit", "fresh", call, lambda y: {"y": np.asarray(y)})]
    _, pull_back = jax.jit(lambda *values: jax.vjp(forward, *values))(x, gamma, beta)
    call = _waiting(jax.jit(lambda pull_back, dout: pull_back(dout)), pull_back, dout)
    return [Contender("JAX", "jit", "fresh", call, lambda result: _arrays(("dx", "dgamma", "dbeta"), result))]


def _dropout(case: str, inputs: Inputs) -> Contenders:
    import jax
    import jax.numpy as jnp

    x, dout, drop = jnp.asarray(inputs["x"]), jnp.asarray(inputs["dout"]), inputs["drop"]

    @jax.jit
    def forward(x: Any, key: Any) -> tuple[Any, Any, Any]:
        key, now = jax.random.split(key)
        kept = jax.random.bernoulli(now, 1 - drop, x.shape)
        return jnp.where(kept, x / (1 - drop), 0), kept, key

    @jax.jit
    def backward(dout: Any, kept: Any) -> Any:
        return jnp.where(kept, dout / (1 - drop), 0)

    if case == "dropout_backward":
        kept = forward(x, jax.random.key(inputs["seed"]))[1]
        call = _waiting(backward, dout, kept)
        return [Contender("JAX", "jit", "fresh", call, lambda dx: {"dx": np.asarray(dx)})]

    def contender(generator: str) -> Contender:
        state = [jax.random.key(inputs["seed"], impl=generator)]

        def call() -> Any:
            y, kept, state[0] = forward(x, state[0])
            return jax.block_until_ready((y, kept))

        return Contender("JAX", f"jit, {generator}", "fresh", call, lambda result: {"y": np.asarray(result[0])})

    return [contender("threefry2x32"), contender("rbg")]


def _clipped(grads: list[Any], limit: Any) -> tuple[list[Any], Any]:
    import jax.numpy as jnp

    norm = jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in grads))
    factor = jnp.minimum(1, limit / (norm + CLIP_EPS))
    return [g * factor for g in grads], norm


#: (parameter, gradient, states, number of the step) -> parameter, states
_Rule = Callable[[Any, Any, list[Any], Any], tuple[Any, list[Any]]]


def _rules() -> dict[str, tuple[int, _Rule]]:
    """Each optimizer's number of states and one parameter's step."""
    import jax.numpy as jnp

    def sgd(p: Any, g: Any, state: list[Any], t: Any) -> tuple[Any, list[Any]]:
        return p - LR * g, state

    def momentum(p: Any, g: Any, state: list[Any], t: Any) -> tuple[Any, list[Any]]:
        v = MOMENTUM * state[0] - LR * g
        return p + v, [v]

    def adagrad(p: Any, g: Any, state: list[Any], t: Any) -> tuple[Any, list[Any]]:
        h = state[0] + g * g
        return p - LR * g / (jnp.sqrt(h) + ADAGRAD_EPS), [h]

    def rmsprop(p: Any, g: Any, state: list[Any], t: Any) -> tuple[Any, list[Any]]:
        h = RMSPROP_RHO * state[0] + (1 - RMSPROP_RHO) * g * g
        return p - LR * g / (jnp.sqrt(h) + RMSPROP_EPS), [h]

    def adam(p: Any, g: Any, state: list[Any], t: Any) -> tuple[Any, list[Any]]:
        m = ADAM_BETA1 * state[0] + (1 - ADAM_BETA1) * g
        v = ADAM_BETA2 * state[1] + (1 - ADAM_BETA2) * g * g
        root = jnp.sqrt(1 - ADAM_BETA2**t)
        return p - LR * root / (1 - ADAM_BETA1**t) * m / (jnp.sqrt(v) + ADAM_EPS * root), [m, v]

    def adamw(p: Any, g: Any, state: list[Any], t: Any) -> tuple[Any, list[Any]]:
        return adam(p * (1 - LR * ADAMW_DECAY), g, state, t)

    return {
        "sgd": (0, sgd),
        "momentum": (1, momentum),
        "adagrad": (1, adagrad),
        "rmsprop": (1, rmsprop),
        "adam": (2, adam),
        "adamw": (2, adamw),
        "adam_max_norm": (2, adam),
    }


def _optimizers(case: str, inputs: Inputs) -> Contenders:
    import jax
    import jax.numpy as jnp

    states, rule = _rules()[case]

    def update(params: list[Any], state: list[list[Any]], t: Any, grads: list[Any]) -> tuple[Any, ...]:
        if case == "adam_max_norm":
            grads = _clipped(grads, MAX_NORM)[0]
        pairs = [rule(p, g, s, t) for p, g, s in zip(params, grads, state, strict=True)]
        return [p for p, _ in pairs], [s for _, s in pairs], t + 1

    step = jax.jit(update, donate_argnums=(0, 1, 2))
    params = [jnp.array(p) for p in inputs["params"]]
    grads = [jnp.asarray(g) for g in inputs["grads0"]]
    held: list[tuple[Any, ...]] = [
        (params, [[jnp.zeros_like(p) for _ in range(states)] for p in params], jnp.float32(1))
    ]

    def call() -> None:
        held[0] = jax.block_until_ready(step(*held[0], grads))

    def results(_: Any) -> Results:
        return {f"params.{i}": np.asarray(p) for i, p in enumerate(held[0][0])}

    return [Contender("JAX", "jit, donated", "in place", call, results)]


def _average(inputs: Inputs) -> Contenders:
    import jax
    import jax.numpy as jnp

    values = [jnp.array(value) for value in inputs["values"]]
    held = [[jnp.array(array) for array in inputs["averages"]]]
    update = jax.jit(
        lambda averages, values: [a + (1 - DECAY) * (p - a) for a, p in zip(averages, values, strict=True)],
        donate_argnums=0,
    )

    def call() -> None:
        held[0] = jax.block_until_ready(update(held[0], values))

    def results(_: Any) -> Results:
        return {f"averages.{i}": np.asarray(a) for i, a in enumerate(held[0])}

    return [Contender("JAX", "jit, donated", "in place", call, results)]


def _gradients(case: str, inputs: Inputs) -> Contenders:
    import jax
    import jax.numpy as jnp

    grads = [jnp.array(g) for g in inputs["grads"]]
    if case == "global_norm":
        call = _waiting(jax.jit(lambda grads: _clipped(grads, 1)[1]), grads)
        return [Contender("JAX", "jit", "in place", call, lambda norm: {"norm": np.asarray(norm)})]
    units = case == "clip_grad_adaptive"
    limit = ShrinkingLimit(CLIPPING if units else CLIP_NORM)
    held = [grads]
    clip = jax.jit(lambda grads, limit: _clipped(grads, limit)[0], donate_argnums=0)
    clip_value = jax.jit(lambda grads: [jnp.clip(g, -LIMIT, LIMIT) for g in grads], donate_argnums=0)

    def call_clip() -> None:
        held[0] = jax.block_until_ready(clip(held[0], limit.next()))

    clip_layers = jax.jit(
        lambda grads, limit: [g for layer in layers_of(grads) for g in _clipped(layer, limit)[0]], donate_argnums=0
    )

    def call_layers() -> None:
        held[0] = jax.block_until_ready(clip_layers(held[0], limit.next()))

    def call_value() -> None:
        held[0] = jax.block_until_ready(clip_value(held[0]))

    def clipped_by_unit(grad: Any, weight: Any, clipping: Any) -> Any:
        others = others_than_units(grad, inputs["axis"])
        norm, most = (jnp.sqrt(jnp.sum(jnp.square(a), axis=others, keepdims=True)) for a in (grad, weight))
        most = clipping * jnp.maximum(most, UNIT_EPS)
        return grad * jnp.where(norm > most, most / jnp.maximum(norm, 1e-30), 1)

    clip_units = jax.jit(
        lambda grads, weights, limit: [clipped_by_unit(g, w, limit) for g, w in zip(grads, weights, strict=True)],
        donate_argnums=0,
    )
    weights = [jnp.array(w) for w in inputs["weights"]] if units else []

    def call_units() -> None:
        held[0] = jax.block_until_ready(clip_units(held[0], weights, limit.next()))

    def results(_: Any) -> Results:
        return {f"grads.{i}": np.asarray(g) for i, g in enumerate(held[0])}

    calls = {
        "clip_grad_norm": call_clip,
        "clip_grad_value": call_value,
        "normalize_gradients": call_layers,
        "clip_grad_adaptive": call_units,
    }
    return [Contender("JAX", "jit, donated", "in place", calls[case], results)]
