"""Dropout on the GPU: forward with 1-bit masks and without a mask, backward from each."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import kitae

from .row import Contender, Inputs, Maker, Row, Traffic

DROP = 0.1
_ITEM = {"float32": 4, "bfloat16": 2}
_SIZES = {"1M": 1 << 20, "16M": 1 << 24, "64M": 1 << 26, "256M": 1 << 28, "1G": 1 << 30}


def rows() -> list[Row]:
    made = []
    for op in ("dropout", "dropout_replay", "dropout_backward", "dropout_replay_backward"):
        for dtype in _ITEM:
            for label, count in _SIZES.items():
                main = op in ("dropout", "dropout_backward")
                tier = 2 if label == "1G" else (0 if label == "64M" and main else 1)
                made.append(_row(op, label, count, 0, dtype, tier))
            made.append(_row(op, "16M+3, misaligned", (1 << 24) + 3, 1, dtype, 1 if op == "dropout" else 2))
    return made


def _row(op: str, label: str, count: int, skip: int, dtype: str, tier: int) -> Row:
    one = count * _ITEM[dtype]
    bits = 0 if "replay" in op else count // 8
    traffic = Traffic(one + bits, one) if "backward" in op else Traffic(one, one + bits)
    return Row(
        family="dropout",
        op=op,
        size=label,
        dtype=dtype,
        tier=tier,
        inputs=lambda device: {"x": device.normal((count + skip,), dtype)[skip:]},
        traffic=lambda _: traffic,
        makers=partial(_makers, op=op),
        set_bytes=one,
    )


def _makers(device: Any, sets: list[Inputs], op: str) -> list[Maker]:
    made: list[Maker] = [partial(_kitae, device, sets, op, False), partial(_kitae, device, sets, op, True)]
    if device.torch is not None:
        made.append(partial(_torch, device, sets, op))
    if "backward" not in op and sets[0]["x"].dtype.name != "bfloat16":
        made.append(partial(_plain, device, sets))
    if "backward" not in op and device.jax is not None:
        made.append(partial(_jax, device, sets))
    return made


def _kitae(device: Any, sets: list[Inputs], op: str, given: bool) -> Contender:
    store = "replay" if "replay" in op else "bits"
    offset = itertools.count()

    def forward(x: Any, out: Any = None) -> Any:
        return kitae.dropout(x, DROP, seed=1, offset=next(offset), store=store, out=out)

    calls: list[Callable[[], Any]] = []
    for inputs in sets:
        x = inputs["x"]
        out = device.copy(x) if given else None
        if "backward" in op:
            calls.append(partial(kitae.dropout_backward, x, forward(x)[1], out=out))
        else:
            calls.append(partial(forward, x, out))
    return Contender("kitae", "out=" if given else "", calls)


def _torch(device: Any, sets: list[Inputs], op: str) -> Contender:
    """Its mask takes a byte an element, whatever is asked for."""
    torch = device.torch
    calls: list[Callable[[], Any]] = []
    for inputs in sets:
        x = device.torch_tensor(inputs["x"])
        if "backward" in op:
            mask = torch.native_dropout(x, DROP, True)[1]
            calls.append(partial(torch.ops.aten.native_dropout_backward, x, mask, 1 / (1 - DROP)))
        else:
            calls.append(partial(torch.native_dropout, x, DROP, True))
    return Contender("PyTorch", "native_dropout", calls)


def _plain(device: Any, sets: list[Inputs]) -> Contender:
    xp = device.xp
    scale = np.float32(1 / (1 - DROP))

    def forward(x: Any) -> Any:
        keep = xp.random.random_sample(x.shape) >= DROP
        return x * keep * scale, keep

    return Contender("CuPy", "", [partial(forward, device.plain(inputs["x"])) for inputs in sets])


def _jax(device: Any, sets: list[Inputs]) -> Contender:
    jax = device.jax

    def forward(key: Any, x: Any) -> Any:
        key, draw = jax.random.split(key)
        keep = jax.random.bernoulli(draw, 1 - DROP, x.shape)
        return key, jax.numpy.where(keep, x / (1 - DROP), 0).astype(x.dtype), keep

    function = jax.jit(forward)
    arrays = [device.jax_array(inputs["x"]) for inputs in sets]
    state = {"key": jax.random.key(0)}

    def call(x: Any) -> Any:
        state["key"], y, _ = function(state["key"], x)
        return y

    return Contender("JAX", "jit", [partial(call, x) for x in arrays], finish=jax.block_until_ready)
