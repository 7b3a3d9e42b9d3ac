"""The ``demo`` subcommand: arguments, data, and the order of events."""

import argparse
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from io import StringIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

import kitae
from kitae import data
from kitae.bench import textbook
from kitae.demo import report
from kitae.demo.comparison import compare
from kitae.demo.contenders import layer_sizes, make_contenders
from kitae.demo.training import LabelledImages, Run, train

DEFAULT_STEPS = 400
QUICK_STEPS = 60
DESCRIPTION = """\
Train one network three times (textbook NumPy, kitae's NumPy reference, kitae's native kernels) from the same weights,
print learning curves and the time of each part of a step, and check that reference and native agree bit for bit.
"""


class UsageError(Exception):
    """A mistake of the caller, told in one line."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.add_argument(
        "--data", metavar="FILE", help="an .npz file with images and labels, or an MNIST-format IDX images file, plain "
        "or .gz (default: scikit-learn's bundled digits)",
    )  # fmt: skip
    parser.add_argument("--labels", metavar="FILE", help="IDX labels file (default: beside --data, by its MNIST name)")
    parser.add_argument(
        "--epochs", type=whole_number, metavar="N", help=f"(default: as many as make {DEFAULT_STEPS} steps)"
    )
    parser.add_argument("--batch", type=whole_number, default=128, metavar="N", help="images a step (default: 128)")
    parser.add_argument("--seed", type=seed_number, default=0, metavar="N", help="(default: 0)")
    parser.add_argument("--threads", type=thread_count, default=1, metavar="N", help="CPU threads, the same for "
        "NumPy's matrix products and for kitae (default: 1)",
    )  # fmt: skip
    parser.add_argument("--out", default="kitae-demo", metavar="DIR", help="folder of the plots (default: kitae-demo)")
    parser.add_argument("--no-plots", action="store_true", help="draw no plots")
    parser.add_argument("--quick", action="store_true", help=f"as many epochs as make {QUICK_STEPS} steps")


def whole_number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text!r}")
    return int(text)


def thread_count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to 1024, got {text!r}")
    return int(text)


def seed_number(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**64:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to 2**64 - 1, got {text!r}")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; 0 if reference and native agree bit for bit, else 1. Raises UsageError, data.DataError."""
    require_extras(arguments)
    require_native_kernels()
    dataset = read_dataset(arguments)
    train_set, test_set = prepare(dataset, arguments.seed)
    count, pixels = train_set[0].shape
    if arguments.batch > count:
        raise UsageError(f"--batch: expected at most {count}, the number of training images, got {arguments.batch}")
    if not arguments.no_plots:
        make_folder(arguments.out)

    steps_an_epoch = math.ceil(count / arguments.batch)
    wanted_steps = QUICK_STEPS if arguments.quick else DEFAULT_STEPS
    epochs = arguments.epochs or max(1, round(wanted_steps / steps_an_epoch))
    config = installation()
    machine = f"kitae {config['version']} on {config['cpu']}, NumPy {config['numpy']}; CPU threads: {arguments.threads}"
    sizes = f"{count:,} training and {len(test_set[0]):,} test images of {pixels} pixels, {dataset.classes} classes"
    plan = f"batches of {arguments.batch}, {epochs} epochs = {epochs * steps_an_epoch} steps; seed {arguments.seed}"
    print(report.setup(f"{dataset.name}: {sizes}", layer_sizes(pixels, dataset.classes), plan, machine))
    weights = textbook.he_weights(layer_sizes(pixels, dataset.classes), np.random.default_rng(arguments.seed))
    with threads(arguments.threads):
        runs = train_with_progress(weights, train_set, test_set, epochs, steps_an_epoch, arguments)
    comparison = compare(runs[1], runs[2])
    print(report.EPOCH_NOTE)
    print(report.time_table(runs))
    print(report.TIME_NOTE)
    print(report.agreement(comparison))
    if not arguments.no_plots:
        from kitae.demo.plots import save_plots

        for path in save_plots(arguments.out, runs, dataset.name, machine):
            print(f"Plot: {path}")
    return 0 if comparison.agree else 1


