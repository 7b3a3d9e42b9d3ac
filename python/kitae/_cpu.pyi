"""
kitae's CPU backend, compiled for one instruction set.
"""

from __future__ import annotations

import typing

import typing_extensions

__all__: list[str] = [
    "Exchange",
    "OptimizerPlan",
    "avg_pool_backward",
    "avg_pool_forward",
    "batch_norm_backward",
    "batch_norm_forward",
    "batch_norm_sizes",
    "clip_grad_adaptive",
    "clip_grad_norm",
    "clip_grad_value",
    "col2im",
    "copy_split",
    "copy_streaming",
    "dropout_backward",
    "dropout_forward",
    "dropout_mask",
    "global_norm",
    "im2col",
    "layer_norm_backward",
    "layer_norm_forward",
    "max_pool_backward",
    "max_pool_forward",
    "num_threads",
    "set_num_threads",
    "variant",
    "weight_norm_backward",
    "weight_norm_forward",
]

class OptimizerPlan:
    """
    Parameters and states of one optimizer, updated in one call a step.
    """
    def __init__(
        self,
        rule: str,
        parameters: list,
        masters: list,
        slots: list,
        groups: list,
        places: list,
        group_count: typing.SupportsInt | typing.SupportsIndex,
    ) -> None: ...
    def bind(self, grads: list) -> None:
        """
        Fixes the gradient arrays.
        """
    def bound(self) -> bool:
        """
        Whether gradient arrays are fixed.
        """
    def refresh(self) -> None:
        """
        Brings changed numbers to where a captured step reads them.
        """
    def result(self) -> tuple:
        """
        What the last step saw, as step gives it, and the number of steps; waits for a GPU.
        """
    def set_numbers(self, group: typing.SupportsInt | typing.SupportsIndex, numbers: dict) -> None:
        """
        The group's numbers, by name.
        """
    def set_steps(self, steps: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        Sets the number of steps written so far.
        """
    def set_tracking(self, tracking: bool) -> None:
        """
        Whether steps fill tracked().
        """
    def step(
        self,
        grads: typing.Any,
        number: typing.SupportsInt | typing.SupportsIndex,
        scope: typing.SupportsInt | typing.SupportsIndex,
        max_norm: typing.SupportsFloat | typing.SupportsIndex,
        eps: typing.SupportsFloat | typing.SupportsIndex,
        nonfinite: typing.SupportsInt | typing.SupportsIndex,
    ) -> tuple:
        """
        One update; (written, norm, count of non-finite elements, first parameter with one); -1: not waited for.
        """
    def tracked(self) -> list:
        """
        For each parameter of the last step (count of non-finite elements, then sums: squares of the gradient, magnitudes of update and weight, squares of update and weight); waits for a GPU.
        """

class Exchange:
    """
    Tensors of one type of another library as NumPy arrays, without a copy.
    """
    def __init__(self, type: type) -> None: ...
    def arrays(self, tensors: list) -> list:
        """
        An array over each tensor's memory; None stays None.
        """
    def first_other(self, tensors: list, arrays: list) -> int:
        """
        The first place where a tensor is not the memory, dtype, shape and strides of a NumPy array; -1: none.
        """

def avg_pool_backward(
    dout: typing.Any,
    out: typing.Any,
    kernel: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex],
    stride: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex],
    padding: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex],
    count_include_pad: bool,
) -> None:
    """
    out = the sum of the shares of dout.
    """

def avg_pool_forward(
    x: typing.Any,
    out: typing.Any,
    kernel: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex],
    stride: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex],
    padding: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex],
    count_include_pad: bool,
) -> None:
    """
    out = the average of each window.
    """

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

def clip_grad_adaptive(
    params: list,
    grads: list,
    axes: list,
    clipping: typing.SupportsFloat | typing.SupportsIndex,
    eps: typing.SupportsFloat | typing.SupportsIndex,
    nonfinite: typing.SupportsInt | typing.SupportsIndex,
) -> int:
    """
    In place; the place of the first non-finite gradient or -1. axes: that of the units, -1: one unit.
    """

def clip_grad_norm(
    grads: list,
    max_norm: typing.SupportsFloat | typing.SupportsIndex,
    eps: typing.SupportsFloat | typing.SupportsIndex,
    nonfinite: typing.SupportsInt | typing.SupportsIndex,
    scope: typing.SupportsInt | typing.SupportsIndex,
    layers: typing.Any,
    norms: typing.Any,
) -> tuple:
    """
    In place; (norm, place of the first non-finite gradient or -1, norm of each and of each layer without `norms`). max_norm 0: divides by the norm. layers: the first place of each and the end, or None.
    """

def clip_grad_value(grads: list, limit: typing.SupportsFloat | typing.SupportsIndex) -> None:
    """
    In place.
    """

def col2im(
    columns: typing.Any,
    out: typing.Any,
    kernel: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex],
    stride: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex],
    padding: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex],
    dilation: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex],
    output: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex],
) -> None:
    """
    Writes the sum of every element's copies in columns into out.
    """

def copy_split(destination: typing_extensions.Buffer, source: typing_extensions.Buffer) -> None:
    """
    A plain copy, split over the threads: the benchmark's yardstick.
    """

def copy_streaming(destination: typing_extensions.Buffer, source: typing_extensions.Buffer) -> None:
    """
    The same with stores that bypass the caches.
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

def global_norm(grads: list, zero_nonfinite: bool, norms: typing.Any) -> tuple:
    """
    (norm, place of the first non-finite gradient or -1); norms: a float64 vector for the norm of all and of each gradient, with which a GPU is not waited for.
    """

def im2col(
    x: typing.Any,
    columns: typing.Any,
    kernel: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex],
    stride: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex],
    padding: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex],
    dilation: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex],
    output: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex],
) -> None:
    """
    Writes the windows of x into columns.
    """

