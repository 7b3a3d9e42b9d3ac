"""Batch normalization: rows for training, inference, activations, a residual, and the backward passes."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

import kitae

from .layouts import arrange
from .row import Case, Expected, Gradient, Inputs, Results, Size, Tolerance, Traffic, element_dtype, ulp, wide

EPS = 1e-5
RUNNING_DECAY = 0.9
SLOPE = 0.01

_TEST_SIZES = (
    Size("1x1", ((1, 1),)),
    Size("1x5, one value a channel", ((1, 5),)),
    Size("0x4, empty batch", ((0, 4),)),
    Size("3x0, no channels", ((3, 0),)),
    Size("7x13", ((7, 13),)),
    Size("33x17 fortran", ((33, 17),), layout="fortran"),
    Size("33x17 every other", ((33, 17),), layout="every_other"),
    Size("5x6 reversed", ((5, 6),), layout="reversed"),
    Size("6x9 axis 0", ((6, 9),), axis=0),
    Size("4x3x11 NCL", ((4, 3, 11),)),
    Size("2x3x5x7 NCHW", ((2, 3, 5, 7),)),
    Size("2x3x5x7 channels_last", ((2, 3, 5, 7),), layout="channels_last"),
    Size("2x5x7x19 NHWC", ((2, 5, 7, 19),), axis=-1),
    Size("2x3x2x3x5 NCDHW", ((2, 3, 2, 3, 5),)),
    Size("2x2x3x5x3 NDHWC", ((2, 2, 3, 5, 3),), axis=4),
    Size("700x130", ((700, 130),)),
    Size("9x35x30x31 NCHW", ((9, 35, 30, 31),)),
    Size("9x30x31x35 NHWC", ((9, 30, 31, 35),), axis=-1),
    Size("1x3x70001 NCL, long channels", ((1, 3, 70001),)),
    Size("40x6 constant channel", ((40, 6),), values="constant"),
    Size("40x6 mean 1e4", ((40, 6),), values="far"),
    Size("40x6 NaN", ((40, 6),), values="nan"),
    Size("40x6 infinity", ((40, 6),), values="infinity"),
)

_BENCH_SIZES = (
    Size("128x256", ((128, 256),), quick=True),
    Size("1024x1024", ((1024, 1024),)),
    Size("32x64x56x56 NCHW", ((32, 64, 56, 56),)),
    Size("32x56x56x64 NHWC", ((32, 56, 56, 64),), axis=-1),
    Size("32x256x14x14 NCHW", ((32, 256, 14, 14),), quick=True),
    Size("32x14x14x256 NHWC", ((32, 14, 14, 256),), axis=-1, quick=True),
    Size("8x64x112x112 NCHW", ((8, 64, 112, 112),)),
    Size("8x112x112x64 NHWC", ((8, 112, 112, 64),), axis=-1),
)


def _make(rng: np.random.Generator, size: Size, dtype: np.dtype) -> Inputs:
    channels = size.shape[size.axis]
    along = [1] * len(size.shape)
    along[size.axis] = channels
    parameter_dtype = np.dtype(np.float32) if dtype.itemsize == 2 else dtype

    def per_channel(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, channels).astype(parameter_dtype)

    def activations() -> np.ndarray:
        return rng.standard_normal(size.shape, np.float32)

    x = activations() * rng.uniform(0.5, 2, along) + rng.uniform(-2, 2, along)
    if size.values == "far":
        x = x + 1e4
    first = (slice(None),) * (size.axis % x.ndim) + (0,)
    if size.values == "constant":
        x[first] = 3.25
    if size.values == "nan":
        x[first].reshape(-1)[0] = np.nan
        x[3, 0] = np.nan
    if size.values == "infinity":
        x[3, 0] = np.inf
    return {
        "x": arrange(x.astype(dtype), size.layout),
        "gamma": per_channel(0.5, 1.5),
        "beta": per_channel(-0.5, 0.5),
        "running_mean": per_channel(-1, 1),
        "running_var": per_channel(0.5, 2),
        "residual": arrange(activations().astype(dtype), size.layout),
        "dout": arrange(activations().astype(dtype), size.layout),
        "axis": size.axis,
    }


def _forward(
    inputs: Inputs,
    out: Mapping[str, np.ndarray],
    *,
    training: bool = True,
    activation: str | None = None,
    residual: bool = False,
    tracked: bool = True,
) -> Any:
    running = (inputs["running_mean"], inputs["running_var"]) if tracked else (None, None)
    return kitae.batch_norm(
        inputs["x"],
        inputs["gamma"],
        inputs["beta"],
        *running,
        training=training,
        axis=inputs["axis"],
        eps=EPS,
        running_decay=RUNNING_DECAY,
        activation=activation,
        slope=SLOPE,
        residual=inputs["residual"] if residual else None,
        nonfinite="propagate",
        out=out.get("y"),
    )


def _call_forward(inputs: Inputs, out: Mapping[str, np.ndarray], **options: Any) -> Results:
    y, saved = _forward(inputs, out, **options)
    results = {"y": y, "running_mean": inputs["running_mean"], "running_var": inputs["running_var"]}
    if options.get("training", True) and inputs["x"].size:
        results |= {"mean": saved.mean, "inv_std": saved.inv_std}
    return results


def _call_backward(inputs: Inputs, out: Mapping[str, np.ndarray], **options: Any) -> Results:
    _, saved = _forward(inputs, {}, tracked=not options.get("training", True), **options)
    gradients = kitae.batch_norm_backward(inputs["dout"], saved, out=out.get("dx"))
    return dict(zip(("dx", "dgamma", "dbeta", "dresidual"), gradients, strict=False))


def sizes_of_terms(x: np.ndarray, arithmetic: np.dtype[Any], axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Means over ``axes`` of abs(x - c) and of its square, which is what cancels in the variance.

    c is the channel's first element x0; except for float64 it may be 0 where an element lies abs(x0) / 4 from x0: there
    the larger of both.
    """
    first = x[tuple(slice(0, 1) if i in axes else slice(None) for i in range(x.ndim))]
    distance = np.abs(x - first)
    far = (distance >= np.abs(first) / 4).any(axis=axes, keepdims=True) & (arithmetic != np.float64)

    def mean(values: np.ndarray) -> np.ndarray:
        return values.mean(axis=axes, keepdims=True)

    size, square = mean(distance), mean(np.square(distance))
    of_zero = mean(np.abs(x)), mean(np.square(x))
    return np.where(far, np.maximum(size, of_zero[0]), size), np.where(far, np.maximum(square, of_zero[1]), square)


