"""Data for training: readers of labelled images, scaling, splits, minibatches, augmentation.

Files are input from elsewhere: nothing is unpickled, nothing is decompressed beyond what the file's own header
announces, and a file that is not what it should be raises ``DataError`` with what was expected and what was found.
"""

from kitae.data import augment
from kitae.data.batches import Batches
from kitae.data.cifar import read_cifar10
from kitae.data.dataset import Dataset, digits, load, train_test_split
from kitae.data.errors import DataError
from kitae.data.idx import read_idx
from kitae.data.npz import read_npz
from kitae.data.scaling import MinMaxScaler, Scaler, StandardScaler, one_hot
from kitae.data.splits import Split, shared_samples, train_validation_test_split

__all__ = [
    "Batches",
    "DataError",
    "Dataset",
    "MinMaxScaler",
    "Scaler",
    "Split",
    "StandardScaler",
    "augment",
    "digits",
    "load",
    "one_hot",
    "read_cifar10",
    "read_idx",
    "read_npz",
    "shared_samples",
    "train_test_split",
    "train_validation_test_split",
]
