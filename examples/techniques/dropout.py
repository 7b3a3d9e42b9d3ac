"""Dropout and DropConnect against overfitting.

A network of two hidden layers of 200 units learns digits from 500 images, the labels of 150 of which are drawn by lot.
As it is, the network learns these by heart, too, and pays for it on the test images, whose labels are right. Beside it
run half of the hidden units dropped, half of the weights dropped, and the same with the weights that the last training
pass dropped staying out at inference, the second reading of DropConnect.

The table and the picture compare training and test images.
"""

import numpy as np
from shared import options, picture, pixels_and_labels, print_table

import kitae
from kitae.nn import Dense, ReLU, Sequential, SoftmaxCrossEntropy

UNITS, IMAGES, WRONG, BATCH, DROP, SEEDS = 200, 500, 150, 50, 0.5, 3
KINDS = ("plain", "dropout", "DropConnect", "DropConnect, kept out")


def hidden(kind):
    if kind.startswith("DropConnect"):
        return [kitae.DropConnect(Dense(UNITS), DROP, keep_dropped=kind.endswith("out")), ReLU()]
    return [Dense(UNITS), ReLU(), kitae.Dropout(DROP)] if kind == "dropout" else [Dense(UNITS), ReLU()]


def accuracy(net, x, t):
    return float(np.mean(net.forward(x, training=False).argmax(axis=1) == t))


def curves(kind, seed, train, test, epochs):
    """(epochs, 2): accuracies on training and test images."""
    kitae.seed(seed)
    net, loss = Sequential([*hidden(kind), *hidden(kind), Dense(10)]), SoftmaxCrossEntropy()
    x, t = train
    net.forward(x[:BATCH])
    optimizer = kitae.Adam(net.params)
    order, accuracies = np.random.default_rng(seed), []
    for _ in range(epochs):
        permutation = order.permutation(len(x))
        for start in range(0, len(x), BATCH):
            rows = permutation[start : start + BATCH]
            loss.forward(net.forward(x[rows]), t[rows])
            net.backward(loss.backward())
            optimizer.step(net.grads)
        accuracies.append([accuracy(net, *train), accuracy(net, *test)])
    return np.array(accuracies)


def draw(means, path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(means), figsize=(12, 3.2), sharey=True, layout="constrained")
    for place, (kind, mean) in zip(axes, means.items(), strict=True):
        place.plot(mean[:, 0], "--", label="training images")
        place.plot(mean[:, 1], label="test images")
        place.set_title(kind, fontsize=10)
        place.set_xlabel("epoch")
        place.set_ylim(0, 1.02)
    axes[0].set_ylabel("accuracy")
    axes[0].legend()
    figure.savefig(path, dpi=100)


def main():
    chosen = options(__doc__).parse_args()
    x, t, x_test, t_test = pixels_and_labels(chosen.data)
    seeds, epochs = (1, 3) if chosen.quick else (SEEDS, 60)
    t = t.copy()
    t[:WRONG] = np.random.default_rng(0).integers(0, 10, WRONG)
    train, test = (x[:IMAGES], t[:IMAGES]), (x_test, t_test)
    runs = {kind: [curves(kind, 1 + s, train, test, epochs) for s in range(seeds)] for kind in KINDS}
    rows = []
    for kind, of_kind in runs.items():
        last = np.array([run[-1] for run in of_kind])
        rows.append([kind, *map(float, last.mean(axis=0)), float(last[:, 1].min()), float(last[:, 1].max())])
    print(f"accuracy after {epochs} epochs on {IMAGES} images, {WRONG} labels by lot, mean of {seeds} first weights")
    print_table(["", "training", "test", "lowest test", "highest test"], rows)
    path = picture(__file__, chosen.out)
    draw({kind: np.mean(of_kind, axis=0) for kind, of_kind in runs.items()}, path)
    print(f"picture: {path}")


if __name__ == "__main__":
    main()