class _Equation:
    """The forward pass in wide arithmetic, with the size of each rounding error that the op is allowed."""

    def __init__(
        self, inputs: Inputs, training: bool = True, activation: str | None = None, residual: bool = False
    ) -> None:
        x = wide(inputs["x"])
        self.axes = tuple(i for i in range(x.ndim) if i != inputs["axis"] % x.ndim)
        self.along = [1] * x.ndim
        self.along[inputs["axis"]] = x.shape[inputs["axis"]]
        self.training = training
        self.count = x.size // max(1, x.shape[inputs["axis"]])
        self.gamma, self.beta = self.spread(inputs["gamma"]), self.spread(inputs["beta"])
        eps_double = np.finfo(np.float64).eps
        if training and x.size:
            self.mean = x.mean(axis=self.axes, keepdims=True)
            self.var = np.square(x - self.mean).mean(axis=self.axes, keepdims=True)
            # Sums of n rounded terms in double: their errors walk randomly, sqrt(n) steps of one rounding each.
            walk = eps_double * np.sqrt(self.count)
            size, square = sizes_of_terms(x, element_dtype(inputs["x"]), self.axes)
            self.mean_error, self.var_error = walk * size, walk * square
        else:
            self.mean, self.var = self.spread(inputs["running_mean"]), self.spread(inputs["running_var"])
            self.mean_error, self.var_error = eps_double * np.abs(self.mean), eps_double * self.var
        self.inv_std = 1 / np.sqrt(self.var + EPS)
        self.relative_error = self.var_error / (self.var + EPS) + eps_double  # of inv_std, generously
        self.normalized = (x - self.mean) * self.inv_std
        self.gain = self.gamma * self.inv_std
        self.y = self.gamma * self.normalized + self.beta
        # Half an ulp is at most this share of a value. x - center and its products round at y - beta; the shift (beta
        # and what center cuts off the mean) and the sum to it round at their size, the last sum is the tolerance's.
        self.half_ulp = float(ulp(1.0, element_dtype(inputs["x"]))) / 2
        distance = np.abs(self.gamma * self.normalized)
        shift = np.abs(self.beta) + self.half_ulp * np.abs(self.mean * self.gain)
        self.extra = np.abs(self.gain) * self.mean_error + distance * (self.relative_error + 3 * self.half_ulp)
        self.extra = self.extra + 2 * self.half_ulp * shift
        if residual:
            self.extra = self.extra + self.half_ulp * np.abs(self.y)
            self.y = self.y + wide(inputs["residual"])
        slope = {None: 1.0, "relu": 0.0, "leaky_relu": SLOPE}[activation]
        self.leaks = slope not in (0.0, 1.0)
        self.slope = np.where(self.y <= 0, slope, 1.0)  # NaN passes
        if self.leaks:
            self.extra = self.extra + 2 * self.half_ulp * np.abs(self.y)  # the slope's rounding and the sum's
        self.y = np.where(self.y <= 0, slope * self.y, self.y)

    def spread(self, values: np.ndarray) -> np.ndarray:
        return wide(values).reshape(self.along)

    def sum(self, values: np.ndarray) -> np.ndarray:
        return values.sum(axis=self.axes, keepdims=True)


