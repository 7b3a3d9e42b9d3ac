"""Weight initialization by name.

Each function takes the shape (inputs, units) of a weight matrix and a ``numpy.random.Generator`` and returns float64
values; the layer rounds them to its dtype.
"""

import numpy as np


def he(shape, rng):
    """N(0, 2 / inputs), for layers followed by ReLU (He et al. 2015, section 2.2)."""
    return rng.standard_normal(shape) * np.sqrt(2 / shape[0])


def xavier(shape, rng):
    """N(0, 2 / (inputs + units)), for sigmoid and tanh (Glorot and Bengio 2010, equation 12)."""
    return rng.standard_normal(shape) * np.sqrt(2 / (shape[0] + shape[1]))


def lecun(shape, rng):
    """N(0, 1 / inputs) (LeCun et al. 1998, "Efficient BackProp", section 4.6)."""
    return rng.standard_normal(shape) * np.sqrt(1 / shape[0])


def gaussian(shape, rng):
    """N(0, 0.01^2), the same spread for every layer."""
    return rng.standard_normal(shape) * 0.01


BY_NAME = {"he": he, "xavier": xavier, "glorot": xavier, "lecun": lecun, "gaussian": gaussian}
