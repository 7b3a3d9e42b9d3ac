from collections import OrderedDict

import numpy as np

from common.layers import *


class MultiLayerNetExtend:
    """Dense layers with batch normalization and dropout, called by their names as the book's network does."""

    def __init__(self, input_size, hidden_size_list, output_size, dropout_ration=0.2):
        sizes = [input_size, *hidden_size_list, output_size]
        self.params = {}
        self.layers = OrderedDict()
        self.last = len(hidden_size_list) + 1
        for idx in range(1, self.last + 1):
            inputs, outputs = sizes[idx - 1], sizes[idx]
            self.params[f"W{idx}"] = np.random.randn(inputs, outputs) * np.sqrt(2 / inputs)
            self.params[f"b{idx}"] = np.zeros(outputs)
            self.layers[f"Affine{idx}"] = Affine(self.params[f"W{idx}"], self.params[f"b{idx}"])
            if idx == self.last:
                break
            self.params[f"gamma{idx}"] = np.ones(outputs)
            self.params[f"beta{idx}"] = np.zeros(outputs)
            self.layers[f"BatchNorm{idx}"] = BatchNormalization(self.params[f"gamma{idx}"], self.params[f"beta{idx}"])
            self.layers[f"Activation{idx}"] = Relu()
            self.layers[f"Dropout{idx}"] = Dropout(dropout_ration)
        self.last_layer = SoftmaxWithLoss()

    def predict(self, x, train_flg=False):
        for key, layer in self.layers.items():
            x = layer.forward(x, train_flg) if "Dropout" in key or "BatchNorm" in key else layer.forward(x)
        return x

    def loss(self, x, t, train_flg=False):
        return self.last_layer.forward(self.predict(x, train_flg), t)

    def accuracy(self, x, t):
        return np.mean(self.predict(x).argmax(axis=1) == t)

    def gradient(self, x, t):
        loss = self.loss(x, t, train_flg=True)
        dout = self.last_layer.backward()
        for layer in reversed(self.layers.values()):
            dout = layer.backward(dout)
        grads = {}
        for idx in range(1, self.last + 1):
            affine = self.layers[f"Affine{idx}"]
            grads[f"W{idx}"], grads[f"b{idx}"] = affine.dW, affine.db
            if idx < self.last:
                norm = self.layers[f"BatchNorm{idx}"]
                grads[f"gamma{idx}"], grads[f"beta{idx}"] = norm.dgamma, norm.dbeta
        return loss, grads
