"""Variations of images, drawn anew for each minibatch: the size stays, so do dtype and the range of values.

``Batches(x, t, augment=Compose([Rotate(15), Translate(0.1)]))``. Only what can occur in the world that the model will
see makes a training set better: a 6 turned upside down is a 9. ``for_digits()`` and ``for_photographs()`` are sets to
begin with. Split first, augment after; validation and test sets stay as they are.
"""

from collections.abc import Iterable

from kitae.data.augment.augmentation import Augmentation, Compose
from kitae.data.augment.color import Brightness, Contrast, Gamma, GaussianNoise, Hue, Saturation
from kitae.data.augment.geometry import Affine, Crop, Flip, Rotate, Translate, Zoom
from kitae.data.augment.mixing import CutMix, Cutout, MixUp, RandomErasing

__all__ = [
    "Affine",
    "Augmentation",
    "Brightness",
    "Compose",
    "Contrast",
    "Crop",
    "CutMix",
    "Cutout",
    "Flip",
    "Gamma",
    "GaussianNoise",
    "Hue",
    "MixUp",
    "RandomErasing",
    "Rotate",
    "Saturation",
    "Translate",
    "Zoom",
    "for_digits",
    "for_photographs",
]


def for_digits(extra: Iterable[Augmentation] = ()) -> Compose:
    """What happens to written characters: slant, size and place vary. Nothing is mirrored, as 2 and 5 are not twins."""
    return Compose([Rotate(10), Zoom(0.9, 1.1), Translate(0.08), *extra])


def for_photographs(extra: Iterable[Augmentation] = ()) -> Compose:
    """What happens to photographs of things, pixels from 0 to 1: left and right change places, light and cut vary."""
    light = [Brightness(0.1), Contrast(0.8, 1.25), Saturation(0.8, 1.25), Hue(0.02)]
    return Compose([Flip("horizontal"), Crop(0.8), *light, *extra])
