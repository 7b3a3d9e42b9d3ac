"""Weight initialization by name.

Each function takes the shape (inputs, units) of a weight matrix and a ``numpy.random.Generator`` and returns float64
values; the layer rounds them to its dtype.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Initializer = Callable[[tuple[int, int], np.random.Generator], NDArray[Any]]


def he(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float64]:
    """N(0, 2 / inputs), for layers followed by ReLU (He et al. 2015, section 2.2)."""
    return rng.standard_normal(shape) * np.sqrt(2 / shape[0])


def xavier(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float64]:
    """N(0, 2 / (inputs + units)), for sigmoid and tanh (Glorot and Bengio 2010, equation 12)."""
    return rng.standard_normal(shape) * np.sqrt(2 / (shape[0] + shape[1]))


def lecun(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float64]:
    """N(0, 1 / inputs) (LeCun et al. 1998, "Efficient BackProp", section 4.6)."""
    return rng.standard_normal(shape) * np.sqrt(1 / shape[0])


def gaussian(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float64]:
    """N(0, 0.01^2), the same spread for every layer."""
    return rng.standard_normal(shape) * 0.01


BY_NAME: dict[str, Initializer] = {
    "he": he,
    "xavier": xavier,
    "glorot": xavier,
    "lecun": lecun,
    "gaussian": gaussian,
}