def train_with_progress(
    weights: list[NDArray[np.float32]],
    train_set: LabelledImages,
    test_set: LabelledImages,
    epochs: int,
    steps_an_epoch: int,
    arguments: argparse.Namespace,
) -> list[Run]:
    """Train all three under one progress bar on stderr; the table of epochs grows on stdout."""
    from tqdm import tqdm

    contenders = make_contenders(weights, arguments.seed)
    print(report.epoch_header([contender.name for contender in contenders]), flush=True)
    with tqdm(total=len(contenders) * epochs * steps_an_epoch, unit="step", leave=False) as bar:

        def on_step(run: Run) -> None:
            if run.contender.name != bar.desc:
                bar.set_description_str(run.contender.name, refresh=False)
            bar.update()

        def on_epoch(epoch: int, runs: list[Run]) -> None:
            tqdm.write(report.epoch_row(epoch, runs), file=sys.stdout)

        return train(
            contenders, train_set, test_set, epochs=epochs, batch=arguments.batch, seed=arguments.seed,
            on_step=on_step, on_epoch=on_epoch,
        )  # fmt: skip


@contextmanager
def threads(count: int) -> Iterator[None]:
    """The same number of CPU threads for NumPy's matrix products and for kitae."""
    from threadpoolctl import threadpool_limits

    before = kitae.get_num_threads()
    kitae.set_num_threads(count)
    try:
        with threadpool_limits(count, user_api="blas"):
            yield
    finally:
        kitae.set_num_threads(before)


def require_extras(arguments: argparse.Namespace) -> None:
    needed = {"tqdm": "tqdm", "threadpoolctl": "threadpoolctl"}
    if arguments.data is None:
        needed["sklearn"] = "scikit-learn"
    if not arguments.no_plots:
        needed["matplotlib"] = "matplotlib"
    missing = [package for module, package in needed.items() if find_spec(module) is None]
    if missing:
        raise UsageError(f'needs {" and ".join(missing)}, not installed here: pip install "kitae[demo]"')


def require_native_kernels() -> None:
    try:
        with kitae.use_backend("cpu"):
            pass
    except ImportError as problem:
        raise UsageError(str(problem)) from problem


def read_dataset(arguments: argparse.Namespace) -> data.Dataset:
    if arguments.data is None:
        if arguments.labels is not None:
            raise UsageError("--labels: expected together with --data, got it alone")
        return data.digits()
    return data.load(arguments.data, arguments.labels)


def prepare(dataset: data.Dataset, seed: int) -> tuple[LabelledImages, LabelledImages]:
    """Training and test set: pixels flat, float32, divided by the largest absolute training pixel."""
    if len(dataset.images) < 10 or dataset.classes < 2:
        found = f"{len(dataset.images)} in {dataset.classes}"
        raise UsageError(f"{dataset.name}: expected at least 10 images in 2 classes, found {found}")
    flat = dataset.images.reshape(len(dataset.images), -1)
    images, labels, test_images, test_labels = data.train_test_split(flat, dataset.labels, seed=seed)
    images, test_images = images.astype(np.float32), test_images.astype(np.float32)
    largest = np.abs(images).max() or np.float32(1)
    return (images / largest, labels), (test_images / largest, test_labels)


def installation() -> dict[str, Any]:
    """What ``kitae.show_config`` returns, without its print."""
    with redirect_stdout(StringIO()):
        return kitae.show_config()


def make_folder(path: str) -> None:
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as problem:
        raise UsageError(f"--out: expected a folder that can be made, got {path!r} ({problem.strerror})") from problem
    if not os.access(path, os.W_OK):
        raise UsageError(f"--out: expected a folder that can be written to, got {path!r}")