def layer_norm_backward(
    dout: typing.Any,
    x: typing.Any,
    gamma: typing.Any,
    statistics: typing.Any,
    out: typing.Any,
    dgamma: typing.Any,
    dbeta: typing.Any,
    normalized: typing.SupportsInt | typing.SupportsIndex,
    fresh: bool,
) -> None:
    """
    Writes out (dx) and the vectors dgamma and dbeta.
    """

def layer_norm_forward(
    x: typing.Any,
    gamma: typing.Any,
    beta: typing.Any,
    out: typing.Any,
    statistics: typing.Any,
    normalized: typing.SupportsInt | typing.SupportsIndex,
    eps: typing.SupportsFloat | typing.SupportsIndex,
    nonfinite: typing.SupportsInt | typing.SupportsIndex,
    fresh: bool,
) -> int:
    """
    Writes out and statistics (3, rows: mean, mean_low, inv_std), the last `normalized` axes of x being a row; returns the first row whose statistics are not finite, or -1.
    """

def max_pool_backward(
    dout: typing.Any,
    positions: typing.Any,
    out: typing.Any,
    kernel: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex],
    stride: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex],
    padding: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex],
) -> None:
    """
    out = the sum of dout over positions.
    """

def max_pool_forward(
    x: typing.Any,
    out: typing.Any,
    positions: typing.Any,
    kernel: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex],
    stride: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex],
    padding: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex],
) -> None:
    """
    out = the largest element of each window; where it was goes to positions.
    """

def num_threads() -> int:
    """
    Threads a native call may use, the caller's included.
    """

def set_num_threads(count: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Sets num_threads; at least 1.
    """

def weight_norm_backward(
    dw: typing.Any,
    v: typing.Any,
    g: typing.Any,
    norms: typing.Any,
    out: typing.Any,
    dg: typing.Any,
    axis: typing.SupportsInt | typing.SupportsIndex,
    fresh: bool,
) -> None:
    """
    Writes out (dv) and dg.
    """

def weight_norm_forward(
    v: typing.Any,
    g: typing.Any,
    out: typing.Any,
    norms: typing.Any,
    axis: typing.SupportsInt | typing.SupportsIndex,
    fresh: bool,
) -> None:
    """
    Writes out (w) and norms, one a channel of `axis`.
    """

variant: str
