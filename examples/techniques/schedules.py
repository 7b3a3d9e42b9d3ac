"""Learning-rate schedules side by side: their rates, and what they make of the same network; before that, a range test
that finds the base rate."""

from matplotlib.figure import Figure
from shared import options, picture, pixels_and_labels, print_table

import kitae
import kitae.nn
from kitae import train


def network():
    kitae.seed(0)
    return kitae.nn.Sequential(kitae.nn.Dense(100, init="he"), kitae.BatchNorm(activation="relu"), kitae.nn.Dense(10))


def main():
    arguments = options(__doc__).parse_args()
    x, t, x_test, t_test = pixels_and_labels(arguments.data)
    batch_size, epochs = 64, 3 if arguments.quick else 15
    per_epoch = -(-len(x) // batch_size)
    total = epochs * per_epoch

    loss = "softmax_cross_entropy"
    found = train.learning_rate_range_test(network(), loss, kitae.Momentum(lr=1.0), x, t, batch_size=batch_size)
    print(f"range test: the loss falls fastest at {found.suggestion:.3g}; it diverged: {found.diverged}\n")

    schedules = {
        "constant": train.Constant(per="iteration"),
        "x 0.98 an epoch": train.Exponential(0.98),
        "step: x 0.5 every 5 epochs": train.Step(5, 0.5),
        "inverse time": train.InverseTime(1.0, per_epoch, per="iteration"),
        "polynomial, power 2": train.Polynomial(total, 2.0, per="iteration"),
        "cosine": train.Cosine(total, per="iteration"),
        "cosine with restarts": train.CosineRestarts(per_epoch, 2, per="iteration"),
        "warm-up, then cosine": train.WarmUp(train.Cosine(total - per_epoch, per="iteration"), per_epoch),
        "one cycle": train.OneCycle(total),
        "map {iteration: rate}": train.Map({total // 2: found.suggestion / 10}),
    }
    rows, histories = [], {}
    plateau = train.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=1e-2)
    runs = {name: {"schedule": schedule} for name, schedule in schedules.items()}
    for name, keywords in {**runs, "reduced on a plateau": {"callbacks": [plateau]}}.items():
        trainer = train.Trainer(network(), loss, kitae.Momentum(lr=found.suggestion), metrics=["accuracy"], **keywords)
        history = trainer.fit(x, t, epochs=epochs, batch_size=batch_size, seed=0, verbose=0).history
        test = trainer.evaluate(x_test, t_test)
        rows.append([name, history["loss"][-1], history["lr"][-1], test["loss"], test["accuracy"]])
        histories[name] = history
    print_table(["schedule", "training loss", "last rate", "test loss", "test accuracy"], rows)

    figure = Figure(figsize=(13, 6), layout="constrained")
    rates, losses = figure.subplots(1, 2)
    for name, history in histories.items():
        if name in schedules:
            schedule = schedules[name]
            steps = range(total) if schedule.per == "iteration" else [i // per_epoch for i in range(total)]
            line = [schedule.lr_at(step, found.suggestion) for step in steps]
        else:
            line = [rate for rate in history["lr"] for _ in range(per_epoch)]
        rates.plot([i / per_epoch for i in range(total)], line, label=name)
        losses.plot(range(1, epochs + 1), history["loss"], label=name)
    rates.set(title="Learning rate", xlabel="epoch", ylabel="learning rate")
    losses.set(title="Training loss", xlabel="epoch", ylabel="cross entropy", yscale="log")
    losses.legend(frameon=False, fontsize=8)
    figure.savefig(picture(__file__, arguments.out), dpi=100)


if __name__ == "__main__":
    main()
