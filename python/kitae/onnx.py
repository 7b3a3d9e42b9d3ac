"""ONNX operators as functions: BatchNormalization, Dropout, and the training operators Adagrad, Adam and Momentum.

Inputs in the operator's order, attributes as keywords of its names and defaults. Like the operators, these functions
change no input and return new arrays; attributes are float32, as in a model. Arrays of NumPy or CuPy, no copy of ONNX
is needed. Opsets: ai.onnx 15 (BatchNormalization) and 13 (Dropout), ai.onnx.preview.training 1.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kitae import _checks, _dispatch, _random, optimizers
from kitae.dropout import Mask, dropout, dropout_backward
from kitae.normalization import batch_norm

__all__ = ["Adagrad", "Adam", "BatchNormalization", "Dropout", "Momentum"]


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    raise _checks.not_covered("onnx", name, __all__, "onnx.reference and onnxruntime run whole models.")


def BatchNormalization(
    X: NDArray[Any],
    scale: NDArray[Any],
    B: NDArray[Any],
    input_mean: NDArray[Any],
    input_var: NDArray[Any],
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
) -> Any:
    """``Y = (X - mean) / sqrt(var + epsilon) * scale + B``, per channel (axis 1).

    training_mode=0: mean and var are input_mean and input_var; returns Y. training_mode=1: they are the batch's, var
    divided by n; returns ``(Y, running_mean, running_var)`` with
    ``running = input * momentum + batch * (1 - momentum)``.

    X: (N, C, D1, ...), (N, C), or (N) with one channel; float32, float64, float16 or bfloat16. The others: (C). They
    may be of another of these types; running_mean and running_var have that of input_mean and input_var.
    Raises TypeError or ValueError; what is not finite propagates.
    Differs from ONNX's reference evaluator: statistics are sums in float64 for every type.
    """
    op = "onnx.BatchNormalization"
    training = bool(_checks.integer(op, "training_mode", int(training_mode), low=0, high=1))
    X = _dispatch.as_array(X)
    _dispatch.backend_for(X, op, "X")
    x = X.reshape(-1, 1) if X.ndim == 1 else X
    channels = x.shape[1:2]
    for name, vector in (("scale", scale), ("B", B), ("input_mean", input_mean), ("input_var", input_var)):
        if getattr(vector, "shape", None) != channels:
            raise _checks.error(ValueError, op, name, f"an array of shape {channels}", vector)
    gamma, beta = (_widened(vector, x) for vector in (scale, B))
    mean, var = (_widened(vector, x) for vector in (input_mean, input_var))
    if training:  # updated in place
        mean, var = mean.copy(), var.copy()
    y, _ = batch_norm(
        x,
        gamma,
        beta,
        mean,
        var,
        training=training,
        eps=_attribute(op, "epsilon", epsilon, low=0.0),
        running_decay=_attribute(op, "momentum", momentum, low=0.0, high=1.0),
        unbiased=False,
        nonfinite="propagate",
    )
    y = y.reshape(X.shape)
    if not training:
        return y
    return y, mean.astype(input_mean.dtype, copy=False), var.astype(input_var.dtype, copy=False)


def Dropout(
    data: NDArray[Any], ratio: Any = 0.5, training_mode: Any = False, *, seed: int | None = None, rng: str = "philox"
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """``output = data * mask / (1 - ratio)`` in training mode, else ``output = data``; returns ``(output, mask)``.

    mask: bool, True where kept; all True where training_mode is False or ratio is 0, and output is then data itself.
    ratio: a number or 0-d array in [0, 1]; training_mode: a bool or 0-d array. seed: the same one gives the same mask
    at every call, None a new mask.

    ONNX does not say which random numbers a seed gives, so no two runtimes drop the same elements. rng="philox" is
    kitae's generator; rng="numpy" draws what ONNX's reference evaluator and its published test data draw,
    ``numpy.random.RandomState(seed).uniform(size=data.shape) >= ratio``.
    Differs from ONNX's reference evaluator: ratio=1 gives zeros, a dropped infinity or NaN too.
    """
    op = "onnx.Dropout"
    ratio = _checks.number(op, "ratio", ratio, low=0.0, high=1.0)
    _checks.one_of(op, "rng", rng, ("philox", "numpy"))
    if isinstance(training_mode, np.ndarray):
        training_mode = training_mode[()]
    data = _dispatch.as_array(data)
    if not _checks.boolean(op, "training_mode", training_mode) or ratio == 0.0:
        _dispatch.backend_for(data, op, "data")
        return data, _dispatch.array_module(data).ones(data.shape, bool)
    if rng == "numpy":
        if seed is not None:
            seed = _checks.integer(op, "seed", seed, low=0, high=2**32 - 1)
        generator = np.random.RandomState(seed)
        kept = generator.uniform(size=data.shape) >= ratio
        return dropout_backward(data, _packed(kept, ratio, data)), _dispatch.array_module(data).asarray(kept)
    if seed is None:
        seed = _random.next_layer_seed()
    else:
        seed = _checks.integer(op, "seed", seed, low=-(2**63), high=2**64 - 1) % 2**64
    output, mask = dropout(data, ratio, seed=seed)
    return output, mask.unpack()


def Adagrad(
    R: Any,
    T: Any,
    *tensors: NDArray[Any],
    norm_coefficient: float = 0.0,
    epsilon: float = 1e-6,
    decay_factor: float = 0.0,
) -> tuple[NDArray[Any], ...]:
    """``g = norm_coefficient X + G;  H += g^2;  X -= R / (1 + T decay_factor) * g / (sqrt(H) + epsilon)``.

    tensors: X1, ..., Xn, G1, ..., Gn, H1, ..., Hn; returns (X1, ..., Xn, H1, ..., Hn), updated copies. R: the learning
    rate; T: how many updates were made before; scalars or 0-d arrays. float32 or float64, and what belongs together of
    one type and shape. Subnormal numbers of a state count as 0. Coefficients and rates must not be negative.
    """
    op = "onnx.Adagrad"
    keywords = {
        "weight_decay": _attribute(op, "norm_coefficient", norm_coefficient, low=0.0),
        "eps": _attribute(op, "epsilon", epsilon, low=0.0),
        "lr_decay": _attribute(op, "decay_factor", decay_factor, low=0.0),
    }
    return _update(op, optimizers.AdaGrad, R, T, tensors, {"H": "squares"}, keywords)


def Adam(
    R: Any,
    T: Any,
    *tensors: NDArray[Any],
    alpha: float = 0.9,
    beta: float = 0.999,
    epsilon: float = 1e-6,
    norm_coefficient: float = 0.0,
    norm_coefficient_post: float = 0.0,
) -> tuple[NDArray[Any], ...]:
    """``g = norm_coefficient X + G;  V = alpha V + (1 - alpha) g;  H = beta H + (1 - beta) g^2``
    ``X = (1 - norm_coefficient_post) (X - r V / (sqrt(H) + epsilon))``
    with ``r = R sqrt(1 - beta^T) / (1 - alpha^T)`` for T > 0, and r = R for T = 0.

    tensors: X1, ..., Xn, G1, ..., Gn, V1, ..., Vn, H1, ..., Hn; returns the new X, V and H. The rest as ``Adagrad``.
    """
    op = "onnx.Adam"
    keywords = {
        "weight_decay": _attribute(op, "norm_coefficient_post", norm_coefficient_post, low=0.0),
        "beta1": _attribute(op, "alpha", alpha, low=0.0, high=1.0, open_high=True),
        "beta2": _attribute(op, "beta", beta, low=0.0, high=1.0, open_high=True),
        "eps": _attribute(op, "epsilon", epsilon, low=0.0),
    }
    penalty = _attribute(op, "norm_coefficient", norm_coefficient, low=0.0)
    return _update(op, _Adam, R, T, tensors, {"V": "m", "H": "v"}, keywords, penalty)


def Momentum(
    R: Any,
    T: Any,
    *tensors: NDArray[Any],
    alpha: float,
    beta: float,
    mode: str,
    norm_coefficient: float,
) -> tuple[NDArray[Any], ...]:
    """``g = norm_coefficient X + G;  V = alpha V + b g``, b being 1 for T = 0, else beta;
    mode="standard": ``X -= R V``; mode="nesterov": ``X -= R (g + alpha V)``.

    tensors: X1, ..., Xn, G1, ..., Gn, V1, ..., Vn; returns the new X and V. The rest as ``Adagrad``; as in ONNX, no
    attribute has a default.
    """
    op = "onnx.Momentum"
    _checks.one_of(op, "mode", mode, ("standard", "nesterov"))
    keywords = {
        "momentum": _attribute(op, "alpha", alpha, low=0.0, high=1.0),
        "dampening": 1.0 - _attribute(op, "beta", beta),
        "weight_decay": _attribute(op, "norm_coefficient", norm_coefficient, low=0.0),
    }
    rule = optimizers.Momentum if mode == "standard" else optimizers.Nesterov
    return _update(op, rule, R, T, tensors, {"V": "velocity"}, keywords)


# Helpers


class _Adam(optimizers.AdamW):
    """AdamW's weight_decay is norm_coefficient_post; beside it stands the penalty in the gradient."""

    penalty = 0.0

    def _decay_numbers(self, group: Mapping[str, float]) -> dict[str, float]:
        return {**super()._decay_numbers(group), "l2": self.penalty}


