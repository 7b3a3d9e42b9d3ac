"""Real digits (scikit-learn's 1,797 of 8 x 8 pixels), dense layers with batch normalization and dropout, as chapter 6
of book 1 trains them. Prints losses, an accuracy, and the seconds of the training."""

import os
import sys

sys.path.append(os.pardir)
import time

import numpy as np
from common.multi_layer_net_extend import MultiLayerNetExtend
from common.optimizer import Adam
from sklearn.datasets import load_digits

np.random.seed(0)
images, labels = load_digits(return_X_y=True)
order = np.random.permutation(len(images))
images, labels = images[order] / 16, labels[order]
x_train, t_train, x_test, t_test = images[:1400], labels[:1400], images[1400:], labels[1400:]

network = MultiLayerNetExtend(input_size=64, hidden_size_list=[100, 100, 100, 100, 100], output_size=10)
optimizer = Adam()
losses = []
start = time.perf_counter()
for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 1000):
    batch = np.random.choice(len(x_train), 100)
    loss, grads = network.gradient(x_train[batch], t_train[batch])
    optimizer.update(network.params, grads)
    losses.append(loss)
seconds = time.perf_counter() - start

for loss in losses:
    print("loss", repr(float(loss)))
print("accuracy", network.accuracy(x_test, t_test))
print("seconds", seconds)
