"""Global norm and clipping by the book, in NumPy without temporaries, by PyTorch and by kitae."""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

import kitae

from .. import textbook
from ..cases import Inputs, Results
from ..cases.gradients import CLIP_EPS, CLIPPING, LIMIT, MAX_NORM, UNIT_EPS, layers_of, others_than_units
from .blocks import blocks
from .contender import Contender, Contenders, System, in_numpys_arithmetic, tensor_over, torch_if_installed


class ShrinkingLimit:
    """A maximum norm that is always just below the norm: clipping leaves norm = limit, and has to clip next time too.

    Shared by contenders that clip the same gradients. A million calls bring it down by a factor of 22,000.
    """

    def __init__(self, start: float) -> None:
        self._limit = start

    def next(self) -> float:
        self._limit *= 1 - 1e-5
        return self._limit


def norm_in_blocks(pieces: Sequence[np.ndarray]) -> float:
    return float(np.sqrt(sum(float(np.einsum("i,i->", piece, piece)) for piece in pieces)))


def clip_in_blocks(pieces: Sequence[np.ndarray], max_norm: float) -> float:
    norm = norm_in_blocks(pieces)
    factor = max_norm / (norm + CLIP_EPS)
    if factor < 1:
        for piece in pieces:
            np.multiply(piece, factor, out=piece)
    return norm


def clip_units(weights: Sequence[np.ndarray], grads: Sequence[np.ndarray], axis: int | None, clipping: float) -> None:
    """As one writes it: norms along the axes that are no units."""
    for w, g in zip(weights, grads, strict=True):
        others = others_than_units(g, axis)
        norm = np.sqrt(np.sum(g**2, axis=others, keepdims=True))
        most = clipping * np.maximum(np.sqrt(np.sum(w**2, axis=others, keepdims=True)), UNIT_EPS)
        g *= np.where(norm > most, most / np.maximum(norm, 1e-30), 1.0)


def clip_units_in_place(
    weights: Sequence[np.ndarray], grads: Sequence[np.ndarray], axis: int | None, clipping: float
) -> None:
    """Without temporaries of an array's size, and without a product where nothing is clipped."""
    for w, g in zip(weights, grads, strict=True):
        letters = "abcdefgh"[: g.ndim]
        others = others_than_units(g, axis)
        sums = f"{letters},{letters}->" + "".join(letters[i] for i in range(g.ndim) if i not in others)
        norm = np.sqrt(np.einsum(sums, g, g))
        most = clipping * np.maximum(np.sqrt(np.einsum(sums, w, w)), UNIT_EPS)
        if not (norm > most).any():
            continue
        factor = np.where(norm > most, most / np.maximum(norm, 1e-30), 1.0).astype(g.dtype)
        np.multiply(g, np.expand_dims(factor, others) if g.ndim > 1 else factor, out=g)


def contenders(case: str, inputs: Inputs) -> Contenders:
    grads = inputs["grads"]
    if case == "clip_grad_adaptive":
        return _units(inputs)
    plain = in_numpys_arithmetic(grads[0])
    pieces = [piece for (piece,) in blocks(grads)]
    limit = ShrinkingLimit(MAX_NORM)

    def norm(result: Any) -> Results:
        return {"norm": np.asarray(result)}

    def changed(_: Any) -> Results:
        return {f"grads.{i}": g for i, g in enumerate(grads)}

    results = norm if case == "global_norm" else changed

    def textbook_norm() -> float:
        return float(np.sqrt(sum(np.sum(g**2) for g in grads)))

    def textbook_clip_value() -> None:
        for g in grads:
            g[...] = np.clip(g, -LIMIT, LIMIT)

    def numpy_clip_value() -> None:
        for piece in pieces:
            np.clip(piece, -LIMIT, LIMIT, out=piece)

    layers = layers_of(grads)
    layers_in_pieces = [[piece for (piece,) in blocks(layer)] for layer in layers]

    def textbook_layers() -> None:
        max_norm = limit.next()
        for layer in layers:
            norm = np.sqrt(sum(np.sum(g**2) for g in layer))
            if norm > max_norm:
                for g in layer:
                    g *= max_norm / norm

    def numpy_layers() -> None:
        max_norm = limit.next()
        for layer in layers_in_pieces:
            clip_in_blocks(layer, max_norm)

    systems: tuple[tuple[System, str], ...] = (("textbook", ""), ("NumPy", "out="), ("kitae", ""))
    calls: dict[str, tuple[Callable[[], Any], ...]] = {
        "global_norm": (textbook_norm, lambda: norm_in_blocks(pieces), lambda: kitae.global_norm(grads)),
        "clip_grad_norm": (
            lambda: textbook.clip_grads(grads, limit.next()),
            lambda: clip_in_blocks(pieces, limit.next()),
            lambda: kitae.clip_grad_norm(grads, limit.next()),
        ),
        "clip_grad_value": (textbook_clip_value, numpy_clip_value, lambda: kitae.clip_grad_value(grads, LIMIT)),
        "normalize_gradients": (
            textbook_layers,
            numpy_layers,
            lambda: kitae.normalize_gradients(layers, "clip_l2_per_layer", limit.next()),
        ),
    }
    made = [
        Contender(system, variant, "in place", call, results)
        for (system, variant), call in zip(systems, calls[case], strict=True)
        if plain or system == "kitae"
    ]
    torch = torch_if_installed()
    if torch is not None:
        made += _torch(torch, case, grads, limit, results)
    return made


