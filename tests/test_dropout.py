"""Dropout against its definition: a Philox in Python integers, pinned by Random123's published vectors."""

import itertools
import re
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import kitae
from kitae import _checks, _cpu, _dispatch, _isa, reference
from kitae.reference.dropout import philox as reference_philox

BACKENDS = ("reference", "cpu")
DTYPES = (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)
WORD = 2**32 - 1
CANARY = 77.0

# (counter, key, output), from Random123 1.14's kat_vectors
KNOWN_ANSWERS = (
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((WORD,) * 4, (WORD,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
)


@pytest.fixture(autouse=True, params=BACKENDS)
def backend_name(request: pytest.FixtureRequest) -> str:
    """Every test of this file runs on every backend."""
    kitae.use_backend(request.param)
    return str(request.param)


def philox(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    """Philox4x32-10 as the paper prints it, in Python's integers."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = p1 >> 32 ^ c1 ^ k0, p1 & WORD, p0 >> 32 ^ c3 ^ k1, p0 & WORD
        k0, k1 = k0 + 0x9E3779B9 & WORD, k1 + 0xBB67AE85 & WORD
    return c0, c1, c2, c3


def half_word(i: int, seed: int, offset: int) -> int:
    """Element i's 16-bit number."""
    block = i // 8
    words = philox((block & WORD, block >> 32, offset & WORD, offset >> 32), (seed & WORD, seed >> 32))
    return words[i % 8 // 2] >> 16 * (i % 2) & 0xFFFF


def is_kept(i: int, drop: float, seed: int, offset: int) -> bool:
    if drop in (0.0, 1.0):
        return drop == 0.0
    threshold = int(drop * 2**32)
    first = half_word(i, seed, offset)
    if first != threshold >> 16:
        return first > threshold >> 16
    return half_word(i, seed, offset + 2**63) >= threshold & 0xFFFF


def kept(size: int, drop: float, seed: int, offset: int = 0) -> np.ndarray:
    return np.array([is_kept(i, drop, seed, offset) for i in range(size)], bool)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return (a.dtype, a.shape) == (b.dtype, b.shape) and a.tobytes() == b.tobytes()


# The mask


@pytest.mark.parametrize(("counter", "key", "output"), KNOWN_ANSWERS)
def test_known_answers(counter: tuple[int, ...], key: tuple[int, ...], output: tuple[int, ...]) -> None:
    assert philox(counter, key) == output
    low, high = np.array([counter[0] | counter[1] << 32], np.uint64), counter[2] | counter[3] << 32
    assert tuple(reference_philox(low, high, key[0] | key[1] << 32)[0].tolist()) == output


@pytest.mark.parametrize("drop", [0.0, 2.0**-33, 1e-6, 0.25, 0.3, 0.5, 0.9, 1 - 2.0**-33, 1.0])
@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 63, 64, 65, 127, 511, 513, 1100])
def test_mask_by_its_definition(size: int, drop: float) -> None:
    for seed, offset in ((0, 0), (7, 3), (2**64 - 1, 2**63 - 1), (2**32 + 5, 2**32 + 9)):
        expected = kept(size, drop, seed, offset)
        mask = kitae.dropout_mask(size, drop, seed=seed, offset=offset)
        assert np.array_equal(mask.unpack(), expected)
        bits = np.zeros(-(-size // 64) * 8, np.uint8)
        packed = np.packbits(expected, bitorder="little")
        bits[: packed.size] = packed
        assert same_bits(mask.bits, bits), "bit i & 7 of byte i >> 3, zeros up to a multiple of 8 bytes"


@pytest.mark.parametrize("element", [0, 1, 6, 7, 8, 31, 62, 63, 64, 100, 129])
def test_a_tie_is_settled_by_the_second_draw(element: int) -> None:
    seed, offset, size = 11, 2**40 + 1, 130
    upper, lower = half_word(element, seed, offset), half_word(element, seed, offset + 2**63)
    assert 0 < lower < 0xFFFF, "else choose another seed"
    for below, expected in ((lower, True), (lower + 1, False)):
        drop = (upper << 16 | below) / 2**32
        mask = kitae.dropout_mask(size, drop, seed=seed, offset=offset).unpack()
        assert mask[element] == expected
        assert np.array_equal(mask, kept(size, drop, seed, offset))


def test_masks_at_places_far_apart_follow_the_definition() -> None:
    # Across the units that threads claim; the first elements, the last, and those around multiples of 2^14.
    size, drop, seed = 100_003, 1 / 3, 2**63 + 12345
    mask = kitae.dropout_mask((size,), drop, seed=seed, offset=5).unpack()
    places = {i + d for i in range(0, size, 2**14) for d in (-65, -1, 0, 1, 64)} | set(range(size - 70, size))
    for i in places:
        if 0 <= i < size:
            assert mask[i] == is_kept(i, drop, seed, 5), i


@pytest.mark.parametrize("drop", [1e-4, 0.1, 1 / 3, 0.5, 0.9, 1 - 1e-4])
def test_keep_rate(backend_name: str, drop: float) -> None:
    size = 10**7 if backend_name == "cpu" else 10**6
    assert_keep_rate(size, drop)


@pytest.mark.slow
def test_keep_rate_of_many_draws(backend_name: str) -> None:
    if backend_name == "cpu":
        assert_keep_rate(10**8, 0.5)
        assert_keep_rate(10**8, 0.1)


def assert_keep_rate(size: int, drop: float) -> None:
    mask = kitae.dropout_mask(size, drop, seed=2026)
    found = int(np.bitwise_count(mask.bits).sum())
    assert abs(found - size * (1 - drop)) < 5 * np.sqrt(size * drop * (1 - drop)), "more than 5 sigma off"


def test_masks_of_other_seeds_and_offsets_are_independent() -> None:
    size, drop = 100_000, 0.5
    choices = [(0, 0), (0, 1), (0, 2**32), (0, 2**62), (1, 0), (2**32, 0), (2**63, 0), (1, 1)]
    masks = [kitae.dropout_mask(size, drop, seed=seed, offset=offset).unpack() for seed, offset in choices]
    for a, b in itertools.combinations(masks, 2):
        assert abs(int((a == b).sum()) - size / 2) < 5 * np.sqrt(size) / 2


def test_any_number_of_threads_draws_one_mask(thread_count: int, rng: np.random.Generator) -> None:
    x = rng.standard_normal(200_007).astype(np.float32)
    y, mask = kitae.dropout(x, 0.3, seed=5, offset=1)
    with kitae.use_backend("reference"):
        y_reference, mask_reference = kitae.dropout(x, 0.3, seed=5, offset=1)
    assert same_bits(y, y_reference)
    assert same_bits(mask.bits, mask_reference.bits)
    assert same_bits(kitae.dropout_mask(x.shape, 0.3, seed=5, offset=1).bits, mask.bits)
    assert same_bits(kitae.dropout_backward(x, mask), y)


@pytest.mark.timing  # starts processes, one for each instruction set of a whole build
@pytest.mark.parametrize("variant", _isa.supported())
def test_every_instruction_set_gives_the_same_bits(variant: str, run_python: Any, backend_name: str) -> None:
    script = """
import hashlib, numpy as np, ml_dtypes, kitae
digest = hashlib.sha256()
for dtype in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16):
    for size in (5, 64, 1000, 50_021):
        x = (np.arange(size) - size / 3).astype(np.float32).astype(dtype)
        for drop in (0.3, 0.5 + 2.0**-18, 0.0, 1.0):
            y, mask = kitae.dropout(x, drop, seed=3, offset=size)
            digest.update(y.tobytes() + mask.bits.tobytes() + kitae.dropout_backward(y, mask).tobytes())
print(kitae._cpu.variant, digest.hexdigest())
"""
    first = _isa.supported()[0]
    expected = run_python(script, KITAE_CPU_ISA=first).split()[1]
    ran, digest = run_python(script, KITAE_CPU_ISA=variant).split()
    assert ran == variant
    assert digest == expected
    with_reference = script.replace("digest = hash", "kitae.use_backend('reference'); digest = hash", 1)
    assert run_python(with_reference).split()[1] == expected


# Values


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", ["inverted", "classic"])
@pytest.mark.parametrize("drop", [0.1, 0.5, 0.7])
def test_values(dtype: Any, scale: str, drop: float, rng: np.random.Generator) -> None:
    x = (rng.standard_normal(2311) * 100).astype(dtype)
    compute = np.float64 if dtype is np.float64 else np.float32
    factor = compute(1 / (1 - drop) if scale == "inverted" else 1)
    expected = np.where(kept(x.size, drop, 9, 4), x.astype(compute) * factor, compute(0)).astype(dtype)
    for store in ("bits", "replay"):
        y, mask = kitae.dropout(x, drop, seed=9, offset=4, scale=scale, store=store)
        assert same_bits(y, expected)
        assert (mask.bits is None) == (store == "replay")
        assert np.array_equal(mask.unpack(), kept(x.size, drop, 9, 4))
        # The gradient is the same map.
        assert same_bits(kitae.dropout_backward(x, mask), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dropped_elements_are_positive_zero_whatever_they_were(dtype: Any) -> None:
    x = np.resize(np.array([np.nan, np.inf, -np.inf, -0.0, -1.0], dtype), 1001)
    for drop in (0.5, 1.0):
        y, mask = kitae.dropout(x, drop, seed=1)
        dropped = ~mask.unpack()
        assert dropped.sum() > 300
        assert not y[dropped].view(f"u{x.itemsize}").any(), "all bits of +0 are 0"
        assert np.array_equal(np.isnan(y), np.isnan(x) & ~dropped)
        assert np.array_equal(y[~dropped & ~np.isnan(x)], x[~dropped & ~np.isnan(x)] * dtype(2))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", ["inverted", "classic"])
def test_rates_0_and_1(dtype: Any, scale: str) -> None:
    x = np.resize(np.array([np.inf, -np.inf, np.nan, -0.0, 3.0, 1e-7], dtype), 133)
    y, mask = kitae.dropout(x, 0.0, seed=1, scale=scale)
    assert y is not x
    finite = ~np.isnan(x)
    assert same_bits(y[finite], x[finite])
    assert np.isnan(y[~finite]).all()
    assert mask.unpack().all()
    y, mask = kitae.dropout(x, 1.0, seed=1, scale=scale)
    assert same_bits(y, np.zeros_like(x))
    assert not mask.bits.any()
    assert same_bits(kitae.dropout_backward(x, mask), np.zeros_like(x))


def test_gradient_by_finite_differences(rng: np.random.Generator) -> None:
    x, weights = rng.standard_normal((2, 6, 7))
    _, mask = kitae.dropout(x, 0.4, seed=2)
    dx = kitae.dropout_backward(weights, mask)
    step = 1e-3
    for at in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[at] += step
        down[at] -= step
        loss = [float((kitae.dropout(v, 0.4, seed=2)[0] * weights).sum()) for v in (up, down)]
        # The loss is linear in x: what remains is rounding, a few eps |loss| / step.
        assert abs((loss[0] - loss[1]) / (2 * step) - dx[at]) < 1e-10


# Memory


def layouts(x: np.ndarray) -> dict[str, np.ndarray]:
    """The values of ``x`` (3 axes) in memory of other orders."""
    wide = np.zeros((x.shape[0], x.shape[1], 2 * x.shape[2]), x.dtype)
    wide[..., ::2] = x
    shifted = np.zeros(x.size + 1, x.dtype)[1:].reshape(x.shape)  # not aligned to 16 bytes
    shifted[...] = x
    return {
        "contiguous": x.copy(),
        "fortran": np.asfortranarray(x),
        "axes swapped": np.ascontiguousarray(x.transpose(1, 2, 0)).transpose(2, 0, 1),
        "every other": wide[..., ::2],
        "reversed": np.ascontiguousarray(x[::-1, :, ::-1])[::-1, :, ::-1],
        "shifted": shifted,
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["contiguous", "fortran", "axes swapped", "every other", "reversed", "shifted"])
def test_layouts(layout: str, dtype: Any, rng: np.random.Generator) -> None:
    plain = rng.standard_normal((5, 13, 37)).astype(dtype)
    x = layouts(plain)[layout]
    x.setflags(write=False)
    expected, _ = kitae.dropout(plain, 0.3, seed=8)
    y, mask = kitae.dropout(x, 0.3, seed=8)
    assert y.strides == np.empty_like(x).strides, "y has the memory order of x"
    assert same_bits(np.ascontiguousarray(y), expected)
    assert same_bits(np.ascontiguousarray(kitae.dropout_backward(x, mask)), expected)
    for target_layout, target in layouts(np.full_like(plain, CANARY)).items():
        result, _ = kitae.dropout(x, 0.3, seed=8, out=target)
        assert result is target
        assert same_bits(np.ascontiguousarray(target), expected), target_layout
        if target_layout == "every other":
            assert not target.base[..., 1::2].any(), "the gaps are untouched"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["contiguous", "fortran", "every other", "reversed"])
def test_in_place(layout: str, dtype: Any, rng: np.random.Generator) -> None:
    plain = rng.standard_normal((5, 13, 37)).astype(dtype)
    expected, _ = kitae.dropout(plain, 0.3, seed=8)
    x = layouts(plain)[layout]
    y, mask = kitae.dropout(x, 0.3, seed=8, out=x)
    assert y is x
    assert same_bits(np.ascontiguousarray(x), expected)
    x = layouts(plain)[layout]
    assert kitae.dropout_backward(x, mask, out=x) is x
    assert same_bits(np.ascontiguousarray(x), expected)


# 16 MB and more go past the caches if there is more than one thread.
@pytest.mark.parametrize(("size", "dtype"), [(4_200_037, np.float32), (2_100_003, np.float64)])
def test_large_outputs_have_the_bits_of_those_in_place(size: int, dtype: Any, rng: np.random.Generator) -> None:
    kitae.set_num_threads(2)
    x = rng.standard_normal(size).astype(dtype)
    for offset in (0, 5):
        room = np.full(size + 64, 7.5, dtype)
        out = room[32 + offset :][:size]
        y, mask = kitae.dropout(x, 0.3, seed=9, out=out)
        in_place = x.copy()
        _, same = kitae.dropout(in_place, 0.3, seed=9, out=in_place)
        assert y is out
        assert same_bits(y, in_place)
        assert np.array_equal(mask.bits, same.bits)
        kitae.dropout_backward(x, mask, out=out)
        in_place = x.copy()
        assert same_bits(out, kitae.dropout_backward(in_place, mask, out=in_place))
        assert np.all(room[: 32 + offset] == 7.5)
        assert np.all(room[32 + offset + size :] == 7.5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 7, 63, 64, 65, 1023, 1025, 40_000])
def test_nothing_is_written_around_the_results(size: int, dtype: Any) -> None:
    around = 64
    memory = np.full(size + 2 * around, CANARY, dtype)
    out = memory[around:-around]
    x = np.ones(size, dtype)
    y, mask = kitae.dropout(x, 0.5, seed=3, out=out)
    kitae.dropout_backward(x, mask, out=out)
    assert (memory[:around] == CANARY).all()
    assert (memory[-around:] == CANARY).all()
    assert (y != CANARY).all()
    backend = _dispatch.backend_for(x, "test", "x")
    bits = np.full(mask.bits.size + 2 * around, 0xA5, np.uint8)
    backend.dropout_mask(bits[around:-around], size, 2**31, 3, 0)
    assert same_bits(bits[around:-around], mask.bits)
    bits[around:-around] = 0xA5
    backend.dropout_forward(x, out, bits[around:-around], 2**31, 2.0, 3, 0)
    assert same_bits(bits[around:-around], mask.bits)
    assert (bits[:around] == 0xA5).all()
    assert (bits[-around:] == 0xA5).all()


@pytest.mark.parametrize("shape", [(0,), (3, 0, 2), (0, 5)])
def test_empty(shape: tuple[int, ...]) -> None:
    x = np.empty(shape, np.float32)
    y, mask = kitae.dropout(x, 0.5, seed=1)
    assert y.shape == mask.unpack().shape == kitae.dropout_backward(x, mask).shape == shape
    assert mask.bits.size == 0


def test_scalar_arrays_and_broadcast_views() -> None:
    y, mask = kitae.dropout(np.array(3.0), 0.0, seed=1)
    assert (y.shape, float(y), mask.shape) == ((), 3.0, ())
    x = np.broadcast_to(np.float32(2), (40, 50))
    y, _ = kitae.dropout(x, 0.5, seed=4)
    assert same_bits(y, np.where(kept(2000, 0.5, 4), np.float32(4), np.float32(0)).reshape(40, 50))


def test_memory_maps_are_arrays(tmp_path: Any) -> None:
    x = np.memmap(tmp_path / "x", np.float32, "w+", shape=(100,))
    x[...] = 1
    y, mask = kitae.dropout(x, 0.5, seed=4)
    assert type(y) is np.ndarray
    assert same_bits(y, 2 * kept(100, 0.5, 4).astype(np.float32))
    assert kitae.dropout_backward(x, mask, out=x) is x


def test_mask_is_read_only_and_says_what_it_is() -> None:
    _, mask = kitae.dropout(np.ones((3, 4)), 0.5, seed=2, offset=9, scale="classic")
    assert (mask.shape, mask.drop, mask.scale, mask.seed, mask.offset) == ((3, 4), 0.5, "classic", 2, 9)
    assert mask.bits.dtype == np.uint8
    with pytest.raises(ValueError, match="read-only"):
        mask.bits[0] = 1
    assert "seed=2" in repr(mask)


# Bad input: exception, the words it has, and the call


def _unaligned() -> np.ndarray:
    return np.zeros(41, np.uint8)[1:].view(np.float32)


GOOD = np.ones(10, np.float32)
BAD_ARRAYS: dict[str, tuple[Any, type[Exception], str]] = {
    "list": ([1.0, 2.0], TypeError, "numpy.asarray"),
    "number": (1.0, TypeError, "numpy.asarray"),
    "None": (None, TypeError, "numpy.ndarray"),
    "text": ("x", TypeError, "got 'x'"),
    "int": (np.ones(10, np.int64), TypeError, "float32, float64, float16 or bfloat16, got int64"),
    "bool": (np.ones(10, bool), TypeError, "got bool"),
    "complex": (np.ones(10, complex), TypeError, "got complex128"),
    "object": (np.ones(10, object), TypeError, "got object"),
    "big-endian": (np.ones(10, ">f4"), TypeError, "native byte order"),
    "unaligned": (_unaligned(), ValueError, "aligned"),
    "matrix": (np.ones((2, 5)).view(np.matrix), TypeError, "subclass"),
    "masked": (np.ma.ones(10), TypeError, "filled"),
}


@pytest.mark.parametrize("kind", BAD_ARRAYS)
def test_refused_arrays(kind: str) -> None:
    bad, error, words = BAD_ARRAYS[kind]
    _, mask = kitae.dropout(GOOD, 0.5, seed=1)
    layer = kitae.Dropout(0.5, seed=1)
    with pytest.raises(error, match=f"^kitae.dropout: x: expected .*{re.escape(words)}"):
        kitae.dropout(bad, 0.5, seed=1)
    with pytest.raises(error, match=f"^kitae.dropout_backward: dout: expected .*{re.escape(words)}"):
        kitae.dropout_backward(bad, kitae.Mask(getattr(bad, "shape", ()), 0.5, "inverted", 1, 0, None))
    with pytest.raises(error, match=r"^kitae.Dropout.forward: x: expected "):
        layer.forward(bad)
    for training, scale, rng in itertools.product((True, False), ("inverted", "classic"), ("philox", "numpy")):
        with pytest.raises(error, match=r"^kitae.Dropout.forward: x: expected "):
            kitae.Dropout(0.5, seed=1, scale=scale, rng=rng).forward(bad, training=training)
    assert layer.buffers["offset"] == 0
    if kind != "None":  # None: no target
        with pytest.raises((TypeError, ValueError), match=r"^kitae.dropout: out: expected "):
            kitae.dropout(GOOD, 0.5, seed=1, out=bad)
        with pytest.raises((TypeError, ValueError), match=r"^kitae.dropout_backward: out: expected "):
            kitae.dropout_backward(GOOD, mask, out=bad)


def _read_only() -> np.ndarray:
    array = np.ones(10, np.float32)
    array.setflags(write=False)
    return array


@pytest.mark.parametrize(
    ("out", "error", "words"),
    [
        (np.ones(10), TypeError, "out: expected dtype float32, got float64"),
        (np.ones(10, np.float16), TypeError, "out: expected dtype float32, got float16"),
        (np.ones(11, np.float32), ValueError, "out: expected shape (10,), got shape (11,)"),
        (np.ones((10, 1), np.float32), ValueError, "out: expected shape (10,), got shape (10, 1)"),
        (_read_only(), ValueError, "out: expected a writeable array, got a read-only array"),
        (np.lib.stride_tricks.as_strided(np.ones(1, np.float32), (10,), (0,)), ValueError, "out: expected distinct"),
    ],
)
def test_refused_targets(out: np.ndarray, error: type[Exception], words: str) -> None:
    before = out.copy()
    _, mask = kitae.dropout(GOOD, 0.5, seed=1)
    with pytest.raises(error, match=re.escape(words)):
        kitae.dropout(GOOD, 0.5, seed=1, out=out)
    with pytest.raises(error, match=re.escape(words)):
        kitae.dropout_backward(GOOD, mask, out=out)
    assert same_bits(out, before)


def test_partial_overlap_is_refused() -> None:
    memory = np.arange(30, dtype=np.float32)
    before = memory.copy()
    for x, out in (
        (memory[:10], memory[1:11]),
        (memory[1:11], memory[:10]),
        (memory[:10], memory[9::-1]),
        (memory[:20:2], memory[:10]),
    ):
        with pytest.raises(ValueError, match=r"kitae.dropout: out: expected memory of its own"):
            kitae.dropout(x, 0.5, seed=1, out=out)
    assert same_bits(memory, before)
    kitae.dropout(memory[:20:2], 0.5, seed=1, out=memory[1:20:2])  # interleaved, no shared element
    assert same_bits(memory[:20:2], before[:20:2])


NAN = float("nan")
BAD_NUMBERS: list[tuple[dict[str, Any], type[Exception], str]] = [
    *(({"drop": drop}, ValueError, "drop: expected a number in [0, 1]") for drop in (-0.1, 1.1, NAN, np.inf, -np.inf)),
    *(({"drop": drop}, TypeError, "drop: expected") for drop in (None, "0.5", True, np.array([0.5]), 1j)),
    *(({"seed": seed}, ValueError, "seed: expected an integer in [0, ") for seed in (-1, 2**64)),
    *(({"seed": seed}, TypeError, "seed: expected an integer") for seed in (None, 1.0, "1", True)),
    *(({"offset": offset}, ValueError, "offset: expected an integer in [0, ") for offset in (-1, 2**63)),
    *(({"offset": offset}, TypeError, "offset: expected an integer") for offset in (None, 1.0, False)),
]
BAD_CHOICES: list[tuple[dict[str, Any], type[Exception], str]] = [
    *(({"scale": scale}, ValueError, "scale: expected one of 'inverted', 'classic'") for scale in ("", "Inverted")),
    *(({"scale": scale}, TypeError, "scale: expected one of") for scale in (1, np.zeros(2), True)),
    ({"store": "bit"}, ValueError, "store: expected one of 'bits', 'replay'"),
    ({"store": 3}, TypeError, "store: expected one of"),
]


@pytest.mark.parametrize(("wrong", "error", "words"), BAD_NUMBERS + BAD_CHOICES)
def test_refused_hyperparameters(wrong: dict[str, Any], error: type[Exception], words: str) -> None:
    x = np.ones(10, np.float32)
    keywords = {"drop": 0.5, "seed": 1} | wrong
    with pytest.raises(error, match=re.escape(f"kitae.dropout: {words}")):
        kitae.dropout(x, **keywords, out=x)
    assert (x == 1).all()
    if not {"scale", "store"} & wrong.keys():
        with pytest.raises(error, match=re.escape(f"kitae.dropout_mask: {words}")):
            kitae.dropout_mask(10, **keywords)


def test_numbers_of_numpy_are_numbers() -> None:
    x = np.ones(100, np.float32)
    y, _ = kitae.dropout(x, np.float64(0.5), seed=np.uint64(3), offset=np.int32(2))
    assert same_bits(y, kitae.dropout(x, 0.5, seed=3, offset=2)[0])
    assert kitae.dropout(x, 0, seed=1)[1].drop == 0.0
    assert kitae.dropout_mask(np.int64(5), 0.5, seed=1).shape == kitae.dropout_mask([5], 0.5, seed=1).shape == (5,)


@pytest.mark.parametrize(
    ("shape", "error"), [(-1, ValueError), ((2, -3), ValueError), (2.0, TypeError), ("3", TypeError), (None, TypeError)]
)
def test_refused_shapes(shape: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^kitae.dropout_mask: shape"):
        kitae.dropout_mask(shape, 0.5, seed=1)
    with pytest.raises(ValueError, match="2\\*\\*62 elements"):
        kitae.dropout_mask((2**31, 2**31, 2), 0.5, seed=1)


def test_refused_masks() -> None:
    for wrong in (None, np.ones(10, bool), ("a", "b")):
        with pytest.raises(TypeError, match="dropout_backward: mask: expected the Mask that dropout returned"):
            kitae.dropout_backward(GOOD, wrong)
    _, mask = kitae.dropout(GOOD, 0.5, seed=1)
    with pytest.raises(ValueError, match=re.escape("dout: expected shape (10,), got shape (5, 2)")):
        kitae.dropout_backward(np.ones((5, 2), np.float32), mask)
    for bits, error, words in (
        (np.zeros(8, np.int8), TypeError, "mask.bits: expected dtype uint8"),
        (np.zeros(7, np.uint8), ValueError, "mask.bits: expected shape (8,)"),
        (np.zeros(16, np.uint8)[::2], ValueError, "mask.bits: expected a C-contiguous array"),
        ([0] * 8, TypeError, "mask.bits: expected a numpy.ndarray"),
    ):
        with pytest.raises(error, match=re.escape(words)):
            kitae.dropout_backward(GOOD, kitae.Mask((10,), 0.5, "inverted", 1, 0, bits))


def test_backends_refuse_the_same_native_arguments() -> None:
    bits = np.zeros(8, np.uint8)
    bits.setflags(write=False)
    for backend in (reference, _cpu):
        with pytest.raises(_checks.Rejected) as refused:
            backend.dropout_forward(GOOD, GOOD.copy(), bits, 2**31, 2.0, 1, 0)
        assert (refused.value.argument, refused.value.reason) == ("mask.bits", "writeable")
        with pytest.raises(_checks.Rejected) as refused:
            backend.dropout_mask(None, 10, 2**31, 1, 0)
        assert (refused.value.argument, refused.value.reason) == ("mask.bits", "type")
