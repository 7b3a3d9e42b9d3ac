"""Small networks on top of kitae's layers: dense, ReLU, softmax with cross entropy, and a list of layers.

A layer is any object with ``forward(x, training=True)``, ``backward(dout)`` and the dicts ``params``, ``grads`` and
``buffers``; ``kitae.BatchNorm`` and ``kitae.Dropout`` are layers too. A layer with parameters is built at its first
forward pass or by ``build(shape, dtype)``, shape being that of the input with its batch axis. From then on its
gradient arrays exist and every backward pass overwrites them in place, so ``optimizer.bind(network.grads)`` holds.

``backward`` belongs to the latest ``forward``. Outputs and input gradients are new arrays.
"""

from kitae.nn.dense import Dense
from kitae.nn.layer import Layer
from kitae.nn.relu import ReLU
from kitae.nn.sequential import Sequential
from kitae.nn.softmax_cross_entropy import SoftmaxCrossEntropy
from kitae.nn.storage import load_weights, save_weights

__all__ = ["Dense", "Layer", "ReLU", "Sequential", "SoftmaxCrossEntropy", "load_weights", "save_weights"]
