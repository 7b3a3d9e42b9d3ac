"""Looking at what layers hand on, without a trace in the layers afterwards."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kitae.nn.composite import walk


@contextmanager
def watched_outputs(model: Any, see: Callable[[str, Any, Any], None]) -> Iterator[None]:
    """Inside, ``see(name, layer, output)`` is called after each forward pass of each layer that holds no others.

    Names are those of ``composite.walk``, "" for a model that is a single layer. The layers' own ``forward`` is back
    afterwards, also after an error.
    """
    changed: list[Any] = []
    try:
        for name, layer in walk(model):
            layer.forward = _seen(layer.forward, name, layer, see)
            changed.append(layer)
        yield
    finally:
        for layer in changed:
            del layer.forward


def _seen(forward: Callable[..., Any], name: str, layer: Any, see: Callable[[str, Any, Any], None]) -> Any:
    def forward_and_see(*arguments: Any, **keywords: Any) -> Any:
        y = forward(*arguments, **keywords)
        see(name, layer, y)
        return y

    return forward_and_see
