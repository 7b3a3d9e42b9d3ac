"""The fully connected layer."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from kitae import _checks, _dispatch, _random
from kitae.nn import checks, initializers
from kitae.nn.layer import Layer


class Dense(Layer):
    """y = x W + b

    x: (batch, inputs); W: (inputs, units); b: (units,), left out with ``bias=False``; y: (batch, units).
    backward: dW = x^T dout, db = sum of dout over the batch, dx = dout W^T.

    ``init``: a name such as "he" (default), "xavier", "lecun" or "orthogonal" (``kitae.nn.initializers`` has them all,
    and prints the equations), or a function of (shape, numpy.random.Generator), such as ``initializers.He(gain=1)``.
    ``bias_init``: the biases' first value (default 0), or the same. The generator is the one that ``kitae.seed`` seeds.

    W is float32 or float64: ``dtype``, else the first input's, float32 for 16-bit inputs; inputs of a wider dtype
    than W raise TypeError. The layer is built at its first forward pass, or at once, in float32 unless ``dtype`` says
    otherwise, if ``inputs`` is given. A wrong type or dtype raises TypeError, a wrong shape ValueError.

    Differs from PyTorch's Linear: W is stored (inputs, units) as books print it, not transposed, and the default
    initialization is He's normal one, not U(-1/sqrt(inputs), 1/sqrt(inputs)).
    """

    can_skip_input_gradient = True

    def __init__(
        self,
        units: int,
        *,
        inputs: int | None = None,
        init: str | initializers.Initializer = "he",
        bias: bool = True,
        bias_init: float | str | initializers.Initializer = 0.0,
        dtype: DTypeLike | None = None,
    ) -> None:
        super().__init__()
        self.units = _checks.integer("nn.Dense", "units", units, low=1, high=2**31 - 1)
        self.init = initializers.find("nn.Dense", "init", init)
        self.bias_init = initializers.find_for_bias("nn.Dense", bias_init)
        self.bias = _checks.boolean("nn.Dense", "bias", bias)
        self.dtype = None if dtype is None else checks.parameter_dtype("nn.Dense", dtype, np.float32)
        self._x: NDArray[Any] | None = None
        if inputs is not None:
            self.build((1, _checks.integer("nn.Dense", "inputs", inputs, low=1, high=2**31 - 1)), np.float32)

    def build(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        """Make W, b and their gradients for inputs of ``shape`` (batch, inputs) and ``dtype``."""
        self._build(shape, dtype, None)

    def _build(self, shape: tuple[int, ...], dtype: DTypeLike, like: Any) -> None:
        op = "nn.Dense.build"
        if len(shape) != 2:
            raise _checks.error(ValueError, op, "shape", "(batch, inputs)", _checks.Words(shape))
        inputs = _checks.integer(op, "inputs", shape[1], low=1, high=2**31 - 1)
        dtype = checks.parameter_dtype(op, self.dtype, dtype)
        weights = np.asarray(self.init((inputs, self.units), _random.generator()))
        checks.shape(op, "init(shape, generator)", weights, (inputs, self.units), "inputs and units")
        params = {"W": weights}
        if self.bias:
            params["b"] = np.asarray(self.bias_init((self.units,), _random.generator()))
            checks.shape(op, "bias_init(shape, generator)", params["b"], (self.units,), "units")
        self.params = {name: _dispatch.placed(array.astype(dtype), like) for name, array in params.items()}
        xp = _dispatch.array_module(self.params["W"])
        self.grads = {name: xp.zeros_like(array) for name, array in self.params.items()}

    def forward(self, x: NDArray[Any], training: bool = True) -> NDArray[Any]:
        op = "nn.Dense.forward"
        checks.float_array(op, "x", x, ndim=2)
        if not self.params:
            self._build(x.shape, x.dtype, x)
        weights = self.params["W"]
        if x.shape[1] != weights.shape[0]:
            expected = f"shape (batch, {weights.shape[0]}), the inputs that W was made for"
            raise _checks.error(ValueError, op, "x", expected, x)
        x = checks.in_dtype_of(op, "x", x, weights.dtype)
        # A new array on purpose: the allocator hands out memory that is still in the cache, a buffer of the layer's own
        # has left it since the last step (measured: 10 % of the layer's time at 128 x 100).
        y = _dispatch.array_module(x).matmul(x, weights)
        if self.bias:
            y += self.params["b"]
        self._x = x
        return y

    def backward(self, dout: NDArray[Any], *, input_gradient: bool = True) -> Any:
        op = "nn.Dense.backward"
        x = checks.after_forward(op, self._x)
        checks.float_array(op, "dout", dout)
        checks.shape(op, "dout", dout, (x.shape[0], self.units), "batch and units")
        dout = checks.in_dtype_of(op, "dout", dout, self.params["W"].dtype)
        xp = _dispatch.array_module(dout)
        xp.matmul(x.T, dout, out=self.grads["W"])
        if self.bias:
            # Twice as fast as dout.sum(axis=0).
            xp.matmul(xp.ones(dout.shape[0], dout.dtype), dout, out=self.grads["b"])
        return xp.matmul(dout, self.params["W"].T) if input_gradient else None
