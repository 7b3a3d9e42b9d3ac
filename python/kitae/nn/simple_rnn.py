"""The recurrent network of Elman (1990)."""

from typing import Any

from kitae.nn.recurrent import Pass, Recurrent


class SimpleRNN(Recurrent):
    """h_t = tanh(x_t W + h_(t-1) U + b)

    x: (batch, time, inputs); W: (inputs, units); U: (units, units); b: (units,), 0 at the start; h: (batch, units).
    Result: every h, (batch, time, units), with ``return_sequences=True``, else the last one, (batch, units).
    backward: da_t = (dout_t + da_(t+1) U^T) (1 - h_t^2), dW = sum of x_t^T da_t, dU = sum of h_(t-1)^T da_t,
    db = sum of da_t, dx_t = da_t W^T.

    ``init``, ``recurrent_init``: of W and U, names as for ``Dense`` and "orthogonal" (Saxe et al. 2014), or a function
    of (shape, numpy.random.Generator). dtype and errors as for ``Dense``; built at the first forward pass.

    State: a pass starts from zeros, or from ``forward(x, initial_state=h)``, or from ``set_state(h)`` before it;
    with ``stateful=True`` it starts where the pass before it ended, until ``reset_state()`` or a batch of another size,
    whose sequences are others. ``state``: (h,) at the end of the latest pass; ``state_after(k)``: after its first k
    steps. After backward ``dstate`` is the gradient of the initial state; gradients never flow into the pass before.
    ``backward_steps``: if set, backward goes no further than so many steps from the end, as if all before were
    constants (``kitae.train.TruncatedBPTT``).

    Elman (1990), "Finding structure in time". PyTorch's RNN has two biases, of which b is the sum, and W and U
    transposed: ``W[...] = weight_ih_l0.T``, ``U[...] = weight_hh_l0.T``, ``b[...] = bias_ih_l0 + bias_hh_l0``. Keras's
    kernel, recurrent_kernel and bias are W, U and b. Keras and PyTorch start from other random numbers.
    """

    gates = 1

    def _step(self, current: Pass, step: int) -> None:
        xp, (states,) = current.xp, current.states
        h = states[step + 1]
        xp.matmul(states[step], self.params["U"], out=h)
        h += current.gates[step]
        xp.tanh(h, out=h)

    def _step_back(self, current: Pass, step: int, dstate: tuple[Any, ...]) -> None:
        xp, (states,) = current.xp, current.states
        da, h, (dh,) = current.gates[step], states[step + 1], dstate
        xp.multiply(h, h, out=da)
        xp.subtract(1, da, out=da)
        da *= dh
        xp.matmul(da, self.params["U"].T, out=dh)
