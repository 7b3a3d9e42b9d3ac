"""DL4J's gradient normalizations and adaptive clipping on a deep sigmoid network, whose first layers hardly learn.

Prints each one's training loss, test accuracy and how much smaller the first layer's gradient is than the last one's
before it is normalized, and draws the losses.
"""

import matplotlib.pyplot as plt
import numpy as np
from shared import options, picture, pixels_and_labels, print_table

import kitae
from kitae import nn

DEPTH = 4
LEARNING_RATES = {
    "none": 0.5,
    "renormalize_l2_per_layer": 0.05,
    "renormalize_l2_per_param_type": 0.05,
    "clip_elementwise_absolute_value": 0.5,
    "clip_l2_per_layer": 0.5,
    "clip_l2_per_param_type": 0.5,
    "clip_grad_adaptive": 0.5,
}


class Sigmoid:
    """y = 1 / (1 + exp(-x))"""

    def __init__(self):
        self.params, self.grads, self.buffers = {}, {}, {}

    def forward(self, x, training=True):
        self.y = 1 / (1 + np.exp(-x))
        return self.y

    def backward(self, dout):
        return dout * self.y * (1 - self.y)


def train(mode, data, epochs):
    """(loss of every epoch, norm of the first layer's gradient / the last one's, test accuracy)"""
    x, t, x_test, t_test = data
    kitae.seed(4)
    hidden = [layer for _ in range(DEPTH) for layer in (nn.Dense(50, init="xavier"), Sigmoid())]
    model = nn.Sequential(*hidden, nn.Dense(10, init="xavier"))
    model.build(x.shape, x.dtype)
    dense = [layer for layer in model.layers if layer.params]
    loss, optimizer = nn.SoftmaxCrossEntropy(), kitae.Momentum(model.params, LEARNING_RATES[mode])
    optimizer.bind(model.grads)
    order, losses, ratios = np.random.default_rng(0), [], []
    for _ in range(epochs):
        total = []
        for rows in np.array_split(order.permutation(len(x)), len(x) // 32):
            total.append(loss.forward(model.forward(x[rows]), t[rows]))
            model.backward(loss.backward())
            ratios.append(kitae.global_norm(dense[0].grads) / kitae.global_norm(dense[-1].grads))
            if mode == "clip_grad_adaptive":  # the last layer is left out, as in the paper
                for layer in dense[:-1]:
                    kitae.clip_grad_adaptive(layer.params, layer.grads, 0.02)
            else:
                kitae.normalize_gradients(dense, mode, 0.1 if "value" not in mode else 0.01)
            optimizer.step()
        losses.append(float(np.mean(total)))
    accuracy = float((model.forward(x_test, training=False).argmax(1) == t_test).mean())
    return losses, float(np.median(ratios)), accuracy


def main():
    arguments = options(__doc__).parse_args()
    data = pixels_and_labels(arguments.data)
    runs = {mode: train(mode, data, 3 if arguments.quick else 25) for mode in LEARNING_RATES}
    header = ["gradients", "last loss", "first:last layer", "test accuracy"]
    print_table(header, [[mode, losses[-1], ratio, accuracy] for mode, (losses, ratio, accuracy) in runs.items()])
    figure, axes = plt.subplots(figsize=(7, 4.5))
    for mode, (losses, _, _) in runs.items():
        axes.semilogy(losses, label=mode)
    axes.set(xlabel="epoch", ylabel="training loss")
    axes.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(picture(__file__, arguments.out))


if __name__ == "__main__":
    main()
