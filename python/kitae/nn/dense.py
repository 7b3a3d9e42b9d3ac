"""The fully connected layer."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from kitae import _checks, _random
from kitae.nn import checks, initializers


class Dense:
    """y = x W + b

    x: (batch, inputs); W: (inputs, units); b: (units,), left out with ``bias=False``; y: (batch, units).
    backward: dW = x^T dout, db = sum of dout over the batch, dx = dout W^T.

    ``init``: "he" (default), "xavier" (also "glorot"), "lecun", "gaussian" (``kitae.nn.initializers`` prints the
    equations), or a function of (shape, numpy.random.Generator). The biases start at 0. The generator is the one
    that ``kitae.seed`` seeds.

    W is float32 or float64: ``dtype``, else the first input's, float32 for 16-bit inputs; inputs of a wider dtype
    than W raise TypeError. The layer is built at its first forward pass, or at once, in float32 unless ``dtype`` says
    otherwise, if ``inputs`` is given. A wrong type or dtype raises TypeError, a wrong shape ValueError.

    Differs from PyTorch's Linear: W is stored (inputs, units) as books print it, not transposed, and the default
    initialization is He's normal one, not U(-1/sqrt(inputs), 1/sqrt(inputs)).
    """

    def __init__(
        self,
        units: int,
        *,
        inputs: int | None = None,
        init: str | initializers.Initializer = "he",
        bias: bool = True,
        dtype: DTypeLike | None = None,
    ) -> None:
        self.units = _checks.integer("nn.Dense", "units", units, low=1, high=2**31 - 1)
        self.init = init if callable(init) else _checks.one_of("nn.Dense", "init", init, tuple(initializers.BY_NAME))
        self.bias = _checks.boolean("nn.Dense", "bias", bias)
        self.dtype = None if dtype is None else checks.parameter_dtype("nn.Dense", dtype, np.float32)
        self.params: dict[str, NDArray[Any]] = {}
        self.grads: dict[str, NDArray[Any]] = {}
        self.buffers: dict[str, NDArray[Any]] = {}
        self._x: NDArray[Any] | None = None
        if inputs is not None:
            self.build((1, _checks.integer("nn.Dense", "inputs", inputs, low=1, high=2**31 - 1)), np.float32)

    def build(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        """Make W, b and their gradients for inputs of ``shape`` (batch, inputs) and ``dtype``."""
        op = "nn.Dense.build"
        if len(shape) != 2:
            raise _checks.error(ValueError, op, "shape", "(batch, inputs)", _checks.Words(shape))
        inputs = _checks.integer(op, "inputs", shape[1], low=1, high=2**31 - 1)
        dtype = checks.parameter_dtype(op, self.dtype, dtype)
        draw = self.init if callable(self.init) else initializers.BY_NAME[self.init]
        weights = np.asarray(draw((inputs, self.units), _random.generator()))
        checks.shape(op, "init(shape, generator)", weights, (inputs, self.units), "inputs and units")
        self.params = {"W": weights.astype(dtype)}
        if self.bias:
            self.params["b"] = np.zeros(self.units, dtype)
        self.grads = {name: np.zeros_like(array) for name, array in self.params.items()}

    def forward(self, x: NDArray[Any], training: bool = True) -> NDArray[Any]:
        op = "nn.Dense.forward"
        checks.float_array(op, "x", x, ndim=2)
        if not self.params:
            self.build(x.shape, x.dtype)
        weights = self.params["W"]
        if x.shape[1] != weights.shape[0]:
            expected = f"shape (batch, {weights.shape[0]}), the inputs that W was made for"
            raise _checks.error(ValueError, op, "x", expected, x)
        x = checks.in_dtype_of(op, "x", x, weights.dtype)
        # A new array on purpose: the allocator hands out memory that is still in the cache, a buffer of the layer's own
        # has left it since the last step (measured: 10 % of the layer's time at 128 x 100).
        y = np.matmul(x, weights)
        if self.bias:
            y += self.params["b"]
        self._x = x
        return y

    def backward(self, dout: NDArray[Any]) -> NDArray[Any]:
        op = "nn.Dense.backward"
        x = checks.after_forward(op, self._x)
        checks.float_array(op, "dout", dout)
        checks.shape(op, "dout", dout, (x.shape[0], self.units), "batch and units")
        dout = checks.in_dtype_of(op, "dout", dout, self.params["W"].dtype)
        np.matmul(x.T, dout, out=self.grads["W"])
        if self.bias:
            np.add.reduce(dout, axis=0, out=self.grads["b"])
        return np.matmul(dout, self.params["W"].T)
