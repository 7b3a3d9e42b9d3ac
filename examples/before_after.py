"""A small textbook network before and after: the one line that changes is an import.

python examples/before_after.py before
python examples/before_after.py after
"""

import sys
import time

import numpy as np

if sys.argv[1:] == ["before"]:
    from book import Adam, BatchNorm, Dropout
elif sys.argv[1:] == ["after"]:
    from kitae import Adam, BatchNorm, Dropout
else:
    sys.exit(__doc__)

from kitae.bench.textbook import Affine, ReLU, SoftmaxWithLoss
from kitae.data import digits, train_test_split

rng = np.random.default_rng(0)


def affine(inputs, units):
    weights = rng.standard_normal((inputs, units)) * np.sqrt(2 / inputs)
    return Affine(weights.astype(np.float32), np.zeros(units, np.float32))


data = digits()
pixels = data.images.reshape(-1, 64).astype(np.float32) / 16
x_train, t_train, x_test, t_test = train_test_split(pixels, data.labels)

layers = []
for inputs in (64, 256, 256):
    layers += [affine(inputs, 256), BatchNorm(256), ReLU(), Dropout(0.2)]
layers += [affine(256, 10)]
loss = SoftmaxWithLoss()
params = {(i, name): p for i, layer in enumerate(layers) for name, p in layer.params.items()}
optimizer = Adam(params, lr=1e-3)

start = time.perf_counter()
for _ in range(300):
    batch = rng.choice(len(x_train), 128)
    x = x_train[batch]
    for layer in layers:
        x = layer.forward(x, training=True)
    loss.forward(x, t_train[batch])
    dout = loss.backward()
    for layer in reversed(layers):
        dout = layer.backward(dout)
    optimizer.step({(i, name): g for i, layer in enumerate(layers) for name, g in layer.grads.items()})
seconds = time.perf_counter() - start

x = x_test
for layer in layers:
    x = layer.forward(x, training=False)
accuracy = np.mean(x.argmax(axis=1) == t_test)
print(f"{sys.argv[1]:>6}: 300 steps in {seconds:.2f} s, {accuracy:.1%} of the test images right")
