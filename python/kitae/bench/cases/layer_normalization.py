"""Layer normalization: rows for both passes, over one axis and several, in C order and in others."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

import kitae

from .layouts import arrange
from .normalization import sizes_of_terms
from .row import Case, Expected, Gradient, Inputs, Results, Size, Tolerance, Traffic, element_dtype, ulp, wide

EPS = 1e-5


def _over(*axes: int) -> dict[str, Any]:
    return {"axis": axes}


_CONTIGUOUS = (
    Size("1x1", ((1, 1),)),
    Size("5x1, one value a sample", ((5, 1),)),
    Size("0x4, empty batch", ((0, 4),)),
    Size("3x0, no elements", ((3, 0),)),
    Size("13, one sample", ((13,),)),
    Size("7x13", ((7, 13),)),
    Size("3x4x17", ((3, 4, 17),)),
    Size("3x4x17 over two axes", ((3, 4, 17),), options=_over(-1, -2)),
    Size("4x3x5x7 over the image", ((4, 3, 5, 7),), options=_over(1, 2, 3)),
    Size("700x130", ((700, 130),)),
    Size("3x9001, long rows", ((3, 9001),)),
    Size("2x70001", ((2, 70001),)),
    Size("9x4113, several long rows", ((9, 4113),)),
    Size("20011x3, short rows", ((20011, 3),)),
    Size("6x40 constant row", ((6, 40),), values="constant"),
    Size("6x40 mean 1e4", ((6, 40),), values="far"),
    Size("6x40 NaN", ((6, 40),), values="nan"),
    Size("6x40 infinity", ((6, 40),), values="infinity"),
)

_OTHERS = (
    Size("33x17 fortran", ((33, 17),), layout="fortran"),
    Size("33x17 every other", ((33, 17),), layout="every_other"),
    Size("5x6 reversed", ((5, 6),), layout="reversed"),
    Size("6x9 over axis 0", ((6, 9),), options=_over(0)),
    Size("2x3x5x7 over axis 1", ((2, 3, 5, 7),), options=_over(1)),
    Size("2x3x5x7 channels_last over axis 1", ((2, 3, 5, 7),), layout="channels_last", options=_over(1)),
    Size("2x3x4x5 over axes 1 and 3", ((2, 3, 4, 5),), options=_over(3, 1)),
)

_BENCH_SIZES = (
    Size("128x256", ((128, 256),), quick=True),
    Size("1024x1024", ((1024, 1024),)),
    Size("16x197x768, tokens of an image", ((16, 197, 768),), quick=True),
    Size("8x512x512, tokens", ((8, 512, 512),)),
)


def _make(rng: np.random.Generator, size: Size, dtype: np.dtype) -> Inputs:
    axis = size.options.get("axis", (-1,))
    shape = size.shape
    parameters = tuple(shape[a] for a in sorted(a % len(shape) for a in axis))
    parameter_dtype = np.dtype(np.float32) if dtype.itemsize == 2 else dtype

    def activations() -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    x = activations() * 1.5 + rng.uniform(-2, 2, shape[:1] + (1,) * (len(shape) - 1))
    if size.values == "far":
        x = x + 1e4
    if size.values == "constant":
        x[1] = 3.25
    if size.values == "nan":
        x[0, 0] = x[2, 3] = np.nan
    if size.values == "infinity":
        x[3, 5] = np.inf  # not the first, which the others are counted from
    return {
        "x": arrange(x.astype(dtype), size.layout),
        "gamma": rng.uniform(0.5, 1.5, parameters).astype(parameter_dtype),
        "beta": rng.uniform(-0.5, 0.5, parameters).astype(parameter_dtype),
        "dout": arrange(activations().astype(dtype), size.layout),
        "axis": axis,
    }


def _forward(inputs: Inputs, out: Mapping[str, np.ndarray]) -> Any:
    x, gamma, beta, axis = (inputs[name] for name in ("x", "gamma", "beta", "axis"))
    return kitae.layer_norm(x, gamma, beta, axis=axis, eps=EPS, nonfinite="propagate", out=out.get("y"))


def _call_forward(inputs: Inputs, out: Mapping[str, np.ndarray]) -> Results:
    y, saved = _forward(inputs, out)
    return {"y": y} | ({"mean": saved.mean, "inv_std": saved.inv_std} if inputs["x"].size else {})


def _call_backward(inputs: Inputs, out: Mapping[str, np.ndarray]) -> Results:
    _, saved = _forward(inputs, {})
    gradients = kitae.layer_norm_backward(inputs["dout"], saved, out=out.get("dx"))
    return dict(zip(("dx", "dgamma", "dbeta"), gradients, strict=True))


class _Equation:
    """The forward pass in wide arithmetic, with the size of each rounding error that the op is allowed."""

    def __init__(self, inputs: Inputs) -> None:
        x = wide(inputs["x"])
        self.axes = tuple(a % x.ndim for a in inputs["axis"])
        self.others = tuple(i for i in range(x.ndim) if i not in self.axes)
        along = [n if i in self.axes else 1 for i, n in enumerate(x.shape)]
        self.gamma, self.beta = (wide(inputs[name]).reshape(along) for name in ("gamma", "beta"))
        self.count = int(np.prod([x.shape[a] for a in self.axes]))
        self.mean = self.average(x) if x.size else np.zeros(())
        self.var = self.average(np.square(x - self.mean)) if x.size else np.zeros(())
        # As of batch norm: sums of n rounded terms in double.
        eps_double = np.finfo(np.float64).eps
        walk = eps_double * np.sqrt(self.count)
        self.mean_error = self.var_error = np.zeros(())
        if x.size:
            size, square = sizes_of_terms(x, element_dtype(inputs["x"]), self.axes)
            self.mean_error, self.var_error = walk * size, walk * square
        self.inv_std = 1 / np.sqrt(self.var + EPS)
        self.relative_error = self.var_error / (self.var + EPS) + eps_double
        self.normalized = (x - self.mean) * self.inv_std
        self.y = self.gamma * self.normalized + self.beta
        self.half_ulp = float(ulp(1.0, element_dtype(inputs["x"]))) / 2
        # Of xhat: x - center, the product, the sum and what center cuts off the mean; then the product with gamma.
        cut_off = self.half_ulp * np.abs(self.mean * self.inv_std)
        self.xhat_error = self.inv_std * self.mean_error + np.abs(self.normalized) * self.relative_error
        self.xhat_error = self.xhat_error + self.half_ulp * (3 * np.abs(self.normalized) + 2 * cut_off)
        self.extra = np.abs(self.gamma) * (self.xhat_error + self.half_ulp * np.abs(self.normalized))

    def average(self, values: np.ndarray) -> np.ndarray:
        return values.mean(axis=self.axes, keepdims=True)

    def over_samples(self, values: np.ndarray) -> np.ndarray:
        return values.sum(axis=self.others)


def _expected_forward(inputs: Inputs) -> dict[str, Expected]:
    e = _Equation(inputs)
    expected = {"y": Expected(e.y, extra=e.extra)}
    if not inputs["x"].size:
        return expected

    def squeezed(values: np.ndarray) -> np.ndarray:
        return values.squeeze(e.axes)

    inv_std_error = squeezed(e.relative_error * e.inv_std)
    return expected | {
        "mean": Expected(squeezed(e.mean), extra=squeezed(e.mean_error)),
        "inv_std": Expected(squeezed(e.inv_std), extra=inv_std_error),
    }


def _expected_backward(inputs: Inputs) -> dict[str, Expected]:
    e = _Equation(inputs)
    dout = wide(inputs["dout"])
    with np.errstate(invalid="ignore"):
        products = dout * e.normalized
        g = dout * e.gamma
        along = g * e.normalized
    n = max(e.count, 1)
    total, projected = (values.sum(axis=e.axes, keepdims=True) for values in (g, along))
    magnitude = np.abs(g) + (np.abs(total) + np.abs(e.normalized * projected)) / n
    # Before they are summed, g is rounded once and xhat three times; the errors walk randomly, to twice the square root
    # of their number at most. The mean's error shifts every product.
    g_walk = e.half_ulp * np.sqrt(np.square(g).sum(axis=e.axes, keepdims=True)) / n
    along_walk = e.half_ulp * np.sqrt(np.square(along).sum(axis=e.axes, keepdims=True)) / n
    shifted = e.inv_std * e.mean_error * np.abs(g).mean(axis=e.axes, keepdims=True) if e.count else 0.0
    dx_extra = e.inv_std * (
        4 * magnitude * e.relative_error + 2 * g_walk + np.abs(e.normalized) * (4 * along_walk + shifted)
    )
    dbeta, dgamma = e.over_samples(dout), e.over_samples(products)
    rows = max(1, dout.size // n)
    dbeta_extra = np.finfo(np.float64).eps * np.sqrt(e.over_samples(np.square(dout)) * rows)
    return {
        "dx": Expected(e.inv_std * (g - (total + e.normalized * projected) / n), e.inv_std * magnitude, dx_extra),
        "dgamma": Expected(
            dgamma,
            np.abs(dgamma) + np.sqrt(e.over_samples(np.square(products))),
            e.over_samples(np.abs(dout) * (e.xhat_error - 3 * e.half_ulp * np.abs(e.normalized))),
        ),
        "dbeta": Expected(dbeta, extra=dbeta_extra),
    }


_FORWARD_TOLERANCE = {
    "y": Tolerance(0.55, "the last rounding, a little more where it meets a power of two; the others are in `extra`"),
    "mean": Tolerance(2, "one rounding of sum / n and one of c + it; the sum's own errors are in `extra`"),
    "inv_std": Tolerance(2, "division and square root round once each, on top of the variance's error in `extra`"),
}
_BACKWARD_TOLERANCE = {
    "dx": Tolerance(4.5, "g, xhat (2 roundings) times a mean, two subtractions and the gain: half an ulp each"),
    "dgamma": Tolerance(3, "every term is rounded three times in the element math and their errors walk randomly"),
    "dbeta": Tolerance(1, "summed in double, rounded once"),
}


def _traffic(inputs: Inputs, level2: int, *, reads: tuple[int, int]) -> Traffic:
    """Forward reads x once (a row fits the cache); backward needs sums of rows and of columns before dx and dgamma: x
    and dout once where they fit the cache, else twice."""
    x = inputs["x"]
    arrays, passes = reads
    return Traffic(arrays * x.nbytes * (1 if arrays * x.nbytes <= level2 else passes), x.nbytes)


def _case(name: str, kind: str, sizes: tuple[Size, ...], *, benchmark: bool = False) -> Case:
    forward, contiguous = kind == "forward", sizes is _CONTIGUOUS
    of = {"x": "dx", "gamma": "dgamma", "beta": "dbeta"}
    return Case(
        name=name,
        family="layer_norm",
        dtypes=("float32", "float64", "float16", "bfloat16"),
        test_sizes=sizes,
        make=_make,
        call=_call_forward if forward else _call_backward,
        expected=_expected_forward if forward else _expected_backward,
        tolerance=_FORWARD_TOLERANCE if forward else _BACKWARD_TOLERANCE,
        out=({"y": "x"} if forward else {"dx": "x"}) if contiguous else {},
        gradient=None if forward else Gradient(of, lambda inputs: _forward(inputs, {})[0]),
        bench_sizes=_BENCH_SIZES if benchmark else (),
        traffic=partial(_traffic, reads=(1, 1) if forward else (2, 2)) if benchmark else None,
    )


CASES = (
    _case("layer_norm", "forward", _CONTIGUOUS, benchmark=True),
    _case("layer_norm_other_layouts", "forward", _OTHERS),
    _case("layer_norm_backward", "backward", _CONTIGUOUS, benchmark=True),
    _case("layer_norm_other_layouts_backward", "backward", _OTHERS),
)
