"""An optimizer and a model's arrays brought together."""

from collections.abc import Mapping
from typing import Any

from kitae import _checks
from kitae.train.fine_tuning import frozen_names


def bind(op: str, optimizer: Any, model: Any) -> None:
    """Attach an unattached optimizer to the model's parameters; bind it to their gradients, None for frozen ones."""
    params = model.params
    if not params:
        raise _checks.error(ValueError, op, "model", "a layer with parameters", _checks.Words("none"))
    if not optimizer.groups:
        optimizer.attach(params)
    grads, frozen = model.grads, frozen_names(model)
    gradient_of = {id(param): None if name in frozen else grads[name] for name, param in params.items()}
    bound = [_gradients(op, group["params"], gradient_of) for group in optimizer.groups]
    optimizer.bind(bound[0] if len(bound) == 1 else bound)


def _gradients(op: str, params: Any, gradient_of: dict[int, Any]) -> Any:
    """Gradients in the structure of ``params``, one group's."""

    def find(name: Any, param: Any) -> Any:
        try:
            return gradient_of[id(param)]
        except KeyError:
            expected = "an optimizer attached to arrays of model.params"
            found = _checks.Words(f"one with another array at {name!r}")
            raise _checks.error(ValueError, op, "optimizer", expected, found) from None

    if isinstance(params, Mapping):
        return {name: find(name, param) for name, param in params.items()}
    if isinstance(params, (list, tuple)):
        return [find(i, param) for i, param in enumerate(params)]
    return find(0, params)