def _attribute(op: str, name: str, value: Any, **bounds: Any) -> float:
    return float(np.float32(_checks.number(op, name, value, **bounds)))


def _widened(vector: Any, x: Any) -> Any:
    """A 16-bit vector beside an x of another type: float32, which loses nothing."""
    vector = _dispatch.as_array(vector)
    if getattr(vector, "itemsize", 0) == 2 and vector.dtype != getattr(x, "dtype", None):
        return vector.astype(np.float32)
    return vector


def _packed(kept: NDArray[np.bool_], ratio: float, like: Any) -> Mask:
    bits = np.packbits(kept, bitorder="little")
    bits = np.concatenate([bits, np.zeros(-len(bits) % 8, np.uint8)])
    return Mask(kept.shape, ratio, "inverted", 0, 0, _dispatch.array_module(like).asarray(bits))


def _update(
    op: str,
    rule: Callable[..., optimizers.Optimizer],
    R: Any,
    T: Any,
    tensors: Sequence[Any],
    states: Mapping[str, str],
    keywords: Mapping[str, float],
    penalty: float = 0.0,
) -> tuple[NDArray[Any], ...]:
    """One step on copies; ``states``: name of the operator's input -> our slot."""
    names = ["X", "G", *states]
    count, rest = divmod(len(tensors), len(names))
    if rest or not count:
        got = _checks.Words(f"{len(tensors)}")
        raise _checks.error(ValueError, op, "tensors", f"n each of {', '.join(names)}, n >= 1", got)
    arrays = [_dispatch.as_array(tensor) for tensor in tensors]
    groups = {name: arrays[i * count : (i + 1) * count] for i, name in enumerate(names)}
    for name, group in groups.items():
        for number, (tensor, x) in enumerate(zip(group, groups["X"], strict=True), 1):
            argument = f"{name}{number}"
            _dispatch.backend_for(tensor, op, argument)
            if tensor.dtype.char not in "fd" or tensor.dtype != x.dtype:
                raise _checks.error(TypeError, op, argument, "float32 or float64, as X has", tensor)
            if tensor.shape != x.shape:
                raise _checks.error(ValueError, op, argument, f"shape {x.shape}, as X has", tensor)
    rate = _checks.number(op, "R", R, low=0.0)
    steps = _checks.integer(op, "T", T[()] if isinstance(T, np.ndarray) else T, low=0, high=2**63 - 2)
    results = [x.copy() for x in groups["X"]]
    optimizer = rule(results, rate, semantics="onnx", **keywords)
    if isinstance(optimizer, _Adam):
        optimizer.penalty = penalty
    for name, slot in states.items():
        for array, given in zip(optimizer._slot_arrays(slot), groups[name], strict=True):
            array[...] = given
    optimizer.steps = steps
    optimizer.step(groups["G"])
    return (*results, *(array for slot in states.values() for array in optimizer._slot_arrays(slot)))
