"""Pixels that change their value. All are defined for values from 0 to 1; ``value_range`` says what those are in x."""

from abc import abstractmethod
from typing import Any

import numpy as np

from kitae import _checks, _dispatch
from kitae.data.augment.augmentation import Augmentation, per_sample, rows, working_dtype
from kitae.data.augment.geometry import log_uniform

# Of red, green and blue in gray: ITU-R BT.601, as in PyTorch and Pillow.
LUMA = (0.299, 0.587, 0.114)


class Tonal(Augmentation):
    """The base: u = (x - low) / (high - low), changed, clipped to [0, 1], and back. ``value_range``: (low, high)."""

    colors = False

    def __init__(self, value_range: tuple[float, float], probability: float) -> None:
        super().__init__(probability)
        if not isinstance(value_range, (tuple, list)) or len(value_range) != 2:
            raise _checks.error(TypeError, self._op, "value_range", "(low, high)", value_range)
        low, high = (_checks.number(self._op, "value_range", value) for value in value_range)
        if not low < high:
            words = _checks.Words(value_range)
            raise _checks.error(ValueError, self._op, "value_range", "low below high", words)
        self.value_range = low, high

    def check(self, x: Any, t: Any) -> None:
        super().check(x, t)
        if self.colors and (x.ndim != 4 or x.shape[1] != 3):
            raise _checks.error(ValueError, self._op, "x", "shape (samples, 3, height, width): red, green, blue", x)

    def _vary(self, x: Any, t: Any, chosen: np.ndarray, rng: np.random.Generator) -> tuple[Any, Any]:
        # Drawn for all, so that what one sample gets does not depend on who else was chosen.
        amounts = self._draw(len(x), rng)
        y = x.copy()
        if chosen.any():
            taken = rows(chosen, x)
            low, high = self.value_range
            unit = (x[taken].astype(working_dtype(x)) - low) / (high - low)
            changed = self._change(unit, amounts[chosen], rng)
            y[taken] = changed.clip(0, 1) * (high - low) + low
        return y, t

    @abstractmethod
    def _draw(self, count: int, rng: np.random.Generator) -> np.ndarray: ...

    @abstractmethod
    def _change(self, unit: Any, amounts: np.ndarray, rng: np.random.Generator) -> Any: ...


class Factor(Tonal):
    """The base of those whose amount is a factor between ``low`` and ``high``, log-uniform."""

    def __init__(
        self,
        low: float = 0.8,
        high: float = 1.25,
        *,
        value_range: tuple[float, float] = (0, 1),
        probability: float = 0.5,
    ) -> None:
        super().__init__(value_range, probability)
        self.low, self.high = self._range("low, high", low, high, 0)

    def _draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        return log_uniform(rng, self.low, self.high, count)


class Gamma(Factor):
    """u^gamma, gamma between ``low`` and ``high``, log-uniform: black and white stay, the middle moves."""

    def _change(self, unit: Any, amounts: np.ndarray, rng: np.random.Generator) -> Any:
        return unit.clip(0, 1) ** per_sample(amounts, unit)


class Contrast(Factor):
    """m + f (u - m), m the mean of the gray image (0.299 R + 0.587 G + 0.114 B), f between ``low`` and ``high``."""

    def _change(self, unit: Any, amounts: np.ndarray, rng: np.random.Generator) -> Any:
        axes = tuple(range(1, unit.ndim))
        if unit.ndim == 4 and unit.shape[1] == 3:
            means = unit.mean(axis=(2, 3), keepdims=True)
            mean = sum(means[:, i : i + 1] * share for i, share in enumerate(LUMA))
        else:
            mean = unit.mean(axis=axes, keepdims=True)
        return mean + per_sample(amounts, unit) * (unit - mean)


