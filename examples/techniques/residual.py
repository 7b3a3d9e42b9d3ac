"""Deep plain networks against residual ones, on digits: the same layers, with and without a shortcut.

Each block is dense, batch norm, ReLU, dense, batch norm; the residual network adds the block's input before the last
ReLU. As blocks are added the plain network becomes hard to train; the residual one does not. The last row is a block
of branches (Inception's idea) in place of the last residual block.
"""

import numpy as np
import shared
from matplotlib.figure import Figure

import kitae
from kitae import nn

UNITS = 64


def layers_of_block():
    return [
        nn.Dense(UNITS, bias=False),
        kitae.BatchNorm(activation="relu"),
        nn.Dense(UNITS, bias=False),
        kitae.BatchNorm(),
    ]


def plain_block():
    return nn.Sequential(*layers_of_block(), nn.ReLU())


def residual_block():
    return nn.Residual(nn.Sequential(layers_of_block()))


def branched_block():
    """Three branches of different depth side by side, joined: 64 units again."""
    return nn.Branches(
        nn.Sequential(nn.Dense(24), nn.ReLU()),
        nn.Sequential(nn.Dense(24), nn.ReLU(), nn.Dense(24), nn.ReLU()),
        nn.Sequential(nn.Dense(16), nn.ReLU(), nn.Dense(16), nn.ReLU(), nn.Dense(16), nn.ReLU()),
    )


def train(blocks, x, t, x_test, t_test, epochs):
    """(network, training losses by epoch, accuracy on the test part)."""
    model = nn.Sequential(nn.Dense(UNITS), nn.ReLU(), *blocks, nn.Dense(10))
    loss, rng, losses = nn.SoftmaxCrossEntropy(), np.random.default_rng(0), []
    model.build(x.shape, x.dtype)
    optimizer = kitae.Momentum(model.params, 0.02)
    optimizer.bind(model.grads)
    for _ in range(epochs):
        total = 0.0
        for chosen in np.array_split(rng.permutation(len(x)), len(x) // 64):
            total += loss.forward(model.forward(x[chosen]), t[chosen]) * len(chosen)
            model.backward(loss.backward())
            optimizer.step()
        losses.append(total / len(x))
    return model, losses, float(np.mean(model.forward(x_test, training=False).argmax(axis=1) == t_test))


def main():
    args = shared.options(__doc__).parse_args()
    data = shared.pixels_and_labels(args.data)
    epochs, depths = (1, (2, 4)) if args.quick else (15, (2, 8, 24))
    kinds = {"plain": plain_block, "residual": residual_block}
    rows, curves = [], {}
    for depth in depths:
        for kind, block in kinds.items():
            kitae.seed(1)
            model, losses, accuracy = train([block() for _ in range(depth)], *data, epochs)
            rows.append([f"{kind}, {depth} blocks", model.summary().parameters, losses[0], losses[-1], accuracy])
            curves[kind, depth] = losses
    kitae.seed(1)
    model, losses, accuracy = train(
        [residual_block() for _ in range(depths[0] - 1)] + [branched_block()], *data, epochs
    )
    rows.append([f"residual, 1, then {len(model.layers[-2].branches)} branches", model.summary().parameters])
    rows[-1] += [losses[0], losses[-1], accuracy]
    print(f"digits, {epochs} epochs of Momentum, batch 64\n")
    shared.print_table(["network", "parameters", "loss, epoch 1", f"epoch {epochs}", "test accuracy"], rows)
    draw(curves, depths, shared.picture(__file__, args.out))


def draw(curves, depths, path):
    figure = Figure(figsize=(5 * len(depths), 4), layout="constrained")
    for ax, depth in zip(figure.subplots(1, len(depths), sharey=True), depths, strict=True):
        for kind, color in (("plain", "#D55E00"), ("residual", "#0072B2")):
            losses = curves[kind, depth]
            ax.semilogy(range(1, len(losses) + 1), losses, color=color, linewidth=2, marker="o", label=kind)
        ax.set_title(f"{depth} blocks ({2 * depth} hidden layers)")
        ax.set_xlabel("epoch")
        ax.grid(alpha=0.3)
    figure.axes[0].set_ylabel("training loss")
    figure.axes[0].legend()
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
