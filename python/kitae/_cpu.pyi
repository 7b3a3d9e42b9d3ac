"""
kitae's CPU backend, compiled for one instruction set.
"""

from __future__ import annotations

import typing

import typing_extensions

__all__: list[str] = ["copy_split", "copy_streaming", "num_threads", "set_num_threads", "variant"]

def copy_split(destination: typing_extensions.Buffer, source: typing_extensions.Buffer) -> None:
    """
    A plain copy, split over the threads: the benchmark's yardstick.
    """

def copy_streaming(destination: typing_extensions.Buffer, source: typing_extensions.Buffer) -> None:
    """
    The same with stores that bypass the caches.
    """

def num_threads() -> int:
    """
    Threads a native call may use, the caller's included.
    """

def set_num_threads(count: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Sets num_threads; at least 1.
    """

variant: str
