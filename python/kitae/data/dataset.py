"""Labelled images from a file or from scikit-learn, checked and ready for a network."""

import os
import re
from dataclasses import dataclass

import numpy as np

from kitae.data.cifar import CLASSES, looks_like_cifar10, read_cifar10
from kitae.data.errors import DataError
from kitae.data.idx import GZIP_MAGIC, read_idx
from kitae.data.limits import MAX_BYTES
from kitae.data.npz import read_npz
from kitae.data.splits import refuse_batches

# A label beyond this is a mistake in the file, not a class: the output layer would have that many units.
MAX_CLASSES = 1000


@dataclass(frozen=True)
class Dataset:
    """``images``: (samples, ...) as stored; ``labels``: int64 (samples,), from 0 to ``classes`` - 1."""

    name: str
    images: np.ndarray
    labels: np.ndarray
    classes: int


def load(path, labels=None, *, max_bytes=MAX_BYTES):
    """A Dataset from an NPZ file with ``images`` and ``labels``, from a pair of MNIST-format IDX files or from
    CIFAR-10.

    For IDX, ``path`` is the images file; the labels file is ``labels``, else the file beside it with the MNIST name
    (train-images-idx3-ubyte.gz -> train-labels-idx1-ubyte.gz, with or without .gz). The kind is told by content,
    but for CIFAR-10's binary version, which has no mark: a folder with its files, or a .bin file of whole records
    (``read_cifar10``). Raises DataError.
    """
    path = os.fspath(path)
    if looks_like_cifar10(path):
        if labels is not None:
            raise DataError(labels, "no separate labels file for CIFAR-10", "one")
        images, labels = read_cifar10(path, max_bytes=max_bytes)
        return Dataset(os.path.basename(os.path.normpath(path)), images, labels, CLASSES)
    start = _first_bytes(path)
    if start[:2] == b"PK":
        if labels is not None:
            raise DataError(labels, "no separate labels file for an .npz file", "one")
        return _checked(path, path, *read_npz(path, max_bytes=max_bytes))
    if start[:2] in (b"\0\0", GZIP_MAGIC):
        images = read_idx(path, max_bytes=max_bytes)
        if images.ndim < 2:
            raise DataError(path, "an images file (2 or more dimensions)", f"shape {images.shape}: a labels file?")
        labels = os.fspath(labels) if labels is not None else labels_file_beside(path)
        return _checked(path, labels, images, read_idx(labels, max_bytes=max_bytes))
    found = "the bytes " + " ".join(f"{byte:02x}" for byte in start) if start else "an empty file"
    raise DataError(path, "an .npz file, an MNIST-format IDX file (plain or .gz) or CIFAR-10 (.bin)", found)


def digits():
    """scikit-learn's bundled 1,797 handwritten digits of 8 x 8 pixels, values 0 to 16 (UCI, Alpaydin and Kaynak)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return Dataset("scikit-learn digits", bunch.images, bunch.target.astype(np.int64), 10)


def train_test_split(images, labels, *, test_fraction=0.2, seed=0):
    """(train images, train labels, test images, test labels): a seeded shuffle, then a cut; at least one of each.

    ``train_validation_test_split`` does more: a third set, classes in their shares, groups, identical samples noticed.
    """
    refuse_batches("data.train_test_split", "images", images)
    count = len(images)
    if len(labels) != count:
        raise ValueError(f"train_test_split: labels: expected {count}, one for each image, got {len(labels)}")
    if not 0 < test_fraction < 1:
        raise ValueError(f"train_test_split: test_fraction: expected a number between 0 and 1, got {test_fraction!r}")
    if count < 2:
        raise ValueError(f"train_test_split: images: expected 2 or more, got {count}")
    order = np.random.default_rng(seed).permutation(count)
    tests = min(max(1, round(count * test_fraction)), count - 1)
    train, test = order[tests:], order[:tests]
    return images[train], labels[train], images[test], labels[test]


def labels_file_beside(path):
    """The labels file that belongs to an images file by the MNIST naming convention."""
    folder, name = os.path.split(path)
    stem = re.sub(r"\.gz$", "", name)
    renamed = re.sub(r"idx\d", "idx1", stem.replace("images", "labels"))
    if renamed == stem:
        raise DataError(path, "images in the name of an IDX images file, or a labels file given beside it", name)
    for candidate in (renamed + name[len(stem) :], renamed, renamed + ".gz"):
        if os.path.exists(os.path.join(folder, candidate)):
            return os.path.join(folder, candidate)
    raise DataError(path, f"its labels in {renamed}[.gz] beside it, or a labels file given", "no such file")


def _first_bytes(path):
    try:
        with open(path, "rb") as file:
            return file.read(4)
    except OSError as problem:
        raise DataError(path, "a readable file", problem.strerror or str(problem)) from problem


def _checked(images_path, labels_path, images, labels):
    if images.dtype.kind not in "uif" or images.ndim < 2 or images.size == 0:
        expected = "images as numbers of shape (samples, ...)"
        raise DataError(images_path, expected, f"{images.dtype} of shape {images.shape}")
    if images.dtype.kind == "f" and not np.isfinite(images).all():
        raise DataError(images_path, "finite pixels", "NaN or infinity")
    if labels.dtype.kind not in "ui" or labels.ndim != 1:
        expected = "labels as integers of shape (samples,)"
        raise DataError(labels_path, expected, f"{labels.dtype} of shape {labels.shape}")
    if len(labels) != len(images):
        raise DataError(labels_path, f"{len(images):,} labels, one for each image", f"{len(labels):,}")
    if labels.min() < 0 or labels.max() >= MAX_CLASSES:
        found = f"values from {labels.min()} to {labels.max()}"
        raise DataError(labels_path, f"labels from 0 to {MAX_CLASSES - 1}", found)
    return Dataset(os.path.basename(images_path), images, labels.astype(np.int64), int(labels.max()) + 1)
