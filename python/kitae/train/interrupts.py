"""Ctrl-C between steps and not within one."""

import signal
import threading
from types import FrameType


class DeferredInterrupt:
    """A context in which Ctrl-C sets ``pending``, so that a step can be finished; a second Ctrl-C raises at once.

    Elsewhere than in the main thread, or where somebody else handles the signal, it changes nothing.
    """

    def __init__(self) -> None:
        self.pending = False
        self._active = False

    def __enter__(self) -> "DeferredInterrupt":
        in_main_thread = threading.current_thread() is threading.main_thread()
        self._active = in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._active:
            signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *details: object) -> None:
        if self._active:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.pending:
            raise KeyboardInterrupt
        self.pending = True

    def check(self) -> None:
        """Raise the KeyboardInterrupt that is pending."""
        if self.pending:
            self.pending = False
            raise KeyboardInterrupt
