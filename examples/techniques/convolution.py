"""A convolutional network beside a multilayer one on digits: test accuracy by epoch, and the kernels that it learned.

python examples/techniques/convolution.py
python examples/techniques/convolution.py --data digits.npz    # its first 8,000 train, its last 2,000 test
"""

import time

import matplotlib
import numpy as np
from shared import options, picture, print_table

import kitae
from kitae import nn
from kitae.data import digits, load, train_test_split

matplotlib.use("Agg")
from matplotlib import pyplot

BATCH, SEED = 50, 5


def images_and_labels(path):
    """(x_train, t_train, x_test, t_test): images (samples, 1, height, width), pixels from 0 to 1."""
    data = digits() if path is None else load(path)
    images = (data.images.astype(np.float32) / data.images.max())[:, np.newaxis]
    if path is None:
        return train_test_split(images, data.labels)
    return images[:8000], data.labels[:8000], images[-2000:], data.labels[-2000:]


def convolutional():
    return nn.Sequential(
        nn.Conv2D(16, 3, padding=1),
        kitae.BatchNorm(activation="relu"),
        nn.MaxPool2D(2),
        nn.Conv2D(32, 3, padding=1),
        kitae.BatchNorm(activation="relu"),
        nn.GlobalAvgPool2D(),
        nn.Dense(10),
    )


def multilayer():
    return nn.Sequential(nn.Flatten(), nn.Dense(64), kitae.BatchNorm(activation="relu"), nn.Dense(10))


def accuracy(network, images, labels):
    parts = range(0, len(images), BATCH)
    right = [
        network.forward(images[i : i + BATCH], training=False).argmax(axis=1) == labels[i : i + BATCH] for i in parts
    ]
    return 100 * float(np.mean(np.concatenate(right)))


def train(network, x, t, x_test, t_test, epochs):
    """Test accuracy after each epoch."""
    network.build(x.shape, x.dtype)
    loss, optimizer = nn.SoftmaxCrossEntropy(), kitae.Adam(network.params, lr=3e-3)
    optimizer.bind(network.grads)
    shuffle, accuracies = np.random.default_rng(SEED), []
    for _ in range(epochs):
        order = shuffle.permutation(len(x))
        for start in range(0, len(x), BATCH):
            rows = order[start : start + BATCH]
            loss.forward(network.forward(x[rows]), t[rows])
            network.backward(loss.backward())
            optimizer.step()
        accuracies.append(accuracy(network, x_test, t_test))
    return accuracies


def main():
    given = options(__doc__).parse_args()
    data, epochs = images_and_labels(given.data), 2 if given.quick else 8
    rows, curves, networks = [], {}, {}
    for make in (convolutional, multilayer):
        kitae.seed(SEED)
        name, network, begin = make.__name__, make(), time.perf_counter()
        curves[name], networks[name] = train(network, *data, epochs), network
        size = sum(array.size for array in network.params.values())
        rows.append([name, size, curves[name][-1], time.perf_counter() - begin])
    print_table(["network", "parameters", "test accuracy %", "seconds"], rows)
    draw(curves, networks["convolutional"], picture(__file__, given.out))


def draw(curves, network, path):
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for name, accuracies in curves.items():
        left.plot(range(1, len(accuracies) + 1), accuracies, marker="o", label=name)
    left.set(xlabel="epoch", ylabel="test accuracy %")
    left.legend()
    kernels = np.pad(network.params["0.W"][:, 0], ((0, 0), (0, 1), (0, 1)), constant_values=np.nan)
    right.imshow(np.block([[kernels[4 * row + column] for column in range(4)] for row in range(4)]), cmap="gray")
    right.set(title="the first layer's kernels", xticks=[], yticks=[])
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
