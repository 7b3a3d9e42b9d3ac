"""What is trained and at which rate: freezing, rates by layer, new last layers."""

from typing import Any


def frozen_names(model: Any) -> frozenset[str]:
    """The names in ``model.params`` that ``freeze`` named."""
    return getattr(model, "frozen", frozenset())
