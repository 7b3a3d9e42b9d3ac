"""Optimizers, norms and clipping on the GPU, over the parameters of real networks."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import kitae

from ..contenders.gradients import ShrinkingLimit
from .row import Contender, Inputs, Maker, Row, Traffic

LR = 1e-3
MAX_NORM = 0.5
LIMIT = 0.05
Shapes = tuple[tuple[int, ...], ...]


def resnet50() -> Shapes:
    """The 161 parameters of ResNet-50 (He et al. 2016, table 1)."""
    shapes: list[tuple[int, ...]] = [(64, 3, 7, 7), (64,), (64,)]
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            for outputs, source, kernel in ((width, inputs, 1), (width, width, 3), (4 * width, width, 1)):
                shapes += [(outputs, source, kernel, kernel), (outputs,), (outputs,)]
            if block == 0:
                shapes += [(4 * width, inputs, 1, 1), (4 * width,), (4 * width,)]
            inputs = 4 * width
    return (*shapes, (1000, 2048), (1000,))


def gpt2() -> Shapes:
    """The 148 parameters of GPT-2 small (Radford et al. 2019)."""
    d = 768
    block = ((d,), (d,), (d, 3 * d), (3 * d,), (d, d), (d,), (d,), (d,), (d, 4 * d), (4 * d,), (4 * d, d), (d,))
    return ((50257, d), (1024, d), *block * 12, (d,), (d,))


LISTS: dict[str, Shapes] = {
    "ResNet-50, 161 tensors": resnet50(),
    "GPT-2 small, 148 tensors": gpt2(),
    "1,000 tensors of 1k": ((1000,),) * 1000,
    "one tensor of 256M": ((1 << 28,),),
}

#: op -> (kitae's class, its keywords, arrays of state, PyTorch's class, its keywords)
OPTIMIZERS: dict[str, tuple[str, dict[str, Any], int, str, dict[str, Any]]] = {
    "adam": ("Adam", {}, 2, "Adam", {}),
    "adamw": ("AdamW", {}, 2, "AdamW", {}),
    "adam_max_norm": ("Adam", {"max_norm": MAX_NORM}, 2, "Adam", {}),
    "sgd": ("SGD", {}, 0, "SGD", {}),
    "momentum": ("Momentum", {"momentum": 0.9}, 1, "SGD", {"momentum": 0.9}),
    "nesterov_torch": ("Nesterov", {"form": "torch"}, 1, "SGD", {"momentum": 0.9, "nesterov": True}),
    "adagrad": ("AdaGrad", {}, 1, "Adagrad", {}),
    "adadelta": ("AdaDelta", {}, 2, "Adadelta", {}),
    "rmsprop": ("RMSProp", {}, 1, "RMSprop", {}),
    "amsgrad": ("AMSGrad", {}, 3, "Adam", {"amsgrad": True}),
}
_WITHOUT_FUSED = {"adadelta", "rmsprop"}
_NORMS = ("global_norm", "clip_grad_norm", "clip_grad_norm_per_tensor", "clip_grad_value")


def rows() -> list[Row]:
    made = []
    for op in (*OPTIMIZERS, *_NORMS):
        for label, shapes in LISTS.items():
            main = op in ("adam", "adam_max_norm", "global_norm")
            quick = main and label.startswith(("GPT-2", "1,000"))
            tier = 2 if label.startswith("one") else 0 if quick else 1
            made.append(_row(op, label, shapes, "float32", tier))
            if op == "adam" and label.startswith("1,000"):
                made.append(_row(op, label + ", L2-warm", shapes, "float32", 0, warm=True))
            if op in ("adam", "global_norm") and label.startswith(("ResNet", "GPT-2")):
                made.append(_row(op, label, shapes, "bfloat16", 1))
    return made


def _row(op: str, label: str, shapes: Shapes, dtype: str, tier: int, warm: bool = False) -> Row:
    count = sum(int(np.prod(shape)) for shape in shapes)
    item = 4 if dtype == "float32" else 2
    if op in OPTIMIZERS:
        state = OPTIMIZERS[op][2] * 4 * count
        norm = count * item if OPTIMIZERS[op][1].get("max_norm") else 0
        traffic = Traffic(2 * count * item + norm + state, count * item + state)
    else:  # a factor that is not needed is not multiplied; here it always is
        reads = 2 if op.startswith("clip_grad_norm") else 1
        traffic = Traffic(reads * count * item, 0 if op == "global_norm" else count * item)
    return Row(
        family="optimizers" if op in OPTIMIZERS else "clipping",
        op=op,
        size=label,
        dtype=dtype,
        tier=tier,
        inputs=partial(_inputs, shapes=shapes, dtype=dtype),
        traffic=lambda _: traffic,
        makers=partial(_makers, op=op, dtype=dtype),
        set_bytes=0 if warm else traffic.read,
    )


def _inputs(device: Any, shapes: Shapes, dtype: str) -> Inputs:
    def tensors(spread: float) -> list[Any]:
        return [device.normal(shape, dtype, spread) for shape in shapes]

    return {"params": tensors(1.0), "grads": tensors(0.01)}


def _makers(device: Any, sets: list[Inputs], op: str, dtype: str) -> list[Maker]:
    if op not in OPTIMIZERS:
        return _norm_makers(device, sets, op)
    made: list[Maker] = [partial(_kitae, device, sets, op, how) for how in ("bind", "step(grads)", "graph")]
    if device.torch is not None:
        variants = ["foreach"] + ["fused"] * (op not in _WITHOUT_FUSED)
        variants += ["graph"] * op.startswith("adam")
        made += [partial(_torch, device, sets, op, variant, dtype) for variant in variants]
    if op == "adam" and dtype == "float32":
        made.append(partial(_plain, device, sets))
        if device.jax is not None:
            made.append(partial(_jax, device, sets))
    return made


# --- optimizers -------------------------------------------------------------------------------------------------------


def _kitae(device: Any, sets: list[Inputs], op: str, how: str) -> Contender:
    name, keywords = OPTIMIZERS[op][:2]
    calls: list[Callable[[], Any]] = []
    for inputs in sets:
        # 16-bit parameters without float32 copies, as the peers have them. State is float32.
        optimizer = getattr(kitae, name)(inputs["params"], LR, master=False, **keywords)
        if how == "step(grads)":  # other arrays at every call
            other = [device.copy(g) for g in inputs["grads"]]
            turn = itertools.cycle((inputs["grads"], other))
            calls.append(lambda optimizer=optimizer, turn=turn: optimizer.step(next(turn)))  # type: ignore[misc]
            continue
        optimizer.bind(inputs["grads"])
        optimizer.step()
        calls.append(device.captured(optimizer.step) if how == "graph" else optimizer.step)
    return Contender("kitae", how, calls)


def _torch(device: Any, sets: list[Inputs], op: str, variant: str, dtype: str) -> Contender:
    torch = device.torch
    name, keywords = OPTIMIZERS[op][3:]
    how = {"foreach": True} if variant == "foreach" else {"fused": True}
    if variant == "graph":
        how["capturable"] = True
    calls: list[Callable[[], Any]] = []
    for inputs in sets:
        params = [device.torch_tensor(p).requires_grad_() for p in inputs["params"]]
        for p, g in zip(params, inputs["grads"], strict=True):
            # Clipping writes to the gradients: kitae's norm must stay what it is.
            p.grad = device.torch_tensor(device.copy(g) if op == "adam_max_norm" else g)
        optimizer = getattr(torch.optim, name)(params, lr=LR, **keywords, **how)

        def step(optimizer: Any = optimizer, params: Any = params) -> None:
            if op == "adam_max_norm":
                torch.nn.utils.clip_grad_norm_(params, MAX_NORM, foreach=True)
            optimizer.step()

        if variant != "graph":
            calls.append(step)
            continue
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        calls.append(graph.replay)
    label = variant + (", bfloat16 state" if dtype == "bfloat16" else "")
    return Contender("PyTorch", label, calls)


def _plain(device: Any, sets: list[Inputs]) -> Contender:
    """One fused kernel a tensor, which is how Adam is written with CuPy."""
    kernel = device.xp.ElementwiseKernel(
        "T g, float32 step, float32 eps",
        "T p, T m, T v",
        "m += (1 - 0.9f) * (g - m); v += (1 - 0.999f) * (g * g - v); p -= step * m / (sqrt(v) + eps)",
        "textbook_adam",
    )
    calls: list[Callable[[], Any]] = []
    for inputs in sets:
        params, grads = ([device.plain(a) for a in inputs[name]] for name in ("params", "grads"))
        states = [(device.xp.zeros_like(p), device.xp.zeros_like(p)) for p in params]
        tensors = [(g, p, *state) for g, p, state in zip(grads, params, states, strict=True)]

        def step(tensors: Any = tensors, count: Any = None) -> None:
            correction = float(np.sqrt(1 - 0.999 ** next(count)))
            for g, p, m, v in tensors:
                kernel(g, LR * correction, 1e-8 * correction, p, m, v)

        calls.append(partial(step, tensors, itertools.count(1)))
    return Contender("CuPy", "a kernel a tensor", calls)


def _jax(device: Any, sets: list[Inputs]) -> Contender:
    jax = device.jax
    jnp = jax.numpy

    def adam(params: Any, m: Any, v: Any, count: Any, grads: Any) -> Any:
        count = count + 1
        m = [0.9 * a + 0.1 * g for a, g in zip(m, grads, strict=True)]
        v = [0.999 * a + 0.001 * g * g for a, g in zip(v, grads, strict=True)]
        c1, c2 = 1 - 0.9**count, 1 - 0.999**count
        params = [p - LR * (a / c1) / (jnp.sqrt(b / c2) + 1e-8) for p, a, b in zip(params, m, v, strict=True)]
        return params, m, v, count

    function = jax.jit(adam, donate_argnums=(0, 1, 2, 3))
    calls: list[Callable[[], Any]] = []
    for inputs in sets:
        params = [jnp.array(device.jax_array(p)) for p in inputs["params"]]
        grads = [jnp.array(device.jax_array(g)) for g in inputs["grads"]]
        state = [(params, [jnp.zeros_like(p) for p in params], [jnp.zeros_like(p) for p in params], jnp.float32(0))]

        def step(state: Any = state, grads: Any = grads) -> Any:
            state[0] = function(*state[0], grads)
            return state[0]

        calls.append(step)
    return Contender("JAX", "jit, donated", calls, finish=jax.block_until_ready)


# --- norms and clipping -----------------------------------------------------------------------------------------------


def _norm_makers(device: Any, sets: list[Inputs], op: str) -> list[Maker]:
    limit = ShrinkingLimit(MAX_NORM)
    made: list[Maker] = [partial(_kitae_norm, sets, op, limit)]
    if device.torch is not None:
        made.append(partial(_torch_norm, device, sets, op, limit))
    if op == "global_norm" and sets[0]["grads"][0].dtype.name == "float32":
        made.append(partial(_plain_norm, device, sets))
    return made


def _kitae_norm(sets: list[Inputs], op: str, limit: ShrinkingLimit) -> Contender:
    def call(grads: Any) -> Any:
        if op == "global_norm":
            return kitae.global_norm(grads)
        if op == "clip_grad_value":
            return kitae.clip_grad_value(grads, LIMIT)
        return kitae.clip_grad_norm(grads, limit.next(), per="all" if op == "clip_grad_norm" else "tensor")

    return Contender("kitae", "", [partial(call, inputs["grads"]) for inputs in sets])


def _torch_norm(device: Any, sets: list[Inputs], op: str, limit: ShrinkingLimit) -> Contender:
    torch = device.torch
    utils = torch.nn.utils
    calls: list[Callable[[], Any]] = []
    for inputs in sets:
        grads = [device.torch_tensor(g) for g in inputs["grads"]]
        holders = [g.detach() for g in grads]
        for holder, g in zip(holders, grads, strict=True):
            holder.grad = g

        def call(grads: Any = grads, holders: Any = holders) -> Any:
            if op == "global_norm":
                return utils.get_total_norm(grads, foreach=True)
            if op == "clip_grad_value":
                return utils.clip_grad_value_(holders, LIMIT, foreach=True)
            if op == "clip_grad_norm":
                return utils.clip_grad_norm_(holders, limit.next(), foreach=True)
            norms = torch._foreach_norm(grads)
            bound = limit.next()
            factors = [torch.clamp(bound / (norm + 1e-6), max=1.0) for norm in norms]
            return torch._foreach_mul_(grads, factors)

        calls.append(call)
    return Contender("PyTorch", "foreach", calls)


def _plain_norm(device: Any, sets: list[Inputs]) -> Contender:
    xp = device.xp

    def norm(flat: Any) -> Any:
        return xp.sqrt(sum(xp.vdot(g, g) for g in flat))

    calls = [partial(norm, [device.plain(g).reshape(-1) for g in inputs["grads"]]) for inputs in sets]
    return Contender("CuPy", "vdot", calls)
