"""What the recurrent layers share: weights, state, the pass over time and back. The cells are beside this file.

Arrays inside are time-major, so a step's slice is one block of memory. The products with W, and those that give the
weights' gradients, are made for all steps at once; a step has one product, with U, and element-wise work in place.

``kitae.dlfs.time_layers`` has cells of its own: the bits that it promises follow from the book's order of operations,
which has all products in the step.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from kitae import _checks, _dispatch, _random
from kitae.nn import checks, initializers
from kitae.nn.composite import walk
from kitae.nn.layer import Layer

_LARGEST = 2**31 - 1


@dataclass
class Pass:
    """A forward pass, as backward needs it. ``gates`` become their own gradients on the way back."""

    xp: Any
    x: Any  # (time, batch, inputs)
    gates: Any  # (time, batch, gates * units)
    states: list[Any]  # each (time + 1, batch, units), the initial one first
    product: Any  # (batch, gates * units), scratch
    kept: dict[str, Any] = field(default_factory=dict)  # what else the cell keeps


class Recurrent(Layer):
    """Base of the recurrent layers: x (batch, time, inputs) to (batch, time, units), or (batch, units), the last step.

    A cell says how many ``gates`` and ``states`` it has and computes a step forward and back.
    """

    gates: ClassVar[int]
    states: ClassVar[tuple[str, ...]] = ("h",)

    def __init__(
        self,
        units: int,
        *,
        return_sequences: bool = False,
        stateful: bool = False,
        init: str | initializers.Initializer = "xavier",
        recurrent_init: str | initializers.Initializer = "orthogonal",
        dtype: DTypeLike | None = None,
    ) -> None:
        super().__init__()
        op = f"nn.{type(self).__name__}"
        self.units = _checks.integer(op, "units", units, low=1, high=_LARGEST)
        self.return_sequences = _checks.boolean(op, "return_sequences", return_sequences)
        self.stateful = _checks.boolean(op, "stateful", stateful)
        self.init = initializers.find(op, "init", init)
        self.recurrent_init = initializers.find(op, "recurrent_init", recurrent_init)
        self.dtype = None if dtype is None else checks.parameter_dtype(op, dtype, np.float32)
        self.backward_steps: int | None = None
        self.state: tuple[Any, ...] | None = None
        self.dstate: tuple[Any, ...] | None = None
        self._next: tuple[Any, ...] | None = None  # where the next pass starts, and
        self._was_set = False  # whether set_state said so
        self._pass: Pass | None = None
        self._returned = False
        self._reused: dict[str, Any] = {}

    def build(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        """Make the weights and their gradients for inputs of ``shape`` (batch, time, inputs) and ``dtype``."""
        op = self._op("build")
        if len(shape) != 3:
            raise _checks.error(ValueError, op, "shape", "(batch, time, inputs)", _checks.Words(shape))
        inputs = _checks.integer(op, "inputs", shape[2], low=1, high=_LARGEST)
        self._build(op, inputs, checks.parameter_dtype(op, self.dtype, dtype), None)

    def _build(self, op: str, inputs: int, dtype: np.dtype[Any], like: Any) -> None:
        arrays = {
            "W": self._drawn(op, "init", self.init, (inputs, self.units)),
            "U": self._drawn(op, "recurrent_init", self.recurrent_init, (self.units, self.units)),
            **self._biases(),
        }
        self.params = {name: _dispatch.placed(array.astype(dtype), like) for name, array in arrays.items()}
        xp = _dispatch.array_module(self.params["W"])
        self.grads = {name: xp.zeros_like(param) for name, param in self.params.items()}

    def _drawn(self, op: str, argument: str, draw: initializers.Initializer, shape: tuple[int, int]) -> Any:
        """One matrix a gate, side by side: the equations of initializers are about a single one."""
        matrices = [np.asarray(draw(shape, _random.generator())) for _ in range(self.gates)]
        for matrix in matrices:
            checks.shape(op, f"{argument}(shape, generator)", matrix, shape, "of one gate")
        return np.concatenate(matrices, axis=1)

    def _biases(self) -> dict[str, NDArray[Any]]:
        return {"b": np.zeros(self.gates * self.units)}

    # State.

    def set_state(self, *state: Any) -> None:
        """Let the next forward pass start from ``state``: one array (batch, units) for each of the cell's states."""
        state = self._checked_state(self._op("set_state"), "state", state, None)
        self.state = self._next = tuple(array.copy() for array in state)
        self._was_set = True

    def reset_state(self) -> None:
        """Let the next forward pass start from zeros."""
        self._next = self.state = None

    def state_after(self, steps: int) -> tuple[Any, ...]:
        """The state after the first ``steps`` steps of the latest forward pass; 0: the one that it started from."""
        op = self._op("state_after")
        latest = checks.after_forward(op, self._pass)
        steps = _checks.integer(op, "steps", steps, low=0, high=len(latest.gates))
        return tuple(state[steps].copy() for state in latest.states)

    def _checked_state(self, op: str, argument: str, state: Any, batch: int | None) -> tuple[Any, ...]:
        state = tuple(state) if isinstance(state, (tuple, list)) else (state,)
        if len(state) != len(self.states):
            expected = f"{len(self.states)} arrays, {', '.join(self.states)}"
            raise _checks.error(ValueError, op, argument, expected, _checks.Words(f"{len(state)}"))
        for name, array in zip(self.states, state, strict=True):
            checks.float_array(op, f"{argument} {name}", array, ndim=2)
            expected_batch = len(array) if batch is None else batch
            checks.shape(op, f"{argument} {name}", array, (expected_batch, self.units), "batch and units")
        return state

    # The pass over time.

    def forward(self, x: Any, training: bool = True, *, initial_state: Any = None) -> Any:
        op = self._op("forward")
        checks.float_array(op, "x", x, ndim=3)
        batch, time, inputs = x.shape
        if time == 0:
            raise _checks.error(ValueError, op, "x", "at least one time step", x)
        xp = _dispatch.array_module(x)
        if not self.params:
            self._build(op, inputs, checks.parameter_dtype(op, self.dtype, x.dtype), x)
        if inputs != self.params["W"].shape[0]:
            expected = f"shape (batch, time, {self.params['W'].shape[0]}), the inputs that W was made for"
            raise _checks.error(ValueError, op, "x", expected, x)
        start = self._start(op, initial_state, batch)
        steps_first = xp.ascontiguousarray(checks.in_dtype_of(op, "x", x, self.params["W"].dtype).transpose(1, 0, 2))
        current = self._new_pass(xp, steps_first)
        for states, first in zip(current.states, start, strict=True):
            states[0] = first
        gates = _rows(current.gates)
        xp.matmul(_rows(steps_first), self.params["W"], out=gates)
        gates += self.params["b"]
        for step in range(time):
            self._step(current, step)
        self._pass, self._returned = current, False
        self.state = tuple(states[time].copy() for states in current.states)
        self._next, self._was_set = (self.state if self.stateful else None), False
        h = current.states[0]
        return h[1:].transpose(1, 0, 2).copy() if self.return_sequences else h[time].copy()

    def backward(self, dout: Any, *, dstate: Any = None) -> Any:
        """dx; the weights' gradients into ``grads``, that of the initial state into ``dstate``. Once a forward pass.

        ``dstate``: what flows into the final state beside dout, such as a decoder's ``dstate``; none: zeros.
        """
        op = self._op("backward")
        current: Pass = checks.after_forward(op, None if self._returned else self._pass)
        xp = current.xp
        time, batch, inputs = current.x.shape
        checks.float_array(op, "dout", dout)
        middle, meaning = ((time,), "batch, time and units") if self.return_sequences else ((), "batch and units")
        checks.shape(op, "dout", dout, (batch, *middle, self.units), meaning)
        dtype = self.params["W"].dtype
        dout = checks.in_dtype_of(op, "dout", dout, dtype)
        if dstate is None:
            dstate = tuple(xp.zeros_like(states[0]) for states in current.states)
        else:
            dstate = self._checked_state(op, "dstate", dstate, batch)
            dstate = tuple(checks.in_dtype_of(op, "dstate", d, dtype).copy() for d in dstate)
        self._returned = True
        dh, sequence = dstate[0], None
        if self.return_sequences:
            sequence = dout.transpose(1, 0, 2)
        else:
            dh += dout
        first = 0 if self.backward_steps is None else max(0, time - self.backward_steps)
        for step in range(time - 1, first - 1, -1):
            if sequence is not None:
                dh += sequence[step]
            self._step_back(current, step, dstate)
        if first > 0:
            for d in dstate:
                d.fill(0)
        self.dstate = dstate
        self._weight_gradients(current, first)
        dx = (
            xp.matmul(_rows(current.gates[first:]), self.params["W"].T)
            .reshape(time - first, batch, inputs)
            .transpose(1, 0, 2)
        )
        if first == 0:
            return xp.ascontiguousarray(dx)
        whole = xp.zeros((batch, time, inputs), dx.dtype)
        whole[:, first:] = dx
        return whole

    def _weight_gradients(self, current: Pass, first: int) -> None:
        xp, time = current.xp, len(current.gates)
        dgates = _rows(current.gates[first:])
        xp.matmul(_rows(current.x[first:]).T, dgates, out=self.grads["W"])
        xp.matmul(_rows(current.states[0][first:time]).T, dgates, out=self.grads["U"])
        xp.sum(dgates, axis=0, out=self.grads["b"])

    def _step(self, current: Pass, step: int) -> None:
        """From ``states[step]`` and ``gates[step]``, which holds x W + b, to ``states[step + 1]``."""
        raise NotImplementedError

    def _step_back(self, current: Pass, step: int, dstate: tuple[Any, ...]) -> None:
        """Gradients of the states after the step to those before it, in place; ``gates[step]`` to its gradient."""
        raise NotImplementedError

    def _new_pass(self, xp: Any, x: Any) -> Pass:
        time, batch, _ = x.shape
        return Pass(
            xp,
            x,
            self._memory("gates", (time, batch, self.gates * self.units)),
            [self._memory(name, (time + 1, batch, self.units)) for name in self.states],
            self._memory("product", (batch, self.gates * self.units)),
        )

    def _start(self, op: str, initial_state: Any, batch: int) -> tuple[Any, ...]:
        state = self._next
        if initial_state is not None:
            state = self._checked_state(op, "initial_state", initial_state, batch)
        elif state is not None and len(state[0]) != batch:
            if self._was_set:
                expected = f"a batch of {len(state[0])}, as set_state's arrays have"
                raise _checks.error(ValueError, op, "x", expected, _checks.Words(f"a batch of {batch}"))
            state = None
        if state is None:
            return (0,) * len(self.states)
        return tuple(checks.in_dtype_of(op, "initial_state", array, self.params["W"].dtype) for array in state)

    def _memory(self, name: str, shape: tuple[int, ...]) -> Any:
        """Memory that stays the layer's from pass to pass: fresh pages would cost as much as the work in them."""
        weights, held = self.params["W"], self._reused.get(name)
        if held is None or (held.shape, held.dtype, held.device) != (shape, weights.dtype, weights.device):
            held = self._reused[name] = _dispatch.empty(shape, weights.dtype, weights)
        return held

    def _op(self, method: str) -> str:
        return f"nn.{type(self).__name__}.{method}"


def _rows(sequence: Any) -> Any:
    """(time, batch, width) as (time * batch, width)."""
    return sequence.reshape(-1, sequence.shape[2])


@contextmanager
def states_set_aside(model: Any) -> Iterator[None]:
    """Inside, the model's recurrent layers start from zeros; afterwards they go on from where they were."""
    layers = [layer for _, layer in walk(model) if isinstance(layer, Recurrent)]
    kept = [(layer.state, layer._next, layer._was_set) for layer in layers]
    for layer in layers:
        layer.reset_state()
    try:
        yield
    finally:
        for layer, (state, following, was_set) in zip(layers, kept, strict=True):
            layer.state, layer._next, layer._was_set = state, following, was_set
