"""Addition as text: a small LSTM learns to continue "57+5 _" by the digits of the sum, with backpropagation through the
whole text and truncated after some steps.

    python examples/techniques/recurrent.py [--quick] [--data sums.txt] [--out picture.png]

The network reads one character a step and says the next one; the last digit of the sum comes first, as one adds by
hand. Errors are made at the answer, so a gradient that is cut off after a few steps does not tell the LSTM what to keep
of the question's beginning: it has to do with what it happens to remember.

--data: a text file, plain or .gz, of such lines, "57+5 _62 ", the sum written as usual.
"""

import gzip
import sys
import time

import numpy as np
from shared import options, picture, print_table

import kitae
from kitae import nn
from kitae.train import TruncatedBPTT

CHARACTERS = "0123456789+_ "
IGNORED = -1


def generated(count, seed):
    """Different sums of two numbers below 100, as lines of text."""
    pairs = np.random.default_rng(seed).permutation(10_000)[:count]
    return [f"{a}+{b}".ljust(5) + f"_{a + b}".ljust(4) for a, b in zip(pairs // 100, pairs % 100, strict=True)]


def read(path, count):
    with gzip.open(path, "rt") if path.endswith(".gz") else open(path) as file:
        return [line.rstrip("\n") for line, _ in zip(file, range(count), strict=False)]


def characters_and_targets(lines):
    """Ids of the characters (lines, steps) and, at each step, of the next one; IGNORED within the question."""
    rows = []
    for line in lines:
        question, _, answer = line.partition("_")
        rows.append(f"{question}_{answer.strip()[::-1].ljust(len(answer))}")
    ids = np.array([[CHARACTERS.index(character) for character in row] for row in rows])
    x, t = ids[:, :-1], ids[:, 1:].copy()
    t[:, : rows[0].index("_")] = IGNORED
    return x, t


def network():
    kitae.seed(1)
    return nn.Sequential(
        nn.Embedding(16, len(CHARACTERS)),
        nn.LSTM(64, return_sequences=True, stateful=True),
        nn.TimeDistributed(nn.Dense(len(CHARACTERS))),
    )


def accuracy(model, x, t):
    """The share of sums of which every digit is right."""
    model.layers[1].reset_state()
    said = model.forward(x, training=False).argmax(axis=-1)
    return float(np.mean(np.all((said == t) | (t == IGNORED), axis=1)))


def train(steps, train_set, test_set, epochs, batch=64):
    """Loss and accuracy after each epoch, and seconds of training for a batch."""
    x, t = train_set
    model, optimizer = network(), kitae.Adam(lr=0.01, max_norm=5.0)
    loss = nn.TimeDistributedLoss(nn.SoftmaxCrossEntropy(), ignore=IGNORED)
    truncated, rng = TruncatedBPTT(steps, steps), np.random.default_rng(2)
    losses, accuracies, seconds = [], [], []
    for _ in range(epochs):
        order = rng.permutation(len(x))
        of_epoch = []
        for start in range(0, len(x), batch):
            rows = order[start : start + batch]
            begin = time.perf_counter()
            of_epoch.append(truncated.train_batch(model, loss, optimizer, x[rows], t[rows]))
            seconds.append(time.perf_counter() - begin)
        losses.append(float(np.mean(of_epoch)))
        accuracies.append(accuracy(model, *test_set))
    return losses, accuracies, float(np.median(seconds))


def draw(results, out):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for name, (losses, accuracies, _) in results.items():
        epochs = range(1, len(losses) + 1)
        axes[0].plot(epochs, losses, label=name)
        axes[1].plot(epochs, accuracies, label=name)
    for ax, title in zip(axes, ("loss in training", "sums right, test set"), strict=True):
        ax.set(title=title, xlabel="epoch")
        ax.grid(alpha=0.3)
    axes[1].legend()
    figure.savefig(out, dpi=120)


def main():
    arguments = options(__doc__).parse_args()
    count, epochs = (1000, 2) if arguments.quick else (6000, 15)
    lines = generated(count, seed=3) if arguments.data is None else read(arguments.data, count)
    x, t = characters_and_targets(lines)
    cut = len(x) * 9 // 10
    length = x.shape[1]
    print(f"{cut} sums to learn, {len(x) - cut} to be tested with, such as {lines[0]!r}; {length} steps each")
    results = {}
    for steps in (length, length // 2, length // 4):
        name = "through the whole text" if steps == length else f"truncated after {steps} steps"
        results[name] = train(steps, (x[:cut], t[:cut]), (x[cut:], t[cut:]), epochs)
    print_table(
        ["backpropagation", "loss", "sums right", "ms a batch"],
        [[name, losses[-1], right[-1], 1000 * seconds] for name, (losses, right, seconds) in results.items()],
    )
    draw(results, picture(__file__, arguments.out))


if __name__ == "__main__":
    sys.exit(main())