class Brightness(Tonal):
    """u + b, b from U(-max_change, max_change)."""

    def __init__(
        self, max_change: float = 0.1, *, value_range: tuple[float, float] = (0, 1), probability: float = 0.5
    ) -> None:
        super().__init__(value_range, probability)
        self.max_change = _checks.number(self._op, "max_change", max_change, low=0, high=1)

    def _draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(-self.max_change, self.max_change, count)

    def _change(self, unit: Any, amounts: np.ndarray, rng: np.random.Generator) -> Any:
        return unit + per_sample(amounts, unit)


class GaussianNoise(Tonal):
    """u + s n, n from N(0, 1) for each pixel, s from U(0, max_std) for each image. Drawn on the host."""

    def __init__(
        self, max_std: float = 0.05, *, value_range: tuple[float, float] = (0, 1), probability: float = 0.5
    ) -> None:
        super().__init__(value_range, probability)
        self.max_std = _checks.number(self._op, "max_std", max_std, low=0)

    def _draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(0, self.max_std, count)

    def _change(self, unit: Any, amounts: np.ndarray, rng: np.random.Generator) -> Any:
        noise = rng.standard_normal(unit.shape, np.float64 if unit.dtype == np.float64 else np.float32)
        return unit + per_sample(amounts, unit) * _dispatch.array_module(unit).asarray(noise)


class Hue(Tonal):
    """The hue of HSV turned by U(-max_turn, max_turn) of the color circle. Needs red, green and blue."""

    colors = True

    def __init__(
        self, max_turn: float = 0.02, *, value_range: tuple[float, float] = (0, 1), probability: float = 0.5
    ) -> None:
        super().__init__(value_range, probability)
        self.max_turn = _checks.number(self._op, "max_turn", max_turn, low=0, high=0.5)

    def _draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(-self.max_turn, self.max_turn, count)

    def _change(self, unit: Any, amounts: np.ndarray, rng: np.random.Generator) -> Any:
        hsv = rgb_to_hsv(unit.clip(0, 1))
        hsv[:, 0] = (hsv[:, 0] + per_sample(amounts, hsv[:, 0])) % 1
        return hsv_to_rgb(hsv)


class Saturation(Factor):
    """The saturation of HSV times f between ``low`` and ``high``, log-uniform. Needs red, green and blue.

    As TensorFlow's ``adjust_saturation``; PyTorch's mixes with the gray image instead.
    """

    colors = True

    def _change(self, unit: Any, amounts: np.ndarray, rng: np.random.Generator) -> Any:
        hsv = rgb_to_hsv(unit.clip(0, 1))
        hsv[:, 1] = (hsv[:, 1] * per_sample(amounts, hsv[:, 1])).clip(0, 1)
        return hsv_to_rgb(hsv)


def rgb_to_hsv(rgb: Any) -> Any:
    """(samples, 3, height, width), all from 0 to 1; hue is 0 for gray (Smith 1978)."""
    xp = _dispatch.array_module(rgb)
    red, green, blue = rgb[:, 0], rgb[:, 1], rgb[:, 2]
    value, least = rgb.max(axis=1), rgb.min(axis=1)
    spread = value - least
    width = xp.where(spread > 0, spread, 1)
    sixth = xp.where(
        value == red,
        (green - blue) / width,
        xp.where(value == green, 2 + (blue - red) / width, 4 + (red - green) / width),
    )
    saturation = spread / xp.where(value > 0, value, 1)
    return xp.stack([xp.where(spread > 0, sixth / 6 % 1, 0), saturation, value], axis=1).astype(rgb.dtype)


def hsv_to_rgb(hsv: Any) -> Any:
    """Each channel is value - value saturation max(0, min(k, 4 - k, 1)), k = (n + 6 hue) mod 6, n = 5, 3, 1."""
    xp = _dispatch.array_module(hsv)
    hue, saturation, value = hsv[:, 0], hsv[:, 1], hsv[:, 2]
    channels = []
    for n in (5, 3, 1):
        k = (n + hue * 6) % 6
        channels.append(value - value * saturation * xp.minimum(k, 4 - k).clip(0, 1))
    return xp.stack(channels, axis=1)
