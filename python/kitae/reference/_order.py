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
