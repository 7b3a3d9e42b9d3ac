"""Dropout as csrc/ops/dropout.h defines it: a 16-bit half-word of Philox an element, ties settled by a second draw."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kitae._checks import Rejected
from kitae.reference._arrays import array_argument, compute_type, store, widen

_ROUNDS = 10
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_WORD, _HALF = 2**32 - 1, np.uint64(32)
_SECOND_DRAW = 2**63
_AT_ONCE = 2**16  # blocks, so that the temporaries stay small


def philox(low: NDArray[np.uint64], high: int, key: int) -> NDArray[np.uint32]:
    """Four 32-bit words for each counter (low, high), the low half of each number first; shape (len(low), 4)."""
    c0, c1 = low & np.uint64(_WORD), low >> _HALF
    c2, c3 = np.full_like(low, high & _WORD), np.full_like(low, high >> 32)
    k0, k1 = key & _WORD, key >> 32
    for _ in range(_ROUNDS):
        p0, p1 = c0 * _M0, c2 * _M1
        c0, c1 = (p1 >> _HALF) ^ c1 ^ np.uint64(k0), p1 & np.uint64(_WORD)
        c2, c3 = (p0 >> _HALF) ^ c3 ^ np.uint64(k1), p0 & np.uint64(_WORD)
        k0, k1 = (k0 + _W0) & _WORD, (k1 + _W1) & _WORD
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def _half_words(block: NDArray[np.uint64], offset: int, seed: int) -> NDArray[np.uint32]:
    """Eight 16-bit numbers a block, the low half of each word first; shape (len(block), 8)."""
    words = philox(block, offset, seed)
    return np.stack([words & np.uint32(0xFFFF), words >> np.uint32(16)], axis=-1).reshape(-1, 8)


def _kept_blocks(blocks: int, threshold: int, seed: int, offset: int) -> Iterator[NDArray[np.bool_]]:
    upper, lower = threshold >> 16, threshold & 0xFFFF
    for begin in range(0, blocks, _AT_ONCE):
        block = np.arange(begin, min(begin + _AT_ONCE, blocks), dtype=np.uint64)
        first = _half_words(block, offset, seed)
        kept = first > upper
        tied = first == upper
        rows = tied.any(axis=1)
        second = _half_words(block[rows], offset + _SECOND_DRAW, seed)
        kept[rows] |= tied[rows] & (second >= lower)
        yield kept


def keep(size: int, threshold: int, seed: int, offset: int) -> NDArray[np.bool_]:
    """Which of ``size`` elements are kept."""
    if threshold in (0, 2**32):
        return np.full(size, threshold == 0)
    parts = list(_kept_blocks(-(-size // 8), threshold, seed, offset))
    return np.concatenate(parts).reshape(-1)[:size] if parts else np.zeros(0, bool)


def _bits_argument(bits: Any, size: int, *, write: bool) -> None:
    if not isinstance(bits, np.ndarray):
        raise Rejected("mask.bits", "type")
    if bits.dtype != np.uint8:
        raise Rejected("mask.bits", "dtype")
    if bits.shape != (-(-size // 64) * 8,):
        raise Rejected("mask.bits", "shape")
    if not bits.flags.c_contiguous:
        raise Rejected("mask.bits", "contiguous")
    if write and not bits.flags.writeable:
        raise Rejected("mask.bits", "writeable")


def _arguments(source: Any, name: str, out: Any) -> None:
    array_argument(source, name)
    array_argument(out, "out", write=True)
    if out.dtype != source.dtype:
        raise Rejected("out", "dtype")
    if out.shape != source.shape:
        raise Rejected("out", "shape")
    in_place = out.ctypes.data == source.ctypes.data and out.strides == source.strides
    if not in_place and np.shares_memory(out, source):
        raise Rejected("out", "overlap")


def _apply(source: NDArray[Any], out: NDArray[Any], kept: NDArray[np.bool_], keep_scale: float) -> None:
    kind = compute_type(source.dtype)
    with np.errstate(all="ignore"):
        scaled = widen(source) * kind(keep_scale)
    store(out, np.where(kept.reshape(source.shape), scaled, kind(0)))


def _write_bits(bits: NDArray[np.uint8], kept: NDArray[np.bool_]) -> None:
    packed = np.packbits(kept, bitorder="little")
    bits[: packed.size] = packed
    bits[packed.size :] = 0


def dropout_forward(x: Any, out: Any, bits: Any, threshold: int, keep_scale: float, seed: int, offset: int) -> None:
    """out = keep_scale * x where kept, else 0; the mask goes to ``bits`` unless None."""
    _arguments(x, "x", out)
    if bits is not None:
        _bits_argument(bits, x.size, write=True)
    kept = keep(x.size, threshold, seed, offset)
    if bits is not None:
        _write_bits(bits, kept)
    _apply(x, out, kept, keep_scale)


def dropout_backward(dout: Any, out: Any, bits: Any, threshold: int, keep_scale: float, seed: int, offset: int) -> None:
    """The same for the gradient: from ``bits``, or drawn again where they are None."""
    _arguments(dout, "dout", out)
    if bits is None:
        kept = keep(dout.size, threshold, seed, offset)
    else:
        _bits_argument(bits, dout.size, write=False)
        kept = np.unpackbits(bits, count=dout.size, bitorder="little").view(bool)
    _apply(dout, out, kept, keep_scale)


def dropout_mask(bits: Any, size: int, threshold: int, seed: int, offset: int) -> None:
    """Draw the mask of ``size`` elements into ``bits``."""
    _bits_argument(bits, size, write=True)
    _write_bits(bits, keep(size, threshold, seed, offset))
