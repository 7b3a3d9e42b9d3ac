"""Dropout: rows for both scalings, both ways to keep the mask, and the backward pass."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

import kitae

from .layouts import arrange
from .row import Case, Expected, Gradient, Inputs, Results, Size, Tolerance, Traffic, wide

_TEST_SIZES = (
    Size("empty", ((0,),)),
    Size("scalar", ((),)),
    Size("1", ((1,),)),
    Size("7", ((7,),), options={"drop": 0.3}),
    Size("8", ((8,),), options={"drop": 0.25}),
    Size("65", ((65,),), options={"drop": 0.9}),
    Size("1x0x2", ((1, 0, 2),)),
    Size("1009", ((1009,),), options={"drop": 0.1, "seed": 2**64 - 1, "offset": 2**63 - 1}),
    Size("3x5x7 fortran", ((3, 5, 7),), layout="fortran"),
    Size("2x3x5x7 channels_last", ((2, 3, 5, 7),), layout="channels_last"),
    Size("9x31 every other", ((9, 31),), layout="every_other"),
    Size("9x31 reversed", ((9, 31),), layout="reversed"),
    Size("100003", ((100_003,),), options={"drop": 0.2}),
    Size("400x401", ((400, 401),), options={"drop": 1 / 3, "seed": 2**40 + 5, "offset": 2**33 + 1}),
    Size("503 rate below 2^-16", ((503,),), options={"drop": 1e-6}),
    Size("70001 tie broken by the second draw", ((70_001,),), options={"drop": 0.5 + 2.0**-18}),
    Size("101 drop 0", ((101,),), options={"drop": 0.0}),
    Size("101 drop 1", ((101,),), values="nan", options={"drop": 1.0}),
    Size("101 NaN", ((101,),), values="nan"),
)

_BENCH_SIZES = (
    Size("10k", ((10_000,),), quick=True),
    Size("1M", ((1_000_000,),), quick=True),
    Size("32M", ((32_000_000,),)),
)


def philox4x32(counter: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """Ten rounds of Philox4x32 on rows of four 32-bit counter words (Salmon et al. 2011), in 64-bit arithmetic."""
    word = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    c0, c1, c2, c3 = (counter[:, i].astype(np.uint64) for i in range(4))
    k0, k1 = key
    for _ in range(10):
        product0, product2 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (
            (product2 >> half) ^ c1 ^ np.uint64(k0),
            product2 & word,
            (product0 >> half) ^ c3 ^ np.uint64(k1),
            product0 & word,
        )
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1)


def _half_words(count: int, seed: int, offset: int) -> np.ndarray:
    """One 16-bit draw an element: eight from a block of four words, low half first."""
    block = np.arange(-(-count // 8), dtype=np.uint64)
    counter = np.empty((block.size, 4), np.uint64)
    counter[:, 0], counter[:, 1] = block & np.uint64(0xFFFFFFFF), block >> np.uint64(32)
    counter[:, 2], counter[:, 3] = offset & 0xFFFFFFFF, offset >> 32
    words = philox4x32(counter, (seed & 0xFFFFFFFF, seed >> 32))
    return np.stack([words & np.uint64(0xFFFF), words >> np.uint64(16)], axis=2).reshape(-1)[:count]


def kept(shape: tuple[int, ...], drop: float, seed: int, offset: int) -> np.ndarray:
    """The mask by its definition: element i in C order is kept where its draw is above the 32-bit threshold."""
    count = int(np.prod(shape, dtype=np.int64))
    if drop in (0.0, 1.0):
        return np.full(shape, drop == 0.0)
    threshold = int(drop * 2**32)
    high, low = threshold >> 16, threshold & 0xFFFF
    first, second = _half_words(count, seed, offset), _half_words(count, seed, offset + 2**63)
    return np.where(first == high, second >= low, first > high).reshape(shape)


def _make(rng: np.random.Generator, size: Size, dtype: np.dtype) -> Inputs:
    x = np.array(rng.standard_normal(size.shape, np.float32), dtype)
    if size.values == "nan":
        x.reshape(-1)[::3] = np.nan
        x.reshape(-1)[1::3] = np.inf
    dout = np.array(rng.standard_normal(size.shape, np.float32), dtype)
    choices = {"drop": 0.5, "seed": 7, "offset": 0} | dict(size.options)
    return {"x": arrange(x, size.layout), "dout": arrange(dout, size.layout), **choices}


def _forward(inputs: Inputs, out: Mapping[str, np.ndarray], **options: Any) -> Any:
    chosen = {name: inputs[name] for name in ("drop", "seed", "offset")}
    return kitae.dropout(inputs["x"], **chosen, **options, out=out.get("y"))


def _call_forward(inputs: Inputs, out: Mapping[str, np.ndarray], **options: Any) -> Results:
    y, mask = _forward(inputs, out, **options)
    if options.get("store") == "replay":
        return {"y": y}
    return {"y": y, "bits": mask.bits, "kept": mask.unpack()}


def _call_backward(inputs: Inputs, out: Mapping[str, np.ndarray], **options: Any) -> Results:
    _, mask = _forward(inputs, {}, **options)
    return {"dx": kitae.dropout_backward(inputs["dout"], mask, out=out.get("dx"))}


def _call_mask(inputs: Inputs, out: Mapping[str, np.ndarray]) -> Results:
    chosen = {name: inputs[name] for name in ("drop", "seed", "offset")}
    mask: Any = kitae.dropout_mask(inputs["x"].shape, **chosen)
    return {"bits": mask.bits, "kept": mask.unpack()}


def _expected_mask(inputs: Inputs) -> dict[str, Expected]:
    keep = kept(inputs["x"].shape, inputs["drop"], inputs["seed"], inputs["offset"])
    padded = np.zeros(-(-keep.size // 64) * 64, bool)  # whole groups of 8 bytes
    padded[: keep.size] = keep.reshape(-1)
    return {"bits": Expected(np.packbits(padded, bitorder="little")), "kept": Expected(keep)}


def _scaled(inputs: Inputs, name: str, scale: str) -> Expected:
    keep = kept(inputs["x"].shape, inputs["drop"], inputs["seed"], inputs["offset"])
    gain = 1 / (1 - inputs["drop"]) if scale == "inverted" and inputs["drop"] < 1 else 1.0
    return Expected(np.where(keep, wide(inputs[name]) * gain, 0.0))


def _expected_forward(inputs: Inputs, *, scale: str = "inverted", store: str = "bits") -> dict[str, Expected]:
    expected = {"y": _scaled(inputs, "x", scale)}
    return expected if store == "replay" else expected | _expected_mask(inputs)


def _expected_backward(inputs: Inputs, *, scale: str = "inverted", store: str = "bits") -> dict[str, Expected]:
    return {"dx": _scaled(inputs, "dout", scale)}


_SCALED = Tolerance(2, "1 / (1 - drop) is rounded once and the product once")
_EXACT = Tolerance(0, "bits, and values multiplied by 1")


def _traffic(inputs: Inputs, level2: int, *, backward: bool) -> Traffic:
    x, mask = inputs["x"].nbytes, -(-inputs["x"].size // 8)
    return Traffic(x + mask, x) if backward else Traffic(x, x + mask)


def _case(name: str, kind: str, *, benchmark: bool = False, **options: Any) -> Case:
    backward = kind == "backward"
    gradient = Gradient({"x": "dx"}, lambda inputs: _forward(inputs, {}, **options)[0]) if backward else None
    scaled = _EXACT if options.get("scale") == "classic" else _SCALED
    return Case(
        name=name,
        family="dropout",
        dtypes=("float32", "float64", "float16", "bfloat16"),
        test_sizes=_TEST_SIZES,
        make=_make,
        call=partial(_call_backward if backward else _call_forward, **options),
        expected=partial(_expected_backward if backward else _expected_forward, **options),
        tolerance={"y": scaled, "dx": scaled, "bits": _EXACT, "kept": _EXACT},
        out={"dx": "x"} if backward else {"y": "x"},
        gradient=gradient,
        bench_sizes=_BENCH_SIZES if benchmark else (),
        traffic=partial(_traffic, backward=backward) if benchmark else None,
    )


CASES = (
    _case("dropout", "forward", benchmark=True),
    _case("dropout_classic", "forward", scale="classic"),
    _case("dropout_replay", "forward", store="replay"),
    _case("dropout_backward", "backward", benchmark=True),
    _case("dropout_classic_backward", "backward", scale="classic"),
    _case("dropout_replay_backward", "backward", store="replay"),
    Case(
        name="dropout_mask",
        family="dropout",
        dtypes=("float32",),
        test_sizes=_TEST_SIZES,
        make=_make,
        call=_call_mask,
        expected=_expected_mask,
        tolerance={"bits": _EXACT, "kept": _EXACT},
    ),
)