def _expected_forward(inputs: Inputs, **options: Any) -> dict[str, Expected]:
    e = _Equation(inputs, **options)
    expected = {"y": Expected(e.y, extra=e.extra)}
    old_mean, old_var = wide(inputs["running_mean"]), wide(inputs["running_var"])
    if not e.training or e.count == 0:
        untouched = {"running_mean": Expected(old_mean, 0.0), "running_var": Expected(old_var, 0.0)}
        return expected | untouched
    mean, var = e.mean.reshape(-1), e.var.reshape(-1)
    correction = e.count / max(e.count - 1, 1)
    fresh = 1 - RUNNING_DECAY
    return expected | {
        "mean": Expected(mean, extra=e.mean_error.reshape(-1)),
        "inv_std": Expected(e.inv_std.reshape(-1), extra=(e.relative_error * e.inv_std).reshape(-1)),
        "running_mean": Expected(
            RUNNING_DECAY * old_mean + fresh * mean,
            np.abs(RUNNING_DECAY * old_mean) + np.abs(fresh * mean),
            e.mean_error.reshape(-1),
        ),
        "running_var": Expected(
            RUNNING_DECAY * old_var + fresh * correction * var, extra=correction * e.var_error.reshape(-1)
        ),
    }


def _expected_backward(inputs: Inputs, **options: Any) -> dict[str, Expected]:
    e = _Equation(inputs, **options)
    dout = wide(inputs["dout"]) * e.slope
    with np.errstate(invalid="ignore"):
        products = dout * e.normalized
    dbeta, dgamma = e.sum(dout), e.sum(products)
    magnitude = np.abs(dout)
    dx = dout
    if e.training:
        n = max(e.count, 1)
        dx = dx - (dbeta + e.normalized * dgamma) / n
        magnitude = magnitude + (np.abs(dbeta) + np.abs(e.normalized * dgamma)) / n
    gain = np.abs(e.gain)
    # Each term of dgamma carries the error of the mean and of inv_std, and is rounded in the op's element math.
    dgamma_terms = np.sqrt(e.sum(np.square(products)))
    dgamma_extra = e.sum(np.abs(dout)) * e.inv_std * e.mean_error + e.relative_error * e.sum(np.abs(products))
    dbeta_extra = np.finfo(np.float64).eps * np.sqrt(e.sum(np.square(dout)) * max(e.count, 1))
    if e.leaks:  # the slope is rounded once for all, each product by itself
        dbeta_extra = dbeta_extra + 2 * e.half_ulp * e.sum(np.abs(dout))
    dx_extra = gain * (magnitude * e.relative_error * 4 + (np.abs(e.normalized) + 1) * dgamma_extra / max(e.count, 1))
    expected = {
        "dx": Expected(e.gain * dx, gain * magnitude, dx_extra),
        "dgamma": Expected(dgamma.reshape(-1), (np.abs(dgamma) + dgamma_terms).reshape(-1), dgamma_extra.reshape(-1)),
        "dbeta": Expected(dbeta.reshape(-1), extra=dbeta_extra.reshape(-1)),
    }
    if options.get("residual"):
        expected["dresidual"] = Expected(dout, np.abs(wide(inputs["dout"])))
    return expected


