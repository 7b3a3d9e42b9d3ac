"""Dropout, weight decay and both against overfitting: a large network on few digits, some with wrong labels."""

import numpy as np
from matplotlib.figure import Figure
from shared import options, picture, pixels_and_labels, print_table

import kitae
import kitae.nn
from kitae import train

WAYS = {
    "neither": {},
    "dropout 0.5": {"drop": 0.5},
    "L2 in the loss, 1e-3 (Adam)": {"weight_decay": 1e-3},
    "decoupled weight decay, 0.3 (AdamW)": {"optimizer": kitae.AdamW, "weight_decay": 0.3},
    "dropout 0.5 and decoupled decay": {"optimizer": kitae.AdamW, "weight_decay": 0.3, "drop": 0.5},
}
NO_DECAY = ("*.b", "*.gamma", "*.beta")


def network(drop):
    layers = []
    for _ in range(2):
        layers += [kitae.nn.Dense(200), kitae.nn.ReLU()] + ([kitae.Dropout(drop)] if drop else [])
    return kitae.nn.Sequential(*layers, kitae.nn.Dense(10))


def main():
    arguments = options(__doc__).parse_args()
    x, t, x_test, t_test = pixels_and_labels(arguments.data)
    rng = np.random.default_rng(0)
    few = rng.permutation(len(x))[:300]
    x, t = x[few], t[few].copy()
    t[:60] = rng.integers(0, 10, 60)
    epochs, seeds = (5, 1) if arguments.quick else (60, 2)
    rows, curves = [], {}
    for name, way in WAYS.items():
        runs = []
        for seed in range(seeds):
            kitae.seed(seed)
            optimizer = way.get("optimizer", kitae.Adam)
            trainer = train.Trainer(
                network(way.get("drop", 0)),
                "softmax_cross_entropy",
                optimizer(lr=1e-3, weight_decay=way.get("weight_decay", 0.0), no_decay=NO_DECAY),
                metrics=["accuracy"],
            )
            fit = {"epochs": epochs, "batch_size": 32, "seed": seed, "verbose": 0}
            history = trainer.fit(x, t, validation_data=(x_test, t_test), **fit).history
            seen = trainer.evaluate(x, t)  # without dropout, as the test is
            weights = sum(float((w**2).sum()) for n, w in trainer.model.params.items() if n.endswith("W")) ** 0.5
            runs.append([seen["loss"], history["val_loss"][-1], history["val_accuracy"][-1], weights])
            curves.setdefault(name, []).append(history["val_loss"])
        rows.append([name, *map(float, np.mean(runs, axis=0))])
    print(f"{len(x)} digits, 60 of them with a random label; {epochs} epochs, means of {seeds}:\n")
    print_table(["against overfitting", "training loss", "test loss", "test accuracy", "norm of the weights"], rows)

    figure = Figure(figsize=(10, 6), layout="constrained")
    axes = figure.subplots()
    for name, values in curves.items():
        axes.plot(range(1, epochs + 1), np.mean(values, axis=0), label=name)
    axes.set(title="Overfitting, and what holds it back", xlabel="epoch", ylabel="test loss (cross entropy)")
    axes.legend(frameon=False)
    figure.savefig(picture(__file__, arguments.out), dpi=100)


if __name__ == "__main__":
    main()
