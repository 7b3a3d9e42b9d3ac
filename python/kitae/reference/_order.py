"""Reductions in the order of csrc/ops/reduction_order.h, in NumPy: chunks, 16 lanes, a folding tree."""

import numpy as np

LANES = 16
CHUNK = 4096


def fold_lanes(lanes: np.ndarray) -> np.ndarray:
    """Sum the last axis, LANES long, by halves."""
    width = LANES // 2
    while width:
        lanes = lanes[..., :width] + lanes[..., width:]
        width //= 2
    return lanes[..., 0]


def add_in_order(terms: np.ndarray) -> np.ndarray:
    """Sum the first axis, one row after the other, from +0 (np.sum would add pairwise)."""
    total = np.zeros(terms.shape[1:], terms.dtype)
    for term in terms:
        total += term
    return total


def chunk_sums(values: np.ndarray) -> np.ndarray:
    """The sum of each chunk of a float64 vector."""
    chunks = max(1, -(-values.size // CHUNK))
    rows = CHUNK // LANES if chunks > 1 else -(-values.size // LANES)
    padded = np.zeros(chunks * rows * LANES)
    padded[: values.size] = values
    return fold_lanes(add_in_order(padded.reshape(chunks, rows, LANES).transpose(1, 0, 2)))


def sum_in_order(values: np.ndarray) -> float:
    """The sum of a float64 vector: chunks, then the chunks' sums one after the other."""
    if values.size == 0:
        return 0.0
    total = 0.0
    for term in chunk_sums(values).tolist():
        total += term
    return total


ROWS_OF_CHUNK = 256  # where the channels lie side by side


def sum_channels(terms: np.ndarray) -> np.ndarray:
    """The sum of each channel of float64 (outer, channels, inner)."""
    outer, channels, inner = terms.shape
    total = np.zeros(channels)
    if inner == 1:
        for row in range(0, outer, ROWS_OF_CHUNK):
            total += add_in_order(terms[row : row + ROWS_OF_CHUNK, :, 0])
        return total
    rows, piece = max(1, CHUNK // inner), min(inner, CHUNK)
    for row in range(0, outer, rows):
        for column in range(0, inner, piece):
            total += _sum_lanes(terms[row : row + rows, :, column : column + piece])
    return total


def _sum_lanes(block: np.ndarray) -> np.ndarray:
    """A chunk of each channel: lanes along the last axis, starting anew with every row."""
    rows, channels, count = block.shape
    groups = -(-count // LANES)
    lanes = np.zeros((rows, channels, groups * LANES))
    lanes[..., :count] = block
    in_order = lanes.reshape(rows, channels, groups, LANES).transpose(0, 2, 1, 3)
    return fold_lanes(add_in_order(in_order.reshape(rows * groups, channels, LANES)))
