"""Long short-term memory."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from kitae import _checks
from kitae.nn import initializers
from kitae.nn.recurrent import Pass, Recurrent


class LSTM(Recurrent):
    """(i, f, g, o)_t = (sigmoid, sigmoid, tanh, sigmoid)(x_t W + h_(t-1) U + b),
    c_t = f_t c_(t-1) + i_t g_t,  h_t = o_t tanh(c_t)

    x: (batch, time, inputs); W: (inputs, 4 units), U: (units, 4 units), b: (4 units,), columns of the gates in order
    i, f, g, o (input, forget, candidate, output). Result: every h, (batch, time, units), with
    ``return_sequences=True``, else the last one, (batch, units). The state is (h, c), each (batch, units).

    b starts at 0, for the forget gate at ``forget_bias``, 1 by default (Gers et al. 2000; Jozefowicz et al. 2015,
    section 2.2). Each gate's part of W and U is drawn by itself. Arguments, state, dtype and errors else as for
    ``SimpleRNN``.

    Hochreiter and Schmidhuber (1997), with the forget gate of Gers et al. (2000), without peepholes, as in PyTorch and
    Keras, whose order of gates is the same. PyTorch starts with forget_bias=0 and has two biases and transposed
    weights: ``W[...] = weight_ih_l0.T``, ``U[...] = weight_hh_l0.T``, ``b[...] = bias_ih_l0 + bias_hh_l0``. Keras's
    kernel, recurrent_kernel and bias are W, U and b. The book's order is f, g, i, o.
    """

    gates = 4
    states = ("h", "c")

    def __init__(
        self,
        units: int,
        *,
        return_sequences: bool = False,
        stateful: bool = False,
        forget_bias: float = 1.0,
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
        self.forget_bias = _checks.number("nn.LSTM", "forget_bias", forget_bias)

    def _biases(self) -> dict[str, NDArray[Any]]:
        return {"b": np.repeat([0.0, self.forget_bias, 0.0, 0.0], self.units)}

    def _new_pass(self, xp: Any, x: Any) -> Pass:
        current = super()._new_pass(xp, x)
        time, batch, _ = x.shape
        dtype = self.params["W"].dtype
        per_gate = {"scale": (0.5, 0.5, 1, 0.5), "shift": (0.5, 0.5, 0, 0.5), "is_tanh": (0, 0, 1, 0)}
        for name, values in per_gate.items():
            current.kept[name] = xp.asarray(np.repeat(values, self.units).astype(dtype))
        current.kept["tanh_c"] = self._memory("tanh_c", (time, batch, self.units))
        current.kept["narrow"] = self._memory("narrow", (batch, self.units))
        current.kept["wide"] = self._memory("wide", current.product.shape)
        return current

    def _step(self, current: Pass, step: int) -> None:
        xp, kept, gates = current.xp, current.kept, current.gates[step]
        (h, c), tanh_c, product = current.states, kept["tanh_c"][step], kept["narrow"]
        xp.matmul(h[step], self.params["U"], out=current.product)
        gates += current.product
        # sigmoid(a) = tanh(a / 2) / 2 + 1/2: one tanh for all gates; in a gate it is the absolute error that counts.
        gates *= kept["scale"]
        xp.tanh(gates, out=gates)
        gates *= kept["scale"]
        gates += kept["shift"]
        i, f, g, o = self._split(gates)
        c_next = c[step + 1]
        xp.multiply(f, c[step], out=c_next)
        xp.multiply(i, g, out=product)
        c_next += product
        xp.tanh(c_next, out=tanh_c)
        xp.multiply(o, tanh_c, out=h[step + 1])

    def _step_back(self, current: Pass, step: int, dstate: tuple[Any, ...]) -> None:
        xp, kept, gates = current.xp, current.kept, current.gates[step]
        (_, c), tanh_c, through_tanh = current.states, kept["tanh_c"][step], kept["narrow"]
        dh, dc = dstate
        i, f, g, o = self._split(gates)
        xp.multiply(tanh_c, tanh_c, out=through_tanh)
        xp.subtract(1, through_tanh, out=through_tanh)
        through_tanh *= o
        through_tanh *= dh
        dc += through_tanh
        into_gates = current.product
        di, df, dg, do = self._split(into_gates)
        xp.multiply(dc, g, out=di)
        xp.multiply(dc, c[step], out=df)
        xp.multiply(dc, i, out=dg)
        xp.multiply(dh, tanh_c, out=do)
        dc *= f
        # sigmoid' = y (1 - y) and tanh' = (y + 1) (1 - y) in one.
        xp.subtract(1, gates, out=kept["wide"])
        gates += kept["is_tanh"]
        gates *= kept["wide"]
        gates *= into_gates
        xp.matmul(gates, self.params["U"].T, out=dh)

    def _split(self, gates: Any) -> tuple[Any, Any, Any, Any]:
        n = self.units
        return gates[:, :n], gates[:, n : 2 * n], gates[:, 2 * n : 3 * n], gates[:, 3 * n :]
