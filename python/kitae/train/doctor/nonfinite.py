"""Where the first infinite or NaN number is: layer, tensor, step and index."""

from typing import Any

import numpy as np

from kitae.train.doctor.findings import Finding, found
from kitae.train.doctor.measure import first_nonfinite, host
from kitae.train.doctor.network import Leaf, Wrapped, restore, saved_buffers


def first_not_finite(network: list[Leaf], model: Any, x: Any, step: int) -> Finding:
    """Looked for after a forward pass that was not finite, before its backward pass and its update.

    In the order of cause: a parameter (and the gradient of the step before that made it so), a running statistic,
    an activation, found by passing the same batch once more, layer by layer; else the loss itself.
    """
    for leaf in network:
        for name, array in leaf.layer.params.items():
            place = first_nonfinite(array)
            if place is not None:
                gradient = bad_gradient(network, max(step - 1, 0)) if step > 0 else None
                return gradient or at(leaf, f"parameter {name}", array, place, step)
    for leaf in network:
        for name, array in leaf.layer.buffers.items():
            place = first_nonfinite(array) if hasattr(array, "shape") else None
            if place is not None:
                return at(leaf, f"buffer {name}", array, place, step)
    return bad_activation(network, model, x, step) or found("non_finite", None, step, tensor="loss")


def bad_gradient(network: list[Leaf], step: int) -> Finding | None:
    """The first in the order of the backward pass, which begins at the last layer."""
    for leaf in reversed(network):
        for name, array in leaf.layer.grads.items():
            place = first_nonfinite(array) if array is not None else None
            if place is not None:
                return at(leaf, f"gradient of {name}", array, place, step)
    return None


def bad_activation(network: list[Leaf], model: Any, x: Any, step: int) -> Finding | None:
    seen: list[Finding] = []
    wrapped, buffers = Wrapped(), saved_buffers(network)

    def watching(leaf: Leaf) -> Any:
        def around(original: Any) -> Any:
            def forward(*args: Any, **keywords: Any) -> Any:
                y = original(*args, **keywords)
                place = first_nonfinite(first := y[0] if isinstance(y, tuple) else y)
                if place is not None and not seen:
                    seen.append(at(leaf, "activation", first, place, step))
                return y

            return forward

        return around

    for leaf in network:
        wrapped.wrap(leaf.layer, "forward", watching(leaf))
    try:
        with np.errstate(all="ignore"):
            model.forward(x, training=True)
    except FloatingPointError as error:  # a layer that refuses such an input; what it refused was seen before it
        if not seen:
            seen.append(found("non_finite", None, step, tensor="activation", refused=str(error)))
    finally:
        wrapped.remove()
        restore(buffers)
    return seen[0] if seen else None


def at(leaf: Leaf, tensor: str, array: Any, place: tuple[int, ...], step: int) -> Finding:
    value = float(host(array[place]) if place else host(array))
    return found("non_finite", str(leaf), step, tensor=tensor, index=place, value=value)
