"""Columns of windows and pooling, both directions of each; expected values by sliding views of padded x."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

import kitae

from .layouts import arrange
from .row import Case, Expected, Gradient, Inputs, Results, Size, Tolerance, wide

Pair = tuple[int, int]


def _size(label: str, shape: tuple[int, ...], kernel: Pair, **options: Any) -> Size:
    keywords = {name: options.pop(name) for name in ("layout", "values") if name in options}
    return Size(label, (shape,), options={"kernel": kernel, **options}, **keywords)


_TEST_SIZES = (
    _size("1x1x1x1 kernel 1", (1, 1, 1, 1), (1, 1)),
    _size("no samples", (0, 2, 4, 5), (3, 3), padding=(1, 1)),
    _size("no channels", (2, 0, 4, 5), (2, 2)),
    _size("2x3x4x5 kernel 3", (2, 3, 4, 5), (3, 3), stride=(1, 1), padding=(1, 1)),
    _size("1x2x5x5 kernel as large as the image", (1, 2, 5, 5), (5, 5)),
    _size("3x2x8x7 stride above the kernel", (3, 2, 8, 7), (2, 2), stride=(3, 4)),
    _size("2x2x7x6 overlap", (2, 2, 7, 6), (4, 3), stride=(1, 2), padding=(2, 1)),
    _size("2x3x9x1 height alone", (2, 3, 9, 1), (3, 1), stride=(2, 1), padding=(1, 0)),
    _size("2x3x1x33 signals", (2, 3, 1, 33), (1, 5), stride=(1, 1), padding=(0, 2)),
    _size("2x3x6x7 fortran", (2, 3, 6, 7), (3, 2), stride=(2, 1), layout="fortran"),
    _size("2x3x6x7 channels_last", (2, 3, 6, 7), (3, 2), stride=(1, 1), layout="channels_last"),
    _size("2x3x6x7 every other", (2, 3, 6, 7), (2, 2), stride=(1, 1), padding=(1, 1), layout="every_other"),
    _size("2x3x6x7 reversed", (2, 3, 6, 7), (2, 2), layout="reversed"),
    _size("33x5x12x13 threads", (33, 5, 12, 13), (3, 3), stride=(2, 2), padding=(1, 1)),
    _size("1x2x40x40 windows of 289 cells", (1, 2, 40, 40), (17, 17), stride=(5, 4), padding=(3, 8)),
    _size("3x2x5x37 rows of some vectors", (3, 2, 5, 37), (3, 3), stride=(1, 1), padding=(1, 1)),
    _size("2x2x4x9 rows shorter than the window", (2, 2, 4, 9), (5, 19), stride=(1, 1), padding=(2, 9)),
    _size("3x2x7x37 pairs", (3, 2, 7, 37), (2, 2)),
    _size("2x3x6x18 pairs channels_last", (2, 3, 6, 18), (2, 2), layout="channels_last"),
    _size("2x3x5x23 NaN pairs", (2, 3, 5, 23), (2, 2), values="nan"),
    _size("2x2x6x6 NaN", (2, 2, 6, 6), (3, 3), stride=(1, 1), padding=(1, 1), values="nan"),
)
_DILATED = (
    _size("2x3x9x8 dilation", (2, 3, 9, 8), (3, 2), stride=(2, 1), padding=(1, 3), dilation=(2, 3)),
    _size("1x1x5x5 padding alone under some cells", (1, 1, 5, 5), (2, 2), padding=(4, 4), dilation=(8, 3)),
)


def _output(shape: tuple[int, ...], kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Pair:
    extent = [
        (shape[2 + axis] + 2 * padding[axis] - dilation[axis] * (kernel[axis] - 1) - 1) // stride[axis] + 1
        for axis in range(2)
    ]
    return extent[0], extent[1]


def _make(rng: np.random.Generator, size: Size, dtype: np.dtype, *, columns: bool) -> Inputs:
    chosen = {"padding": (0, 0), "dilation": (1, 1), **size.options}
    chosen.setdefault("stride", chosen["kernel"])
    x = np.array(rng.standard_normal(size.shape, np.float32), dtype)
    if size.values == "nan":
        x.reshape(-1)[::5] = np.nan
        x.reshape(-1)[1::5] = np.inf
        x.reshape(-1)[2::5] = -np.inf
    output = _output(size.shape, **{name: chosen[name] for name in ("kernel", "stride", "padding", "dilation")})
    kh, kw = chosen["kernel"]
    samples, channels = size.shape[:2]
    if columns:
        dout = rng.standard_normal((channels * kh * kw, samples * output[0] * output[1]), np.float32).astype(dtype)
    else:
        values = rng.standard_normal((samples, channels, *output), np.float32).astype(dtype)
        dout = arrange(values, size.layout)
    return {"x": arrange(x, size.layout), "dout": dout, **chosen}


def windows(values: np.ndarray, inputs: Inputs, fill: Any) -> np.ndarray:
    """(samples, channels, oh, ow, kh, kw): a sliding view of ``values`` padded with ``fill``."""
    (ph, pw), (dh, dw), (sh, sw) = inputs["padding"], inputs["dilation"], inputs["stride"]
    kh, kw = inputs["kernel"]
    padded = np.pad(values, ((0, 0), (0, 0), (ph, ph), (pw, pw)), constant_values=fill)
    view = np.lib.stride_tricks.sliding_window_view(padded, (dh * (kh - 1) + 1, dw * (kw - 1) + 1), axis=(2, 3))
    return view[:, :, ::sh, ::sw, ::dh, ::dw]


def _as_columns(view: np.ndarray) -> np.ndarray:
    samples, channels, oh, ow, kh, kw = view.shape
    return view.transpose(1, 4, 5, 0, 2, 3).reshape(channels * kh * kw, samples * oh * ow)


def _numbers(inputs: Inputs) -> np.ndarray:
    """The number of the element under each cell of each window, x.size for padding."""
    size = inputs["x"].size
    return windows(np.arange(size).reshape(inputs["x"].shape), inputs, size)


def _added(inputs: Inputs, numbers: np.ndarray, values: np.ndarray) -> Expected:
    """dx: ``values`` added at ``numbers``; the roundings are relative to the sum of magnitudes."""
    total, magnitude = (np.zeros(inputs["x"].size + 1, values.dtype) for _ in range(2))
    np.add.at(total, numbers, values)
    np.add.at(magnitude, numbers, np.abs(values))
    shape = inputs["x"].shape
    return Expected(total[:-1].reshape(shape), scale=magnitude[:-1].reshape(shape).astype(np.float64))


def _geometry(inputs: Inputs, *, dilation: bool) -> dict[str, Any]:
    keywords = {"stride": inputs["stride"], "padding": inputs["padding"]}
    return keywords | ({"dilation": inputs["dilation"]} if dilation else {})


def _call_im2col(inputs: Inputs, out: Mapping[str, np.ndarray]) -> Results:
    keywords = _geometry(inputs, dilation=True)
    return {"columns": kitae.im2col(inputs["x"], inputs["kernel"], **keywords, out=out.get("columns"))}


def _call_col2im(inputs: Inputs, out: Mapping[str, np.ndarray]) -> Results:
    keywords = _geometry(inputs, dilation=True)
    shape = inputs["x"].shape
    return {"dx": kitae.col2im(inputs["dout"], shape, inputs["kernel"], **keywords, out=out.get("dx"))}


def _pool(inputs: Inputs, kind: str, out: np.ndarray | None = None, **options: Any) -> tuple[np.ndarray, Any]:
    keywords = _geometry(inputs, dilation=False) | options
    pool = kitae.max_pool if kind == "max" else kitae.avg_pool
    return pool(inputs["x"], inputs["kernel"], **keywords, out=out)


def _call_pool(inputs: Inputs, out: Mapping[str, np.ndarray], *, kind: str, **options: Any) -> Results:
    y, saved = _pool(inputs, kind, out.get("y"), **options)
    return {"y": y} | ({} if saved.positions is None else {"positions": saved.positions})


def _call_pool_backward(inputs: Inputs, out: Mapping[str, np.ndarray], *, kind: str, **options: Any) -> Results:
    _, saved = _pool(inputs, kind, **options)
    backward = kitae.max_pool_backward if kind == "max" else kitae.avg_pool_backward
    return {"dx": backward(inputs["dout"], saved, out=out.get("dx"))}


def _expected_im2col(inputs: Inputs) -> dict[str, Expected]:
    return {"columns": Expected(_as_columns(windows(wide(inputs["x"]), inputs, 0)))}


def _expected_col2im(inputs: Inputs) -> dict[str, Expected]:
    return {"dx": _added(inputs, _as_columns(_numbers(inputs)), wide(inputs["dout"]))}


def _largest(inputs: Inputs) -> np.ndarray:
    """The cell of each window's maximum: the last NaN, else the first of the largest elements."""
    view = windows(wide(inputs["x"]), inputs, -np.inf)
    flat = view.reshape(*view.shape[:4], view.shape[4] * view.shape[5])
    missing = np.isnan(flat)
    last = flat.shape[-1] - 1 - np.argmax(missing[..., ::-1], axis=-1)
    return np.where(missing.any(axis=-1), last, np.argmax(np.where(missing, -np.inf, flat), axis=-1))


