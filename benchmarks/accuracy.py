"""What networks of kitae learn, beside the same networks in PyTorch: test accuracy on real digits, five seeds each.

    python benchmarks/accuracy.py --data digits.npz

DIGITS holds `images` and `labels`: the first 8,000 train, the last 2,000 test. A convolutional network (8 epochs) and a
multilayer network of 2 x 512 units (20 epochs), both with batch norm, ReLU, dropout and Adam, whose learning rate falls
to 0 along half a cosine. The convolutional network's widths, kernels, batch, rate and dropout were chosen by kitae's
accuracy on digits 7,000 to 7,999 after training on those before (four choices); the multilayer network's were not
varied. For a seed both systems start from the same weights (He's distribution), see the same batches and have the same
numbers everywhere; only their dropout masks and the order of their sums differ. Writes
benchmarks/results/accuracy-<digits>.json and prints a table.
"""

import argparse
import json
import math
import multiprocessing
import platform
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

import kitae
from kitae import nn
from kitae.data import load

TRAIN, TEST = 8000, 2000
SEEDS = (0, 1, 2, 3, 4)
BATCHES = {"convolutional": 50, "multilayer": 100}
TEST_BATCH = 100
NETWORKS = {"convolutional": 8, "multilayer": 20}  # epochs
LEARNING_RATES = {"convolutional": 2e-3, "multilayer": 1e-3}  # of the first step
DROP = {"convolutional": 0.5, "multilayer": 0.3}
CHANNELS, KERNEL = (16, 32), 5
CLASSES = 10


def of_kitae(network):
    if network == "convolutional":
        return nn.Sequential(
            nn.Conv2D(CHANNELS[0], KERNEL, padding="same"),
            kitae.BatchNorm(activation="relu"),
            nn.Conv2D(CHANNELS[1], KERNEL, padding="same"),
            kitae.BatchNorm(activation="relu"),
            nn.MaxPool2D(2),
            nn.Flatten(),
            kitae.Dropout(DROP[network]),
            nn.Dense(CLASSES),
        )
    layers = [nn.Flatten()]
    for _ in range(2):
        layers += [nn.Dense(512), kitae.BatchNorm(activation="relu"), kitae.Dropout(DROP[network])]
    return nn.Sequential(*layers, nn.Dense(CLASSES))


