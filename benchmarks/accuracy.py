"""What networks of kitae learn, beside the same networks in PyTorch: test accuracy on real digits, five seeds each.

    python benchmarks/accuracy.py --data digits.npz

DIGITS holds `images` and `labels`: the first 8,000 train, the last 2,000 test. A convolutional network (8 epochs) and a
multilayer network of 2 x 512 units (20 epochs), both with batch norm, ReLU, dropout and Adam, whose learning rate falls
from its start to 0 along half a cosine. For a seed both systems
start from the same weights (He's distribution), see the same batches and have the same numbers everywhere; only their
dropout masks and the order of their sums differ. Writes benchmarks/results/accuracy-<digits>.json and prints a table.
"""

import argparse
import json
import math
import platform
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

import kitae
from kitae import nn
from kitae.data import load

TRAIN, TEST = 8000, 2000
SEEDS = (0, 1, 2, 3, 4)
BATCH, LEARNING_RATE = 100, 1e-3
NETWORKS = {"convolutional": 8, "multilayer": 20}  # epochs
DROP = {"convolutional": 0.3, "multilayer": 0.3}
CLASSES = 10


def of_kitae(network):
    if network == "convolutional":
        return nn.Sequential(
            nn.Conv2D(16, 3, padding=1),
            kitae.BatchNorm(activation="relu"),
            nn.MaxPool2D(2),
            nn.Conv2D(32, 3, padding=1),
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
            modules.Conv2d(channels, 16, 3, padding=1),
            modules.BatchNorm2d(16),
            modules.ReLU(),
            modules.MaxPool2d(2),
            modules.Conv2d(16, 32, 3, padding=1),
            modules.BatchNorm2d(32),
            modules.ReLU(),
            modules.MaxPool2d(2),
            modules.Flatten(),
            modules.Dropout(DROP[network]),
            modules.Linear(32 * (height // 4) * (width // 4), CLASSES),
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


def batches(seed, epochs, count):
    """The rows of every batch of every epoch."""
    shuffle = np.random.default_rng(seed)
    for _ in range(epochs):
        order = shuffle.permutation(count)
        yield [order[begin : begin + BATCH] for begin in range(0, count, BATCH)]


def learning_rate(step, epochs, count):
    """Half a cosine from LEARNING_RATE to 0 (Loshchilov and Hutter 2017, without restarts)."""
    return LEARNING_RATE * (1 + math.cos(math.pi * step / (epochs * -(-count // BATCH)))) / 2


def train_kitae(name, seed, epochs, x, t, x_test, t_test):
    kitae.seed(seed)
    network, loss = of_kitae(name), nn.SoftmaxCrossEntropy()
    network.build((1, *x.shape[1:]), np.float32)
    start = {key: array.copy() for key, array in network.params.items()}
    optimizer = kitae.Adam(network.params, LEARNING_RATE)
    optimizer.bind(network.grads)
    begin, step = time.perf_counter(), 0
    for epoch in batches(seed, epochs, len(x)):
        for rows in epoch:
            optimizer.lr = learning_rate(step, epochs, len(x))
            loss.forward(network.forward(x[rows]), t[rows])
            network.backward(loss.backward())
            optimizer.step()
            step += 1
    seconds = time.perf_counter() - begin
    right = sum(
        int((network.forward(x_test[i : i + BATCH], training=False).argmax(axis=1) == t_test[i : i + BATCH]).sum())
        for i in range(0, len(x_test), BATCH)
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
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    x, t, x_test, t_test = (torch.from_numpy(array) for array in (x, t, x_test, t_test))
    begin, step = time.perf_counter(), 0
    for epoch in batches(seed, epochs, len(x)):
        for rows in epoch:
            rows = torch.from_numpy(rows)
            optimizer.param_groups[0]["lr"] = learning_rate(step, epochs, len(x))
            step += 1
            optimizer.zero_grad()
            loss(network(x[rows]), t[rows]).backward()
            optimizer.step()
    seconds = time.perf_counter() - begin
    network.eval()
    with torch.no_grad():
        right = int((network(x_test).argmax(dim=1) == t_test).sum())
    return 100 * right / len(x_test), seconds


def command(given, name):
    seeds = "" if tuple(given.seeds) == SEEDS else " --seeds " + " ".join(map(str, given.seeds))
    threads = "" if given.threads == 1 else f" --threads {given.threads}"
    return f"python benchmarks/accuracy.py --data {given.data.name} --networks {name}{seeds}{threads}"


def digits(path):
    data = load(path)
    images = (data.images.astype(np.float32) / data.images.max())[:, np.newaxis]
    labels = data.labels.astype(np.int64)
    return images[:TRAIN], labels[:TRAIN], images[-TEST:], labels[-TEST:]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="an .npz file with images and labels")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--networks", nargs="*", default=tuple(NETWORKS), choices=tuple(NETWORKS))
    default = "benchmarks/results/accuracy-<data>.json"
    parser.add_argument("--out", type=Path, help=f"the results (default: {default})")
    given = parser.parse_args()
    kitae.set_num_threads(given.threads)
    torch.set_num_threads(given.threads)
    data, results = digits(given.data), {}
    for name in given.networks:
        epochs = NETWORKS[name]
        runs = {"kitae": [], "PyTorch": []}
        seconds = {"kitae": 0.0, "PyTorch": 0.0}
        for seed in given.seeds:
            accuracy, spent, start = train_kitae(name, seed, epochs, *data)
            runs["kitae"].append(accuracy)
            seconds["kitae"] += spent
            accuracy, spent = train_torch(name, seed, epochs, *data, start)
            runs["PyTorch"].append(accuracy)
            seconds["PyTorch"] += spent
            print(f"{name}, seed {seed}: kitae {runs['kitae'][-1]:.2f} %, PyTorch {accuracy:.2f} %", file=sys.stderr)
        results[name] = {
            "epochs": epochs,
            "accuracy": {system: [round(a, 2) for a in each] for system, each in runs.items()},
            "mean": {system: round(float(np.mean(each)), 3) for system, each in runs.items()},
            "standard_deviation": {system: round(float(np.std(each, ddof=1)), 3) for system, each in runs.items()}
            if len(given.seeds) > 1
            else {},
            "command": command(given, name),
            "seconds_of_training": {system: round(total, 1) for system, total in seconds.items()},
        }
    out = given.out or Path(__file__).parent / "results" / f"accuracy-{given.data.stem}.json"
    # Networks measured by another run of the same command stay.
    known = json.loads(out.read_text())["networks"] if out.exists() else {}
    record = {
        "date": datetime.now(UTC).date().isoformat(),
        "data": {"name": given.data.name, "train": f"the first {TRAIN}", "test": f"the last {TEST}"},
        "seeds": list(given.seeds),
        "batch": BATCH,
        "learning_rate": LEARNING_RATE,
        "drop": DROP,
        "versions": {
            "kitae": kitae.__version__,
            "numpy": np.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "networks": {name: (known | results)[name] for name in NETWORKS if name in known | results},
    }
    out.write_text(json.dumps(record, indent=2) + "\n")
    print(table(results))


def table(results):
    lines = [f"{'network':<15} {'epochs':>6} {'kitae %':>17} {'PyTorch %':>17} {'difference':>11}"]
    for name, result in results.items():
        each = [
            f"{result['mean'][system]:.2f} +- {result['standard_deviation'].get(system, 0):.2f}"
            for system in ("kitae", "PyTorch")
        ]
        difference = result["mean"]["kitae"] - result["mean"]["PyTorch"]
        lines.append(f"{name:<15} {result['epochs']:>6} {each[0]:>17} {each[1]:>17} {difference:>+11.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
