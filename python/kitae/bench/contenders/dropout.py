"""Dropout by the book, in NumPy without temporaries, by PyTorch and by kitae: other generators, the same work."""

import itertools
from types import ModuleType
from typing import Any

import numpy as np

import kitae

from .. import textbook
from ..cases import Inputs, Results
from .contender import Contender, Contenders, array_over, in_numpys_arithmetic, tensor_over, torch_if_installed

_BLOCK = 1 << 16  # elements whose draws, mask and values stay in the level-2 cache


def contenders(case: str, inputs: Inputs) -> Contenders:
    makers = [_textbook, _numpy, _kitae] if in_numpys_arithmetic(inputs["x"]) else [_kitae]
    torch = torch_if_installed()
    if torch is not None:
        makers.append(lambda case, inputs: _torch(torch, case, inputs))
    return [contender for maker in makers for contender in maker(case, inputs)]


def _y(result: Any) -> Results:
    return {"y": np.asarray(result[0] if isinstance(result, tuple) else result)}


def _dx(result: Any) -> Results:
    return {"dx": np.asarray(result)}


def _textbook(case: str, inputs: Inputs) -> Contenders:
    x, dout, drop = inputs["x"], inputs["dout"], inputs["drop"]
    if case == "dropout":
        return [Contender("textbook", "", "fresh", lambda: textbook.inverted_dropout_forward(x, drop), _y)]
    _, mask = textbook.inverted_dropout_forward(x, drop)
    return [Contender("textbook", "", "fresh", lambda: textbook.inverted_dropout_backward(dout, mask, drop), _dx)]


def _numpy(case: str, inputs: Inputs) -> Contenders:
    """16 raw bits an element of NumPy's fastest generator, block by block, in given arrays."""
    x, dout, drop = inputs["x"].reshape(-1), inputs["dout"].reshape(-1), inputs["drop"]
    bits = np.random.SFC64(inputs["seed"])
    threshold, scale = np.uint16(drop * 2**16), x.dtype.type(1 / (1 - drop))
    mask, shape = np.empty(x.shape, bool), inputs["x"].shape

    def forward(out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        y = out.reshape(-1)
        for start in range(0, x.size, _BLOCK):
            block = slice(start, min(start + _BLOCK, x.size))
            count = block.stop - start
            draws = bits.random_raw(-(-count // 4)).view(np.uint16)[:count]
            np.greater_equal(draws, threshold, out=mask[block])
            np.multiply(x[block], mask[block], out=y[block])
            y[block] *= scale
        return out, mask

    out = np.empty(shape, x.dtype)
    if case == "dropout":
        return [
            Contender("NumPy", "out=", "reused", lambda: forward(out), _y),
            Contender("NumPy", "", "fresh", lambda: forward(np.empty(shape, x.dtype)), _y),
        ]
    forward(out)
    factor = mask * scale

    def backward(out: np.ndarray) -> np.ndarray:
        np.multiply(dout, factor, out=out.reshape(-1))
        return out

    return [
        Contender("NumPy", "out=", "reused", lambda: backward(out), _dx),
        Contender("NumPy", "", "fresh", lambda: backward(np.empty(shape, x.dtype)), _dx),
    ]


def _torch(torch: ModuleType, case: str, inputs: Inputs) -> Contenders:
    x, dout, drop = tensor_over(torch, inputs["x"]), tensor_over(torch, inputs["dout"]), inputs["drop"]
    keep, scale = 1 - drop, 1 / (1 - drop)
    out, mask, noise = torch.empty_like(x), torch.empty_like(x, dtype=torch.bool), torch.empty_like(x)
    native, native_backward = torch.ops.aten.native_dropout, torch.ops.aten.native_dropout_backward

    def y_of(result: Any) -> Results:
        return {"y": array_over(torch, result[0] if isinstance(result, tuple) else result)}

    def dx_of(result: Any) -> Results:
        return {"dx": array_over(torch, result)}

    def by_hand() -> Any:
        noise.bernoulli_(keep).mul_(scale)
        return torch.mul(x, noise, out=out)

    if case == "dropout":
        return [
            Contender("PyTorch", "dropout", "fresh", lambda: torch.nn.functional.dropout(x, drop, True), y_of),
            Contender("PyTorch", "native_dropout", "fresh", lambda: native(x, drop, True), y_of),
            Contender(
                "PyTorch", "native_dropout.out", "reused", lambda: native.out(x, drop, True, out0=out, out1=mask), y_of
            ),
            Contender("PyTorch", "bernoulli_, mul out=", "reused", by_hand, y_of),
        ]
    native.out(x, drop, True, out0=out, out1=mask)
    noise.bernoulli_(keep).mul_(scale)
    return [
        Contender("PyTorch", "mul", "fresh", lambda: torch.mul(dout, noise), dx_of),
        Contender("PyTorch", "native_dropout_backward", "fresh", lambda: native_backward(dout, mask, scale), dx_of),
        Contender("PyTorch", "mul out=", "reused", lambda: torch.mul(dout, noise, out=out), dx_of),
    ]


def _kitae(case: str, inputs: Inputs) -> Contenders:
    x, dout, drop, seed = (inputs[name] for name in ("x", "dout", "drop", "seed"))
    out = np.empty_like(x)
    offset = itertools.count(inputs["offset"])  # a new draw at every call, as a layer makes it

    def forward(out: np.ndarray | None = None) -> Any:
        return kitae.dropout(x, drop, seed=seed, offset=next(offset), out=out)

    if case == "dropout":
        return [
            Contender("kitae", "out=", "reused", lambda: forward(out), _y),
            Contender("kitae", "", "fresh", forward, _y),
        ]
    mask = forward()[1]
    return [
        Contender("kitae", "out=", "reused", lambda: kitae.dropout_backward(dout, mask, out=out), _dx),
        Contender("kitae", "", "fresh", lambda: kitae.dropout_backward(dout, mask), _dx),
    ]
