"""Dropout and DropConnect: functions, and the layers made of them.

Which elements are kept is a function of (drop, seed, offset, index) alone: the same mask on every backend, instruction
set and number of threads (csrc/ops/dropout.h has the definition).
"""

import os
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from kitae import _checks, _dispatch, _random
from kitae import semantics as _semantics

__all__ = ["DropConnect", "Dropout", "Mask", "dropout", "dropout_backward", "dropout_mask"]

_SCALES = ("inverted", "classic")
_STORES = ("bits", "replay")
_RNGS = ("philox", "numpy")
_END_OF_SEEDS, _END_OF_OFFSETS = 2**64, 2**63
_BYTE = np.dtype(np.uint8)
_DROP_ALL = 2**32  # the threshold of drop = 1


@dataclass(slots=True, eq=False)
class Mask:
    """Which elements of an array of ``shape`` a dropout call kept; what ``dropout_backward`` needs.

    ``bits``: read-only uint8 array; element i (C order) is bit i & 7 of byte i >> 3, 1 = kept; zero-padded to a
    multiple of 8 bytes. None with ``store="replay"``: the mask is drawn again from ``seed`` and ``offset``.
    ``drop``, ``scale``, ``seed``, ``offset``: as they were given to ``dropout``.
    """

    shape: tuple[int, ...]
    drop: float
    scale: str
    seed: int
    offset: int
    bits: NDArray[np.uint8] | None = field(repr=False)

    def unpack(self) -> NDArray[np.bool_]:
        """The mask as a bool array of ``shape``, True = kept; of CuPy where ``bits`` is, or ``use_backend("cuda")`` in
        force."""
        bits = self.bits
        if bits is None:
            bits = _draw("Mask.unpack", self.shape, self.drop, self.seed, self.offset)
        unpacked = _dispatch.array_module(bits).unpackbits(bits, bitorder="little")
        return unpacked[: _size(self.shape)].view(bool).reshape(self.shape)


def dropout(
    x: NDArray[Any],
    drop: float,
    *,
    seed: int,
    offset: int = 0,
    scale: str = "inverted",
    store: str = "bits",
    out: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], Mask]:
    """y_i = x_i / (1 - drop) where kept, 0 where dropped, each with probability ``drop``. Returns (y, mask).

    x: any shape and strides; float32, float64, float16 or bfloat16 (16-bit types: scaled in float32, rounded once);
    of NumPy, of CuPy, or another library's array on a GPU. On a GPU nothing waits, and CuPy arrays come back.
    y has x's shape, dtype and memory order, or is ``out`` (same shape and dtype; x itself, or no memory of x).
    drop: in [0, 1], exact to 2**-32. 0 is the identity; 1 gives 0 everywhere, also for infinities and NaN.
    seed in [0, 2**64) and offset in [0, 2**63) choose the mask: give every layer a seed and count its calls in offset.
    scale: "inverted", or "classic" (kept elements stay as they are; inference multiplies by 1 - drop).
    store: "bits" keeps the mask in 1 bit an element; "replay" keeps nothing and draws it again in the backward pass.

    Raises TypeError for a wrong type or dtype, ValueError for a wrong value, shape or overlap; nothing is written then.

    Source: Srivastava et al. 2014 (the scaling "classic"); the generator is Philox4x32-10 (Salmon et al. 2011).
    Differs from PyTorch: dropped elements are +0 even where x is infinite or NaN, the mask does not depend on the
    number of threads, and takes 1 bit an element. Differs from the book "Deep Learning from Scratch": its masks come
    from NumPy's global generator (``Dropout(rng="numpy")`` draws those).
    """
    op = "dropout"
    drop, seed, offset = _rate(op, "drop", drop), _seed(op, seed), _offset(op, offset)
    if type(scale) is not str or scale not in _SCALES:
        _checks.one_of(op, "scale", scale, _SCALES)
    if type(store) is not str or store not in _STORES:
        _checks.one_of(op, "store", store, _STORES)
    return _forward(op, x, drop, seed, offset, scale, store == "bits", out)


