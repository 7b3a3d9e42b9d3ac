"""Windows over images: columns for convolution as a matrix product, and pooling.

Images are arrays (samples, channels, height, width), of any strides. One-dimensional signals are images of height 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kitae import _checks, _dispatch

__all__ = [
    "PoolSaved",
    "avg_pool",
    "avg_pool_backward",
    "col2im",
    "im2col",
    "max_pool",
    "max_pool_backward",
]

Pair = tuple[int, int]

_PADDINGS = ("same", "valid")
_MOST = 2**31 - 1
_CELLS_OF_BYTE = 256  # a place in a larger window takes four bytes


class Geometry(NamedTuple):
    """Windows over images of one height and width, in neutral numbers: (vertical, horizontal)."""

    kernel: Pair
    stride: Pair
    padding: Pair  # above and to the left
    dilation: Pair
    output: Pair  # places of the window


@dataclass(slots=True, eq=False)
class PoolSaved:
    """What the backward pass of a pooling call needs.

    ``shape``: of x. ``positions``: read-only, for max pooling: where in its window each maximum was, row * width of the
    window + column, of y's shape; uint8, uint32 for windows of more than 256 cells. None for average pooling.
    ``kernel_size``, ``stride``, ``padding`` (above and to the left), ``output``: pairs (vertical, horizontal).
    ``count_include_pad``: as given to ``avg_pool``. ``order``: x's axes as they lie in memory, the outermost first.
    """

    shape: tuple[int, ...]
    kernel_size: Pair
    stride: Pair
    padding: Pair
    output: Pair
    count_include_pad: bool
    positions: NDArray[Any] | None = field(repr=False)
    order: tuple[int, ...]


def im2col(
    x: NDArray[Any],
    kernel_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """columns[(c kh + i) kw + j, (n oh + o) ow + p] = x[n, c, o sh - ph + i dh, p sw - pw + j dw], 0 outside of x.

    x: (samples N, channels C, height, width), any strides; float32, float64, float16 or bfloat16. columns: a
    C-contiguous matrix (C kh kw, N oh ow) of x's dtype, new or ``out`` (no memory of x). A convolution is
    ``W.reshape(out_channels, -1) @ columns``: one product for the whole batch. Its rows are the output channels, each
    with the pixels of all samples; ``.reshape(-1, N, oh, ow).swapaxes(0, 1)`` shows it as images without a copy.
    kernel_size (kh, kw), stride (sh, sw), dilation (dh, dw): an integer for both axes, or a pair.
    padding: zeros on each side, an integer or a pair; "valid": none; "same": oh = ceil(height / sh), an odd one of the
    zeros below and to the right. oh = floor((height + 2 ph - dh (kh - 1) - 1) / sh) + 1.

    Raises TypeError for a wrong type or dtype, ValueError for a wrong value, shape or overlap, or a window larger than
    the padded image; nothing is written then.

    Source: Chellapilla, Puri and Simard 2006. Differs from PyTorch's ``unfold``, which is (N, C kh kw, oh ow): a small
    product for each sample. Differs from the book "Deep Learning from Scratch", which stores the transpose.
    """
    op = "im2col"
    x, backend = _images(op, "x", x)
    geometry = geometry_of(op, "x", x.shape, kernel_size, stride, padding, dilation)
    shape = _shape_of_columns(x.shape, geometry)
    columns = _dispatch.empty(shape, x.dtype, x) if out is None else _dispatch.as_array(out)
    try:
        backend.im2col(x, columns, *geometry)
    except _checks.Rejected as rejected:
        raise _explain(op, rejected, {"x": x, "columns": columns}, shape, x, columns="out") from None
    return columns


def col2im(
    columns: NDArray[Any],
    shape: Sequence[int],
    kernel_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """x[n, c, h, w] = the sum of all elements of columns that ``im2col`` copies x[n, c, h, w] to: its transpose.

    columns: C-contiguous, of the shape that ``im2col`` gives for x of ``shape`` (samples, channels, height, width).
    Returns an array of ``shape`` and columns' dtype, new or ``out`` (any strides, no memory of columns). The sums go
    over kernel cells row by row, in the dtype (16-bit types: in float32, rounded once): the same bits for any number of
    threads. Other arguments and errors as in ``im2col``. PyTorch has it as ``fold``, for another order of columns.
    """
    op = "col2im"
    if type(columns) is not np.ndarray:
        columns, out = _dispatch.as_array(columns), _dispatch.as_array(out)
    backend = _dispatch.backend_for(columns, op, "columns")
    lengths = _lengths(op, shape)
    geometry = geometry_of(op, "shape", lengths, kernel_size, stride, padding, dilation)
    x = _dispatch.empty(lengths, columns.dtype, columns) if out is None else out
    expected = _shape_of_columns(lengths, geometry)
    if columns.shape != expected:
        raise _checks.explain(op, _checks.Rejected("columns", "shape"), {"columns": columns}, {"columns": expected})
    _refuse_shape(op, x, columns, lengths)
    try:
        backend.col2im(columns, x, *geometry)
    except _checks.Rejected as rejected:
        if out is None and rejected.argument == "out":
            rejected.argument = "columns"  # whose dtype a new array has
        raise _explain(op, rejected, {"columns": columns, "out": x}, lengths, columns) from None
    return x


def max_pool(
    x: NDArray[Any],
    kernel_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] | str = 0,
    out: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], PoolSaved]:
    """y[n, c, o, p] = the largest element of x[n, c] under the window at (o sh - ph, p sw - pw). Returns (y, saved).

    x: (samples, channels, height, width), any strides; float32, float64, float16 or bfloat16. y: (samples, channels,
    oh, ow) in x's dtype and memory order, or ``out`` (no memory of x). kernel_size, padding: as in ``im2col``; padding
    is at most half of the window and never the largest. stride: None is the kernel's size.
    NaN is larger than anything; of equal elements the first counts, of several NaNs the last, as in PyTorch.

    Raises TypeError for a wrong type or dtype, ValueError for a wrong value, shape or overlap; nothing is written then.
    Source: Boureau, Ponce and LeCun 2010. Differs from PyTorch: places are kept in one byte, not eight; no dilation.
    """
    op = "max_pool"
    x, backend = _images(op, "x", x)
    geometry = _pooling(op, x.shape, kernel_size, stride, padding)
    y, shape = _pooled(op, x, geometry, out)
    wide = geometry.kernel[0] * geometry.kernel[1] > _CELLS_OF_BYTE
    positions = _dispatch.empty(shape, np.uint32 if wide else np.uint8, x)
    bytes_of_positions = positions.reshape(-1).view(np.uint8)
    try:
        backend.max_pool_forward(x, y, bytes_of_positions, *geometry[:3])
    except _checks.Rejected as rejected:
        raise _explain(op, rejected, {"x": x, "out": y}, shape, x) from None
    if type(positions) is np.ndarray:  # CuPy has no read-only arrays
        positions.setflags(write=False)
    return y, _saved(x, geometry, positions=positions)


def max_pool_backward(dout: NDArray[Any], saved: PoolSaved, *, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """dx[n, c, h, w] = the sum of dout over the windows whose largest element was x[n, c, h, w].

    dout: y's shape, any strides and any of the dtypes. dx: x's shape and memory order, dout's dtype, or ``out`` (no
    memory of dout). The sum goes over the windows row by row, in the dtype (16-bit types: in float32, rounded once).
    Errors as in ``max_pool``.
    """
    op = "max_pool_backward"
    dout, dx, backend = _gradients(op, dout, saved, out, of_max=True)
    positions = saved.positions
    assert positions is not None
    try:
        backend.max_pool_backward(
            dout, positions.reshape(-1).view(np.uint8), dx, saved.kernel_size, saved.stride, saved.padding
        )
    except _checks.Rejected as rejected:
        if out is None and rejected.argument == "out":
            rejected.argument = "dout"  # whose dtype a new array has
        values = {"dout": dout, "out": dx, "saved.positions": positions}
        raise _explain(op, rejected, values, saved.shape, dout) from None
    return dx


def avg_pool(
    x: NDArray[Any],
    kernel_size: int | Sequence[int],
    *,
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] | str = 0,
    count_include_pad: bool = True,
    out: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], PoolSaved]:
    """y[n, c, o, p] = (sum of x[n, c] under the window at (o sh - ph, p sw - pw)) / count. Returns (y, saved).

    count: kh kw, or with ``count_include_pad=False`` the number of the window's cells over x. Sums are made in float64
    and rounded once (16-bit types through float32). Other arguments, results and errors as in ``max_pool``.
    Keras counts as ``count_include_pad=False`` does, PyTorch by default and the book as True.
    """
    op = "avg_pool"
    x, backend = _images(op, "x", x)
    include = _checks.boolean(op, "count_include_pad", count_include_pad)
    geometry = _pooling(op, x.shape, kernel_size, stride, padding)
    y, shape = _pooled(op, x, geometry, out)
    try:
        backend.avg_pool_forward(x, y, *geometry[:3], include)
    except _checks.Rejected as rejected:
        raise _explain(op, rejected, {"x": x, "out": y}, shape, x) from None
    return y, _saved(x, geometry, count_include_pad=include)


def avg_pool_backward(dout: NDArray[Any], saved: PoolSaved, *, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """dx[n, c, h, w] = the sum of dout / count over the windows that x[n, c, h, w] lies under.

    The sum goes over kernel cells row by row. Arguments, results and errors as in ``max_pool_backward``.
    """
    op = "avg_pool_backward"
    dout, dx, backend = _gradients(op, dout, saved, out, of_max=False)
    try:
        backend.avg_pool_backward(dout, dx, saved.kernel_size, saved.stride, saved.padding, saved.count_include_pad)
    except _checks.Rejected as rejected:
        if out is None and rejected.argument == "out":
            rejected.argument = "dout"
        raise _explain(op, rejected, {"dout": dout, "out": dx}, saved.shape, dout) from None
    return dx


# Checks


def _images(op: str, argument: str, x: Any) -> tuple[Any, Any]:
    if type(x) is not np.ndarray:
        x = _dispatch.as_array(x)
    backend = _dispatch.backend_for(x, op, argument)
    if x.ndim != 4:
        raise _checks.error(ValueError, op, argument, "4 dimensions (samples, channels, height, width)", x)
    return x, backend


def _pair(op: str, argument: str, value: Any, low: int) -> Pair:
    if isinstance(value, (list, tuple)):
        if len(value) != 2:
            expected = "an integer, or a pair (vertical, horizontal)"
            raise _checks.error(ValueError, op, argument, expected, _checks.Words(f"{len(value)} entries"))
        first, second = (_checks.integer(op, f"{argument}[{i}]", n, low=low, high=_MOST) for i, n in enumerate(value))
        return first, second
    both = _checks.integer(op, argument, value, low=low, high=_MOST)
    return both, both


def _lengths(op: str, shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, (list, tuple)):
        raise _checks.error(TypeError, op, "shape", "(samples, channels, height, width)", shape)
    if len(shape) != 4:
        got = _checks.Words(f"{len(shape)} entries")
        raise _checks.error(ValueError, op, "shape", "(samples, channels, height, width)", got)
    return tuple(_checks.integer(op, f"shape[{i}]", n, low=0, high=2**62) for i, n in enumerate(shape))


def geometry_of(
    op: str, argument: str, shape: tuple[int, ...], kernel_size: Any, stride: Any, padding: Any, dilation: Any
) -> Geometry:
    """Windows over images of ``shape``, which is what ``argument`` says."""
    kernel, steps = _pair(op, "kernel_size", kernel_size, 1), _pair(op, "stride", stride, 1)
    spread = _pair(op, "dilation", dilation, 1)
    image = shape[2], shape[3]
    word = _checks.one_of(op, "padding", padding, _PADDINGS) if isinstance(padding, str) else None
    extent = tuple((k - 1) * d + 1 for k, d in zip(kernel, spread, strict=True))
    if word == "same":
        output = tuple(-(-length // step) for length, step in zip(image, steps, strict=True))
        before = tuple(
            max(0, (places - 1) * step + reach - length) // 2
            for places, step, reach, length in zip(output, steps, extent, image, strict=True)
        )
    else:
        before = (0, 0) if word == "valid" else _pair(op, "padding", padding, 0)
        output = tuple(
            (length + 2 * zeros - reach) // step + 1
            for length, zeros, reach, step in zip(image, before, extent, steps, strict=True)
        )
    if min(output) < 1:
        expected = f"images of at least the window's {extent[0]} x {extent[1]}, padding {before} included"
        raise _checks.error(ValueError, op, argument, expected, _checks.Words(f"{image[0]} x {image[1]}"))
    return Geometry(kernel, steps, (before[0], before[1]), spread, (output[0], output[1]))


def _pooling(op: str, shape: tuple[int, ...], kernel_size: Any, stride: Any, padding: Any) -> Geometry:
    kernel = _pair(op, "kernel_size", kernel_size, 1)
    geometry = geometry_of(op, "x", shape, kernel, kernel if stride is None else stride, padding, 1)
    if any(2 * zeros > cells for zeros, cells in zip(geometry.padding, kernel, strict=True)):
        raise _checks.error(
            ValueError, op, "padding", f"at most half of the window {kernel}", _checks.Words(geometry.padding)
        )
    return geometry


# Results


def _shape_of_columns(shape: tuple[int, ...], geometry: Geometry) -> Pair:
    (kh, kw), (oh, ow) = geometry.kernel, geometry.output
    return shape[1] * kh * kw, shape[0] * oh * ow


def _pooled(op: str, x: Any, geometry: Geometry, out: Any) -> tuple[Any, tuple[int, ...]]:
    """Where y goes, and y's shape."""
    shape = (*x.shape[:2], *geometry.output)
    if out is None:
        return _dispatch.empty_like(x, shape), shape
    out = _dispatch.as_array(out)
    _refuse_shape(op, out, x, shape)
    return out, shape


