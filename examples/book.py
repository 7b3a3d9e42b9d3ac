"""Batch norm, dropout and Adam as the pages of a book give them, in plain NumPy: a stand-in for your own file."""

import numpy as np

from kitae.bench import textbook


class BatchNorm(textbook.BatchNormalization):
    def __init__(self, channels):
        super().__init__(np.ones(channels, np.float32), np.zeros(channels, np.float32))


class Dropout(textbook.Dropout):
    pass


class Adam(textbook.Adam):
    def __init__(self, params, lr):
        super().__init__(lr)
        self.params = params

    def step(self, grads):
        self.update(self.params, grads)
