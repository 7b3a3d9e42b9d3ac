"""Gated recurrent units, in both forms."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from kitae import _checks
from kitae.nn import initializers
from kitae.nn.recurrent import Pass, Recurrent, _rows


class GRU(Recurrent):
    """(r, z)_t = sigmoid(x_t W + h_(t-1) U + b),  h_t = z_t h_(t-1) + (1 - z_t) n_t, with
    n_t = tanh(x_t W_n + b_n + r_t (h_(t-1) U_n + b_recurrent)) for ``reset_after=True``,
    n_t = tanh(x_t W_n + b_n + (r_t h_(t-1)) U_n) for ``reset_after=False``

    x: (batch, time, inputs); W: (inputs, 3 units), U: (units, 3 units), b: (3 units,), columns of the gates in order
    r, z, n (reset, update, candidate); b_recurrent: (units,), with ``reset_after=True`` alone. Biases start at 0.
    Result: every h, (batch, time, units), with ``return_sequences=True``, else the last one, (batch, units). The state
    is (h,). Each gate's part of W and U is drawn by itself. Arguments, state, dtype and errors else as for
    ``SimpleRNN``.

    ``reset_after=False`` is the paper's form (Cho et al. 2014), ``reset_after=True`` that of cuDNN, PyTorch and, by
    default, Keras: one product with U a step. Chung et al. (2014) print z and 1 - z the other way round.

    PyTorch has the same order of gates, weights transposed and two biases: ``W[...] = weight_ih_l0.T``,
    ``U[...] = weight_hh_l0.T``, ``b[...] = bias_ih_l0``, ``b[:2 * units] += bias_hh_l0[:2 * units]``,
    ``b_recurrent[...] = bias_hh_l0[2 * units:]``. Keras's order is z, r, n, the two rows of its bias are PyTorch's two.
    """

    gates = 3

    def __init__(
        self,
        units: int,
        *,
        return_sequences: bool = False,
        stateful: bool = False,
        reset_after: bool = True,
        init: str | initializers.Initializer = "xavier",
        recurrent_init: str | initializers.Initializer = "orthogonal",
        dtype: DTypeLike | None = None,
    ) -> None:
        super().__init__(
            units,
            return_sequences=return_sequences,
            stateful=stateful,
            init=init,
            recurrent_init=recurrent_init,
            dtype=dtype,
        )
        self.reset_after = _checks.boolean("nn.GRU", "reset_after", reset_after)

    def _biases(self) -> dict[str, NDArray[Any]]:
        return super()._biases() | ({"b_recurrent": np.zeros(self.units)} if self.reset_after else {})

    def _new_pass(self, xp: Any, x: Any) -> Pass:
        current = super()._new_pass(xp, x)
        time, batch, _ = x.shape
        # What U_n's product gave (reset after) or was made of (before); on the way back, the gradient of the former.
        current.kept["reset"] = self._memory("reset", (time, batch, self.units))
        current.kept["narrow"] = self._memory("narrow", (batch, self.units))
        current.kept["wide"] = self._memory("wide", (batch, 2 * self.units))
        return current

    def _step(self, current: Pass, step: int) -> None:
        xp, (h,), U, gates = current.xp, current.states, self.params["U"], current.gates[step]
        n, product, reset = 2 * self.units, current.product, current.kept["reset"][step]
        rz, candidate, before, after = gates[:, :n], gates[:, n:], h[step], h[step + 1]
        if self.reset_after:
            xp.matmul(before, U, out=product)
        else:
            xp.matmul(before, U[:, :n], out=product[:, :n])
        rz += product[:, :n]
        # sigmoid(a) = tanh(a / 2) / 2 + 1/2: faster than by exp; in a gate it is the absolute error that counts.
        rz *= 0.5
        xp.tanh(rz, out=rz)
        rz *= 0.5
        rz += 0.5
        r, z = rz[:, : self.units], rz[:, self.units :]
        if self.reset_after:
            xp.add(product[:, n:], self.params["b_recurrent"], out=reset)
            xp.multiply(r, reset, out=after)
        else:
            xp.multiply(r, before, out=reset)
            xp.matmul(reset, U[:, n:], out=after)
        candidate += after
        xp.tanh(candidate, out=candidate)
        xp.subtract(before, candidate, out=after)
        after *= z
        after += candidate

    def _step_back(self, current: Pass, step: int, dstate: tuple[Any, ...]) -> None:
        xp, (h,), U, gates = current.xp, current.states, self.params["U"], current.gates[step]
        n, kept, before, (dh,) = 2 * self.units, current.kept, h[step], dstate
        reset, rest, wide = kept["reset"][step], kept["narrow"], kept["wide"]
        rz, candidate = gates[:, :n], gates[:, n:]
        r, z = rz[:, : self.units], rz[:, self.units :]
        drz = current.product[:, :n]
        dr, dz = drz[:, : self.units], drz[:, self.units :]
        xp.subtract(before, candidate, out=dz)
        dz *= dh
        xp.subtract(1, z, out=rest)
        rest *= dh
        dh *= z
        candidate *= candidate
        xp.subtract(1, candidate, out=candidate)
        candidate *= rest
        if self.reset_after:
            xp.multiply(candidate, reset, out=dr)
            xp.multiply(candidate, r, out=reset)
            xp.matmul(reset, U[:, n:].T, out=rest)
        else:
            xp.matmul(candidate, U[:, n:].T, out=rest)
            xp.multiply(rest, before, out=dr)
            rest *= r
        dh += rest
        xp.subtract(1, rz, out=wide)
        rz *= wide
        rz *= drz
        xp.matmul(rz, U[:, :n].T, out=rest)
        dh += rest

    def _weight_gradients(self, current: Pass, first: int) -> None:
        xp, time, n = current.xp, len(current.gates), 2 * self.units
        dgates, reset = _rows(current.gates[first:]), _rows(current.kept["reset"][first:])
        before, dU = _rows(current.states[0][first:time]), self.grads["U"]
        xp.matmul(_rows(current.x[first:]).T, dgates, out=self.grads["W"])
        xp.matmul(before.T, dgates[:, :n], out=dU[:, :n])
        if self.reset_after:
            xp.matmul(before.T, reset, out=dU[:, n:])
            xp.sum(reset, axis=0, out=self.grads["b_recurrent"])
        else:
            xp.matmul(reset.T, dgates[:, n:], out=dU[:, n:])
        xp.sum(dgates, axis=0, out=self.grads["b"])