def _expected_pool(inputs: Inputs, *, kind: str, **options: Any) -> dict[str, Expected]:
    if kind == "max":
        y = windows(wide(inputs["x"]), inputs, -np.inf).max(axis=(4, 5))
        cells = inputs["kernel"][0] * inputs["kernel"][1]
        return {
            "y": Expected(y),
            "positions": Expected(_largest(inputs).astype(np.uint8 if cells <= 256 else np.uint32)),
        }
    view = windows(wide(inputs["x"]), inputs, 0)
    count = _count(inputs, **options)
    extra = 2.0**-52 * np.abs(view).sum(axis=(4, 5)) / count
    return {"y": Expected(view.sum(axis=(4, 5)) / count, extra=extra.astype(np.float64))}


def _count(inputs: Inputs, *, count_include_pad: bool = True) -> np.ndarray:
    ones = np.full(inputs["x"].shape, 1.0)
    return windows(ones, inputs, 1.0 if count_include_pad else 0.0).sum(axis=(4, 5))


def _expected_pool_backward(inputs: Inputs, *, kind: str, **options: Any) -> dict[str, Expected]:
    numbers, dout = _numbers(inputs), wide(inputs["dout"])
    flat = numbers.reshape(*numbers.shape[:4], numbers.shape[4] * numbers.shape[5])
    if kind == "max":
        taken = np.take_along_axis(flat, _largest(inputs)[..., None], axis=-1)[..., 0]
        return {"dx": _added(inputs, taken, dout)}
    shares = np.broadcast_to((dout / _count(inputs, **options))[..., None], flat.shape)
    return {"dx": _added(inputs, flat, shares)}


