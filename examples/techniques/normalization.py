"""What normalization does for a network whose weights start at the wrong scale.

The experiment is the well-known one of batch normalization in books: a network of five hidden layers of 100 units
learns digits from 1,000 images, its weights drawn with a standard deviation of one of sixteen scales from 1 to 1e-4.
Here four networks run beside each other at each scale: plain, with batch normalization, with layer normalization, and
with weight normalization. The latter's layers start with weights of length sqrt(2) for every unit, and the scale is
that of v: it leaves the first outputs as they are, but the smaller v is, the further a step turns it.

A table of the accuracies on the training images, and a picture of sixteen training curves.
"""

import numpy as np
from shared import options, picture, pixels_and_labels, print_table

import kitae
from kitae.nn import Dense, ReLU, Sequential, SoftmaxCrossEntropy

HIDDEN, UNITS, BATCH, LR = 5, 100, 100, 0.05
EPS = 1e-7  # the smallest weights give layers of variances around 1e-7, which eps has to stay below
KINDS = ("plain", "batch norm", "layer norm", "weight norm")


def dense(units, scale, kind):
    layer = Dense(units, init=lambda shape, rng: rng.normal(0, scale, shape))
    return kitae.WeightNorm(layer) if kind == "weight norm" else layer


def network(kind, scale, classes):
    layers = []
    for _ in range(HIDDEN):
        layers.append(dense(UNITS, scale, kind))
        if kind == "batch norm":
            layers.append(kitae.BatchNorm(eps=EPS))
        if kind == "layer norm":
            layers.append(kitae.LayerNorm(eps=EPS))
        layers.append(ReLU())
    return Sequential([*layers, dense(classes, scale, kind)])


def accuracy(net, x, t):
    return float(np.mean(net.forward(x, training=False).argmax(axis=1) == t))


def curve(kind, scale, x, t, epochs):
    """The accuracy on the training images after every epoch."""
    kitae.seed(1)
    net, loss = network(kind, scale, int(t.max()) + 1), SoftmaxCrossEntropy()
    net.forward(x[:BATCH])
    for name, parameter in net.params.items():
        if name.rpartition(".")[2] == "g":
            parameter[...] = np.sqrt(2)
    optimizer = kitae.SGD(net.params, lr=LR, nonfinite="skip")
    order, accuracies = np.random.default_rng(2), []
    for _ in range(epochs):
        permutation = order.permutation(len(x))
        for start in range(0, len(x), BATCH):
            rows = permutation[start : start + BATCH]
            loss.forward(net.forward(x[rows]), t[rows])
            net.backward(loss.backward())
            optimizer.step(net.grads)
        accuracies.append(accuracy(net, x, t))
    return accuracies


def draw(curves, scales, path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(4, 4, figsize=(11, 9), sharex=True, sharey=True, layout="constrained", squeeze=False)
    for place, scale in zip(axes.flat, scales, strict=False):
        for kind in KINDS:
            place.plot(curves[scale, kind], label=kind, linestyle="--" if kind == "plain" else "-")
        place.set_title(f"W: {scale:.2g}", fontsize=9)
        place.set_ylim(0, 1.02)
    figure.supxlabel("epoch")
    figure.supylabel("accuracy on the training images")
    axes.flat[0].legend(fontsize=7)
    figure.savefig(path, dpi=100)


def main():
    chosen = options(__doc__).parse_args()
    x, t, _, _ = pixels_and_labels(chosen.data)
    x, t = x[:1000], t[:1000]
    epochs, scales = (2, np.logspace(0, -4, num=4)) if chosen.quick else (20, np.logspace(0, -4, num=16))
    with np.errstate(all="ignore"):  # plain networks with large weights overflow: that is the point
        curves = {(scale, kind): curve(kind, scale, x, t, epochs) for scale in scales for kind in KINDS}
    rows = [[f"{scale:.2g}", *(curves[scale, kind][-1] for kind in KINDS)] for scale in scales]
    print(f"accuracy on {len(x)} training images after {epochs} epochs, by the standard deviation of the first weights")
    print_table(["W", *KINDS], rows)
    path = picture(__file__, chosen.out)
    draw(curves, list(scales), path)
    print(f"picture: {path}")


if __name__ == "__main__":
    main()
