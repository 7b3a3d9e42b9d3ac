"""The Gaussian error linear unit."""

import math
from typing import Any

from kitae import _checks
from kitae.nn.activation import Activation
from kitae.nn.activations import gated
from kitae.nn.functions import sigmoid
from kitae.nn.normal_distribution import normal_cdf

_CUBE = 0.044715
_TWICE = 2 * math.sqrt(2 / math.pi)
_SATURATED = 30.0  # from here on the approximation is x or 0 in float64, and the cube still far from overflow


class GELU(Activation):
    """y = x Phi(x), dx = dout (Phi(x) + x phi(x)), Phi and phi the standard normal distribution and its density;
    approximate="tanh": y = x (1 + tanh(u)) / 2 with u = sqrt(2 / pi) (x + 0.044715 x^3), and its own derivative

    Source: Hendrycks and Gimpel 2016, arXiv:1606.08415. ``approximate``: "none" (default, as in PyTorch; Keras's
    default too) or "tanh", which differs by up to 5e-4 and saves about half the time. The tail keeps its relative
    accuracy: Phi is not computed as 1 + erf. GELU(-inf) = -0. x is kept.
    """

    keeps_output = False

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = _checks.one_of("nn.GELU", "approximate", approximate, ("none", "tanh"))

    def _value(self, xp: Any, x: Any, out: Any) -> None:
        gate = normal_cdf(x) if self.approximate == "none" else sigmoid(_argument(xp, x)[0])
        gated(xp, x, gate, out)

    def _derivative(self, xp: Any, kept: Any, out: Any) -> None:
        if self.approximate == "none":
            x = xp.clip(kept, -40, 40)  # the density is 0 beyond, and the square of more could overflow
            xp.multiply(x, x, out=out)
            out *= -0.5
            xp.exp(out, out=out)
            out *= x
            out *= 1 / math.sqrt(2 * math.pi)
            out += normal_cdf(kept)
            return
        argument, x = _argument(xp, kept)
        gate = sigmoid(argument, out=argument)
        xp.multiply(x, x, out=out)
        out *= 3 * _CUBE
        out += 1
        out *= x
        out *= _TWICE
        out *= 1 - gate
        out += 1
        out *= gate


def _argument(xp: Any, x: Any) -> tuple[Any, Any]:
    """2 u, as (1 + tanh(u)) / 2 = sigmoid(2 u), and x as far as it matters there."""
    x = xp.clip(x, -_SATURATED, _SATURATED)
    u = x * x
    u *= _CUBE
    u += 1
    u *= x
    u *= _TWICE
    return u, x
