"""Weight initializations: by name, or as objects with parameters such as ``He(gain=1)`` and ``Orthogonal(1.4)``.

Each is called with the shape of the weights and a ``numpy.random.Generator`` and returns float64 values; the layer
rounds them to its dtype. What depends on the number of inputs and outputs of a unit takes them from ``fans(shape)``.
Any function of (shape, generator) can stand in their place.

Sources that print one rule in two ways are offered in both, under honest names; ``docs/techniques/initialization.md``
compares them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kitae import _checks

Initializer = Callable[[tuple[int, ...], np.random.Generator], NDArray[Any]]
Values = NDArray[np.float64]


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """(inputs, outputs) of a unit: of weights (inputs, units), or of a convolution's (out, in, kernel...).

    A convolution's unit has in * kernel size inputs, and each input reaches out * kernel size outputs. (PyTorch's
    Linear stores (units, inputs), so its fans are those of the transposed shape.) Other shapes raise ValueError.
    """
    lengths = tuple(_checks.integer("nn.initializers.fans", "shape", length, low=1, high=2**62) for length in shape)
    if len(lengths) < 2:
        expected = "(inputs, units), or (out, in, kernel...) of a convolution"
        raise _checks.error(ValueError, "nn.initializers.fans", "shape", expected, _checks.Words(lengths))
    if len(lengths) == 2:
        return lengths
    kernel = math.prod(lengths[2:])
    return lengths[1] * kernel, lengths[0] * kernel


@dataclass(frozen=True)
class Gaussian:
    """N(mean, std^2), the same spread for every layer: 0.01 in the book and in Krizhevsky et al. 2012. Deep networks
    with it hand on less and less: their activations shrink layer by layer."""

    std: float = 0.01
    mean: float = 0.0

    def __post_init__(self) -> None:
        _checks.number("nn.initializers.Gaussian", "std", self.std, low=0, open_low=True)
        _checks.number("nn.initializers.Gaussian", "mean", self.mean)

    def __call__(self, shape: tuple[int, ...], rng: np.random.Generator) -> Values:
        return rng.standard_normal(shape) * self.std + self.mean


@dataclass(frozen=True)
class Uniform:
    """U(low, high)"""

    low: float = -0.05
    high: float = 0.05

    def __post_init__(self) -> None:
        low = _checks.number("nn.initializers.Uniform", "low", self.low)
        _checks.number("nn.initializers.Uniform", "high", self.high, low=low, open_low=True)

    def __call__(self, shape: tuple[int, ...], rng: np.random.Generator) -> Values:
        return rng.uniform(self.low, self.high, shape)


@dataclass(frozen=True)
class Scaled:
    """Values of a variance that the fans give: gain^2 / n, with n = inputs, outputs or (inputs + outputs) / 2.

    ``distribution``: "normal" is N(0, gain^2 / n), "uniform" is U(-limit, limit) with limit = gain sqrt(3 / n), which
    has the same variance. ``over``: "inputs", "outputs" or "mean". ``Xavier``, ``He``, ``LeCun`` are it with names.
    """

    gain: float = 1.0
    distribution: str = "normal"
    over: str = "inputs"

    def __post_init__(self) -> None:
        op = f"nn.initializers.{type(self).__name__}"
        _checks.number(op, "gain", self.gain, low=0, open_low=True)
        _checks.one_of(op, "distribution", self.distribution, ("normal", "uniform"))
        _checks.one_of(op, "over", self.over, ("inputs", "outputs", "mean"))

    def std(self, shape: tuple[int, ...]) -> float:
        """The standard deviation of the values: gain / sqrt(n)."""
        inputs, outputs = fans(shape)
        n = {"inputs": inputs, "outputs": outputs, "mean": (inputs + outputs) / 2}[self.over]
        return self.gain / math.sqrt(n)

    def __call__(self, shape: tuple[int, ...], rng: np.random.Generator) -> Values:
        std = self.std(shape)
        if self.distribution == "normal":
            return rng.standard_normal(shape) * std
        limit = math.sqrt(3) * std
        return rng.uniform(-limit, limit, shape)


@dataclass(frozen=True)
class LeCun(Scaled):
    """variance 1 / inputs (LeCun et al. 1998, "Efficient BackProp", section 4.6)

    Sources print it as N(0, 1/n) and as N(0, 1/sqrt n): the standard deviation is 1 / sqrt n, the second writes it
    where a variance is usual. "uniform": U(-sqrt(3 / inputs), sqrt(3 / inputs)).
    """


@dataclass(frozen=True)
class Xavier(Scaled):
    """variance 2 / (inputs + outputs), for sigmoid and tanh (Glorot and Bengio 2010, equation 12)

    "uniform" is the paper's "normalized initialization", equation 16: U(-sqrt(6 / (m + n)), sqrt(6 / (m + n))).
    ``Glorot`` is another name. Other readings: ``over="inputs"``, standard deviation 1 / sqrt(inputs), is the book's
    and Caffe's; the name "xavier_unrooted_sum" has sqrt(2) / (inputs + outputs), as one source prints it.
    """

    over: str = "mean"


Glorot = Xavier


@dataclass(frozen=True)
class He(Scaled):
    """variance 2 / inputs, for ReLU (He et al. 2015, section 2.2); "uniform": limit sqrt(6 / inputs)

    ``Kaiming`` is another name. The paper's equation 14 with outputs in place of inputs is ``over="outputs"``. For a
    leaky ReLU of slope a take ``gain=math.sqrt(2 / (1 + a * a))``, equation 15.
    """

    gain: float = math.sqrt(2)


Kaiming = He


@dataclass(frozen=True)
class Orthogonal:
    """gain Q: rows or columns, whichever are fewer, orthonormal, times gain (Saxe, McClelland and Ganguli 2013)

    Drawn evenly among all such matrices: the Q of a normal matrix's QR, with the signs of R's diagonal. A
    convolution's weights (out, in, kernel...) are seen as the matrix (out, in * kernel size), as PyTorch does.
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        _checks.number("nn.initializers.Orthogonal", "gain", self.gain, low=0, open_low=True)

    def __call__(self, shape: tuple[int, ...], rng: np.random.Generator) -> Values:
        fans(shape)
        rows, columns = shape[0], math.prod(shape[1:])
        q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
        q *= np.where(np.diagonal(r) < 0, -1.0, 1.0)
        return self.gain * np.ascontiguousarray(q if rows >= columns else q.T).reshape(shape)


