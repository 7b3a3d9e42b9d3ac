"""Training with a stopwatch: the same loop and the same bookkeeping for every contender."""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kitae.demo.contenders import KERNELS, LOSS, UPDATE, Contender
from kitae.nn.layer import backward_for_parameters

# Steps in a row by one contender: enough to have its arrays in the caches for most of them.
TURN = 8

LabelledImages = tuple[NDArray[Any], NDArray[Any]]


class Stopwatch:
    """Seconds of each step, split by kernel. ``lap`` counts the time since the lap before, so none is lost."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self._last = 0.0

    def start(self) -> None:
        self.steps.append(dict.fromkeys(KERNELS, 0.0))
        self._last = perf_counter()

    def lap(self, kernel: str) -> None:
        now = perf_counter()
        self.steps[-1][kernel] += now - self._last
        self._last = now

    def medians(self) -> dict[str, float]:
        """Kernel -> median seconds in a step: a few disturbed steps and the first one do not move it."""
        return {kernel: float(np.median([step[kernel] for step in self.steps])) for kernel in KERNELS}


@dataclass
class Run:
    """What one contender's training left behind."""

    contender: Contender
    losses: list[float] = field(default_factory=list)  # one a step
    epoch_losses: list[float] = field(default_factory=list)  # the mean of the epoch's steps
    accuracies: list[float] = field(default_factory=list)  # of the test images, one an epoch
    watch: Stopwatch = field(default_factory=Stopwatch)


def train_step(contender: Contender, x: NDArray[Any], labels: NDArray[Any], watch: Stopwatch) -> float:
    """Forward, backward, clip and update; returns the loss of the batch."""
    watch.start()
    for kernel, layer in contender.layers:
        x = layer.forward(x, training=True)
        watch.lap(kernel)
    loss = contender.loss.forward(x, labels)
    dout = contender.loss.backward()
    watch.lap(LOSS)
    first_kernel, first = contender.layers[0]
    for kernel, layer in reversed(contender.layers[1:]):
        dout = layer.backward(dout)
        watch.lap(kernel)
    backward_for_parameters(first, dout)
    watch.lap(first_kernel)
    contender.update()
    watch.lap(UPDATE)
    return loss


def train(
    contenders: list[Contender],
    train_set: LabelledImages,
    test_set: LabelledImages,
    *,
    epochs: int,
    batch: int,
    seed: int,
    on_step: Callable[[Run], object],
    on_epoch: Callable[[int, list[Run]], object],
) -> list[Run]:
    """Train all contenders on the same batches and return their runs.

    They take turns of a few steps, so whatever else the machine does meanwhile disturbs all of them alike.
    ``on_step(run)`` and ``on_epoch(epoch, runs)`` are called along the way.
    """
    runs = [Run(contender) for contender in contenders]
    shuffle = np.random.default_rng(seed)
    images, labels = train_set
    for epoch in range(1, epochs + 1):
        order = shuffle.permutation(len(images))
        batches = [order[start : start + batch] for start in range(0, len(order), batch)]
        for start in range(0, len(batches), TURN):
            for run in runs:
                with run.contender.active():
                    for rows in batches[start : start + TURN]:
                        run.losses.append(train_step(run.contender, images[rows], labels[rows], run.watch))
                        on_step(run)
        for run in runs:
            run.epoch_losses.append(float(np.mean(run.losses[-len(batches) :])))
            with run.contender.active():
                run.accuracies.append(accuracy(run.contender, *test_set))
        on_epoch(epoch, runs)
    return runs


def accuracy(contender: Contender, images: NDArray[Any], labels: NDArray[Any], batch: int = 1024) -> float:
    """Share of the images whose class is predicted right."""
    right = 0
    for start in range(0, len(images), batch):
        right += int(np.sum(contender.predict(images[start : start + batch]) == labels[start : start + batch]))
    return right / len(images)
