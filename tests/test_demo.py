"""python -m kitae demo and info: what they print, their exit codes, and that the comparison can say no."""

import gzip
import os
import re
import runpy
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import kitae
from kitae import data
from kitae.__main__ import main
from kitae.bench import textbook
from kitae.demo import command
from kitae.demo.comparison import compare, same_bits
from kitae.demo.contenders import KERNELS, kitae_contender, layer_sizes, textbook_contender
from kitae.demo.training import Run, Stopwatch, train, train_step

EXAMPLES = Path(__file__).parent.parent / "examples"


def make_images(count=60, side=5, classes=3):
    rng = np.random.default_rng(0)
    labels = np.arange(count) % classes
    return (rng.random((count, side, side)) * 100 + 50 * labels[:, None, None]).astype(np.uint8), labels


@pytest.fixture
def npz(tmp_path):
    images, labels = make_images()
    np.savez(tmp_path / "images.npz", images=images, labels=labels)
    return str(tmp_path / "images.npz")


def digits_split():
    digits = data.digits()
    return command.prepare(digits, seed=0)


def weights_for(pixels, classes, seed=0):
    return textbook.he_weights(layer_sizes(pixels, classes), np.random.default_rng(seed))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One run of the command as a user starts it."""
    out = tmp_path_factory.mktemp("demo") / "new" / "folder"
    process = subprocess.run(
        [sys.executable, "-m", "kitae", "demo", "--quick", "--out", str(out)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return SimpleNamespace(out=out, code=process.returncode, text=process.stdout, bar=process.stderr)


class TestQuickRun:
    def test_exit_code_and_agreement(self, finished):
        assert finished.code == 0, finished.text + finished.bar
        assert "Reference and native agree bit for bit: yes" in finished.text

    def test_a_row_for_each_epoch_in_which_all_three_learn(self, finished):
        rows = [line.split() for line in finished.text.splitlines() if re.match(r" +\d+ +\d+\.\d{4}", line)]
        assert [int(row[0]) for row in rows] == [1, 2, 3, 4, 5]
        losses = np.array([[float(row[i]) for i in (1, 3, 5)] for row in rows])
        accuracies = np.array([[float(row[i].rstrip("%")) for i in (2, 4, 6)] for row in rows])
        assert (losses[-1] < losses[0] / 2).all()
        assert (accuracies[-1] > 70).all()
        np.testing.assert_array_equal(losses[:, 1], losses[:, 2])
        np.testing.assert_array_equal(accuracies[:, 1], accuracies[:, 2])

    def test_the_kernels_sum_to_the_step(self, finished):
        table = {
            label: [float(number) for number in re.findall(r"[\d.]+", line.removeprefix(f"  {label}"))]
            for line in finished.text.splitlines()
            for label in (*KERNELS, "whole step")
            if line.startswith(f"  {label}  ")
        }
        assert table.keys() == {*KERNELS, "whole step"}
        sums = np.sum([table[kernel][:3] for kernel in KERNELS], axis=0)
        # Each of the six printed numbers is rounded to 0.001 ms.
        np.testing.assert_allclose(sums, table["whole step"][:3], rtol=0, atol=0.0031)
        ratio = table["whole step"][0] / table["whole step"][2]
        assert table["whole step"][3] == pytest.approx(ratio, abs=0.051)

    def test_plots_have_the_announced_size_and_are_not_blank(self, finished):
        from matplotlib.image import imread

        paths = re.findall(r"^Plot: (.*)$", finished.text, flags=re.M)
        assert paths == [str(finished.out / name) for name in ("curves.png", "time.png")]
        for path in paths:
            picture = imread(path)
            assert picture.shape[:2] == (700, 1200)
            assert len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 50

    def test_a_progress_bar_on_stderr(self, finished):
        assert "180" in finished.bar
        assert "step/s" in finished.bar
        assert "\r" not in finished.text


class TestOwnData:
    def test_npz(self, npz, tmp_path, capsys):
        out = tmp_path / "out"
        options = ["--epochs", "2", "--batch", "16", "--no-plots", "--out", str(out)]
        assert main(["demo", "--data", npz, *options]) == 0
        text = capsys.readouterr().out
        assert "images.npz: 48 training and 12 test images of 25 pixels, 3 classes" in text
        assert "2 epochs = 6 steps" in text
        assert "bit for bit: yes" in text
        assert "Plot:" not in text
        assert not out.exists()

    def test_idx_pair_and_seed(self, tmp_path, capsys):
        images, labels = make_images()
        header = struct.pack(">HBB3I", 0, 8, 3, *images.shape)
        (tmp_path / "a-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + images.tobytes()))
        (tmp_path / "a-labels-idx1-ubyte").write_bytes(
            struct.pack(">HBBI", 0, 8, 1, len(labels)) + labels.astype(np.uint8).tobytes()
        )
        texts = []
        for seed in ("1", "1", "2"):
            path = str(tmp_path / "a-images-idx3-ubyte.gz")
            assert main(["demo", "--data", path, "--epochs", "1", "--batch", "48", "--no-plots", "--seed", seed]) == 0
            texts.append(re.findall(r"^ +1 .*$", capsys.readouterr().out, flags=re.M))
        assert texts[0] == texts[1] != texts[2]


MISTAKES = {
    "no command": ([], ["required", "demo | bench | info"]),
    "unknown command": (["train"], ["invalid choice", "train"]),
    "unknown option": (["demo", "--frobnicate"], ["--frobnicate"]),
    "epochs": (["demo", "--epochs", "0"], ["--epochs", "from 1 on", "'0'"]),
    "epochs fraction": (["demo", "--epochs", "1.5"], ["--epochs", "whole number", "'1.5'"]),
    "batch": (["demo", "--batch", "-3"], ["--batch", "whole number", "'-3'"]),
    "batch too large": (["demo", "--batch", "1439"], ["--batch", "at most 1438", "1439"]),
    "seed": (["demo", "--seed", "18446744073709551616"], ["--seed", "2**64 - 1"]),
    "threads": (["demo", "--threads", "1025"], ["--threads", "1 to 1024", "'1025'"]),
    "labels alone": (["demo", "--labels", "x"], ["--labels", "--data"]),
    "no file": (["demo", "--data", "/no/such/file"], ["/no/such/file", "expected", "No such file"]),
    "not a data file": (["demo", "--data", __file__], ["test_demo.py", "expected", "found the bytes"]),
    "out is a file": (["demo", "--out", __file__], ["--out", "folder", "exists"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_get_one_line_and_code_2(mistake, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, words = MISTAKES[mistake]
    try:
        code = main(arguments)
    except SystemExit as stop:  # how argparse ends
        code = stop.code
    text, message = capsys.readouterr()
    assert code == 2
    assert (text, message.count("\n")) == ("", 1)
    assert message.startswith("python -m kitae")
    assert [word for word in words if word not in message] == []
    assert not os.listdir(tmp_path)


def test_threads_are_the_same_for_all_and_given_back():
    from threadpoolctl import threadpool_info

    def blas_threads():
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    before = kitae.get_num_threads(), blas_threads()
    for count in (1, 2):
        with command.threads(count):
            assert (kitae.get_num_threads(), blas_threads()) == (count, {count})
    assert (kitae.get_num_threads(), blas_threads()) == before


def test_too_few_images_or_classes(tmp_path, capsys):
    for count, classes in ((9, 3), (60, 1)):
        images, labels = make_images(count, classes=classes)
        np.savez(tmp_path / "images.npz", images=images, labels=labels)
        assert main(["demo", "--data", str(tmp_path / "images.npz"), "--no-plots"]) == 2
        assert f"at least 10 images in 2 classes, found {count} in {classes}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("missing", "options", "words"),
    [
        ("tqdm", [], ["tqdm"]),
        ("threadpoolctl", [], ["threadpoolctl"]),
        ("sklearn", [], ["scikit-learn"]),
        ("matplotlib", [], ["matplotlib"]),
        ("sklearn", ["--data", "x.npz"], None),
        ("matplotlib", ["--no-plots", "--data", "x.npz"], None),
    ],
)
def test_a_missing_extra_is_named_only_if_needed(missing, options, words, monkeypatch, capsys):
    monkeypatch.setattr(command, "find_spec", lambda module: None if module == missing else module)
    assert main(["demo", *options]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    if words is None:
        assert "x.npz: expected a readable file" in message
    else:
        assert [word for word in (*words, 'pip install "kitae[demo]"') if word not in message] == []


def test_kernels_that_do_not_load_are_told_in_one_line():
    environment = {**os.environ, "KITAE_CPU_ISA": "none_such"}
    command_line = [sys.executable, "-m", "kitae", "demo", "--quick", "--no-plots"]
    process = subprocess.run(command_line, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (process.returncode, process.stdout, process.stderr.count("\n")) == (2, "", 1)
    assert "KITAE_CPU_ISA=none_such" in process.stderr


def test_disagreement_is_told_and_ends_with_1(npz, capsys, monkeypatch):
    def one_weight_is_off(weights, seed):
        pair = [kitae_contender(f"kitae {name}", "reference", weights, seed) for name in ("reference", "native")]
        params = pair[1].layers[0][1].params["W"]
        params[3, 2] = np.nextafter(params[3, 2], np.float32(1))
        return [textbook_contender("textbook NumPy", weights, seed), *pair]

    monkeypatch.setattr(command, "make_contenders", one_weight_is_off)
    assert main(["demo", "--data", npz, "--epochs", "1", "--batch", "16", "--no-plots"]) == 1
    text = capsys.readouterr().out
    assert "agree bit for bit: NO" in text
    assert re.search(r"0\.W: \d+ of 2500 values, first at", text)


def test_comparison_sees_one_bit():
    a = np.array([1.0, 0.0, np.nan], np.float32)
    assert same_bits(a, a.copy())
    for changed in (np.array([1.0, -0.0, np.nan], np.float32), a.astype(np.float64), a[:2], a[::-1]):
        assert not same_bits(a, changed)


def finished_run(**state):
    run = Run(SimpleNamespace(state=lambda: state))
    run.losses += [0.5, 0.25]
    return run


def test_comparison_covers_arrays_losses_and_names():
    same = compare(finished_run(w=np.ones(3), steps=2), finished_run(w=np.ones(3), steps=2))
    assert (same.agree, same.arrays, same.numbers, same.losses) == (True, 2, 4, 2)
    other = finished_run(w=np.ones(3), count=2)
    other.losses[1] = np.nextafter(0.25, 1)
    other.accuracies.append(1.0)
    differences = compare(finished_run(w=np.array([1, 2, 1.0]), steps=2), other).differences
    assert [line.split(":")[0] for line in differences] == ["count", "steps", "w", "losses", "accuracies"]
    assert "1 of 3 values, first at 1" in differences[2]


def test_stopwatch_counts_every_moment(monkeypatch):
    times = iter([0.0, 1.0, 1.5, 3.5, 10.0, 12.0])
    monkeypatch.setattr("kitae.demo.training.perf_counter", lambda: next(times))
    watch = Stopwatch()
    watch.start()
    for kernel in ("dense", "dropout", "dense"):
        watch.lap(kernel)
    watch.start()
    watch.lap("dense")
    assert [(step["dense"], step["dropout"]) for step in watch.steps] == [(3.0, 0.5), (2.0, 0.0)]
    assert watch.medians()["dense"] == 2.5
    assert watch.medians().keys() == set(KERNELS)


class TestContenders:
    def test_without_dropout_the_textbook_and_kitae_compute_the_same(self):
        (images, labels), test_set = digits_split()
        weights = weights_for(64, 10)
        contenders = [
            textbook_contender("textbook", weights, 0, drop=0.0),
            kitae_contender("reference", "reference", weights, 0, drop=0.0),
            kitae_contender("native", "cpu", weights, 0, drop=0.0),
        ]
        runs = train(
            contenders, (images[:512], labels[:512]), test_set, epochs=5, batch=128, seed=0,
            on_step=lambda run: None, on_epoch=lambda epoch, runs: None,
        )  # fmt: skip
        losses = np.array([run.losses for run in runs])
        assert losses.shape == (3, 20)
        # float32 rounding (6e-8), amplified by twenty steps through five normalized layers.
        np.testing.assert_allclose(losses[0], losses[2], rtol=2e-3)
        np.testing.assert_allclose(losses[0, :3], losses[2, :3], rtol=2e-5)
        np.testing.assert_array_equal(losses[1], losses[2])

    def test_they_do_not_share_their_weights(self):
        weights = weights_for(5, 3)
        kept = [weight.copy() for weight in weights]
        contender = kitae_contender("native", "cpu", weights, 0)
        x = np.random.default_rng(0).random((4, 5), np.float32)
        train_step(contender, x, np.zeros(4, int), Stopwatch())
        assert all(map(np.array_equal, weights, kept))
        assert not np.array_equal(contender.state()["0.W"], weights[0])

    def test_each_backend_is_the_one_that_runs(self, monkeypatch):
        for backend in ("reference", "cpu"):
            contender = kitae_contender(backend, backend, weights_for(5, 3), 0)
            with contender.active():
                assert kitae.show_config()["backend"] == backend


def test_the_textbook_network_gradients_match_finite_differences():
    rng = np.random.default_rng(2)
    network = textbook.Network(textbook.he_weights([4, 5, 5, 3], rng, np.float64), drop=0.0)
    x, labels = rng.standard_normal((8, 4)), np.arange(8) % 3
    _, grads = network.gradient(x, labels)
    step = 1e-6
    for name, parameter in network.params.items():
        for index in np.ndindex(parameter.shape):
            kept = parameter[index]
            losses = []
            for value in (kept + step, kept - step):
                parameter[index] = value
                losses.append(network.loss.forward(network.forward(x), labels))
            parameter[index] = kept
            # The loss adds 1e-7 to a probability p before the logarithm, the gradient does not: 1e-7 / p relative.
            numerical = (losses[0] - losses[1]) / (2 * step)
            assert grads[name][index] == pytest.approx(numerical, rel=1e-4, abs=1e-7), (name, index)


def test_info_says_what_runs(capsys):
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert re.search(rf"version: {re.escape(kitae.__version__)}\n", text)
    assert [word for word in ("cpu: ", "threads: ", "cuda: off: ") if word not in text] == []


@pytest.mark.parametrize("version", ["before", "after"])
def test_the_example_runs_before_and_after_its_import_changes(version, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["before_after.py", version])
    monkeypatch.syspath_prepend(str(EXAMPLES))
    runpy.run_path(str(EXAMPLES / "before_after.py"), run_name="__main__")
    match = re.search(rf"{version}: 300 steps in [\d.]+ s, ([\d.]+)% of the test images right", capsys.readouterr().out)
    assert float(match[1]) > 93