@dataclass(frozen=True)
class Sparse:
    """Each unit has ``nonzero`` weights from N(0, std^2), the others are 0 (Martens 2010, section 5: 15 of them)

    A unit is a column of (inputs, units) and the first axis of a convolution's weights. With fewer inputs than
    ``nonzero``, all are drawn. The paper sets the biases to 0 for it, and to 0.5 where the units are tanh.
    """

    nonzero: int = 15
    std: float = 1.0

    def __post_init__(self) -> None:
        _checks.integer("nn.initializers.Sparse", "nonzero", self.nonzero, low=1, high=2**31 - 1)
        _checks.number("nn.initializers.Sparse", "std", self.std, low=0, open_low=True)

    def __call__(self, shape: tuple[int, ...], rng: np.random.Generator) -> Values:
        inputs = fans(shape)[0]
        units = shape[1] if len(shape) == 2 else shape[0]
        weights = rng.standard_normal((units, inputs)) * self.std
        # The places of the smallest of as many random numbers: a random choice without repetition, unit by unit.
        order = np.argsort(rng.random((units, inputs)), axis=1)
        np.put_along_axis(weights, order[:, self.nonzero :], 0.0, axis=1)
        return np.ascontiguousarray(weights.T) if len(shape) == 2 else weights.reshape(shape)


@dataclass(frozen=True)
class Constant:
    """Every element is ``value``: for biases. Weights of two axes or more raise ValueError.

    Units with equal weights compute the same output and get the same gradient, so every update leaves them equal: a
    layer of them learns as one unit (only dropout or other noise would part them).
    """

    value: float = 0.0

    def __post_init__(self) -> None:
        _checks.number("nn.initializers.Constant", "value", self.value)

    def __call__(self, shape: tuple[int, ...], rng: np.random.Generator | None = None) -> Values:
        if len(shape) > 1:
            expected = (
                "the shape of a bias: units with equal weights compute the same, get the same gradient and stay equal "
                "(symmetry), so weights have to be drawn"
            )
            raise _checks.error(ValueError, "nn.initializers.Constant", "shape", expected, _checks.Words(shape))
        return np.full(shape, float(self.value))


def inverse_root_uniform(shape: tuple[int, ...], rng: np.random.Generator) -> Values:
    """U(-1 / sqrt m, 1 / sqrt m), m = inputs: the heuristic that Glorot and Bengio 2010 call standard, equation 1, and
    the default of PyTorch's Linear. Its variance is 1 / (3 m)."""
    limit = 1 / math.sqrt(fans(shape)[0])
    return rng.uniform(-limit, limit, shape)


def xavier_unrooted_sum(shape: tuple[int, ...], rng: np.random.Generator) -> Values:
    """N(0, s^2), s = sqrt(2) / (inputs + outputs): Xavier's rule as one source prints it, the root over the 2 alone."""
    return rng.standard_normal(shape) * (math.sqrt(2) / sum(fans(shape)))


he, xavier, lecun, gaussian = He(), Xavier(), LeCun(), Gaussian()

BY_NAME: dict[str, Initializer] = {
    "he": he,
    "he_uniform": He(distribution="uniform"),
    "kaiming": he,
    "kaiming_uniform": He(distribution="uniform"),
    "xavier": xavier,
    "xavier_uniform": Xavier(distribution="uniform"),
    "xavier_inputs": Xavier(over="inputs"),
    "xavier_unrooted_sum": xavier_unrooted_sum,
    "glorot": xavier,
    "glorot_uniform": Xavier(distribution="uniform"),
    "normalized_uniform": Xavier(distribution="uniform"),
    "lecun": lecun,
    "lecun_uniform": LeCun(distribution="uniform"),
    "inverse_root_uniform": inverse_root_uniform,
    "gaussian": gaussian,
    "standard_normal": Gaussian(1.0),
    "uniform": Uniform(),
    "orthogonal": Orthogonal(),
    "sparse": Sparse(),
    "zeros": Constant(0.0),
    "ones": Constant(1.0),
}


def find(op: str, argument: str, init: Any) -> Initializer:
    """The initialization of that name, or the function itself."""
    if callable(init) and not isinstance(init, type):
        return init
    if isinstance(init, type):
        raise _checks.error(TypeError, op, argument, "an initialization or its name, not a class: He()", init)
    return BY_NAME[_checks.one_of(op, argument, init, tuple(BY_NAME))]


def find_for_bias(op: str, init: Any) -> Initializer:
    """The same for ``bias_init=``, where a number stands for ``Constant``."""
    if isinstance(init, (int, float)) and not isinstance(init, bool):
        return Constant(_checks.number(op, "bias_init", init))
    return find(op, "bias_init", init)