_DTYPES = ("float32", "float64", "float16", "bfloat16")
_EXACT = Tolerance(0, "selected and copied, not computed")
_SUM = Tolerance(1 + 17, "a rounding for each of up to 289 / 17 overlapping windows' gradients, and one when stored")


def _case(name: str, call: Any, expected: Any, *, columns: bool, result: str, gradient: Any = None) -> Case:
    backward = result == "dx"
    average = "avg" in name
    tolerance = _SUM if backward else Tolerance(1, "rounded once, through float32 for 16 bits") if average else _EXACT
    return Case(
        name=name,
        family="convolution",
        dtypes=_DTYPES,
        test_sizes=(*_TEST_SIZES, *_DILATED) if columns else _TEST_SIZES,
        make=partial(_make, columns=columns),
        call=call,
        expected=expected,
        tolerance={result: tolerance, "positions": _EXACT},
        out={result: "x" if backward else "dout"},
        gradient=gradient,
    )


def _pool_cases(name: str, **options: Any) -> tuple[Case, Case]:
    forward, backward = (partial(f, **options) for f in (_call_pool, _call_pool_backward))
    y = partial(_expected_pool, **options)
    gradient = Gradient({"x": "dx"}, lambda inputs: _pool(inputs, **options)[0])
    return (
        _case(f"{name}", forward, y, columns=False, result="y"),
        _case(
            f"{name}_backward" if not name.endswith("inside") else "avg_pool_backward_inside",
            backward,
            partial(_expected_pool_backward, **options),
            columns=False,
            result="dx",
            gradient=gradient,
        ),
    )


CASES = (
    _case("im2col", _call_im2col, _expected_im2col, columns=True, result="columns"),
    _case(
        "col2im",
        _call_col2im,
        _expected_col2im,
        columns=True,
        result="dx",
        gradient=Gradient({"x": "dx"}, lambda inputs: _call_im2col(inputs, {})["columns"]),
    ),
    *_pool_cases("max_pool", kind="max"),
    *_pool_cases("avg_pool", kind="avg"),
    *_pool_cases("avg_pool_inside", kind="avg", count_include_pad=False),
)