def _units(inputs: Inputs) -> Contenders:
    weights, grads, axis = inputs["weights"], inputs["grads"], inputs["axis"]
    limit = ShrinkingLimit(CLIPPING)

    def changed(_: Any) -> Results:
        return {f"grads.{i}": g for i, g in enumerate(grads)}

    calls: tuple[tuple[System, str, Callable[[], Any]], ...] = (
        ("textbook", "", lambda: clip_units(weights, grads, axis, limit.next())),
        ("NumPy", "out=", lambda: clip_units_in_place(weights, grads, axis, limit.next())),
        ("kitae", "", lambda: kitae.clip_grad_adaptive(weights, grads, limit.next(), eps=UNIT_EPS, axis=axis)),
    )
    plain = in_numpys_arithmetic(grads[0])
    made = [
        Contender(system, variant, "in place", call, changed)
        for system, variant, call in calls
        if plain or system == "kitae"
    ]
    torch = torch_if_installed()
    if torch is None:
        return made
    tensors = [[tensor_over(torch, array) for array in arrays] for arrays in (weights, grads)]

    def torch_units() -> None:
        """PyTorch has no function for it: its own operations."""
        clipping = limit.next()
        for w, g in zip(*tensors, strict=True):
            others = others_than_units(g, axis) or None
            norm = torch.linalg.vector_norm(g, dim=others, keepdim=True)
            most = torch.linalg.vector_norm(w, dim=others, keepdim=True).clamp_(min=UNIT_EPS).mul_(clipping)
            g.mul_(torch.where(norm > most, most / norm.clamp(min=1e-30), 1.0))

    return [*made, Contender("PyTorch", "native", "in place", torch_units, changed)]


def _torch(
    torch: ModuleType,
    case: str,
    grads: list[np.ndarray],
    limit: ShrinkingLimit,
    results: Callable[[Any], Results],
) -> Contenders:
    utils = torch.nn.utils
    tensors = [tensor_over(torch, g) for g in grads]
    holders = [tensor.detach() for tensor in tensors]  # parameters; only their .grad is looked at
    for holder, tensor in zip(holders, tensors, strict=True):
        holder.grad = tensor

    def clip_layers(max_norm: float, foreach: bool) -> None:
        for layer in layers_of(holders):
            utils.clip_grad_norm_(layer, max_norm, foreach=foreach)

    def contender(variant: str, foreach: bool) -> Contender:
        call: Callable[[], Any] = {
            "global_norm": lambda: utils.get_total_norm(tensors, foreach=foreach),
            "clip_grad_norm": lambda: utils.clip_grad_norm_(holders, limit.next(), foreach=foreach),
            "clip_grad_value": lambda: utils.clip_grad_value_(holders, LIMIT, foreach=foreach),
            "normalize_gradients": lambda: clip_layers(limit.next(), foreach),
        }[case]
        return Contender(
            "PyTorch", variant, "in place", call, lambda norm: results(norm if norm is None else float(norm))
        )

    return [contender("native", False), contender("foreach", True)]
