"""What is trained and at which rate: freezing, rates by layer, new last layers."""

from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from kitae import _checks
from kitae.normalization import BatchNorm


def freeze(model: Any, *patterns: str) -> list[str]:
    """Leave parameters as they are: those whose names ("0.W", "1.gamma") match a pattern ("0.*"). Returns their names.

    A ``Trainer`` gives their gradients to the optimizer as None from its next ``fit`` on, so no bit of them, or of
    their state, changes, by weight decay neither. They are kept as ``model.frozen``, a set of names; in a loop of your
    own, bind ``trainable_gradients(model)``. Their gradients are still computed. Statistics of batch normalization are
    no parameters: ``freeze_statistics``.

    The model has to be built; that, or a pattern that no name matches, is a ValueError otherwise, with nothing frozen.
    """
    names = _matching("train.freeze", model, patterns)
    model.frozen = frozen_names(model) | set(names)
    return names


def unfreeze(model: Any, *patterns: str) -> list[str]:
    """Take back ``freeze`` for the names that match a pattern. Returns those names. Errors as ``freeze``."""
    names = _matching("train.unfreeze", model, patterns)
    model.frozen = frozen_names(model) - set(names)
    return names


def frozen_names(model: Any) -> frozenset[str]:
    """The names in ``model.params`` that ``freeze`` froze."""
    return frozenset(getattr(model, "frozen", ()))


def trainable_gradients(model: Any) -> dict[str, Any]:
    """``model.grads`` with None for what is frozen: ``optimizer.bind`` takes it."""
    frozen = frozen_names(model)
    return {name: None if name in frozen else grad for name, grad in model.grads.items()}


def freeze_statistics(model: Any, frozen: bool = True) -> int:
    """Let every ``kitae.BatchNorm`` inside use its running statistics in training too, and leave them as they are.

    ``frozen=False`` takes it back. Returns how many there are. Fine-tuning on few samples is often better with the
    statistics of the large data set; gamma and beta are parameters and a matter of ``freeze``.
    """
    layers = [layer for layer in walk(model) if isinstance(layer, BatchNorm)]
    for layer in layers:
        layer.frozen_statistics = frozen
    return len(layers)


def parameter_groups(model: Any, factors: Mapping[str, float], *, lr: float) -> list[dict[str, Any]]:
    """Groups for an optimizer: parameters whose names match a pattern get the rate factor * lr; the first match wins.

    ``kitae.Adam(parameter_groups(model, {"0.*": 1e-2, "*": 1.0}, lr=1e-3))`` trains the first layer at 1e-5, the others
    at 1e-3. A parameter that no pattern matches, a pattern left without parameters, or a model that is not built raises
    ValueError.
    """
    op = "train.parameter_groups"
    if not isinstance(factors, Mapping) or not factors:
        raise _checks.error(TypeError, op, "factors", "a dict {pattern: factor}", factors)
    lr = _checks.number(op, "lr", lr, low=0)
    rates = {p: lr * _checks.number(op, f"factors[{p!r}]", factor, low=0) for p, factor in factors.items()}
    members: dict[str, dict[str, Any]] = {pattern: {} for pattern in rates}
    for name, param in _built(op, model).items():
        pattern = next((pattern for pattern in rates if fnmatchcase(name, pattern)), None)
        if pattern is None:
            raise _checks.error(
                ValueError, op, "factors", f'a pattern that matches {name!r}, such as "*"', _words(rates)
            )
        members[pattern][name] = param
    empty = [pattern for pattern, group in members.items() if not group]
    if empty:
        expected = "patterns that each match a name not matched before"
        raise _checks.error(ValueError, op, "factors", expected, _words(empty))
    return [{"params": members[pattern], "lr": rate} for pattern, rate in rates.items()]


def replace_last_layers(model: Any, n: int, new_layers: Iterable[Any]) -> Any:
    """A new ``Sequential`` of the model's layers but the last ``n``, then ``new_layers``.

    Layers that stay are the same objects, with their weights and statistics; the given model is not changed. New layers
    draw their weights when they are built. Nothing is frozen in the new model. n: from 1 to the number of layers.
    """
    from kitae.nn import Sequential

    op = "train.replace_last_layers"
    layers = getattr(model, "layers", None)
    if not isinstance(layers, (list, tuple)):
        raise _checks.error(TypeError, op, "model", "a network with a list of layers, such as nn.Sequential", model)
    n = _checks.integer(op, "n", n, low=1, high=len(layers))
    return Sequential(*layers[: len(layers) - n], *new_layers)


def walk(layer: Any) -> Iterator[Any]:
    """The layer and every layer inside it."""
    yield layer
    if callable(getattr(layer, "children", None)):
        inside = [child for _, child in layer.children()]
    else:
        inside = list(getattr(layer, "layers", ())) or [getattr(layer, "layer", None)]
    for child in inside:
        if child is not None:
            yield from walk(child)


def _built(op: str, model: Any) -> dict[str, Any]:
    if not model.params:
        expected = "a built model (model.build(shape, dtype), or a forward pass)"
        raise _checks.error(ValueError, op, "model", expected, _checks.Words("one without parameters"))
    return model.params


def _matching(op: str, model: Any, patterns: tuple[str, ...]) -> list[str]:
    names = list(_built(op, model))
    for i, pattern in enumerate(patterns):
        if not isinstance(pattern, str):
            raise _checks.error(TypeError, op, f"patterns[{i}]", 'a pattern of names, such as "0.*"', pattern)
        if not any(fnmatchcase(name, pattern) for name in names):
            raise _checks.error(ValueError, op, f"patterns[{i}]", f"one that matches any of {names}", pattern)
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _words(patterns: Iterable[str]) -> _checks.Words:
    return _checks.Words(", ".join(map(repr, patterns)))
