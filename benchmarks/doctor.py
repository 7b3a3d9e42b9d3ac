"""What ``kitae.train.Doctor`` costs: training with and without it, in turns of an epoch, in one process.

    OMP_NUM_THREADS=1 KITAE_NUM_THREADS=1 python benchmarks/doctor.py

Prints, for each network, processor time (on one thread) of a step without it and the ratio with it: over the whole
run, at whose start the looks lie densely, and as median over its later epochs. The last two columns are the same ratios
of a second run without the doctor: how far from 1 they are is the error of the others.
"""

import argparse
import sys
from pathlib import Path
from time import process_time

import numpy as np

import kitae
from kitae import nn
from kitae.train import Doctor, Trainer

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "techniques"))
from shared import print_table

SAMPLES = 3200
NETWORKS = {
    "64-100-10, batch 64": ((100,), 64, 64),
    "784-100-10, batch 100": ((100,), 784, 100),
    "784-500-500-10, batch 100": ((500, 500), 784, 100),
}


def network(units, batch_norm):
    layers = []
    for count in units:
        layers += [nn.Dense(count), *([kitae.BatchNorm()] if batch_norm else []), nn.ReLU()]
    return nn.Sequential(*layers, nn.Dense(10))


def epochs_in_turns(units, features, batch, batch_norm, epochs):
    """Processor seconds of each epoch: (without, without again, with)."""
    rng = np.random.default_rng(1)
    x = rng.uniform(size=(SAMPLES, features)).astype(np.float32)
    t = rng.integers(0, 10, SAMPLES)
    trainers = []
    for callbacks in ([], [], [Doctor(verbose=False)]):
        kitae.seed(1)
        model = network(units, batch_norm)
        trainers.append(Trainer(model, nn.SoftmaxCrossEntropy(), kitae.Adam(lr=1e-3), callbacks=callbacks))
    seconds = []
    for epoch in range(epochs):
        turn = [0.0, 0.0, 0.0]
        for which in np.roll((0, 1, 2), epoch):
            start = process_time()
            trainers[which].fit(x, t, batch_size=batch, epochs=1, seed=1, verbose=0)
            turn[which] = process_time() - start
        seconds.append(turn)
    return np.array(seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--filter", default="", help="networks whose name has this in it")
    arguments = parser.parse_args()
    epochs = arguments.epochs
    rows = []
    epochs_in_turns((8,), 8, 64, False, 2)  # first calls load what NumPy loads late, once in a process
    for name, (units, features, batch) in NETWORKS.items():
        if arguments.filter not in name:
            continue
        for batch_norm in (False, True):
            seconds = epochs_in_turns(units, features, batch, batch_norm, epochs)
            late = seconds[epochs // 2 :]
            again, watched = (float(np.median(late[:, i] / late[:, 0])) for i in (1, 2))
            steps = SAMPLES // batch * epochs
            whole = seconds.sum(axis=0)
            name_of_row = name + (", batch norm" if batch_norm else "")
            milliseconds = 1e3 * whole[0] / steps
            rows.append([name_of_row, steps, milliseconds, whole[2] / whole[0], watched, whole[1] / whole[0], again])
    header = ["network", "steps", "ms a step", "ratio, whole run", "later epochs", "without, whole run", "later epochs"]
    print_table(header, rows)


if __name__ == "__main__":
    main()
