"""Optimizers side by side: the same network from the same weights on digits, one optimizer after the other.

Prints test accuracy, the loss of the last epoch and the update:parameter ratio that `track` measures on the way, and
draws loss and ratio over the epochs.
"""

import matplotlib.pyplot as plt
import numpy as np
from shared import options, picture, pixels_and_labels, print_table

import kitae
from kitae import nn

OPTIMIZERS = {
    "SGD": lambda p: kitae.SGD(p, 0.1),
    "Momentum": lambda p: kitae.Momentum(p, 0.02),
    "Nesterov": lambda p: kitae.Nesterov(p, 0.02),
    "AdaGrad": lambda p: kitae.AdaGrad(p, 0.02),
    "AdaDelta": lambda p: kitae.AdaDelta(p, 1.0),
    "RMSProp": lambda p: kitae.RMSProp(p, 0.002),
    "Adam": lambda p: kitae.Adam(p, 0.002),
    "AdamW": lambda p: kitae.AdamW(p, 0.002, weight_decay=0.05, no_decay=("*.b",)),
    "AMSGrad": lambda p: kitae.AMSGrad(p, 0.002),
    "AdaMax": lambda p: kitae.AdaMax(p, 0.004),
    "NormalizedGD": lambda p: kitae.NormalizedGD(p, 0.1),
}


def train(make, data, epochs):
    """(loss of every epoch, ratio of every epoch, test accuracy)"""
    x, t, x_test, t_test = data
    kitae.seed(1)
    model = nn.Sequential(nn.Dense(64), nn.ReLU(), nn.Dense(64), nn.ReLU(), nn.Dense(10))
    model.build(x.shape, x.dtype)
    loss, optimizer = nn.SoftmaxCrossEntropy(), make(model.params)
    optimizer.bind(model.grads)
    order, losses, ratios = np.random.default_rng(0), [], []
    for _ in range(epochs):
        total = []
        batches = np.array_split(order.permutation(len(x)), len(x) // 32)
        for number, rows in enumerate(batches):
            total.append(loss.forward(model.forward(x[rows]), t[rows]))
            model.backward(loss.backward())
            optimizer.track = number == len(batches) - 1  # one step an epoch measures itself
            optimizer.step()
        losses.append(float(np.mean(total)))
        ratios.append(optimizer.stats.ratio)
    return losses, ratios, float((model.forward(x_test, training=False).argmax(1) == t_test).mean())


def main():
    arguments = options(__doc__).parse_args()
    data = pixels_and_labels(arguments.data)
    runs = {name: train(make, data, 3 if arguments.quick else 20) for name, make in OPTIMIZERS.items()}
    header = ["optimizer", "test accuracy", "last loss", "update:parameter"]
    print_table(header, [[name, accuracy, losses[-1], ratios[-1]] for name, (losses, ratios, accuracy) in runs.items()])
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5))
    for name, (losses, ratios, _) in runs.items():
        left.semilogy(losses, label=name)
        right.semilogy(ratios, label=name)
    left.set(xlabel="epoch", ylabel="training loss")
    right.set(xlabel="epoch", ylabel="mean |update| / mean |parameter|")
    right.axhline(1e-3, color="gray", linestyle=":")
    left.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(picture(__file__, arguments.out))


if __name__ == "__main__":
    main()
