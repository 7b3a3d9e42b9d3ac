"""A row of numbers for each id."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from kitae import _checks, _dispatch, _random
from kitae.nn import checks, initializers
from kitae.nn.layer import Layer

_LARGEST = 2**31 - 1


class Embedding(Layer):
    """y = W[ids];  dW[v] = sum of dout where ids = v

    ids: integers of any shape, usually (batch, time), from 0 to vocabulary - 1; W: (vocabulary, units);
    y: ids.shape + (units,). ``backward`` returns None, as ids have no gradient: the layer stands first.

    ``vocabulary``: how many ids there are; None: the largest of the first batch, plus one. ``init``: a name as for
    ``Dense``, a function of (shape, numpy.random.Generator), or None: N(0, 1) as in PyTorch. dtype float32 or float64.
    dW is dense; rows are added in the order in which their id occurs, one fixed order on a GPU too.

    Ids of a wrong type or dtype raise TypeError, ids out of range ValueError: looking for these waits for a GPU.
    """

    def __init__(
        self,
        units: int,
        vocabulary: int | None = None,
        *,
        init: str | initializers.Initializer | None = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        super().__init__()
        op = "nn.Embedding"
        self.units = _checks.integer(op, "units", units, low=1, high=_LARGEST)
        self.vocabulary = vocabulary
        if vocabulary is not None:
            self.vocabulary = _checks.integer(op, "vocabulary", vocabulary, low=1, high=_LARGEST)
        named = init is None or callable(init)
        self.init = init if named else _checks.one_of(op, "init", init, tuple(initializers.BY_NAME))
        self.dtype = checks.parameter_dtype(op, dtype, np.float32)
        self._ids: Any = None

    def build(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        """Make W and its gradient; ``shape`` and ``dtype``, those of ids, say nothing about them."""
        if self.vocabulary is None:
            expected = "how many ids there are (None only where the first batch says it)"
            raise _checks.error(ValueError, "nn.Embedding.build", "vocabulary", expected, None)
        self._build("nn.Embedding.build", self.vocabulary, _dispatch.forced_array_module())

    def _build(self, op: str, vocabulary: int, xp: Any) -> None:
        shape = vocabulary, self.units
        if self.init is None:
            weights = _random.generator().standard_normal(shape)
        else:
            draw = self.init if callable(self.init) else initializers.BY_NAME[self.init]
            weights = np.asarray(draw(shape, _random.generator()))
        checks.shape(op, "init(shape, generator)", weights, shape, "vocabulary and units")
        self.params = {"W": xp.asarray(weights.astype(self.dtype))}
        self.grads = {"W": xp.zeros_like(self.params["W"])}

    def forward(self, ids: Any, training: bool = True) -> Any:
        op = "nn.Embedding.forward"
        _dispatch.backend_for(ids, op, "ids")
        if ids.dtype.kind not in "iu":
            raise _checks.error(TypeError, op, "ids", "an integer dtype", ids)
        low, high = (int(ids.min()), int(ids.max())) if ids.size else (0, 0)
        vocabulary = len(self.params["W"]) if self.params else self.vocabulary
        if low < 0 or (vocabulary is not None and high >= vocabulary):
            expected = "ids from 0 on" if vocabulary is None else f"ids from 0 to {vocabulary - 1}, the vocabulary"
            raise _checks.error(ValueError, op, "ids", expected, _checks.Words(f"values from {low} to {high}"))
        if not self.params:
            self._build(op, high + 1 if vocabulary is None else vocabulary, _dispatch.array_module(ids))
        self._ids = ids.astype(np.int64)
        return self.params["W"].take(self._ids, axis=0)

    def backward(self, dout: Any) -> None:
        op = "nn.Embedding.backward"
        ids = checks.after_forward(op, self._ids)
        checks.float_array(op, "dout", dout)
        checks.shape(op, "dout", dout, (*ids.shape, self.units), "that of ids and units")
        gradient = self.grads["W"]
        if dout.dtype.itemsize > gradient.dtype.itemsize:
            raise _checks.error(TypeError, op, "dout", f"dtype {gradient.dtype}, that of W, or a narrower one", dout)
        gradient.fill(0)
        if ids.size == 0:
            return
        xp = _dispatch.array_module(gradient)
        # Sorted by id, each id's rows are one segment: several times as fast as adding row by row (measured: 5).
        ids = ids.reshape(-1)
        order = xp.argsort(ids, kind="stable")
        ids = ids[order]
        starts = xp.flatnonzero(xp.concatenate((xp.ones(1, bool), ids[1:] != ids[:-1])))
        rows = dout.astype(gradient.dtype, copy=False).reshape(-1, self.units)[order]
        gradient[ids[starts]] = xp.add.reduceat(rows, starts, axis=0)