_FORWARD_TOLERANCE = {
    "y": Tolerance(0.55, "the last rounding, a little more where it meets a power of two; the others are in `extra`"),
    "mean": Tolerance(2, "one rounding of sum / n and one of c + it; the sum's own errors are in `extra`"),
    "inv_std": Tolerance(2, "division and square root round once each, on top of the variance's error in `extra`"),
    "running_mean": Tolerance(2, "two products and a sum, half an ulp of the larger term each"),
    "running_var": Tolerance(2, "two products and a sum, half an ulp of the larger term each"),
}
_BACKWARD_TOLERANCE = {
    "dx": Tolerance(4, "xhat (2 roundings) times dgamma / n, two subtractions and the gain: half an ulp each"),
    "dgamma": Tolerance(3, "every term is rounded three times in the element math and their errors walk randomly"),
    "dbeta": Tolerance(1, "summed in double, rounded once"),
    "dresidual": Tolerance(1, "dout times 1, 0 or the slope"),
}


def _traffic(inputs: Inputs, level2: int, *, read_twice: tuple[str, ...], read_once: tuple[str, ...] = ()) -> Traffic:
    """One pass over each array, or two over those that statistics need where a block of channels outgrows the cache.

    A block is one channel where its elements lie together, else the channels of one cache line of 64 bytes.
    """
    x = inputs["x"]
    adjacent = x.strides[inputs["axis"]] == x.itemsize
    block = x.size // x.shape[inputs["axis"]] * (64 if adjacent else x.itemsize)
    passes = 1 if block * len(read_twice) <= level2 else 2
    return Traffic(passes * x.nbytes * len(read_twice) + x.nbytes * len(read_once), x.nbytes)


def _case(name: str, kind: str, *, benchmark: bool = False, **options: Any) -> Case:
    forward = kind == "forward"
    training = options.get("training", True)
    tolerance = dict(_FORWARD_TOLERANCE if forward else _BACKWARD_TOLERANCE)
    read = ("x",) if forward else ("x", "dout")
    gradient = None
    if not forward:
        of = {"x": "dx", "gamma": "dgamma", "beta": "dbeta"}
        if options.get("residual"):
            of["residual"] = "dresidual"
        gradient = Gradient(of, lambda inputs: _forward(inputs, {}, tracked=not training, **options)[0])
    statistics = read if training else ()
    traffic: Callable[[Inputs, int], Traffic] = partial(
        _traffic, read_twice=statistics, read_once=() if training else read
    )
    return Case(
        name=name,
        family="batch_norm",
        dtypes=("float32", "float64", "float16", "bfloat16"),
        test_sizes=_TEST_SIZES,
        make=_make,
        call=partial(_call_forward if forward else _call_backward, **options),
        expected=partial(_expected_forward if forward else _expected_backward, **options),
        tolerance=tolerance,
        changes=("running_mean", "running_var") if forward and training else (),
        out={"y": "x"} if forward else {"dx": "x"},
        gradient=gradient,
        bench_sizes=_BENCH_SIZES if benchmark else (),
        traffic=traffic if benchmark else None,
    )


CASES = (
    _case("batch_norm", "forward", benchmark=True),
    _case("batch_norm_relu", "forward", activation="relu", benchmark=True),
    _case("batch_norm_leaky_relu", "forward", activation="leaky_relu"),
    _case("batch_norm_residual", "forward", residual=True),
    _case("batch_norm_residual_relu", "forward", activation="relu", residual=True),
    _case("batch_norm_inference", "forward", training=False, benchmark=True),
    _case("batch_norm_inference_relu", "forward", training=False, activation="relu"),
    _case("batch_norm_backward", "backward", benchmark=True),
    _case("batch_norm_relu_backward", "backward", activation="relu", benchmark=True),
    _case("batch_norm_leaky_relu_backward", "backward", activation="leaky_relu"),
    _case("batch_norm_residual_relu_backward", "backward", activation="relu", residual=True),
    _case("batch_norm_inference_backward", "backward", training=False),
)
