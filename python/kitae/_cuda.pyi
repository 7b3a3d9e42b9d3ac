"""
kitae's CUDA backend.
"""

from __future__ import annotations

import typing

__all__: list[str] = [
    "batch_norm_backward",
    "batch_norm_forward",
    "batch_norm_sizes",
    "check",
    "device_count",
    "driver_version",
    "dropout_backward",
    "dropout_forward",
    "dropout_mask",
    "variant",
]

def batch_norm_backward(
    dout: typing.Any,
    x: typing.Any,
    gamma: typing.Any,
    beta: typing.Any,
    statistics: typing.Any,
    mask: typing.Any,
    out: typing.Any,
    dgamma: typing.Any,
    dbeta: typing.Any,
    dresidual: typing.Any,
    training: bool,
    axis: typing.SupportsInt | typing.SupportsIndex,
    activation: typing.SupportsInt | typing.SupportsIndex,
    slope: typing.SupportsFloat | typing.SupportsIndex,
    fresh: bool,
) -> None:
    """
    Writes out (dx), dgamma, dbeta and, where given, dresidual.
    """

def batch_norm_forward(
    x: typing.Any,
    gamma: typing.Any,
    beta: typing.Any,
    running_mean: typing.Any,
    running_var: typing.Any,
    residual: typing.Any,
    out: typing.Any,
    statistics: typing.Any,
    mask: typing.Any,
    training: bool,
    axis: typing.SupportsInt | typing.SupportsIndex,
    eps: typing.SupportsFloat | typing.SupportsIndex,
    running_decay: typing.SupportsFloat | typing.SupportsIndex,
    unbiased: bool,
    activation: typing.SupportsInt | typing.SupportsIndex,
    slope: typing.SupportsFloat | typing.SupportsIndex,
    nonfinite: typing.SupportsInt | typing.SupportsIndex,
    fresh: bool,
) -> int:
    """
    Writes out, statistics (3, channels: mean, mean_low, inv_std), mask and, in training, the running statistics; returns the first channel whose statistics are not finite, or -1.
    """

def batch_norm_sizes(x: typing.Any, axis: typing.SupportsInt | typing.SupportsIndex) -> tuple:
    """
    (outer, channels, inner) of an array whose memory has no gaps.
    """

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
