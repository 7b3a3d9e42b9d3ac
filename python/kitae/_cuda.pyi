"""
kitae's CUDA backend.
"""

from __future__ import annotations

import typing

__all__: list[str] = [
    "check",
    "device_count",
    "driver_version",
    "dropout_backward",
    "dropout_forward",
    "dropout_mask",
    "variant",
]

def check() -> typing.Any:
    """
    Waits for the devices that were used; (code, place) of what its kernels found since the last call, or None.
    """

def device_count() -> tuple:
    """
    (number of devices, name of the error); starts the driver.
    """

def driver_version() -> tuple:
    """
    (of the driver, 0 without one; that this module was built with).
    """

def dropout_backward(
    dout: typing.Any,
    out: typing.Any,
    bits: typing.Any,
    threshold: typing.SupportsInt | typing.SupportsIndex,
    keep_scale: typing.SupportsFloat | typing.SupportsIndex,
    seed: typing.SupportsInt | typing.SupportsIndex,
    offset: typing.SupportsInt | typing.SupportsIndex,
) -> None:
    """
    The same for the gradient: from bits, or drawn again where they are None.
    """

def dropout_forward(
    x: typing.Any,
    out: typing.Any,
    bits: typing.Any,
    threshold: typing.SupportsInt | typing.SupportsIndex,
    keep_scale: typing.SupportsFloat | typing.SupportsIndex,
    seed: typing.SupportsInt | typing.SupportsIndex,
    offset: typing.SupportsInt | typing.SupportsIndex,
) -> None:
    """
    out = keep_scale * x where kept, else 0; the mask goes to bits unless None.
    """

def dropout_mask(
    bits: typing.Any,
    size: typing.SupportsInt | typing.SupportsIndex,
    threshold: typing.SupportsInt | typing.SupportsIndex,
    seed: typing.SupportsInt | typing.SupportsIndex,
    offset: typing.SupportsInt | typing.SupportsIndex,
) -> None:
    """
    Draws the mask of size elements into bits.
    """

variant: str
