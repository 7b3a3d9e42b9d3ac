"""Early stopping by its two criteria, on few digits with wrong labels among them, which can only be learnt by heart."""

import numpy as np
from matplotlib.figure import Figure
from shared import options, picture, pixels_and_labels, print_table

import kitae
import kitae.nn
from kitae import train

CRITERIA = {
    "none": None,
    "training loss on a plateau": {"monitor": "loss", "min_delta": 0.01, "patience": 5},
    "validation loss turning up, patience 5": {"monitor": "val_loss", "patience": 5},
    "generalization loss > 5 %": {"monitor": "val_loss", "criterion": "generalization_loss", "threshold": 5.0},
}


def main():
    arguments = options(__doc__).parse_args()
    x, t, x_test, t_test = pixels_and_labels(arguments.data)
    rng = np.random.default_rng(0)
    few = rng.permutation(len(x))[:600]
    x, t = x[few], t[few].copy()
    wrong = rng.permutation(400)[:80]  # of the training samples
    t[wrong] = rng.integers(0, 10, len(wrong))
    epochs = 10 if arguments.quick else 150

    rows, histories = [], {}
    for name, criterion in CRITERIA.items():
        kitae.seed(0)
        model = kitae.nn.Sequential(kitae.nn.Dense(200), kitae.nn.ReLU(), kitae.nn.Dense(10))
        early = None if criterion is None else train.EarlyStopping(**criterion, restore_best=True)
        trainer = train.Trainer(
            model,
            "softmax_cross_entropy",
            kitae.Adam(lr=1e-3),
            metrics=["accuracy"],
            callbacks=[] if early is None else [early],
        )
        history = trainer.fit(
            x[:400], t[:400], validation_data=(x[400:], t[400:]), epochs=epochs, batch_size=32, seed=0, verbose=0
        )
        test = trainer.evaluate(x_test, t_test)
        kept = trainer.epoch if early is None else early.best_epoch + 1
        rows.append([name, trainer.epoch, kept, history.history["loss"][-1], test["loss"], test["accuracy"]])
        histories[name] = history.history, kept
    print_table(["criterion", "epochs", "weights of", "training loss", "test loss", "test accuracy"], rows)

    figure = Figure(figsize=(10, 6), layout="constrained")
    axes = figure.subplots()
    whole, _ = histories["none"]
    axes.plot(range(1, epochs + 1), whole["loss"], label="training loss (a fifth of the labels is wrong)")
    axes.plot(range(1, epochs + 1), whole["val_loss"], label="validation loss")
    for (name, (history, kept)), color in zip(list(histories.items())[1:], ("C2", "C3", "C4"), strict=True):
        axes.axvline(len(history["loss"]), color=color, label=f"stopped: {name} (weights of epoch {kept})")
    axes.set(title="Where the criteria stop", xlabel="epoch", ylabel="cross entropy")
    axes.legend(frameon=False)
    figure.savefig(picture(__file__, arguments.out), dpi=100)


if __name__ == "__main__":
    main()
