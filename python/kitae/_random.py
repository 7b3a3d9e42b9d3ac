"""The one source of randomness: ``kitae.seed`` fixes it, layers draw their seeds from it.

A forked child that was not seeded draws anew, so workers never share dropout masks.
"""

import itertools
import os
import threading

import numpy as np

from kitae import _checks

_lock = threading.Lock()
_seed: int | None = None
_generator = np.random.default_rng()
_layer_numbers = itertools.count()


def seed(n: int) -> None:
    """Seed everything random in kitae: initial weights and the masks of the layers made from now on.

    ``n`` is an integer in [0, 2**64). Dropout layers made in the same order after the same seed draw the same masks, on
    any device and for any number of threads. Functions that take an explicit ``seed=`` are not affected.
    """
    global _seed, _generator, _layer_numbers
    n = _checks.integer("seed", "n", n, low=0, high=2**64 - 1)
    with _lock:
        _seed = n
        _generator = np.random.default_rng(n)
        _layer_numbers = itertools.count()


def generator() -> np.random.Generator:
    """The NumPy generator that initial weights are drawn from."""
    return _generator


def next_layer_seed() -> int:
    """A 64-bit seed for the next layer: from (seed, layer number) after ``kitae.seed``, else from system entropy."""
    with _lock:
        number = next(_layer_numbers)
        sequence = np.random.SeedSequence() if _seed is None else np.random.SeedSequence(_seed, spawn_key=(number,))
    return int(sequence.generate_state(1, np.uint64)[0])


def _after_fork_in_child() -> None:
    global _lock, _generator
    _lock = threading.Lock()
    if _seed is None:
        _generator = np.random.default_rng()


os.register_at_fork(after_in_child=_after_fork_in_child)
