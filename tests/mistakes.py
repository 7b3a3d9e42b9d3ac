"""What every test of a user's mistake asks of the error."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest


def assert_named(
    call: Callable[[], Any], exception: type[Exception], words: Sequence[str], prefix: str = "kitae."
) -> None:
    """``call`` raises it, in one line that begins with ``prefix`` and has all the words."""
    with pytest.raises(exception) as caught:
        call()
    message = str(caught.value)
    assert message.startswith(prefix)
    assert "\n" not in message
    assert [word for word in words if word not in message] == []
