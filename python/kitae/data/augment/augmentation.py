"""What augmentations share: who is chosen, where numbers are drawn, how they follow one another."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import numpy as np

from kitae import _checks, _dispatch, _random


class Augmentation(ABC):
    """``augment(x, t=None, *, rng=None)``: x, or (x, t), with each image changed with ``probability``, on its own.

    x: (samples, height, width) or (samples, channels, height, width), float16, float32 or float64, NumPy or CuPy. The
    result is a new array of the same shape and dtype, where x is; images that were not chosen keep their bits. t: the
    targets, as they are but for those that mix images. rng: a ``numpy.random.Generator``; None takes the one that
    ``kitae.seed`` seeds. Numbers are drawn on the host, so they are the same on a GPU.

    Raises TypeError for what is no such array, ValueError for other shapes; nothing is changed then.
    """

    def __init__(self, probability: float = 0.5) -> None:
        self._op = f"data.augment.{type(self).__name__}"
        self.probability = _checks.number(self._op, "probability", probability, low=0, high=1)

    def __call__(self, x: Any, t: Any = None, *, rng: np.random.Generator | None = None) -> Any:
        self.check(x, t)
        rng = _random.generator() if rng is None else rng
        if not isinstance(rng, np.random.Generator):
            raise _checks.error(TypeError, self._op, "rng", "a numpy.random.Generator or None", rng)
        y, targets = self._vary(x, t, self._choose(len(x), rng), rng)
        return y if t is None else (y, targets)

    def check(self, x: Any, t: Any) -> None:
        """Refuse what can't be augmented."""
        if type(x) not in (np.ndarray, np.memmap) and not _checks.is_cupy(x):
            raise _checks.not_an_array(self._op, "x", x)
        if x.dtype.kind != "f" or x.dtype.itemsize > 8:
            raise _checks.error(TypeError, self._op, "x", "float16, float32 or float64", x)
        if x.ndim not in (3, 4):
            raise _checks.error(ValueError, self._op, "x", "shape (samples, [channels,] height, width)", x)

    def _choose(self, count: int, rng: np.random.Generator) -> np.ndarray:
        return rng.random(count) < self.probability

    @abstractmethod
    def _vary(self, x: Any, t: Any, chosen: np.ndarray, rng: np.random.Generator) -> tuple[Any, Any]:
        """New images, and targets; ``chosen``: which of them are to change."""

    def _range(
        self, argument: str, low: Any, high: Any, least: float, most: float = float("inf")
    ) -> tuple[float, float]:
        """Two numbers in ascending order."""
        words = "low", "high"
        first, last = (
            _checks.number(self._op, word, value, low=least, high=most, open_low=True)
            for word, value in zip(words, (low, high), strict=True)
        )
        if first > last:
            raise _checks.error(ValueError, self._op, argument, "low at most high", _checks.Words(f"({low}, {high})"))
        return first, last


class Compose(Augmentation):
    """One augmentation after the other. Neighbours that move pixels are joined, so that images are resampled once."""

    def __init__(self, augmentations: Iterable[Augmentation]) -> None:
        super().__init__(1)
        self.augmentations = list(augmentations)
        for i, augmentation in enumerate(self.augmentations):
            if not isinstance(augmentation, Augmentation):
                expected = "an augmentation, such as kitae.data.augment.Rotate(10)"
                raise _checks.error(TypeError, self._op, f"augmentations[{i}]", expected, augmentation)

    def check(self, x: Any, t: Any) -> None:
        super().check(x, t)
        for augmentation in self.augmentations:
            augmentation.check(x, t)

    def _vary(self, x: Any, t: Any, chosen: np.ndarray, rng: np.random.Generator) -> tuple[Any, Any]:
        from kitae.data.augment.geometry import Affine, resample

        y, moves = x.copy(), None
        for augmentation in self.augmentations:
            picked = augmentation._choose(len(x), rng)
            if isinstance(augmentation, Affine):
                own = augmentation.matrices(picked, x.shape[-2:], rng)
                # The first augmentation is the last on the way from a pixel of the result to the source.
                moves = own if moves is None else moves @ own
                continue
            if moves is not None:
                y, moves = resample(y, moves), None
            y, t = augmentation._vary(y, t, picked, rng)
        return (y if moves is None else resample(y, moves)), t


def per_sample(values: Any, x: Any) -> Any:
    """Numbers, one a sample, beside the images of x: in their place, with their axes, in the dtype to compute in."""
    xp = _dispatch.array_module(x)
    return xp.asarray(np.asarray(values, working_dtype(x))).reshape(-1, *[1] * (x.ndim - 1))


def working_dtype(x: Any) -> np.dtype:
    return np.result_type(x.dtype, np.float32)


def rows(chosen: np.ndarray, x: Any) -> Any:
    """The numbers of the chosen samples where x is."""
    return _dispatch.array_module(x).asarray(np.flatnonzero(chosen))
