"""Images that lose a part, or get one from another image; then the targets are mixed too."""

from typing import Any

import numpy as np

from kitae import _checks, _dispatch
from kitae.data.augment.augmentation import Augmentation, per_sample, working_dtype
from kitae.data.augment.geometry import log_uniform
from kitae.data.scaling import one_hot


class Mixing(Augmentation):
    """The base of those that change targets: t is (samples, classes) of floats, or ids with ``classes`` given."""

    def __init__(self, alpha: float, classes: int | None, probability: float) -> None:
        super().__init__(probability)
        self.alpha = _checks.number(self._op, "alpha", alpha, low=0, open_low=True)
        self.classes = None if classes is None else _checks.integer(self._op, "classes", classes, low=2, high=2**31 - 1)

    def check(self, x: Any, t: Any) -> None:
        super().check(x, t)
        if t is None:
            expected = "targets, which are mixed as the images are"
            raise _checks.error(ValueError, self._op, "t", expected, t)
        ids = getattr(t, "ndim", None) == 1 and t.dtype.kind in "ui" and self.classes is not None
        if not ids and (getattr(t, "ndim", 0) < 2 or t.dtype.kind != "f"):
            expected = "targets (samples, classes) of floats (kitae.data.one_hot), or ids with classes= given"
            raise _checks.error(ValueError, self._op, "t", expected, t)
        if len(t) != len(x):
            raise _checks.error(ValueError, self._op, "t", f"{len(x)} targets, one for each image", t)

    def _targets(self, t: Any, x: Any) -> Any:
        return one_hot(t, self.classes, dtype=working_dtype(x)) if t.ndim == 1 else t

    def _mixed(self, t: Any, partners: Any, share: np.ndarray) -> Any:
        weights = per_sample(share, t)
        return (t * weights + t[partners] * (1 - weights)).astype(t.dtype)


class MixUp(Mixing):
    """y = l x + (1 - l) x', t = l t + (1 - l) t', l from Beta(alpha, alpha), x' another image of the batch

    Zhang, Cisse, Dauphin and Lopez-Paz 2018, who recommend alpha from 0.1 to 0.4 for ImageNet. l is drawn for each
    image (their program draws one for the batch). Targets: ``Mixing``. ``probability`` is 1 by default.
    """

    def __init__(self, alpha: float = 0.2, *, classes: int | None = None, probability: float = 1.0) -> None:
        super().__init__(alpha, classes, probability)

    def _vary(self, x: Any, t: Any, chosen: np.ndarray, rng: np.random.Generator) -> tuple[Any, Any]:
        share = np.where(chosen, rng.beta(self.alpha, self.alpha, len(x)), 1)
        partners = _dispatch.array_module(x).asarray(rng.permutation(len(x)))
        weights = per_sample(share, x)
        return (x * weights + x[partners] * (1 - weights)).astype(x.dtype), self._mixed(
            self._targets(t, x), partners, share
        )


class CutMix(Mixing):
    """A rectangle of another image of the batch is put into each image; targets are mixed by the areas

    Yun et al. 2019: the rectangle has the image's aspect, sides sqrt(1 - l) of its own with l from Beta(alpha, alpha),
    and a center anywhere; it is cut off at the edges, and l is taken anew from the pixels that are left. Targets:
    ``Mixing``. ``probability`` is 1 by default.
    """

    def __init__(self, alpha: float = 1.0, *, classes: int | None = None, probability: float = 1.0) -> None:
        super().__init__(alpha, classes, probability)

    def _vary(self, x: Any, t: Any, chosen: np.ndarray, rng: np.random.Generator) -> tuple[Any, Any]:
        count, (height, width) = len(x), x.shape[-2:]
        side = np.where(chosen, np.sqrt(1 - rng.beta(self.alpha, self.alpha, count)), 0)
        inside = rectangles(rng, (height, width), side * height, side * width)
        share = 1 - inside.mean(axis=(1, 2))
        xp = _dispatch.array_module(x)
        partners = xp.asarray(rng.permutation(count))
        y = xp.where(_beside(inside, x), x[partners], x)
        return y, self._mixed(self._targets(t, x), partners, share)


class RandomErasing(Augmentation):
    """A rectangle of each image becomes ``value``, or noise from U(0, 1)

    Zhong et al. 2017: its area is a share of the image between ``area``'s two numbers, height / width lies between
    ``aspect``'s two, log-uniform, its place is anywhere; sides that are longer than the image's are cut to it.
    ``value``: a number or "noise".
    """

    def __init__(
        self,
        area: tuple[float, float] = (0.02, 0.33),
        aspect: tuple[float, float] = (0.3, 3.3),
        *,
        value: float | str = 0.0,
        probability: float = 0.5,
    ) -> None:
        super().__init__(probability)
        self.area = self._range("area", *area, 0, 1)
        self.aspect = self._range("aspect", *aspect, 0)
        self.value = value if value == "noise" else _checks.number(self._op, "value", value)

    def _vary(self, x: Any, t: Any, chosen: np.ndarray, rng: np.random.Generator) -> tuple[Any, Any]:
        count, (height, width) = len(x), x.shape[-2:]
        pixels = rng.uniform(*self.area, count) * height * width * chosen
        aspect = log_uniform(rng, *self.aspect, count)
        tall, wide = np.minimum(np.sqrt(pixels * aspect), height), np.minimum(np.sqrt(pixels / aspect), width)
        inside = _beside(rectangles(rng, (height, width), tall, wide, inside=True), x)
        xp = _dispatch.array_module(x)
        filling = xp.asarray(rng.random(x.shape).astype(x.dtype)) if self.value == "noise" else self.value
        return xp.where(inside, filling, x).astype(x.dtype), t


class Cutout(Augmentation):
    """A square of ``size`` pixels, its center anywhere, cut off at the edges, becomes ``value`` (DeVries, Taylor
    2017)."""

    def __init__(self, size: int, *, value: float = 0.0, probability: float = 0.5) -> None:
        super().__init__(probability)
        self.size = _checks.integer(self._op, "size", size, low=1, high=2**31 - 1)
        self.value = _checks.number(self._op, "value", value)

    def _vary(self, x: Any, t: Any, chosen: np.ndarray, rng: np.random.Generator) -> tuple[Any, Any]:
        side = np.where(chosen, float(self.size), 0.0)
        inside = _beside(rectangles(rng, x.shape[-2:], side, side), x)
        return _dispatch.array_module(x).where(inside, self.value, x).astype(x.dtype), t


def rectangles(
    rng: np.random.Generator, size: tuple[int, int], tall: np.ndarray, wide: np.ndarray, *, inside: bool = False
) -> np.ndarray:
    """Masks (samples, height, width) of one rectangle each, of whole pixels: its center anywhere, or all of it
    inside."""
    parts = []
    for length, sides in zip(size, (tall, wide), strict=True):
        sides = np.rint(sides)
        if inside:
            start = np.floor(rng.random(len(sides)) * (length - sides + 1))
        else:
            start = np.floor(rng.random(len(sides)) * length) - sides // 2
        places = np.arange(length)
        parts.append((places >= start[:, None]) & (places < (start + sides)[:, None]))
    return parts[0][:, :, None] & parts[1][:, None, :]


def _beside(mask: np.ndarray, x: Any) -> Any:
    """The mask where x is, the same for all its channels."""
    return _dispatch.array_module(x).asarray(mask if x.ndim == 3 else mask[:, None])
