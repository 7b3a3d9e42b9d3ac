"""A training run is killed in the middle of an epoch and goes on from its checkpoint: with the same bits as one that
was never touched.

The first process saves every ten batches (ModelCheckpoint) and kills itself without warning; the second knows nothing
but the file.
"""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import shared

import kitae
from kitae import nn
from kitae.data import Batches, augment
from kitae.train import Callback, ModelCheckpoint, Trainer, load_checkpoint

PARTS = ("whole", "killed", "resumed")


class Die(Callback):
    """As if the power failed."""

    def __init__(self, updates):
        self.updates = updates

    def on_train_batch_begin(self, batch, logs):
        if self.trainer.iteration == self.updates:
            os.kill(os.getpid(), signal.SIGKILL)


def noisy(x, t, *, rng):
    images, t = augment.GaussianNoise(0.2)(x.reshape(len(x), 8, -1), t, rng=rng)
    return images.reshape(x.shape), t


def run(part, folder, data, epochs):
    """What one process does. The resumed one has another seed on purpose: what counts is in the file."""
    kitae.seed(1 if part == "resumed" else 0)
    x_train, t_train, x_test, t_test = shared.pixels_and_labels(data)
    batches = Batches(x_train, t_train, 32, augment=noisy)
    steps = len(batches)
    file = folder / ("whole" if part == "whole" else "checkpoint")
    callbacks = [ModelCheckpoint(file, every=10), Die(steps * epochs // 2 + 15 if part == "killed" else None)]
    model = nn.Sequential(nn.Dense(64), kitae.BatchNorm(), nn.ReLU(), kitae.Dropout(0.3), nn.Dense(10))
    trainer = Trainer(model, "softmax_cross_entropy", kitae.Adam(lr=1e-3), metrics=["accuracy"], callbacks=callbacks)
    if part == "resumed":
        load_checkpoint(file, trainer)
        print(f"resumed: epoch {trainer.epoch}, update {trainer.iteration}, batch {trainer.position} of {steps}")
    trainer.fit(batches, epochs=epochs - trainer.epoch, validation_data=(x_test, t_test), verbose=0)
    np.savez(folder / f"{part}.npz", **{**model.params, **model.buffers}, **trainer.history.history)


def draw(folder, path, killed_at):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    for part, style in (("whole", "-"), ("resumed", "--")):
        with np.load(folder / f"{part}.npz") as arrays:
            for name in ("loss", "val_loss"):
                values, width = arrays[name], 1 if part == "resumed" else 3
                axes.plot(np.arange(1, len(values) + 1), values, style, lw=width, label=f"{part} {name}")
    axes.axvline(killed_at, color="gray", ls=":", label="killed here")
    axes.set_xlabel("epoch")
    axes.set_yscale("log")
    axes.legend()
    figure.savefig(path, dpi=120)


def main():
    parser = shared.options(__doc__)
    parser.add_argument("--part", choices=PARTS, help="one process of the three (the example starts them itself)")
    parser.add_argument("--folder", type=Path, help="where that process keeps its files")
    options = parser.parse_args()
    epochs = 4 if options.quick else 30
    if options.part is not None:
        run(options.part, options.folder, options.data, epochs)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in PARTS:
            command = [sys.executable, __file__, "--part", part, "--folder", folder]
            command += ["--quick"] * options.quick + (["--data", options.data] if options.data else [])
            code = subprocess.run(command, check=False).returncode
            assert code == (-signal.SIGKILL if part == "killed" else 0), (part, code)
        with np.load(folder / "whole.npz") as whole, np.load(folder / "resumed.npz") as resumed:
            rows = []
            for array in whole.files:
                same = whole[array].tobytes() == resumed[array].tobytes()
                rows.append([array, str(whole[array].shape), "yes" if same else "NO"])
        shared.print_table(["array", "shape", "same bits"], rows)
        left = sorted(path.name for path in folder.iterdir() if "unfinished" in path.name)
        print(f"unfinished files left: {len(left)}")
        path = shared.picture(__file__, options.out)
        draw(folder, path, epochs / 2)
        print(f"picture: {path}")
        assert all(row[2] == "yes" for row in rows)


if __name__ == "__main__":
    main()
