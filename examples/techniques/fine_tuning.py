"""Transfer learning: a network that knows the digits 0 to 4 learns 5 to 9 from few samples, against one that starts
from scratch; and negative transfer, from digits whose pixels were shuffled."""

import copy

import numpy as np
from matplotlib.figure import Figure
from shared import options, picture, pixels_and_labels, print_table

import kitae
import kitae.nn
from kitae import train

LOSS = "softmax_cross_entropy"
RATE = 1e-2


def network(x):
    kitae.seed(0)
    body = [
        kitae.nn.Dense(100),
        kitae.BatchNorm(activation="relu"),
        kitae.nn.Dense(50),
        kitae.BatchNorm(activation="relu"),
    ]
    model = kitae.nn.Sequential(*body, kitae.nn.Dense(5))
    model.build(x[:1].shape, x.dtype)
    return model


def pretrained(x, t, epochs):
    model = network(x)
    train.Trainer(model, LOSS, kitae.Adam(lr=1e-3)).fit(x, t, epochs=epochs, batch_size=32, seed=0, verbose=0)
    return model


def main():
    arguments = options(__doc__).parse_args()
    x, t, x_test, t_test = pixels_and_labels(arguments.data)
    first, test = t < 5, t_test >= 5
    epochs, seeds = (3, 1) if arguments.quick else (30, 3)
    shuffled = np.random.default_rng(0).permutation(x.shape[1])
    sources = {
        "0 to 4": pretrained(x[first], t[first], epochs),
        "0 to 4, pixels shuffled": pretrained(x[first][:, shuffled], t[first], epochs),
    }

    def with_new_head(source="0 to 4"):
        model = train.replace_last_layers(copy.deepcopy(sources[source]), 1, [kitae.nn.Dense(5)])
        model.build(x[:1].shape, x.dtype)
        return model

    def body_frozen(statistics_frozen, source="0 to 4"):
        model = with_new_head(source)
        train.freeze(model, "[0-3].*")
        train.freeze_statistics(model, statistics_frozen)
        return model, kitae.Adam(lr=RATE)

    def body_slow(statistics_frozen):
        model = with_new_head()
        train.freeze_statistics(model, statistics_frozen)
        return model, kitae.Adam(train.parameter_groups(model, {"4.*": 1.0, "*": 1e-2}, lr=RATE))

    ways = {
        "from scratch": lambda: (network(x), kitae.Adam(lr=RATE)),
        "body frozen, its statistics too": lambda: body_frozen(True),
        "body frozen, statistics of the new digits": lambda: body_frozen(False),
        "body at 1/100 of the rate, statistics frozen": lambda: body_slow(True),
        "body at 1/100 of the rate": lambda: body_slow(False),
        "all at one rate": lambda: (with_new_head(), kitae.Adam(lr=RATE)),
        "negative transfer: body of shuffled pixels": lambda: body_frozen(True, "0 to 4, pixels shuffled"),
    }
    few = 5  # of each digit
    rows, curves = [], {}
    for name, make in ways.items():
        shares = []
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            chosen = np.concatenate([rng.permutation(np.flatnonzero(t == digit))[:few] for digit in range(5, 10)])
            model, optimizer = make()
            trainer = train.Trainer(model, LOSS, optimizer, metrics=["accuracy"])
            history = trainer.fit(
                x[chosen],
                t[chosen] - 5,
                validation_data=(x_test[test], t_test[test] - 5),
                epochs=epochs,
                batch_size=8,
                seed=seed,
                verbose=0,
            )
            shares.append(history.history["val_accuracy"])
        curves[name] = np.mean(shares, axis=0)
        after = [float(curves[name][min(epoch, epochs) - 1]) for epoch in (1, 5, epochs)]
        trained = sum(a.size for n, a in model.params.items() if n not in train.frozen_names(model))
        rows.append([name, trained, *after])
    print(f"digits 5 to 9, {few} samples of each, test accuracy, mean of {seeds}:\n")
    print_table(["way", "trained numbers", "after 1", "5", f"{epochs} epochs"], rows)

    figure = Figure(figsize=(11, 6), layout="constrained")
    axes = figure.subplots()
    for name, share in curves.items():
        axes.plot(range(1, epochs + 1), share, label=name)
    axes.set(title="Learning 5 to 9 after 0 to 4", xlabel="epoch", ylabel="share of the test digits predicted right")
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(picture(__file__, arguments.out), dpi=100)


if __name__ == "__main__":
    main()
