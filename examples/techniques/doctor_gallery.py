"""Twelve training runs, each broken in a known way, and what the doctor says first about each.

    python examples/techniques/doctor_gallery.py

Every run trains on handwritten digits (the recurrent one on sums of sequences), with `kitae.train.Doctor` as its only
callback. `ARCHITECTURES` and `BREAKS` are also what tests/test_doctor_gallery.py runs, over seeds.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from shared import options, picture, pixels_and_labels, print_table

import kitae
from kitae import nn
from kitae.train import Doctor, Trainer
from kitae.train.doctor.findings import numbers

CLASSES = 10


@dataclass
class Run:
    """A training run before it starts; a break changes something in it."""

    seed: int
    data: tuple  # x, t, x_val, t_val
    layers: list
    loss: object
    optimizer: object
    epochs: int = 6
    batch: int = 32
    after_build: list = field(default_factory=list)  # functions of the built network
    network: type = nn.Sequential
    doctor: Doctor = None

    def train(self):
        x, t, x_val, t_val = self.data
        self.doctor = Doctor(verbose=False)
        network = self.network(*self.layers)
        network.forward(x[:1], training=False)
        for change in self.after_build:
            change(network)
        trainer = Trainer(network, self.loss, self.optimizer, callbacks=[self.doctor])
        with np.errstate(all="ignore"):
            try:
                sizes = {"epochs": self.epochs, "batch_size": self.batch}
                trainer.fit(x, t, **sizes, validation_data=(x_val, t_val), seed=self.seed, verbose=0)
            except FloatingPointError:  # batch norm refuses what is not finite; the doctor has seen it
                pass
        return self.doctor


def digits(seed, samples=None):
    """Scaled digits; a part of the training images, another one for each seed."""
    x, t, x_val, t_val = pixels_and_labels()
    order = np.random.default_rng(seed).permutation(len(x))[:samples]
    return x[order], t[order], x_val, t_val


# Healthy networks. `draw` replaces the initialization of the hidden layers, for breaks.


def relu_mlp(seed, draw="he"):
    layers = [nn.Dense(64, init=draw), nn.ReLU(), nn.Dense(32, init=draw), nn.ReLU(), nn.Dense(CLASSES)]
    return Run(seed, digits(seed), layers, nn.SoftmaxCrossEntropy(), kitae.SGD(lr=0.1))


def batch_norm_mlp(seed, draw="he"):
    layers = []
    for units in (64, 32):
        layers += [nn.Dense(units, init=draw), kitae.BatchNorm(activation="relu")]
    return Run(seed, digits(seed), [*layers, nn.Dense(CLASSES)], nn.SoftmaxCrossEntropy(), kitae.Adam(lr=1e-3))


def deep_mlp(seed, draw="he"):
    layers = []
    for _ in range(4):
        layers += [nn.Dense(48, init=draw), nn.ReLU()]
    optimizer = kitae.Momentum(lr=0.01, momentum=0.9)
    return Run(seed, digits(seed), [*layers, nn.Dense(CLASSES)], nn.SoftmaxCrossEntropy(), optimizer)


def squashed(seed, units, activation, draw="xavier"):
    layers = []
    for count in units:
        layers += [nn.Dense(count, init=draw), activation()]
    return Run(seed, digits(seed), [*layers, nn.Dense(CLASSES)], nn.SoftmaxCrossEntropy(), kitae.Adam(lr=1e-3))


def sigmoid_mlp(seed, draw="xavier"):
    return squashed(seed, (64,), nn.Sigmoid, draw)


def deep_sigmoid_mlp(seed, draw="xavier"):
    return squashed(seed, (48, 32), nn.Sigmoid, draw)


def tanh_mlp(seed, draw="xavier"):
    return squashed(seed, (64, 32), nn.Tanh, draw)


def normalized(seed, units, optimizer, draw="he"):
    layers = []
    for count in units:
        layers += [nn.Dense(count, init=draw), kitae.BatchNorm(), nn.ReLU()]
    return Run(seed, digits(seed), [*layers, nn.Dense(CLASSES)], nn.SoftmaxCrossEntropy(), optimizer)


def one_batch_norm(seed, draw="he"):
    return normalized(seed, (48,), kitae.SGD(lr=0.1), draw)


def deep_batch_norm(seed, draw="he"):
    return normalized(seed, (48, 48, 48), kitae.Momentum(lr=0.02, momentum=0.9), draw)


def sums(seed, length):
    """Sequences of two numbers; the target is the sum of the first over the steps that the second marks."""
    rng = np.random.default_rng(seed)
    x = np.stack([rng.uniform(-1, 1, (640, length)), rng.uniform(size=(640, length)) < 0.3], axis=2)
    t = (x[:, :, 0] * x[:, :, 1]).sum(axis=1, keepdims=True)
    x, t = x.astype(np.float32), t.astype(np.float32)
    return x[:512], t[:512], x[512:], t[512:]


def recurrent(seed, units, length, draw="orthogonal"):
    layers = [
        nn.SimpleRNN(count, recurrent_init=draw, return_sequences=place + 1 < len(units))
        for place, count in enumerate(units)
    ]
    run = Run(
        seed, sums(seed, length), [*layers, nn.Dense(1, init="xavier")], nn.MeanSquaredError(), kitae.Adam(lr=1e-3)
    )
    return replace(run, epochs=4)


def rnn(seed, draw="orthogonal"):
    return recurrent(seed, (32,), 25, draw)


def wide_rnn(seed, draw="orthogonal"):
    return recurrent(seed, (64,), 30, draw)


def two_rnns(seed, draw="orthogonal"):
    return recurrent(seed, (24, 24), 25, draw)


# Breaks: (architecture, seed) -> a run with one thing wrong.


def zero_init(make, seed):
    return make(seed, draw=lambda shape, rng: np.zeros(shape))


def huge_learning_rate(make, seed):
    run = make(seed)
    run.optimizer.lr *= 1000
    return run


def tiny_learning_rate(make, seed):
    run = make(seed)
    run.optimizer.lr *= 1e-5
    return run


def saturated(make, seed):
    return make(seed, draw=lambda shape, rng: 5 * rng.standard_normal(shape))


def dead(make, seed):
    """Biases (in a batch norm: beta) of the hidden layers start at -10."""

    def lower(network):
        for name, array in list(network.params.items())[:-2]:
            if name.endswith((".b", ".beta")):
                array[...] = -10

    run = make(seed)
    run.after_build.append(lower)
    return run


def unscaled(make, seed):
    run = make(seed)
    x, t, x_val, t_val = run.data
    return replace(run, data=(255 * x, t, 255 * x_val, t_val))


def softmax_twice(make, seed):
    run = make(seed)
    return replace(run, layers=[*run.layers, nn.Softmax()])


def relu_before_softmax(make, seed):
    run = make(seed)
    return replace(run, layers=[*run.layers, nn.ReLU()])


def squares_of_classes(make, seed):
    run = make(seed)
    x, t, x_val, t_val = run.data
    one_hot = np.eye(CLASSES, dtype=np.float32)
    data = (x, one_hot[t], x_val, one_hot[t_val])
    return replace(run, layers=[*run.layers, nn.Sigmoid()], loss=nn.MeanSquaredError(), data=data)


def exploding(make, seed):
    return make(seed, draw=lambda shape, rng: 4 * rng.standard_normal(shape) / np.sqrt(shape[0]))


def nan_in_data(make, seed):
    run = make(seed)
    x = run.data[0].copy()
    rng = np.random.default_rng(seed)
    x[rng.integers(len(x)), rng.integers(x.shape[1])] = np.nan
    return replace(run, data=(x, *run.data[1:]))


class AlwaysTraining(nn.Sequential):
    """Forgets to switch to inference."""

    def forward(self, x, training=True):
        return super().forward(x, training=True)


def leaked_statistics(make, seed):
    return replace(make(seed), network=AlwaysTraining)


def overfitted(make, seed):
    """Few samples under much noise, and many epochs."""
    run = make(seed)
    x, t, x_val, t_val = run.data
    rng = np.random.default_rng(seed)
    x, x_val = (part + rng.normal(0, 0.5, part.shape).astype(np.float32) for part in (x, x_val))
    run.optimizer.lr *= 5
    return replace(run, data=(x[:60], t[:60], x_val, t_val), epochs=200)


def noisy_labels(make, seed):
    """Four of ten training labels are drawn at random."""
    run = make(seed)
    x, t, x_val, t_val = run.data
    rng = np.random.default_rng(seed)
    labels = np.where(rng.uniform(size=len(t)) < 0.4, rng.integers(0, CLASSES, len(t)), t)
    return replace(run, data=(x, labels, x_val, t_val), epochs=15)


MLPS = (relu_mlp, batch_norm_mlp, deep_mlp)
# what is broken: (how, on which architectures, the finding that should come first)
BREAKS = {
    "zero weights": ((zero_init,) * 3, MLPS, "zero_weights"),
    "huge learning rate": ((huge_learning_rate,) * 3, MLPS, "learning_rate_too_high"),
    "tiny learning rate": ((tiny_learning_rate,) * 3, MLPS, "learning_rate_too_low"),
    "saturated activations": ((saturated,) * 3, (sigmoid_mlp, deep_sigmoid_mlp, tanh_mlp), "saturated_activations"),
    "dead ReLUs": ((dead,) * 3, MLPS, "dead_relu"),
    "unscaled inputs": ((unscaled,) * 3, MLPS, "unscaled_inputs"),
    "wrong loss": ((softmax_twice, squares_of_classes, relu_before_softmax), MLPS, "output_mismatch"),
    "exploding recurrence": ((exploding,) * 3, (rnn, wide_rnn, two_rnns), "exploding_gradients"),
    "NaN in the data": ((nan_in_data,) * 3, MLPS, "nan_in_inputs"),
    "leaked statistics": (
        (leaked_statistics,) * 3,
        (batch_norm_mlp, one_batch_norm, deep_batch_norm),
        "leaked_batch_norm_statistics",
    ),
    "overfitting": ((overfitted,) * 3, MLPS, "overfitting"),
    "noisy labels": ((noisy_labels,) * 3, MLPS, "label_noise"),
}


def broken(name, architecture, seed):
    """The run ``name`` on the break's architecture number 0, 1 or 2."""
    kitae.seed(seed)
    ways, makes, _ = BREAKS[name]
    return ways[architecture](makes[architecture], seed)


def main():
    arguments = options(__doc__).parse_args()
    rows, remedies, doctors = [], {}, {}
    for name in BREAKS:
        if arguments.quick and name in ("overfitting", "noisy labels"):
            continue
        doctors[name] = broken(name, 0, seed=1).train()
        first = doctors[name].findings[0]
        rows.append([name, first.name, first.layer or "-", first.step, numbers(first.evidence)])
        remedies[first.name] = first.remedy
    print_table(["broken", "first finding", "layer", "step", "evidence"], rows)
    print()
    print_table(["finding", "remedy"], list(remedies.items()))
    doctors["saturated activations"].plot(picture(__file__, arguments.out))


if __name__ == "__main__":
    main()
