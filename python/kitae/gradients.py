"""gradients."""

__all__: list[str] = []
