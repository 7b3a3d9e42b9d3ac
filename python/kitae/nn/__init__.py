"""Networks on top of kitae's kernels: layers, activations, blocks, losses, initializations, checks.

A layer is any object with ``forward(x, training=True)``, ``backward(dout)`` and the dicts ``params``, ``grads`` and
``buffers``; ``kitae.BatchNorm`` and ``kitae.Dropout`` are layers too. A layer with parameters is built at its first
forward pass or by ``build(shape, dtype)``, shape being that of the input with its batch axis. From then on its
gradient arrays exist and every backward pass overwrites them in place, so ``optimizer.bind(network.grads)`` holds.

``backward`` belongs to the latest ``forward``. Outputs and input gradients are new arrays.
"""

from kitae.nn import initializers
from kitae.nn.activation import Activation
from kitae.nn.activation_histograms import ActivationHistograms, activation_histograms
from kitae.nn.activations import ELU, LeakyReLU, Sigmoid, SiLU, Swish, Tanh
from kitae.nn.blocks import Branches, Residual
from kitae.nn.composite import Composite
from kitae.nn.convolution import Conv1D, Conv2D
from kitae.nn.dense import Dense
from kitae.nn.embedding import Embedding
from kitae.nn.gelu import GELU
from kitae.nn.gradient_check import GradientCheck, GradientError, check_gradients
from kitae.nn.gru import GRU
from kitae.nn.layer import Layer
from kitae.nn.losses import MeanSquaredError, ReconstructionCrossEntropy, SigmoidCrossEntropy, loss
from kitae.nn.lstm import LSTM
from kitae.nn.pooling import AvgPool1D, AvgPool2D, Flatten, GlobalAvgPool2D, MaxPool1D, MaxPool2D
from kitae.nn.reduction import ElementWiseLoss, Loss
from kitae.nn.relu import ReLU
from kitae.nn.sequential import Sequential
from kitae.nn.simple_rnn import SimpleRNN
from kitae.nn.softmax import Softmax
from kitae.nn.softmax_cross_entropy import SoftmaxCrossEntropy
from kitae.nn.storage import load_weights, save_weights
from kitae.nn.time_distributed import TimeDistributed, TimeDistributedLoss

__all__ = [
    "ELU",
    "GELU",
    "GRU",
    "LSTM",
    "Activation",
    "ActivationHistograms",
    "AvgPool1D",
    "AvgPool2D",
    "Branches",
    "Composite",
    "Conv1D",
    "Conv2D",
    "Dense",
    "ElementWiseLoss",
    "Embedding",
    "Flatten",
    "GlobalAvgPool2D",
    "GradientCheck",
    "GradientError",
    "Layer",
    "LeakyReLU",
    "Loss",
    "MaxPool1D",
    "MaxPool2D",
    "MeanSquaredError",
    "ReLU",
    "ReconstructionCrossEntropy",
    "Residual",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "SigmoidCrossEntropy",
    "SimpleRNN",
    "Softmax",
    "SoftmaxCrossEntropy",
    "Swish",
    "Tanh",
    "TimeDistributed",
    "TimeDistributedLoss",
    "activation_histograms",
    "check_gradients",
    "initializers",
    "load_weights",
    "loss",
    "save_weights",
]
