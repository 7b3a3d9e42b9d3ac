"""What the first weights do to a signal: ten layers of 100 units, before any training.

Digits go through ten dense layers with tanh, and with ReLU, for one initialization after the other. Where the spread of
the activations shrinks or they sit at the ends of tanh, deep layers learn nothing. The last columns are training runs
of the same networks (five hidden layers) and how far their loss fell.
"""

import numpy as np
import shared
from matplotlib.figure import Figure

import kitae
from kitae import nn
from kitae.nn import initializers

INITIALIZATIONS = {
    "N(0, 1)": "standard_normal",
    "N(0, 0.01^2)": "gaussian",
    "U(-1/sqrt m, 1/sqrt m)": "inverse_root_uniform",
    "LeCun normal": "lecun",
    "Xavier normal": "xavier",
    "Xavier uniform": "xavier_uniform",
    "He normal": "he",
    "He uniform": "he_uniform",
    "orthogonal": "orthogonal",
    "orthogonal, gain sqrt 2": initializers.Orthogonal(2**0.5),
    "sparse, 15 a unit": initializers.Sparse(15, std=15**-0.5),
}
ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU}
DEPTH, UNITS, HIDDEN = 10, 100, 5


def network(activation, init, depth):
    return nn.Sequential([layer for _ in range(depth) for layer in (nn.Dense(UNITS, init=init), activation())])


def loss_after(activation, init, x, t, steps):
    """The training loss of a network of five hidden layers after some steps of Adam."""
    model = nn.Sequential(*network(activation, init, HIDDEN).layers, nn.Dense(10, init="lecun"))
    loss, rng = nn.SoftmaxCrossEntropy(), np.random.default_rng(0)
    model.build(x.shape, x.dtype)
    optimizer = kitae.Adam(model.params, 1e-3)
    optimizer.bind(model.grads)
    for _ in range(steps):
        chosen = rng.integers(0, len(x), 100)
        loss.forward(model.forward(x[chosen]), t[chosen])
        model.backward(loss.backward())
        optimizer.step()
    return loss.forward(model.forward(x, training=False), t)


def main():
    args = shared.options(__doc__).parse_args()
    x, t, _, _ = shared.pixels_and_labels(args.data)
    x = (x - x.mean()) / x.std()
    steps = 5 if args.quick else 200
    if args.quick:
        x, t = x[:200], t[:200]
    rows, histograms = [], {}
    for name, init in INITIALIZATIONS.items():
        row = [name]
        for kind, activation in ACTIVATIONS.items():
            kitae.seed(1)
            found = nn.activation_histograms(network(activation, init, DEPTH), x, bins=40, only=(activation,)).layers
            histograms[kind, name] = found
            row += [found[0].std, found[-1].std, found[-1].saturated if kind == "tanh" else found[-1].zeros]
            kitae.seed(1)
            row.append(loss_after(activation, init, x, t, steps))
        rows.append(row)
    print(f"{DEPTH} layers of {UNITS} units; loss after {steps} steps of Adam with {HIDDEN} of them (log 10 = 2.303)\n")
    header = ["initialization"]
    for kind, end in (("tanh", "saturated"), ("relu", "zeros")):
        header += [f"{kind}: std 1", f"std {DEPTH}", end, "loss"]
    shared.print_table(header, rows)
    draw(histograms, shared.picture(__file__, args.out))


def draw(histograms, path):
    """A row an initialization: the first and the last layer with tanh, then with ReLU."""
    columns = [(kind, layer) for kind in ACTIVATIONS for layer in (0, DEPTH - 1)]
    figure = Figure(figsize=(14, 1.3 * len(INITIALIZATIONS)))
    figure.subplots_adjust(left=0.16, right=0.99, bottom=0.03, top=0.97, hspace=0.75, wspace=0.08)
    axes = figure.subplots(len(INITIALIZATIONS), len(columns))
    for row, name in zip(axes, INITIALIZATIONS, strict=True):
        row[0].set_ylabel(
            name if len(name) < 15 else name.replace(", ", ",\n"), rotation=0, ha="right", va="center", fontsize=11
        )
        for ax, (kind, layer) in zip(row, columns, strict=True):
            numbers = histograms[kind, name][layer]
            ax.stairs(numbers.counts, numbers.edges, fill=True, color="#0072B2" if kind == "tanh" else "#D55E00")
            ax.set_yticks([])
            ax.tick_params(labelsize=8)
            ax.set_title(f"{kind}, layer {layer + 1}: std {numbers.std:.2g}", fontsize=9)
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    main()
