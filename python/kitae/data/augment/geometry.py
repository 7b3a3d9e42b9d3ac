"""Pixels that move: each augmentation gives a matrix a sample, from a pixel of the result to its place in the
source."""

import math
from abc import abstractmethod
from typing import Any

import numpy as np

from kitae import _checks, _dispatch
from kitae.data.augment.augmentation import Augmentation, rows, working_dtype


class Affine(Augmentation):
    """The base of what moves pixels by source = A (result - center) + b + center, in (row, column).

    Values between pixels are bilinear; what comes from outside is 0, as with ``grid_sample(padding_mode="zeros",
    align_corners=False)`` in PyTorch.
    """

    def matrices(self, chosen: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """(samples, 3, 3) in float64: A and b, and the identity for those that were not chosen."""
        matrices = self._draw(len(chosen), size, rng)
        matrices[~chosen] = np.eye(3)
        return matrices

    @abstractmethod
    def _draw(self, count: int, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray: ...

    def _vary(self, x: Any, t: Any, chosen: np.ndarray, rng: np.random.Generator) -> tuple[Any, Any]:
        return resample(x.copy(), self.matrices(chosen, x.shape[-2:], rng)), t


class Flip(Affine):
    """Mirrored: ``direction`` "horizontal" (left and right change places), "vertical", or "both": each by itself."""

    def __init__(self, direction: str = "horizontal", *, probability: float = 0.5) -> None:
        super().__init__(probability)
        self.direction = _checks.one_of(self._op, "direction", direction, ("horizontal", "vertical", "both"))

    def _draw(self, count: int, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        matrices = np.tile(np.eye(3), (count, 1, 1))
        if self.direction == "both":
            # Each axis on its own; that neither is mirrored is the part of `probability`.
            choice = rng.integers(1, 4, count)
            matrices[:, 0, 0], matrices[:, 1, 1] = np.where(choice & 1, -1, 1), np.where(choice & 2, -1, 1)
        else:
            axis = 1 if self.direction == "horizontal" else 0
            matrices[:, axis, axis] = -1
        return matrices


class Rotate(Affine):
    """Turned about the center by an angle from U(-max_degrees, max_degrees), counterclockwise where positive."""

    def __init__(self, max_degrees: float, *, probability: float = 0.5) -> None:
        super().__init__(probability)
        self.max_degrees = _checks.number(self._op, "max_degrees", max_degrees, low=0, high=180)

    def _draw(self, count: int, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        return rotation(rng.uniform(-self.max_degrees, self.max_degrees, count))


class Translate(Affine):
    """Moved by U(-f, f) of the height and of the width, f = ``max_fraction``."""

    def __init__(self, max_fraction: float = 0.1, *, probability: float = 0.5) -> None:
        super().__init__(probability)
        self.max_fraction = _checks.number(self._op, "max_fraction", max_fraction, low=0, high=1)

    def _draw(self, count: int, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        return translation(rng.uniform(-self.max_fraction, self.max_fraction, (count, 2)) * size)


class Zoom(Affine):
    """Enlarged about the center by a factor between ``low`` and ``high``, log-uniform: below 1 it is zoomed out."""

    def __init__(self, low: float = 0.8, high: float = 1.25, *, probability: float = 0.5) -> None:
        super().__init__(probability)
        self.low, self.high = self._range("low, high", low, high, 0)

    def _draw(self, count: int, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        return scaling(1 / log_uniform(rng, self.low, self.high, count))


class Crop(Affine):
    """A part of the image in place of the whole.

    ``min_fraction``: the sides' share, from U(min_fraction, 1), a part that lies anywhere inside and is brought back
    to the full size (as in Inception's training, with the aspect kept). ``padding``: instead, the image is put into a
    frame of 0 of so many pixels and a part of its size is cut out anywhere (as in ResNet's training on CIFAR-10);
    pixels then stay whole. One of the two.
    """

    def __init__(
        self, min_fraction: float | None = None, *, padding: int | None = None, probability: float = 0.5
    ) -> None:
        super().__init__(probability)
        if (min_fraction is None) == (padding is None):
            words = _checks.Words("neither" if padding is None else "both")
            raise _checks.error(ValueError, self._op, "min_fraction, padding", "one of them", words)
        self.min_fraction = self.padding = None
        if min_fraction is not None:
            self.min_fraction = _checks.number(self._op, "min_fraction", min_fraction, low=0, high=1, open_low=True)
        else:
            self.padding = _checks.integer(self._op, "padding", padding, low=0, high=2**15)

    def _draw(self, count: int, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        if self.padding is not None:
            return translation(rng.integers(-self.padding, self.padding, (count, 2), endpoint=True))
        assert self.min_fraction is not None
        share = rng.uniform(self.min_fraction, 1, count)
        matrices = scaling(share)
        # The part's center, as far from the image's as the part stays inside.
        matrices[:, :2, 2] = rng.uniform(-0.5, 0.5, (count, 2)) * (1 - share)[:, None] * size
        return matrices


def rotation(degrees: np.ndarray) -> np.ndarray:
    matrices = np.tile(np.eye(3), (len(degrees), 1, 1))
    radians = np.radians(degrees)
    cos, sin = np.cos(radians), np.sin(radians)
    matrices[:, 0, 0], matrices[:, 0, 1], matrices[:, 1, 0], matrices[:, 1, 1] = cos, sin, -sin, cos
    return matrices


def translation(shifts: np.ndarray) -> np.ndarray:
    """By (down, right)."""
    matrices = np.tile(np.eye(3), (len(shifts), 1, 1))
    matrices[:, :2, 2] = -shifts
    return matrices


def scaling(steps: np.ndarray) -> np.ndarray:
    """``steps``: how far apart in the source neighbours of the result are."""
    matrices = np.tile(np.eye(3), (len(steps), 1, 1))
    matrices[:, 0, 0] = matrices[:, 1, 1] = steps
    return matrices


def log_uniform(rng: np.random.Generator, low: float, high: float, count: int) -> np.ndarray:
    return np.exp(rng.uniform(math.log(low), math.log(high), count))


def resample(x: Any, matrices: np.ndarray) -> Any:
    """Move the pixels of ``x`` in place; images whose matrix is the identity keep their bits."""
    moved = (matrices != np.eye(3)).any(axis=(1, 2))
    if moved.any():
        taken = rows(moved, x)
        images = x[taken]
        shape = images.shape
        stacked = images.reshape(shape[0], -1, *shape[-2:])
        x[taken] = bilinear(stacked, *places(matrices[moved], shape[-2:])).reshape(shape)
    return x


def places(matrices: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Row and column in the source, each (samples, height, width), for each pixel of the result."""
    center = (np.array(size) - 1) / 2
    row, column = (np.arange(length) - middle for length, middle in zip(size, center, strict=True))
    a, b = matrices[:, :2, :2, None, None], matrices[:, :2, 2, None, None]
    grid = [a[:, i, 0] * row[:, None] + a[:, i, 1] * column + b[:, i] + center[i] for i in (0, 1)]
    return grid[0], grid[1]


def bilinear(x: Any, row: np.ndarray, column: np.ndarray) -> Any:
    """x: (samples, channels, height, width) at (row, column); 0 outside."""
    xp = _dispatch.array_module(x)
    samples, channels, height, width = x.shape
    # In a frame of zeros all four neighbours of every place exist.
    framed = xp.zeros((samples, channels, height + 2, width + 2), working_dtype(x))
    framed[:, :, 1:-1, 1:-1] = x
    row, column = np.clip(row + 1, 0, height + 1), np.clip(column + 1, 0, width + 1)
    top, left = np.minimum(np.floor(row), height), np.minimum(np.floor(column), width)
    down, right = row - top, column - left
    corner = (top * (width + 2) + left).astype(np.int64)
    index = np.stack([corner, corner + 1, corner + width + 2, corner + width + 3], axis=1)
    weight = np.stack([(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right], axis=1)
    taken = xp.take_along_axis(
        framed.reshape(samples, channels, -1), xp.asarray(index.reshape(samples, 1, -1)), axis=2
    ).reshape(samples, channels, 4, height, width)
    taken *= xp.asarray(weight.astype(framed.dtype))[:, None]
    return taken.sum(axis=2)
