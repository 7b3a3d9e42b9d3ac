"""Averaged weights against the last ones: EMA and SWA beside an optimizer with a high constant learning rate on digits,
each with batch norm's statistics as training left them and as `precise_batch_norm` takes them.

Prints the test loss and accuracy of every choice, and draws the test loss over the epochs.
"""

import matplotlib.pyplot as plt
import numpy as np
from shared import options, picture, pixels_and_labels, print_table

import kitae
from kitae import nn
from kitae.train import precise_batch_norm


def network():
    kitae.seed(2)
    return nn.Sequential(
        nn.Dense(64, bias=False),
        kitae.BatchNorm(activation="relu"),
        nn.Dense(64, bias=False),
        kitae.BatchNorm(activation="relu"),
        nn.Dense(10),
    )


def evaluate(model, x, t):
    logits = model.forward(x, training=False)
    return nn.SoftmaxCrossEntropy().forward(logits, t), float((logits.argmax(1) == t).mean())


def with_precise_statistics(model, x, evaluate_now):
    """What ``evaluate_now`` gives with statistics of all of x; those of training are there again after."""
    kept = {name: array.copy() for name, array in model.buffers.items()}
    precise_batch_norm(model, [x[:700], x[700:]])
    found = evaluate_now()
    for name, array in model.buffers.items():
        array[...] = kept[name]
    return found


def main():
    arguments = options(__doc__).parse_args()
    x, t, x_test, t_test = pixels_and_labels(arguments.data)
    model, loss = network(), nn.SoftmaxCrossEntropy()
    model.build(x.shape, x.dtype)
    optimizer = kitae.SGD(model.params, 0.5)
    optimizer.bind(model.grads)
    ema, swa = kitae.EMA(model.params, 0.99, debias=True), kitae.SWA(model.params)
    epochs = 6 if arguments.quick else 30
    order, curves = np.random.default_rng(0), {"last": [], "EMA": [], "SWA": []}

    def now():
        return evaluate(model, x_test, t_test)

    for epoch in range(epochs):
        for rows in np.array_split(order.permutation(len(x)), len(x) // 16):
            loss.forward(model.forward(x[rows]), t[rows])
            model.backward(loss.backward())
            optimizer.step()
            ema.update()
        if epoch >= epochs // 3:  # averages what comes after the first descent
            swa.update()
        curves["last"].append(now()[0])
        for name, average in (("EMA", ema), ("SWA", swa)):
            with average.applied():
                curves[name].append(with_precise_statistics(model, x, now)[0])

    rows = [["last weights", *now(), *with_precise_statistics(model, x, now)]]
    for name, average in (("EMA, decay 0.99", ema), (f"SWA of {swa.updates} epochs", swa)):
        with average.applied():
            rows.append([name, *now(), *with_precise_statistics(model, x, now)])
    print_table(["weights", "test loss", "accuracy", "loss, precise statistics", "accuracy, precise"], rows)
    figure, axes = plt.subplots(figsize=(7, 4.5))
    for name, curve in curves.items():
        axes.semilogy(curve, label=name)
    axes.set(xlabel="epoch", ylabel="test loss")
    axes.legend()
    figure.tight_layout()
    figure.savefig(picture(__file__, arguments.out))


if __name__ == "__main__":
    main()
