"""Windows over images as csrc/ops/im2col.h and csrc/ops/pooling.h define them: the same sums in the same order."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kitae._checks import Rejected
from kitae.reference._arrays import array_argument, compute_type, store, widen

Pair = tuple[int, int]

_CELLS_OF_BYTE = 256


@dataclass(frozen=True)
class _Axis:
    """One axis of the windows, as WindowAxis in csrc/ops/im2col.h."""

    input: int
    output: int
    kernel: int
    stride: int
    padding: int
    dilation: int

    def element(self, place: int, cell: int) -> int:
        return place * self.stride - self.padding + cell * self.dilation

    def places(self, cell: int) -> range:
        """Where the cell lies over the image, not over its padding."""
        before = self.padding - cell * self.dilation
        first = max(0, -(-before // self.stride))
        last = self.input - 1 + before
        return range(first, min(self.output, last // self.stride + 1))

    def inside(self) -> NDArray[np.int64]:
        """How many cells of each window lie over the image."""
        counts = np.zeros(self.output, np.int64)
        for cell in range(self.kernel):
            places = self.places(cell)
            counts[places.start : places.stop] += 1
        return counts


Cell = tuple[int, tuple[slice, slice], tuple[slice, slice]]


def _cells(height: _Axis, width: _Axis) -> Iterator[Cell]:
    """(number, the places, the elements under them) of each cell of the window, row by row; without empty ones."""
    for i in range(height.kernel):
        rows = height.places(i)
        for j in range(width.kernel):
            columns = width.places(j)
            if rows and columns:
                places = slice(rows.start, rows.stop), slice(columns.start, columns.stop)
                yield i * width.kernel + j, places, (_elements(height, rows, i), _elements(width, columns, j))


def _elements(axis: _Axis, places: range, cell: int) -> slice:
    return slice(axis.element(places[0], cell), axis.element(places[-1], cell) + 1, axis.stride)


def _axes(
    images: NDArray[Any], output: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> tuple[_Axis, _Axis]:
    sizes = images.shape[2:], output, kernel, stride, padding, dilation
    height, width = (_Axis(*(size[axis] for size in sizes)) for axis in range(2))
    return height, width


def _images_argument(array: Any, argument: str, *, write: bool = False) -> None:
    array_argument(array, argument, write=write)
    if array.ndim != 4:
        raise Rejected(argument, "shape")


def _columns_argument(columns: Any, images: NDArray[Any], kernel: Pair, output: Pair, *, write: bool = False) -> None:
    array_argument(columns, "columns", write=write)
    if columns.dtype != images.dtype:
        raise Rejected("columns" if write else "out", "dtype")
    samples, channels = images.shape[:2]
    if columns.shape != (channels * kernel[0] * kernel[1], samples * output[0] * output[1]):
        raise Rejected("columns", "shape")
    if not columns.flags.c_contiguous:
        raise Rejected("columns", "contiguous")


def im2col(x: Any, columns: Any, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, output: Pair) -> None:
    """Write the windows of ``x`` into ``columns``."""
    _images_argument(x, "x")
    _columns_argument(columns, x, kernel, output, write=True)
    if np.shares_memory(columns, x):
        raise Rejected("columns", "overlap")
    samples, channels = x.shape[:2]
    columns[...] = 0
    by_cell = columns.reshape(channels, kernel[0] * kernel[1], samples, *output)
    for cell, places, elements in _cells(*_axes(x, output, kernel, stride, padding, dilation)):
        by_cell[(slice(None), cell, slice(None), *places)] = x[(..., *elements)].swapaxes(0, 1)


def col2im(columns: Any, out: Any, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, output: Pair) -> None:
    """Write the sum of every element's copies in ``columns`` into ``out``."""
    _images_argument(out, "out", write=True)
    _columns_argument(columns, out, kernel, output)
    if np.shares_memory(columns, out):
        raise Rejected("out", "overlap")
    samples, channels = out.shape[:2]
    total = np.zeros(out.shape, compute_type(out.dtype))
    by_cell = widen(columns).reshape(channels, kernel[0] * kernel[1], samples, *output)
    with np.errstate(all="ignore"):
        for cell, places, elements in _cells(*_axes(out, output, kernel, stride, padding, dilation)):
            total[(..., *elements)] += by_cell[(slice(None), cell, slice(None), *places)].swapaxes(0, 1)
    store(out, total)