def _refuse_shape(op: str, out: Any, source: Any, shape: tuple[int, ...]) -> None:
    """Of an array of source's kind; any other kind is the backend's to refuse."""
    on_gpu = _checks.is_cupy(out)
    if (on_gpu or isinstance(out, np.ndarray)) and on_gpu == _checks.is_cupy(source) and out.shape != shape:
        raise _checks.explain(op, _checks.Rejected("out", "shape"), {"out": out}, {"out": shape})


def _saved(
    x: Any, geometry: Geometry, *, count_include_pad: bool = True, positions: NDArray[Any] | None = None
) -> PoolSaved:
    return PoolSaved(
        x.shape,
        geometry.kernel,
        geometry.stride,
        geometry.padding,
        geometry.output,
        count_include_pad,
        positions,
        tuple(sorted(range(x.ndim), key=lambda axis: -abs(x.strides[axis]))),
    )


def _gradients(op: str, dout: Any, saved: Any, out: Any, *, of_max: bool) -> tuple[Any, Any, Any]:
    if type(saved) is not PoolSaved or (saved.positions is not None) is not of_max:
        expected = f"the PoolSaved that {'max_pool' if of_max else 'avg_pool'} returned"
        raise _checks.error(TypeError, op, "saved", expected, saved)
    if type(dout) is not np.ndarray:
        dout = _dispatch.as_array(dout)
    backend = _dispatch.backend_for(dout, op, "dout")
    expected_shape = (*saved.shape[:2], *saved.output)
    if dout.shape != expected_shape:
        raise _checks.explain(op, _checks.Rejected("dout", "shape"), {"dout": dout}, {"dout": expected_shape})
    if out is None:
        lying = _dispatch.empty(tuple(saved.shape[axis] for axis in saved.order), dout.dtype, dout)
        return dout, lying.transpose([saved.order.index(axis) for axis in range(lying.ndim)]), backend
    out = _dispatch.as_array(out)
    _refuse_shape(op, out, dout, saved.shape)
    return dout, out, backend


def _explain(
    op: str,
    rejected: _checks.Rejected,
    values: dict[str, Any],
    shape: tuple[int, ...],
    source: Any,
    columns: str = "columns",
) -> Exception:
    """The words for a refused array; ``columns``: what the user calls the columns, ``shape``: of the result."""
    if rejected.argument == "columns":
        rejected.argument = columns
        values = {columns if name == "columns" else name: value for name, value in values.items()}
    expected = {"out": _checks.dtype_name(source) if rejected.reason == "dtype" else shape}
    return _checks.explain(op, rejected, values, expected)
