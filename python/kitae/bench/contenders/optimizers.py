"""Optimizer steps by the book, in NumPy without temporaries, by PyTorch's three implementations and by kitae.

All contenders of a row work on the same parameters and gradients, with state of their own: the values drift
as in training, and a tensor of 64 million elements does not need to exist once for every contender.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from .. import textbook
from ..cases import Inputs, Results
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
    optimizer_named,
)
from .blocks import BLOCK, blocks
from .contender import Contender, Contenders, torch_if_installed
from .gradients import ShrinkingLimit, clip_in_blocks

_Arrays = list[np.ndarray]


def contenders(case: str, inputs: Inputs) -> Contenders:
    # Clipping writes to the gradients and the limit shrinks: those who clip in place share one limit.
    limit = ShrinkingLimit(MAX_NORM) if case == "adam_max_norm" else None
    made = [*_textbook(case, inputs, limit), *_numpy(case, inputs, limit)]
    torch = torch_if_installed()
    if torch is not None:
        made += _torch(torch, case, inputs, limit)
    return made + _kitae(case, inputs)


def _params(inputs: Inputs) -> Callable[[Any], Results]:
    return lambda _: {f"params.{i}": p for i, p in enumerate(inputs["params"])}


def _in_place(system: Any, variant: str, call: Callable[[], Any], inputs: Inputs) -> Contender:
    return Contender(system, variant, "in place", call, _params(inputs))


# --- by the book -----------------------------------------------------------------------------------------------------


class _TextbookAdamW(textbook.Adam):
    """Decay of the weights, then Adam (Loshchilov and Hutter 2019)."""

    def update(self, params: dict[str, np.ndarray], grads: dict[str, np.ndarray]) -> None:
        for name in params:
            params[name] *= 1 - self.lr * ADAMW_DECAY
        super().update(params, grads)


_TEXTBOOK: dict[str, Callable[[], Any]] = {
    "sgd": lambda: textbook.SGD(LR),
    "momentum": lambda: textbook.Momentum(LR, MOMENTUM),
    "adagrad": lambda: textbook.AdaGrad(LR, ADAGRAD_EPS),
    "rmsprop": lambda: textbook.RMSProp(LR, RMSPROP_RHO, RMSPROP_EPS),
    "adam": lambda: textbook.Adam(LR, ADAM_BETA1, ADAM_BETA2, ADAM_EPS),
    "adamw": lambda: _TextbookAdamW(LR, ADAM_BETA1, ADAM_BETA2, ADAM_EPS),
    "adam_max_norm": lambda: textbook.Adam(LR, ADAM_BETA1, ADAM_BETA2, ADAM_EPS),
}


def _textbook(case: str, inputs: Inputs, limit: "ShrinkingLimit | None") -> Contenders:
    params = {str(i): p for i, p in enumerate(inputs["params"])}
    grads = {str(i): g for i, g in enumerate(inputs["grads0"])}
    optimizer = _TEXTBOOK[case]()

    def step() -> None:
        if limit is not None:
            textbook.clip_grads(grads.values(), limit.next())
        optimizer.update(params, grads)

    return [_in_place("textbook", "", step, inputs)]


# --- NumPy at its best -----------------------------------------------------------------------------------------------

_Piece = tuple[np.ndarray, ...]


class _BestNumPy:
    """In place, in blocks that stay in the cache, views and scratch made once."""

    def __init__(self, case: str, inputs: Inputs) -> None:
        params: _Arrays = inputs["params"]
        states = optimizer_named(case).states or 0
        self.scratch = np.empty(BLOCK, params[0].dtype)
        state = [[np.zeros_like(p) for p in params] for _ in range(states)]
        self.pieces: list[_Piece] = [
            (*piece, self.scratch[: piece[0].size]) for piece in blocks(params, inputs["grads0"], *state)
        ]
        self.update: Callable[[_Piece], None] = {
            "sgd": self.sgd,
            "momentum": self.momentum,
            "adagrad": self.adagrad,
            "rmsprop": self.rmsprop,
            "adam": self.adam,
            "adamw": self.adamw,
            "adam_max_norm": self.adam,
        }[case]
        self.steps = 0

    def step(self) -> None:
        self.steps += 1
        root = float(np.sqrt(1 - ADAM_BETA2**self.steps))
        self.step_size, self.eps = LR * root / (1 - ADAM_BETA1**self.steps), ADAM_EPS * root
        for piece in self.pieces:
            self.update(piece)

    def sgd(self, piece: _Piece) -> None:
        p, g, s = piece
        np.multiply(g, LR, out=s)
        p -= s

    def momentum(self, piece: _Piece) -> None:
        p, g, v, s = piece
        v *= MOMENTUM
        np.multiply(g, LR, out=s)
        v -= s
        p += v

    def adagrad(self, piece: _Piece) -> None:
        p, g, h, s = piece
        np.multiply(g, g, out=s)
        h += s
        self.descend(p, g, h, s, LR, ADAGRAD_EPS)

    def rmsprop(self, piece: _Piece) -> None:
        p, g, h, s = piece
        np.multiply(g, g, out=s)
        s *= 1 - RMSPROP_RHO
        h *= RMSPROP_RHO
        h += s
        self.descend(p, g, h, s, LR, RMSPROP_EPS)

    def adam(self, piece: _Piece) -> None:
        p, g, m, v, s = piece
        m *= ADAM_BETA1
        np.multiply(g, 1 - ADAM_BETA1, out=s)
        m += s
        np.multiply(g, g, out=s)
        s *= 1 - ADAM_BETA2
        v *= ADAM_BETA2
        v += s
        self.descend(p, m, v, s, self.step_size, self.eps)

    def adamw(self, piece: _Piece) -> None:
        piece[0][...] *= 1 - LR * ADAMW_DECAY
        self.adam(piece)

    @staticmethod
    def descend(
        p: np.ndarray, top: np.ndarray, squares: np.ndarray, s: np.ndarray, step_size: float, eps: float
    ) -> None:
        """p -= step_size top / (sqrt(squares) + eps)"""
        np.sqrt(squares, out=s)
        s += eps
        np.divide(top, s, out=s)
        s *= step_size
        p -= s


def _numpy(case: str, inputs: Inputs, limit: "ShrinkingLimit | None") -> Contenders:
    best = _BestNumPy(case, inputs)
    pieces = [piece[1] for piece in best.pieces]

    def step() -> None:
        if limit is not None:
            clip_in_blocks(pieces, limit.next())
        best.step()

    return [_in_place("NumPy", "out=", step, inputs)]


# --- PyTorch ---------------------------------------------------------------------------------------------------------


def _torch(torch: ModuleType, case: str, inputs: Inputs, limit: "ShrinkingLimit | None") -> Contenders:
    optim = torch.optim
    params = [torch.from_numpy(p) for p in inputs["params"]]
    for p, g in zip(params, inputs["grads0"], strict=True):
        p.grad = torch.from_numpy(g)
    betas = (ADAM_BETA1, ADAM_BETA2)
    construct: dict[str, Callable[..., Any]] = {
        "sgd": lambda **how: optim.SGD(params, LR, **how),
        "momentum": lambda **how: optim.SGD(params, LR, momentum=MOMENTUM, **how),
        "adagrad": lambda **how: optim.Adagrad(params, LR, eps=ADAGRAD_EPS, **how),
        "rmsprop": lambda **how: optim.RMSprop(params, LR, alpha=RMSPROP_RHO, eps=RMSPROP_EPS, **how),
        "adam": lambda **how: optim.Adam(params, LR, betas=betas, eps=ADAM_EPS, **how),
        "adamw": lambda **how: optim.AdamW(params, LR, betas=betas, eps=ADAM_EPS, weight_decay=ADAMW_DECAY, **how),
        "adam_max_norm": lambda **how: optim.Adam(params, LR, betas=betas, eps=ADAM_EPS, **how),
    }
    variants: dict[str, dict[str, bool]] = {"native": {"foreach": False}, "foreach": {"foreach": True}}
    if case != "rmsprop":  # the one of these optimizers without a fused implementation
        variants["fused"] = {"fused": True}

    def contender(variant: str, optimizer: Any) -> Contender:
        def step() -> None:
            if limit is not None:
                torch.nn.utils.clip_grad_norm_(params, limit.next(), foreach=variant != "native")
            optimizer.step()

        return _in_place("PyTorch", variant, step, inputs)

    return [contender(variant, construct[case](**how)) for variant, how in variants.items()]


# --- kitae -----------------------------------------------------------------------------------------------------------


def _kitae(case: str, inputs: Inputs) -> Contenders:
    optimizer = optimizer_named(case)
    grads = inputs["grads0"]
    if optimizer.clips:  # kitae leaves gradients as they are; those who write to them must not lower its norm
        grads = [g.copy() for g in grads]
    bound, passed = optimizer.construct(inputs["params"]), optimizer.construct(inputs["params"])
    bound.bind(grads)
    return [
        _in_place("kitae", "bind", bound.step, inputs),
        _in_place("kitae", "step(grads)", lambda: passed.step(grads), inputs),
    ]
