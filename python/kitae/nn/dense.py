"""The fully connected layer."""

import numpy as np

from kitae import _random
from kitae.nn import checks, initializers
from kitae.nn.scratch import Scratch


class Dense:
    """y = x W + b

    x: (batch, inputs); W: (inputs, units); b: (units,), left out with ``bias=False``; y: (batch, units).
    backward: dW = x^T dout, db = sum of dout over the batch, dx = dout W^T.

    ``init``: "he" (default), "xavier" (also "glorot"), "lecun", "gaussian" (``kitae.nn.initializers`` prints the
    equations), or a function of (shape, numpy.random.Generator). The biases start at 0. The generator is the one
    that ``kitae.seed`` seeds.

    W is float32 or float64: ``dtype``, else the first input's, float32 for 16-bit inputs; inputs of a wider dtype
    than W raise TypeError. The layer is built at its first forward pass, or at once, in float32 unless ``dtype`` says
    otherwise, if ``inputs`` is given.

    Differs from PyTorch's Linear: W is stored (inputs, units) as books print it, not transposed, and the default
    initialization is He's normal one, not U(-1/sqrt(inputs), 1/sqrt(inputs)).
    """

    def __init__(self, units, *, inputs=None, init="he", bias=True, dtype=None):
        self.units = checks.whole_number("Dense", "units", units)
        if not callable(init) and init not in initializers.BY_NAME:
            expected = "a function or one of " + ", ".join(initializers.BY_NAME)
            raise checks.error(ValueError, "Dense", "init", expected, repr(init))
        self.init = init
        self.bias = bias
        self.dtype = dtype
        self.params, self.grads, self.buffers = {}, {}, {}
        self._x = None
        self._y_memory, self._dx_memory = Scratch(), Scratch()
        if inputs is not None:
            self.build((None, checks.whole_number("Dense", "inputs", inputs)), np.float32)

    def build(self, shape, dtype):
        """Make W, b and their gradients for inputs of ``shape`` (batch, inputs) and ``dtype``."""
        if len(shape) != 2:
            raise checks.error(ValueError, "Dense.build", "shape", "(batch, inputs)", shape)
        inputs = checks.whole_number("Dense.build", "inputs", shape[1])
        dtype = checks.parameter_dtype("Dense", self.dtype, dtype)
        draw = self.init if callable(self.init) else initializers.BY_NAME[self.init]
        weights = np.asarray(draw((inputs, self.units), _random.generator()))
        checks.same_shape("Dense", "init(shape, rng)", weights, (inputs, self.units), "inputs, units")
        self.params = {"W": weights.astype(dtype)}
        if self.bias:
            self.params["b"] = np.zeros(self.units, dtype)
        self.grads = {name: np.zeros_like(array) for name, array in self.params.items()}

    def forward(self, x, training=True):
        checks.float_array("Dense.forward", "x", x, ndim=2)
        if not self.params:
            self.build(x.shape, x.dtype)
        weights = self.params["W"]
        x = self._in_dtype_of_weights("Dense.forward", "x", x)
        if x.shape[1] != weights.shape[0]:
            expected = f"(batch, {weights.shape[0]}), the inputs W was built for"
            raise checks.error(ValueError, "Dense.forward", "x", expected, f"shape {x.shape}")
        shape = (x.shape[0], self.units)
        y = self._y_memory.array(shape, weights.dtype) if training else np.empty(shape, weights.dtype)
        np.matmul(x, weights, out=y)
        if self.bias:
            y += self.params["b"]
        self._x = x
        return y

    def backward(self, dout):
        x = checks.after_forward("Dense.backward", self._x)
        checks.float_array("Dense.backward", "dout", dout)
        checks.same_shape("Dense.backward", "dout", dout, (x.shape[0], self.units), "batch, units")
        dout = self._in_dtype_of_weights("Dense.backward", "dout", dout)
        np.matmul(x.T, dout, out=self.grads["W"])
        if self.bias:
            np.sum(dout, axis=0, out=self.grads["b"])
        dx = self._dx_memory.array(x.shape, x.dtype)
        return np.matmul(dout, self.params["W"].T, out=dx)

    def _in_dtype_of_weights(self, op, argument, array):
        """``array`` in W's dtype: 16-bit values and float32 values fit into a wider W exactly."""
        dtype = self.params["W"].dtype
        if array.dtype.itemsize > dtype.itemsize:
            raise checks.error(TypeError, op, argument, f"{dtype} (the dtype of W) or narrower", array.dtype)
        return array.astype(dtype, copy=False)
