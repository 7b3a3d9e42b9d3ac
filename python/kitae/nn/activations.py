"""Element-wise activations as layers; ReLU and GELU stand in files of their own.

Shapes, dtypes, errors and what is kept for ``backward``: ``kitae.nn.Activation``.
"""

from typing import Any

import numpy as np

from kitae import _checks
from kitae.nn.activation import Activation
from kitae.nn.functions import sigmoid


class Sigmoid(Activation):
    """y = 1 / (1 + exp(-x)), dx = dout y (1 - y)

    y is accurate to a few units in the last place for every x, also where it is tiny; sigmoid(-inf) = 0,
    sigmoid(inf) = 1. y is kept. The absolute error of the derivative is a few eps: it is 0 where y rounds to 1. Before
    a cross entropy leave this layer out and take ``SigmoidCrossEntropy``, which works on the logits.
    """

    bounds = (0.0, 1.0)

    def _value(self, xp: Any, x: Any, out: Any) -> None:
        sigmoid(x, out=out)

    def _derivative(self, xp: Any, kept: Any, out: Any) -> None:
        xp.subtract(kept.dtype.type(1), kept, out=out)
        xp.multiply(out, kept, out=out)


class Tanh(Activation):
    """y = tanh(x), dx = dout (1 - y^2)

    y is kept. The absolute error of the derivative is a few eps: it is 0 where y rounds to 1 or -1.
    """

    bounds = (-1.0, 1.0)

    def _value(self, xp: Any, x: Any, out: Any) -> None:
        xp.tanh(x, out=out)

    def _derivative(self, xp: Any, kept: Any, out: Any) -> None:
        xp.multiply(kept, kept, out=out)
        xp.subtract(kept.dtype.type(1), out, out=out)


class LeakyReLU(Activation):
    """y = x where x > 0, else slope x; dx = dout where x > 0, else slope dout (Maas et al. 2013)

    ``slope``: a finite number above 0 (with 0 it is ``ReLU``); 0.01 is the paper's, PyTorch's too, Keras has 0.3 (and
    calls it ``negative_slope``). The derivative at 0 is the slope. y is kept: it has the sign of x. After a batch norm
    ``kitae.BatchNorm(activation="leaky_relu", slope=...)`` does it without a pass of its own.
    """

    def __init__(self, slope: float = 0.01) -> None:
        super().__init__()
        self.slope = _checks.number("nn.LeakyReLU", "slope", slope, low=0, open_low=True)

    def _value(self, xp: Any, x: Any, out: Any) -> None:
        xp.multiply(x, x.dtype.type(self.slope), out=out)
        xp.copyto(out, x, where=x > 0)

    def _derivative(self, xp: Any, kept: Any, out: Any) -> None:
        out[...] = self.slope
        xp.copyto(out, kept.dtype.type(1), where=kept > 0)


class ELU(Activation):
    """y = x where x > 0, else alpha (exp(x) - 1); dx = dout where x > 0, else dout (y + alpha)

    Source: Clevert, Unterthiner and Hochreiter 2015, arXiv:1511.07289. ``alpha``: a finite number above 0; 1 is the
    paper's, PyTorch's and Keras's. The derivative at 0 is alpha, as in PyTorch. y is kept.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        self.alpha = _checks.number("nn.ELU", "alpha", alpha, low=0, open_low=True)

    def _value(self, xp: Any, x: Any, out: Any) -> None:
        xp.minimum(x, x.dtype.type(0), out=out)  # exp of a large x would overflow
        xp.expm1(out, out=out)
        out *= x.dtype.type(self.alpha)
        xp.copyto(out, x, where=x > 0)

    def _derivative(self, xp: Any, kept: Any, out: Any) -> None:
        xp.add(kept, kept.dtype.type(self.alpha), out=out)
        xp.copyto(out, kept.dtype.type(1), where=kept > 0)


class SiLU(Activation):
    """y = x sigmoid(x), dx = dout s (1 + x (1 - s)) with s = sigmoid(x); ``Swish`` is another name of it

    Sources: Elfwing, Uchibe and Doya 2017, arXiv:1702.03118 (SiLU); Ramachandran, Zoph and Le 2017, arXiv:1710.05941
    (Swish with beta = 1). SiLU(-inf) = -0. x is kept.
    """

    keeps_output = False

    def _value(self, xp: Any, x: Any, out: Any) -> None:
        gated(xp, x, sigmoid(x), out)

    def _derivative(self, xp: Any, kept: Any, out: Any) -> None:
        gate = sigmoid(kept)
        one = kept.dtype.type(1)
        xp.clip(kept, *_finite(kept), out=out)
        out *= one - gate
        out += one
        out *= gate


Swish = SiLU


def gated(xp: Any, x: Any, gate: Any, out: Any) -> None:
    """out = x gate, where the gate is 0 for x = -inf: so is the product, and not NaN."""
    xp.maximum(x, _finite(x)[0], out=out)
    out *= gate


def _finite(x: Any) -> tuple[Any, Any]:
    """The bounds of finite numbers of a dtype, as numbers of it."""
    limits = np.finfo(x.dtype)
    return limits.min, limits.max
