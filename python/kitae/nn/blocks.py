"""Blocks of layers side by side: a body beside a shortcut, and branches whose outputs are joined."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kitae import _checks, _dispatch
from kitae.nn import checks
from kitae.nn.composite import Composite, check_children
from kitae.nn.relu import ReLU


class Residual(Composite):
    """y = act(body(x) + shortcut(x)), act being max(., 0) or nothing (He et al. 2015, arXiv:1512.03385, equation 1)

    ``body``: a layer, such as a Sequential. ``shortcut``: a layer that brings x to the shape of the body's output, or
    None: x itself. ``activation``: "relu" (after the addition, as in the paper) or None (as in the paper's successor
    with "pre-activation", arXiv:1603.05027, whose body begins with batch norm and ReLU).

    Children: "body" and "shortcut". backward: with d = dout where y > 0 (activation None: d = dout),
    dx = body.backward(d) + shortcut.backward(d). Outputs of different shapes raise ValueError: they are not broadcast.
    """

    def __init__(self, body: Any, shortcut: Any | None = None, activation: str | None = "relu") -> None:
        super().__init__()
        op = "nn.Residual"
        both = [("body", body), ("shortcut", shortcut)] if shortcut is not None else [("body", body)]
        check_children(op, both)
        self.body, self.shortcut = body, shortcut
        self.activation = _checks.one_of(op, "activation", activation, ("relu", None))
        self._relu = ReLU()

    def children(self) -> Iterator[tuple[str, Any]]:
        yield "body", self.body
        if self.shortcut is not None:
            yield "shortcut", self.shortcut

    def forward(self, x: NDArray[Any], training: bool = True) -> NDArray[Any]:
        op = "nn.Residual.forward"
        y = self.body.forward(x, training=training)
        beside = x if self.shortcut is None else self.shortcut.forward(x, training=training)
        if y.shape != beside.shape:
            where = "x, as there is no shortcut" if self.shortcut is None else "shortcut(x)"
            raise _checks.error(ValueError, op, "body(x)", f"shape {beside.shape}, that of {where}", y)
        self._input = x.shape, x.dtype
        y = _dispatch.array_module(y).add(y, beside)  # a new array: the body may keep its output for backward
        return y if self.activation is None else self._relu.forward(y, training=training)

    def backward(self, dout: NDArray[Any]) -> NDArray[Any]:
        if self.activation is not None:
            dout = self._relu.backward(dout)
        dx = self.body.backward(dout)
        beside = dout if self.shortcut is None else self.shortcut.backward(dout)
        self.sum_shared_gradients()
        return _dispatch.array_module(dx).add(dx, beside)


class Branches(Composite):
    """y = [branch_0(x), branch_1(x), ...], joined along ``axis`` (Szegedy et al. 2014, arXiv:1409.4842, "Inception")

    ``branches``: layers, such as Sequentials, that all see x; an empty Sequential hands x on. Their outputs agree in
    all axes but ``axis``, else ValueError; 1 is that of channels in (batch, channels, height, width) and of units in
    (batch, units). Children: "0", "1", ... backward: each branch gets its part of dout, copied so that it lies in one
    piece; dx is the sum of the branches' input gradients.
    """

    def __init__(self, *branches: Any, axis: int = 1) -> None:
        super().__init__()
        op = "nn.Branches"
        self.branches = list(branches)
        if not branches:
            raise _checks.error(ValueError, op, "branches", "at least one layer", _checks.Words("none"))
        check_children(op, [(f"branches[{i}]", branch) for i, branch in enumerate(branches)])
        self.axis = _checks.integer(op, "axis", axis, low=-64, high=63)
        self._joined: tuple[int, list[int]] | None = None

    def children(self) -> Iterator[tuple[str, Any]]:
        return ((str(i), branch) for i, branch in enumerate(self.branches))

    def forward(self, x: NDArray[Any], training: bool = True) -> NDArray[Any]:
        op = "nn.Branches.forward"
        outputs = [branch.forward(x, training=training) for branch in self.branches]
        first = outputs[0]
        axis = _checks.integer(op, "axis", self.axis, low=-first.ndim, high=first.ndim - 1) % first.ndim
        for i, y in enumerate(outputs):
            if y.ndim != first.ndim or (*y.shape[:axis], *y.shape[axis + 1 :]) != (
                *first.shape[:axis],
                *first.shape[axis + 1 :],
            ):
                expected = f"the shape {first.shape} of branches[0](x) in all axes but {axis}"
                raise _checks.error(ValueError, op, f"branches[{i}](x)", expected, y)
        self._input = x.shape, x.dtype
        self._joined = axis, [y.shape[axis] for y in outputs]
        return _dispatch.array_module(first).concatenate(outputs, axis=axis)

    def backward(self, dout: NDArray[Any]) -> NDArray[Any]:
        op = "nn.Branches.backward"
        axis, lengths = checks.after_forward(op, self._joined)
        if not axis < dout.ndim or dout.shape[axis] != sum(lengths):
            raise _checks.error(ValueError, op, "dout", f"length {sum(lengths)} along axis {axis}", dout)
        xp = _dispatch.array_module(dout)
        parts = xp.split(dout, np.cumsum(lengths)[:-1].tolist(), axis=axis)
        gradients = [
            branch.backward(xp.ascontiguousarray(part)) for branch, part in zip(self.branches, parts, strict=True)
        ]
        self.sum_shared_gradients()
        dx = xp.add(gradients[0], gradients[1]) if len(gradients) > 1 else gradients[0]
        for gradient in gradients[2:]:
            dx += gradient
        return dx
