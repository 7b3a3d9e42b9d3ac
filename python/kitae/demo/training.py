"""Training with a stopwatch: the same loop and the same bookkeeping for every contender."""

from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

from kitae.demo.contenders import KERNELS, LOSS, UPDATE


class Stopwatch:
    """Seconds of each step, split by kernel. ``lap`` counts the time since the lap before, so nothing is lost."""

    def __init__(self):
        self.steps = []

    def start(self):
        self.steps.append(dict.fromkeys(KERNELS, 0.0))
        self._last = perf_counter()

    def lap(self, kernel):
        now = perf_counter()
        self.steps[-1][kernel] += now - self._last
        self._last = now

    def medians(self):
        """Kernel -> median seconds in a step; one disturbed step does not move it."""
        return {kernel: float(np.median([step[kernel] for step in self.steps])) for kernel in KERNELS}


@dataclass
class Run:
    """What one contender's training left behind."""

    contender: object
    losses: list = field(default_factory=list)  # one a step
    epoch_losses: list = field(default_factory=list)
    accuracies: list = field(default_factory=list)  # on the test images, one an epoch
    watch: Stopwatch = field(default_factory=Stopwatch)


def train_step(contender, x, labels, watch):
    """Forward, backward, clip and update; returns the loss of the batch."""
    watch.start()
    for kernel, layer in contender.layers:
        x = layer.forward(x, training=True)
        watch.lap(kernel)
    loss = contender.loss.forward(x, labels)
    dout = contender.loss.backward()
    watch.lap(LOSS)
    for kernel, layer in reversed(contender.layers):
        dout = layer.backward(dout)
        watch.lap(kernel)
    contender.update()
    watch.lap(UPDATE)
    return loss


def train(contenders, train_set, test_set, *, epochs, batch, seed, on_step, on_epoch):
    """Train all contenders on the same batches and return their runs.

    They take turns epoch by epoch, so whatever else the machine does meanwhile disturbs all of them alike.
    ``on_step(run)`` and ``on_epoch(epoch, runs)`` are called along the way.
    """
    runs = [Run(contender) for contender in contenders]
    shuffle = np.random.default_rng(seed)
    images, labels = train_set
    for epoch in range(1, epochs + 1):
        order = shuffle.permutation(len(images))
        batches = [order[start : start + batch] for start in range(0, len(order), batch)]
        for run in runs:
            with run.contender.active():
                for rows in batches:
                    run.losses.append(train_step(run.contender, images[rows], labels[rows], run.watch))
                    on_step(run)
                run.epoch_losses.append(float(np.mean(run.losses[-len(batches) :])))
                run.accuracies.append(accuracy(run.contender, *test_set))
        on_epoch(epoch, runs)
    return runs


def accuracy(contender, images, labels, batch=1024):
    """Share of the images whose class is predicted right."""
    right = 0
    for start in range(0, len(images), batch):
        right += int(np.sum(contender.predict(images[start : start + batch]) == labels[start : start + batch]))
    return right / len(images)