def _pooling_arguments(large: Any, large_name: str, small: Any, small_name: str, written: str) -> None:
    _images_argument(large, large_name, write=written == large_name)
    _images_argument(small, small_name, write=written == small_name)
    if large.dtype != small.dtype:
        raise Rejected("out", "dtype")
    if large.shape[:2] != small.shape[:2]:
        raise Rejected("out", "shape")
    if np.shares_memory(large, small):
        raise Rejected("out", "overlap")


def _positions_argument(positions: Any, size: int, kernel: Pair, *, write: bool) -> NDArray[Any]:
    wide = kernel[0] * kernel[1] > _CELLS_OF_BYTE
    if not isinstance(positions, np.ndarray):
        raise Rejected("saved.positions", "type")
    if positions.dtype != np.uint8:
        raise Rejected("saved.positions", "dtype")
    if positions.shape != (size * (4 if wide else 1),):
        raise Rejected("saved.positions", "shape")
    if not positions.flags.c_contiguous:
        raise Rejected("saved.positions", "contiguous")
    if write and not positions.flags.writeable:
        raise Rejected("saved.positions", "writeable")
    return positions.view(np.uint32) if wide else positions


def max_pool_forward(x: Any, out: Any, positions: Any, kernel: Pair, stride: Pair, padding: Pair) -> None:
    """out = the largest element of each window; where it was goes to ``positions``."""
    _pooling_arguments(x, "x", out, "out", "out")
    stored = _positions_argument(positions, out.size, kernel, write=True)
    values = widen(x)
    largest = np.full(out.shape, -np.inf, values.dtype)
    taken = np.full(out.shape, -1, np.int64)
    for cell, places, elements in _cells(*_axes(x, out.shape[2:], kernel, stride, padding, (1, 1))):
        where, value = (..., *places), values[(..., *elements)]
        takes = (value > largest[where]) | np.isnan(value) | (taken[where] < 0)
        largest[where] = np.where(takes, value, largest[where])
        taken[where] = np.where(takes, cell, taken[where])
    store(out, largest)
    stored[...] = taken.reshape(-1)


def max_pool_backward(dout: Any, positions: Any, out: Any, kernel: Pair, stride: Pair, padding: Pair) -> None:
    """out = the sum of ``dout`` over ``positions``."""
    _pooling_arguments(out, "out", dout, "dout", "out")
    taken = _positions_argument(positions, dout.size, kernel, write=False).reshape(dout.shape)
    values = widen(dout)
    total = np.zeros(out.shape, values.dtype)
    # The windows over an element, in their order, have it under their last cells first.
    cells = list(_cells(*_axes(out, dout.shape[2:], kernel, stride, padding, (1, 1))))
    with np.errstate(all="ignore"):
        for cell, places, elements in reversed(cells):
            where = (..., *places)
            total[(..., *elements)] += np.where(taken[where] == cell, values[where], values.dtype.type(0))
    store(out, total)


def _averaged(height: _Axis, width: _Axis, count_include_pad: bool) -> NDArray[np.int64]:
    """By what the sum of each window is divided."""
    if count_include_pad:
        return np.full((height.output, width.output), height.kernel * width.kernel)
    return np.outer(height.inside(), width.inside())


def avg_pool_forward(x: Any, out: Any, kernel: Pair, stride: Pair, padding: Pair, count_include_pad: bool) -> None:
    """out = the average of each window."""
    _pooling_arguments(x, "x", out, "out", "out")
    axes = _axes(x, out.shape[2:], kernel, stride, padding, (1, 1))
    total = np.zeros(out.shape)
    with np.errstate(all="ignore"):
        for _, places, elements in _cells(*axes):
            total[(..., *places)] += x[(..., *elements)].astype(np.float64)
        average = total / _averaged(*axes, count_include_pad)
        store(out, average.astype(compute_type(out.dtype)))


def avg_pool_backward(dout: Any, out: Any, kernel: Pair, stride: Pair, padding: Pair, count_include_pad: bool) -> None:
    """out = the sum of the shares of ``dout``."""
    _pooling_arguments(out, "out", dout, "dout", "out")
    axes = _axes(out, dout.shape[2:], kernel, stride, padding, (1, 1))
    values = widen(dout)
    with np.errstate(all="ignore"):
        shares = values / _averaged(*axes, count_include_pad).astype(values.dtype)
        total = np.zeros(out.shape, values.dtype)
        for _, places, elements in _cells(*axes):
            total[(..., *elements)] += shares[(..., *places)]
    store(out, total)