def of_torch(network, size):
    """The same layers."""
    modules, (channels, height, width) = torch.nn, size
    if network == "convolutional":
        return modules.Sequential(
            modules.Conv2d(channels, CHANNELS[0], KERNEL, padding="same"),
            modules.BatchNorm2d(CHANNELS[0]),
            modules.ReLU(),
            modules.Conv2d(*CHANNELS, KERNEL, padding="same"),
            modules.BatchNorm2d(CHANNELS[1]),
            modules.ReLU(),
            modules.MaxPool2d(2),
            modules.Flatten(),
            modules.Dropout(DROP[network]),
            modules.Linear(CHANNELS[1] * (height // 2) * (width // 2), CLASSES),
        )
    layers, units = [modules.Flatten()], channels * height * width
    for _ in range(2):
        layers += [
            modules.Linear(units, 512),
            modules.BatchNorm1d(512),
            modules.ReLU(),
            modules.Dropout(DROP[network]),
        ]
        units = 512
    return modules.Sequential(*layers, modules.Linear(units, CLASSES))


def batches(name, seed, epochs, count):
    """The rows of every batch of every epoch."""
    shuffle = np.random.default_rng(seed)
    for _ in range(epochs):
        order = shuffle.permutation(count)
        yield [order[begin : begin + BATCHES[name]] for begin in range(0, count, BATCHES[name])]


def learning_rate(name, step, epochs, count):
    """Half a cosine to 0 (Loshchilov and Hutter 2017, without restarts)."""
    return LEARNING_RATES[name] * (1 + math.cos(math.pi * step / (epochs * -(-count // BATCHES[name])))) / 2


def train_kitae(name, seed, epochs, x, t, x_test, t_test):
    kitae.seed(seed)
    network, loss = of_kitae(name), nn.SoftmaxCrossEntropy()
    network.build((1, *x.shape[1:]), np.float32)
    start = {key: array.copy() for key, array in network.params.items()}
    optimizer = kitae.Adam(network.params)
    optimizer.bind(network.grads)
    begin, step = time.process_time(), 0
    for epoch in batches(name, seed, epochs, len(x)):
        for rows in epoch:
            optimizer.lr = learning_rate(name, step, epochs, len(x))
            loss.forward(network.forward(x[rows]), t[rows])
            network.backward(loss.backward(), input_gradient=False)
            optimizer.step()
            step += 1
    seconds = time.process_time() - begin
    right = sum(
        int(
            (
                network.forward(x_test[i : i + TEST_BATCH], training=False).argmax(axis=1) == t_test[i : i + TEST_BATCH]
            ).sum()
        )
        for i in range(0, len(x_test), TEST_BATCH)
    )
    return 100 * right / len(x_test), seconds, start


def train_torch(name, seed, epochs, x, t, x_test, t_test, start):
    torch.manual_seed(seed)
    network, loss = of_torch(name, x.shape[1:]), torch.nn.CrossEntropyLoss()
    theirs = [parameter for parameter in network.parameters() if parameter.requires_grad]
    with torch.no_grad():
        for parameter, array in zip(theirs, start.values(), strict=True):
            dense = array.ndim == 2  # W is stored the other way round
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(array.T) if dense else array))
    optimizer = torch.optim.Adam(network.parameters())
    x, t, x_test, t_test = (torch.from_numpy(array) for array in (x, t, x_test, t_test))
    begin, step = time.process_time(), 0
    for epoch in batches(name, seed, epochs, len(x)):
        for rows in epoch:
            rows = torch.from_numpy(rows)
            optimizer.param_groups[0]["lr"] = learning_rate(name, step, epochs, len(x))
            step += 1
            optimizer.zero_grad()
            loss(network(x[rows]), t[rows]).backward()
            optimizer.step()
    seconds = time.process_time() - begin
    network.eval()
    with torch.no_grad():
        right = int((network(x_test).argmax(dim=1) == t_test).sum())
    return 100 * right / len(x_test), seconds


def compare(path, name, seed):
    """{system: (accuracy in per cent, CPU seconds of training)} of one seed."""
    kitae.set_num_threads(1)
    torch.set_num_threads(1)
    data = digits(path)
    with threadpool_limits(1):
        *of_kitae, start = train_kitae(name, seed, NETWORKS[name], *data)
        of_torch = train_torch(name, seed, NETWORKS[name], *data, start)
    print(f"{name}, seed {seed}: kitae {of_kitae[0]:.2f} %, PyTorch {of_torch[0]:.2f} %", file=sys.stderr, flush=True)
    return {"kitae": of_kitae, "PyTorch": of_torch}


def summary(name, runs):
    accuracies = {system: [run[system][0] for run in runs] for system in runs[0]}
    return {
        "epochs": NETWORKS[name],
        "accuracy": {system: [round(a, 2) for a in each] for system, each in accuracies.items()},
        "mean": {system: round(float(np.mean(each)), 3) for system, each in accuracies.items()},
        "standard_deviation": {
            system: round(float(np.std(each, ddof=1)), 3) if len(each) > 1 else None
            for system, each in accuracies.items()
        },
        "cpu_seconds": {system: round(sum(run[system][1] for run in runs), 1) for system in accuracies},
    }


def digits(path):
    data = load(path)
    images = (data.images.astype(np.float32) / data.images.max())[:, np.newaxis]
    labels = data.labels.astype(np.int64)
    return images[:TRAIN], labels[:TRAIN], images[-TEST:], labels[-TEST:]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="an .npz file with images and labels")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; each has one thread")
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--networks", nargs="*", default=tuple(NETWORKS), choices=tuple(NETWORKS))
    default = "benchmarks/results/accuracy-<data>.json"
    parser.add_argument("--out", type=Path, help=f"the results (default: {default})")
    given = parser.parse_args()
    tasks = [(name, seed) for name in given.networks for seed in given.seeds]
    # Each run is a process of its own with one thread: parallel runs give the same numbers.
    with ProcessPoolExecutor(given.jobs, multiprocessing.get_context("spawn")) as pool:
        runs = dict(zip(tasks, pool.map(compare, [given.data] * len(tasks), *zip(*tasks, strict=True)), strict=True))
    results = {name: summary(name, [runs[name, seed] for seed in given.seeds]) for name in given.networks}
    out = given.out or Path(__file__).parent / "results" / f"accuracy-{given.data.stem}.json"
    jobs = f" --jobs {given.jobs}" if given.jobs > 1 else ""
    record = {
        "command": f"python benchmarks/accuracy.py --data {given.data.name}{jobs}",
        "date": datetime.now(UTC).date().isoformat(),
        "data": {"name": given.data.name, "train": f"the first {TRAIN}", "test": f"the last {TEST}"},
        "seeds": list(given.seeds),
        "batches": BATCHES,
        "convolutions": {"channels": CHANNELS, "kernel": KERNEL},
        "learning_rates": LEARNING_RATES,
        "drop": DROP,
        "versions": {
            "kitae": kitae.__version__,
            "numpy": np.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "networks": results,
    }
    out.write_text(json.dumps(record, indent=2) + "\n")
    print(table(results))


def table(results):
    lines = [f"{'network':<15} {'epochs':>6} {'kitae %':>17} {'PyTorch %':>17} {'difference':>11}"]
    for name, result in results.items():
        each = [
            f"{result['mean'][system]:.2f} +- {result['standard_deviation'][system] or 0:.2f}"
            for system in ("kitae", "PyTorch")
        ]
        difference = result["mean"]["kitae"] - result["mean"]["PyTorch"]
        lines.append(f"{name:<15} {result['epochs']:>6} {each[0]:>17} {each[1]:>17} {difference:>+11.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
