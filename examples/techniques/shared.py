"""What the examples beside this file share: options, digits, a table, a picture."""

import argparse
from pathlib import Path

import numpy as np

from kitae.data import digits, load, train_test_split


def options(description):
    """--quick: a part of the work, for a look and for tests. --data: other digits than scikit-learn's. --out: where
    the picture goes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less work: the numbers mean little")
    parser.add_argument("--data", help="images and labels in an .npz or MNIST-format file (default: scikit-learn's)")
    parser.add_argument("--out", type=Path, help="the picture (default: <example>.png in the current folder)")
    return parser


def pixels_and_labels(path=None, dtype=np.float32):
    """(x_train, t_train, x_test, t_test), pixels from 0 to 1 in rows."""
    data = digits() if path is None else load(path)
    pixels = data.images.reshape(len(data.images), -1).astype(dtype)
    return train_test_split(pixels / pixels.max(), data.labels)


def print_table(header, rows):
    """A table in plain text: numbers to the right, words to the left."""
    rows = [[f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in [header, ["-" * width for width in widths], *rows]:
        print(
            "  ".join(
                cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
        )


def picture(script, out):
    """Where a script's picture goes."""
    return out if out is not None else Path(f"{Path(script).stem}.png")
