"""Weight normalization: rows for both passes, of dense and convolution weights."""

from collections.abc import Mapping
from typing import Any

import numpy as np

import kitae

from .layouts import arrange
from .row import Case, Expected, Gradient, Inputs, Results, Size, Tolerance, wide

_TEST_SIZES = (
    Size("1x1", ((1, 1),)),
    Size("0x4, no inputs", ((0, 4),)),
    Size("3x0, no units", ((3, 0),)),
    Size("7x13 dense", ((7, 13),)),
    Size("33x17 fortran", ((33, 17),), layout="fortran"),
    Size("33x17 every other", ((33, 17),), layout="every_other"),
    Size("6x9 axis 0", ((6, 9),), options={"axis": 0}),
    Size("4x3x5 convolution", ((4, 3, 5),)),
    Size("5x2x3x3 convolution", ((5, 2, 3, 3),)),
    Size("5x4x3x3 channels_last", ((5, 4, 3, 3),), layout="channels_last"),
    Size("300x70 dense", ((300, 70),)),
    Size("3x40x11x11 long units", ((3, 40, 11, 11),)),
    Size("700x130 dense", ((700, 130),)),
    Size("40x6 a unit of zeros", ((40, 6),), values="zeros"),
    Size("40x6 NaN", ((40, 6),), values="nan"),
)


def _make(rng: np.random.Generator, size: Size, dtype: np.dtype) -> Inputs:
    shape = size.shape
    axis = size.options.get("axis")
    unit = (1 if len(shape) == 2 else 0) if axis is None else axis
    v = rng.standard_normal(shape, np.float32)
    if size.values == "zeros":
        v[:, 2] = 0
    if size.values == "nan":
        v[3, 1] = np.nan
    parameter_dtype = np.dtype(np.float32) if dtype.itemsize == 2 else dtype
    return {
        "v": arrange(v.astype(dtype), size.layout),
        "g": rng.uniform(0.5, 2, shape[unit]).astype(parameter_dtype),
        "dout": arrange(rng.standard_normal(shape, np.float32).astype(dtype), size.layout),
        "axis": axis,
    }


def _forward(inputs: Inputs, out: Mapping[str, np.ndarray]) -> Any:
    return kitae.weight_norm(inputs["v"], inputs["g"], axis=inputs["axis"], out=out.get("w"))


def _call_forward(inputs: Inputs, out: Mapping[str, np.ndarray]) -> Results:
    w, saved = _forward(inputs, out)
    return {"w": w, "norms": saved.norms}


def _call_backward(inputs: Inputs, out: Mapping[str, np.ndarray]) -> Results:
    _, saved = _forward(inputs, {})
    dv, dg = kitae.weight_norm_backward(inputs["dout"], saved, out=out.get("dv"))
    return {"dv": dv, "dg": dg}


class _Equation:
    def __init__(self, inputs: Inputs) -> None:
        v = wide(inputs["v"])
        unit = (1 if v.ndim == 2 else 0) if inputs["axis"] is None else inputs["axis"]
        self.axes = tuple(i for i in range(v.ndim) if i != unit)
        self.g = wide(inputs["g"]).reshape([-1 if i == unit else 1 for i in range(v.ndim)])
        self.norms = np.sqrt(self.sum(np.square(v)))
        zero = self.norms == 0
        self.inverse = np.where(zero, 0, 1 / np.where(zero, 1, self.norms))
        self.direction = v * self.inverse
        # Of a sum of n rounded terms in double, and of the few steps after it.
        self.relative_error = np.finfo(np.float64).eps * (np.sqrt(v.size // max(1, v.shape[unit])) + 4)

    def sum(self, values: np.ndarray) -> np.ndarray:
        return values.sum(axis=self.axes, keepdims=True)


def _expected_forward(inputs: Inputs) -> dict[str, Expected]:
    e = _Equation(inputs)
    w = e.g * e.direction
    norms = e.norms.reshape(-1)
    return {
        "w": Expected(w, extra=e.relative_error * np.abs(w)),
        "norms": Expected(norms, extra=e.relative_error * norms),
    }


def _expected_backward(inputs: Inputs) -> dict[str, Expected]:
    e = _Equation(inputs)
    dw = wide(inputs["dout"])
    products = dw * e.direction
    dg = e.sum(products)
    gain = e.g * e.inverse
    dv = gain * (dw - e.direction * dg)
    magnitude = np.abs(gain) * (np.abs(dw) + np.abs(e.direction) * e.sum(np.abs(products)))
    return {
        "dv": Expected(dv, extra=e.relative_error * magnitude),
        "dg": Expected(dg.reshape(-1), extra=(e.relative_error * e.sum(np.abs(products))).reshape(-1)),
    }


_ROUNDED_ONCE = Tolerance(0.55, "computed in double, rounded once, a little more by way of float32")


def _case(name: str, kind: str) -> Case:
    forward = kind == "forward"
    return Case(
        name=name,
        family="weight_norm",
        dtypes=("float32", "float64", "float16", "bfloat16"),
        test_sizes=_TEST_SIZES,
        make=_make,
        call=_call_forward if forward else _call_backward,
        expected=_expected_forward if forward else _expected_backward,
        tolerance={"w": _ROUNDED_ONCE, "norms": _ROUNDED_ONCE}
        if forward
        else {"dv": _ROUNDED_ONCE, "dg": _ROUNDED_ONCE},
        out={"w": "v"} if forward else {"dv": "v"},
        gradient=None if forward else Gradient({"v": "dv", "g": "dg"}, lambda inputs: _forward(inputs, {})[0]),
    )


CASES = (_case("weight_norm", "forward"), _case("weight_norm_backward", "backward"))
