"""Lists of tensors that optimizers and gradient clipping work on: small ones for tests, real networks' for timing."""

from itertools import pairwise

import numpy as np

from .layouts import arrange
from .row import Size

Shape = tuple[int, ...]

_MIXED: tuple[Shape, ...] = ((7, 5), (5,), (), (0, 3), (1,), (1009,))

TEST_SIZES = (
    Size("no tensors but an empty one", ((0,),)),
    Size("one element", ((1,),)),
    Size("mixed", _MIXED),
    Size("mixed fortran", _MIXED, layout="fortran"),
    Size("mixed every other", _MIXED, layout="every_other"),
    Size("mixed reversed", _MIXED, layout="reversed"),
    Size("convolutions channels_last", ((4, 3, 3, 3), (4,)), layout="channels_last"),
    Size("mixed with a missing gradient", _MIXED, options={"missing": (0, 4)}),
    Size("112 tensors of 0 to 32", tuple((i % 33,) for i in range(112))),
    Size("one large, many small", ((150, 301), *((3,),) * 20, (30_001,))),
)
NAN_SIZE = Size("mixed NaN", _MIXED, values="nan")


def perceptron(widths: tuple[int, ...]) -> tuple[Shape, ...]:
    """Weights and biases of a multi-layer perceptron."""
    shapes: list[Shape] = []
    for inputs, outputs in pairwise(widths):
        shapes += [(inputs, outputs), (outputs,)]
    return tuple(shapes)


def resnet18(classes: int = 1000) -> tuple[Shape, ...]:
    """The 62 parameters of ResNet-18 (He et al. 2016, table 1): convolutions, batch norms, the last dense layer."""

    def convolution(outputs: int, inputs: int, kernel: int) -> list[Shape]:
        return [(outputs, inputs, kernel, kernel), (outputs,), (outputs,)]

    shapes = convolution(64, 3, 7)
    inputs = 64
    for outputs in (64, 128, 256, 512):
        shapes += convolution(outputs, inputs, 3) + convolution(outputs, outputs, 3)
        if outputs != inputs:
            shapes += convolution(outputs, inputs, 1)
        shapes += convolution(outputs, outputs, 3) + convolution(outputs, outputs, 3)
        inputs = outputs
    return (*shapes, (classes, inputs), (classes,))


_ONE_STEP = {"steps": 1}

BENCH_SIZES = (
    Size("MLP, 12 tensors", perceptron((784, 100, 100, 100, 100, 100, 10)), options=_ONE_STEP, quick=True),
    Size("1,000 tensors of 1k", ((1000,),) * 1000, options=_ONE_STEP, quick=True),
    Size("ResNet-18, 62 tensors", resnet18(), options=_ONE_STEP),
    Size("one tensor of 64M", ((64_000_000,),), options=_ONE_STEP),
)


def tensors(rng: np.random.Generator, size: Size, dtype: np.dtype, spread: float = 1.0) -> list[np.ndarray]:
    """Normal values, every seventh zero: real gradients have zeros, and the first step divides by their history."""
    made = []
    for shape in size.shapes:
        values = np.asarray(rng.standard_normal(shape, np.float32))
        values *= np.float32(spread)
        values.reshape(-1)[::7] = 0
        made.append(arrange(values.astype(dtype, copy=False), size.layout))
    return made


def total_bytes(arrays: list[np.ndarray]) -> int:
    return sum(array.nbytes for array in arrays)
