"""A script as the book's are: run in its folder, it finds `common` one above. Prints 120 losses and two accuracies."""

import os
import sys

sys.path.append(os.pardir)
import numpy as np
from common.multi_layer_net_extend import MultiLayerNetExtend
from common.optimizer import *

np.random.seed(7)
centers = np.random.randn(10, 64)
labels = np.random.randint(0, 10, 600)
images = centers[labels] + np.random.randn(600, 64)

network = MultiLayerNetExtend(input_size=64, hidden_size_list=[50, 40], output_size=10)
optimizer = {
    "SGD": SGD,
    "Momentum": Momentum,
    "Nesterov": Nesterov,
    "AdaGrad": AdaGrad,
    "RMSprop": RMSprop,
    "Adam": Adam,
}[sys.argv[1]](lr=0.01)
for step in range(120):
    batch = np.random.choice(400, 50)
    if step == 60:
        optimizer.lr *= 0.5
    loss, grads = network.gradient(images[batch], labels[batch])
    optimizer.update(network.params, grads)
    print("loss", repr(float(loss)))
print("accuracy", network.accuracy(images[:400], labels[:400]), network.accuracy(images[400:], labels[400:]))