def dropout_backward(dout: NDArray[Any], mask: Mask, *, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """dx_i = dout_i / (1 - drop) where kept (dout_i with ``scale="classic"``), 0 where dropped.

    dout: the mask's shape; any of the dtypes and strides that ``dropout`` takes. dx has dout's dtype and memory order,
    or is ``out`` (dout itself, or no memory of dout). Errors as in ``dropout``.
    """
    op = "dropout_backward"
    if type(mask) is not Mask:
        raise _checks.error(TypeError, op, "mask", "the Mask that dropout returned", mask)
    return _backward(op, dout, mask, out)


def dropout_mask(shape: int | Sequence[int], drop: float, *, seed: int, offset: int = 0) -> Mask:
    """The mask that ``dropout`` would use for an array of ``shape``. Arguments and errors as there."""
    op = "dropout_mask"
    drop, seed, offset = _rate(op, "drop", drop), _seed(op, seed), _offset(op, offset)
    lengths = _shape(op, shape)
    return Mask(lengths, drop, "inverted", seed, offset, _draw(op, lengths, drop, seed, offset))


# Checks, with the common case first


def _rate(op: str, argument: str, value: Any) -> float:
    if type(value) is float and 0.0 <= value <= 1.0:
        return value
    return _checks.number(op, argument, value, low=0.0, high=1.0)


def _seed(op: str, value: Any) -> int:
    if type(value) is int and 0 <= value < _END_OF_SEEDS:
        return value
    return _checks.integer(op, "seed", value, low=0, high=_END_OF_SEEDS - 1)


def _offset(op: str, value: Any) -> int:
    if type(value) is int and 0 <= value < _END_OF_OFFSETS:
        return value
    return _checks.integer(op, "offset", value, low=0, high=_END_OF_OFFSETS - 1)


def _shape(op: str, value: Any) -> tuple[int, ...]:
    if isinstance(value, (list, tuple)):
        lengths = tuple(_checks.integer(op, f"shape[{i}]", n, low=0, high=2**62) for i, n in enumerate(value))
    else:
        lengths = (_checks.integer(op, "shape", value, low=0, high=2**62),)
    if _size(lengths) > 2**62:
        raise _checks.error(ValueError, op, "shape", "at most 2**62 elements", _checks.Words(lengths))
    return lengths


# Convention -> neutral numbers


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def _threshold(drop: float) -> int:
    return int(drop * _DROP_ALL)  # floor; the product by a power of two is exact


def _keep_scale(drop: float, scale: str) -> float:
    return 1.0 / (1.0 - drop) if scale == "inverted" and drop < 1.0 else 1.0


def _bytes_of_bits(size: int) -> int:
    return (size + 63) // 64 * 8


def _protect(bits: Any) -> None:
    if type(bits) is np.ndarray:  # CuPy has no read-only arrays
        bits.flags.writeable = False


# The calls


def _forward(
    op: str,
    x: NDArray[Any],
    drop: float,
    seed: int,
    offset: int,
    scale: str,
    keep_bits: bool,
    out: NDArray[Any] | None,
    argument: str = "x",
) -> tuple[NDArray[Any], Mask]:
    if type(x) is not np.ndarray:
        x, out = _dispatch.as_array(x), _dispatch.as_array(out)
    backend = _dispatch.backend_for(x, op, argument)
    y = _dispatch.empty_like(x) if out is None else out
    bits = _dispatch.empty(_bytes_of_bits(x.size), _BYTE, x) if keep_bits else None
    try:
        backend.dropout_forward(x, y, bits, _threshold(drop), _keep_scale(drop, scale), seed, offset)
    except _checks.Rejected as rejected:
        raise _explain(op, rejected, x, argument, y) from None
    if bits is not None:
        _protect(bits)
    return y, Mask(x.shape, drop, scale, seed, offset, bits)


def _backward(op: str, dout: NDArray[Any], mask: Mask, out: NDArray[Any] | None) -> NDArray[Any]:
    if type(dout) is not np.ndarray:
        dout, out = _dispatch.as_array(dout), _dispatch.as_array(out)
    backend = _dispatch.backend_for(dout, op, "dout")
    if dout.shape != mask.shape:
        raise _checks.explain(op, _checks.Rejected("dout", "shape"), {"dout": dout}, {"dout": mask.shape})
    dx = _dispatch.empty_like(dout) if out is None else out
    drop, bits = mask.drop, mask.bits
    threshold = _threshold(drop) if bits is None else 0  # bits that are there need none
    try:
        backend.dropout_backward(dout, dx, bits, threshold, _keep_scale(drop, mask.scale), mask.seed, mask.offset)
    except _checks.Rejected as rejected:
        raise _explain(op, rejected, dout, "dout", dx, mask.bits) from None
    return dx


def _draw(op: str, shape: tuple[int, ...], drop: float, seed: int, offset: int) -> NDArray[np.uint8]:
    size = _size(shape)
    bits = _dispatch.forced_array_module().empty(_bytes_of_bits(size), np.uint8)
    _dispatch.backend_for(bits, op, "shape").dropout_mask(bits, size, _threshold(drop), seed, offset)
    _protect(bits)
    return bits


def _explain(op: str, rejected: _checks.Rejected, source: Any, argument: str, out: Any, bits: Any = None) -> Exception:
    """The words for a refused array; ``argument`` is the user's name of ``source``."""
    if rejected.argument in ("x", "dout"):
        rejected.argument = argument
    by_dtype = rejected.reason == "dtype"
    expected = {
        "out": _checks.dtype_name(source) if by_dtype else source.shape,
        "mask.bits": "uint8" if by_dtype else (_bytes_of_bits(source.size),),
    }
    return _checks.explain(op, rejected, {argument: source, "out": out, "mask.bits": bits}, expected)


# Layers

_layers: weakref.WeakSet["_RandomLayer"] = weakref.WeakSet()


class _RandomLayer:
    """What Dropout and DropConnect share: the rate, and the numbers that choose the next mask, as plain arrays."""

    drop: float
    _draws: dict[str, NDArray[Any]]
    _own_seed: bool = False

    def __new__(cls, *args: Any, **keywords: Any) -> Self:
        layer = super().__new__(cls)
        _layers.add(layer)  # here, because copies and unpickled layers never see __init__
        return layer

    def _choose(self, drop: float | None, retain: float | None, seed: int | None) -> None:
        op = type(self).__name__
        if drop is not None and retain is not None:
            got = _checks.Words(f"drop={_checks.describe(drop)} and retain={_checks.describe(retain)}")
            raise _checks.error(ValueError, op, "retain", "drop or retain, not both", got)
        if retain is not None:
            self.drop = 1.0 - _rate(op, "retain", retain)
        else:
            self.drop = 0.5 if drop is None else _rate(op, "drop", drop)
        self._own_seed = seed is None
        number = _random.next_layer_seed() if seed is None else _seed(op, seed)
        self._draws = {"seed": np.array(number, np.uint64), "offset": np.array(0, np.int64)}

    def _next_draw(self, op: str) -> tuple[int, int]:
        """The seed and the offset of the next training pass."""
        return self._draws["seed"].item(), _offset(op, self._draws["offset"].item())

    def _count(self) -> None:
        """One training pass is done."""
        offset = self._draws["offset"]
        offset[...] = offset.item() + 1

    def _renew_seed(self) -> None:
        if self._own_seed:
            self._draws["seed"][...] = np.random.SeedSequence().generate_state(1, np.uint64)[0]


def _after_fork_in_child() -> None:
    for layer in list(_layers):
        layer._renew_seed()


os.register_at_fork(after_in_child=_after_fork_in_child)


class Dropout(_RandomLayer):
    """y = mask * x / (1 - drop) in training, y = x at inference ("inverted");
    y = mask * x in training, y = (1 - drop) * x at inference ("classic").

    drop: probability of dropping an element, in [0, 1]; or retain: of keeping it, drop = 1 - retain. Neither: 0.5.
    seed: an integer in [0, 2**64); None takes the next one of ``kitae.seed``'s generator, and a forked child's layers
    then draw seeds of their own, so that worker processes never share masks.
    scale: "inverted" or "classic"; None takes the value of ``semantics`` ("dlfs" and "dlfs2": "classic", others:
    "inverted").
    rng: "philox", or "numpy": the mask is ``numpy.random.rand(*x.shape) > drop`` (chainer, onnx: ``>=``), from NumPy's
    global generator, and multiplies x, as the book "Deep Learning from Scratch" does it; a dropped NaN stays NaN then.

    A layer: ``forward(x, training=True)``, ``backward(dout)``, ``params`` and ``grads`` (empty), ``buffers``: 0-d
    arrays "seed" and "offset" (the count of training passes so far). Restoring both replays the same masks.
    x: float32, float64, float16 or bfloat16, any shape. At inference an "inverted" layer returns x itself, no copy.
    ``backward`` belongs to the latest ``forward``.

    Raises TypeError for a wrong type or dtype, ValueError for a wrong value or shape, RuntimeError for ``backward``
    before ``forward``. Source: Srivastava et al. 2014. Differs from PyTorch and the book as ``kitae.dropout`` does.
    """

    def __init__(
        self,
        drop: float | None = None,
        *,
        retain: float | None = None,
        seed: int | None = None,
        scale: str | None = None,
        rng: str = "philox",
        semantics: str = "paper",
    ) -> None:
        op = "Dropout"
        if scale is not None:
            _checks.one_of(op, "scale", scale, _SCALES)
        self.rng = str(_checks.one_of(op, "rng", rng, _RNGS))
        values = _semantics.preset(semantics, op, scale=scale)
        self.scale: str = values["scale"]
        self._keeps_equal: bool = values["keeps_equal"]
        self._choose(drop, retain, seed)
        self.params: dict[str, NDArray[Any]] = {}
        self.grads: dict[str, NDArray[Any]] = {}
        self.buffers = self._draws
        # What backward needs: a Mask, an array to multiply by, or the factor of an inference pass.
        self._saved: Mask | NDArray[Any] | float | None = None

    def forward(self, x: NDArray[Any], training: bool = True) -> NDArray[Any]:
        op = "Dropout.forward"
        x = _dispatch.as_array(x)
        if not training:
            self._saved = 1.0 if self.scale == "inverted" else 1.0 - self.drop
            return _multiply(op, x, "x", self._saved)
        if self.rng == "numpy":
            y = self._forward_numpy(op, x)
        else:
            seed, offset = self._next_draw(op)
            y, self._saved = _forward(op, x, self.drop, seed, offset, self.scale, True, None)
        self._count()
        return y

    def backward(self, dout: NDArray[Any]) -> NDArray[Any]:
        op, saved = "Dropout.backward", self._saved
        dout = _dispatch.as_array(dout)
        if isinstance(saved, Mask):
            return _backward(op, dout, saved, None)
        if saved is None:
            raise _checks.no_forward_yet(op)
        if isinstance(saved, float):
            return _multiply(op, dout, "dout", saved)
        _check_array(op, dout, "dout")
        if dout.shape != saved.shape:
            raise _checks.explain(op, _checks.Rejected("dout", "shape"), {"dout": dout}, {"dout": saved.shape})
        multiply = _dispatch.array_module(dout).multiply
        return multiply(dout, saved, out=_dispatch.empty_like(dout), dtype=dout.dtype)

    def _forward_numpy(self, op: str, x: NDArray[Any]) -> NDArray[Any]:
        _check_array(op, x, "x")
        drawn = np.random.rand(*x.shape)  # noqa: NPY002  the book's generator is the point
        kept = drawn >= self.drop if self._keeps_equal else drawn > self.drop
        xp = _dispatch.array_module(x)
        factors = xp.asarray(kept).astype(x.dtype)
        keep_scale = _keep_scale(self.drop, self.scale)
        if keep_scale != 1.0:
            factors *= x.dtype.type(keep_scale)
        self._saved = factors
        return xp.multiply(x, factors, out=_dispatch.empty_like(x))


def _check_array(op: str, array: Any, argument: str, *, write: bool = False) -> None:
    """Refuse what the kernels would refuse, where no kernel sees the array."""
    _dispatch.backend_for(array, op, argument)
    dtype, flags = array.dtype, array.flags
    if _checks.is_cupy(array):  # always native, aligned and writeable
        if dtype.char in "efd" or dtype.name == "bfloat16":
            return
        raise _checks.explain(op, _checks.Rejected(argument, "dtype"), {argument: array})
    if dtype.char in "efd" and dtype.isnative and flags.aligned and (flags.carray or not write):
        return
    from kitae.reference._arrays import array_argument

    try:
        array_argument(array, argument, write=write)
    except _checks.Rejected as rejected:
        raise _checks.explain(op, rejected, {argument: array}) from None


def _multiply(op: str, array: NDArray[Any], argument: str, factor: float) -> NDArray[Any]:
    """factor * array: the array itself where the factor is 1, zeros where it is 0."""
    array = _dispatch.as_array(array)
    if factor == 1.0:
        _check_array(op, array, argument)
        return array
    backend = _dispatch.backend_for(array, op, argument)
    result = _dispatch.empty_like(array)
    try:
        backend.dropout_forward(array, result, None, _DROP_ALL if factor == 0.0 else 0, factor, 0, 0)
    except _checks.Rejected as rejected:
        raise _explain(op, rejected, array, argument, result) from None
    return result


class DropConnect(_RandomLayer):
    """y = layer(x) with mask * W / (1 - drop) in place of W, in training; a new mask at every training pass.

    layer: any layer (``forward``, ``backward``, ``params``, ``grads``, ``buffers``). Masks are drawn for its parameters
    called ``names`` ("W": weights, not biases; in a network of layers, whose names are like "0.W", every W).
    drop, retain, seed: as in ``Dropout``. With several weights each draws its own mask.
    keep_dropped: False, at inference all weights are used; True, the second reading found in the literature: inference
    uses what the latest training pass used, so the weights it dropped stay out (before any training pass: all weights).

    The dropped weights stand in the layer's own arrays while it computes, and the true ones return bit for bit, also
    when the layer raises; an optimizer sees and updates the true weights only. Gradients of dropped weights are 0, the
    others carry the factor 1 / (1 - drop). A layer without weights is built by its ``build(shape, dtype)`` first.
    ``buffers``: the layer's, and 0-d arrays "drop_connect.seed" and "drop_connect.offset" (training passes so far).

    Raises TypeError for a layer that is none and ValueError where it has no parameter of these names; otherwise as
    ``Dropout`` and the layer itself. Source: Wan et al., "Regularization of neural networks using DropConnect", ICML
    2013, which keeps the biases too; there, inference samples a Gaussian approximation, here it uses the mean weights.
    PyTorch and the book have no such layer.
    """

    def __init__(
        self,
        layer: Any,
        drop: float | None = None,
        *,
        retain: float | None = None,
        seed: int | None = None,
        names: Sequence[str] = ("W",),
        keep_dropped: bool = False,
    ) -> None:
        op = "DropConnect"
        if not (callable(getattr(layer, "forward", None)) and callable(getattr(layer, "backward", None))):
            raise _checks.error(TypeError, op, "layer", "a layer, with forward(x, training) and backward(dout)", layer)
        if isinstance(names, str) or not all(isinstance(name, str) for name in names):
            raise _checks.error(TypeError, op, "names", "a tuple of parameter names", names)
        self.layer, self.names = layer, tuple(names)
        self.keep_dropped = _checks.boolean(op, "keep_dropped", keep_dropped)
        self._choose(drop, retain, seed)
        self._true: dict[str, NDArray[Any]] = {}  # memory for the true weights while the layer computes
        self._latest: tuple[int, int] | None = None  # the draw of the latest training pass
        self._saved: tuple[int, int] | None = None  # the draw of the latest forward pass

    @property
    def params(self) -> dict[str, NDArray[Any]]:
        return self.layer.params

    @property
    def grads(self) -> dict[str, NDArray[Any]]:
        return self.layer.grads

    @property
    def buffers(self) -> dict[str, NDArray[Any]]:
        return {**self.layer.buffers, **{f"drop_connect.{name}": array for name, array in self._draws.items()}}

    def build(self, shape: tuple[int, ...], dtype: Any) -> None:
        """Build the layer for inputs of ``shape`` and ``dtype``, if it can be built."""
        if callable(getattr(self.layer, "build", None)):
            self.layer.build(shape, dtype)

    def forward(self, x: NDArray[Any], training: bool = True) -> NDArray[Any]:
        op = "DropConnect.forward"
        if not training:
            draw = self._latest if self.keep_dropped else None
            with self._dropped_weights(op, draw):
                y = self.layer.forward(x, training=False)
            self._saved = draw
            return y
        if not self.layer.params:
            self.build(x.shape, x.dtype)
        draw = self._next_draw(op)
        with self._dropped_weights(op, draw):
            y = self.layer.forward(x, training=True)
        self._saved = self._latest = draw
        self._count()
        return y

    def backward(self, dout: NDArray[Any]) -> NDArray[Any]:
        op, draw = "DropConnect.backward", self._saved
        with self._dropped_weights(op, draw):
            dx = self.layer.backward(dout)
        if draw is not None:
            for number, name in enumerate(self._weights(op)):
                grad = self.layer.grads[name]
                self._drop(op, grad, grad, draw, number, f"layer.grads[{name!r}]")
        return dx

    def _weights(self, op: str) -> dict[str, NDArray[Any]]:
        params = self.layer.params
        found = {name: array for name, array in params.items() if name.rpartition(".")[2] in self.names}
        if not found:
            expected = "a layer with parameters called " + " or ".join(map(repr, self.names))
            raise _checks.error(ValueError, op, "layer", expected, _checks.Words(f"parameters {list(params)}"))
        return found

    def _drop(
        self, op: str, source: NDArray[Any], out: NDArray[Any], draw: tuple[int, int], number: int, argument: str
    ) -> None:
        """Apply the mask of the weight of this number. Masks of one pass differ in the upper bits of the offset."""
        seed, offset = draw
        _forward(op, source, self.drop, seed, offset + (number << 48), "inverted", False, out, argument)

    @contextmanager
    def _dropped_weights(self, op: str, draw: tuple[int, int] | None) -> Iterator[None]:
        """Inside, the layer's weights have this draw's mask applied; None: they are untouched."""
        if draw is None:
            yield
            return
        changed: list[tuple[NDArray[Any], NDArray[Any]]] = []
        try:
            for number, (name, weight) in enumerate(self._weights(op).items()):
                argument = f"layer.params[{name!r}]"
                _check_array(op, weight, argument, write=True)
                true = self._memory(name, weight)
                _dispatch.array_module(weight).copyto(true, weight)
                changed.append((weight, true))
                self._drop(op, true, weight, draw, number, argument)
            yield
        finally:
            for weight, true in reversed(changed):  # the same memory may have been changed twice
                _dispatch.array_module(weight).copyto(weight, true)

    def _memory(self, name: str, weight: NDArray[Any]) -> NDArray[Any]:
        memory = self._true.get(name)
        if memory is None or (memory.shape, memory.dtype) != (weight.shape, weight.dtype):
            memory = self._true[name] = _dispatch.empty_like(weight)
        return memory
