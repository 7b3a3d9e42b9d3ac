"""Channels whose statistics are summed around every kind of number: csrc/ops/moments.h."""

import numpy as np

#: (outer, inner), elements of a channel: fewer than samples, one after the other, on either side of 256, steps from row
#: to row, several chunks.
SEQUENCES = ((1, 1), (2, 2), (1, 7), (5, 51), (4, 64), (7, 50), (700, 1), (3, 700), (2, 4200))
CONSTANT, AT_QUARTER = 2, 7  # of channels_about_shifts


def channels_about_shifts(count: int, rng: np.random.Generator) -> np.ndarray:
    """(channels, count), whose sums are taken from 0, from the first element, from the mean: csrc/ops/moments.h."""
    noise = rng.standard_normal((13, count))
    last_sample = (min(count, 8) - 1) * (1 if count < 256 else count // 8)
    x = noise.copy()
    x[1] += 1000
    x[CONSTANT] = 3.25
    x[3, 0] = 0
    x[4] += 1000  # but for one sample
    x[4, last_sample] = 5
    x[5] += 1000  # but for one that is none
    x[5, min(last_sample + 1, count - 1)] = 5
    x[6] = 1024 + np.abs(noise[6])
    x[AT_QUARTER] = x[6]
    x[6:8, 0] = 1024
    x[6, last_sample], x[AT_QUARTER, last_sample] = 1272, 1280
    x[8] = 5000 + noise[8]
    x[9, 0], x[10, 0], x[11, 0] = np.nan, np.inf, -0.0
    x[12] += 1000
    x[12, last_sample] = np.nan
    return x


CHANNEL_LAYOUTS = ("channels first", "channels last", "two axes")


def arranged_channels(values: np.ndarray, outer: int, inner: int, layout: str) -> tuple[np.ndarray, int]:
    """Channels (channels, outer * inner) as a tensor, and its axis of channels."""
    channels = len(values)
    x = values.reshape(channels, outer, inner, 1)
    if layout == "channels first":
        return np.ascontiguousarray(x.transpose(1, 0, 2, 3)), 1
    x = np.ascontiguousarray(x.transpose(1, 2, 3, 0))
    return (x.reshape(-1, channels), 1) if layout == "two axes" else (x, 3)
