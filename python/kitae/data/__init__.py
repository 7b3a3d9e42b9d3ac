"""Readers for labelled images: MNIST-format IDX files (plain or gzip), NPZ files, scikit-learn's bundled digits.

Files are input from elsewhere: nothing is unpickled, nothing is decompressed beyond what the file's own header
announces, and a file that is not what it should be raises ``DataError`` with what was expected and what was found.
"""

from kitae.data.batches import Batches
from kitae.data.dataset import Dataset, digits, load, train_test_split
from kitae.data.errors import DataError
from kitae.data.idx import read_idx
from kitae.data.npz import read_npz

__all__ = ["Batches", "DataError", "Dataset", "digits", "load", "read_idx", "read_npz", "train_test_split"]
