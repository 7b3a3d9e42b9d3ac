"""``python -m kitae.dlfs``, ``install``, ``uninstall`` and ``report``: what is replaced and what is left alone."""

import importlib
import io
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import kitae.dlfs
import kitae.dlfs.layers
from dlfs_books import BOOKS, book, module


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=cwd, timeout=300)


@pytest.mark.timing
def test_runner_prints_the_scripts_lines_and_a_report() -> None:
    script = "ch06/train.py"
    plain = python("train.py", "Adam", cwd=BOOKS / "one/ch06")
    ours = python("-m", "kitae.dlfs", script, "Adam", cwd=BOOKS / "one")  # not in the script's folder
    assert (plain.returncode, ours.returncode) == (0, 0), ours.stderr
    lines, report = ours.stdout.split("kitae.dlfs:")
    lines = lines.splitlines()
    expected = plain.stdout.splitlines()
    assert lines[120] == expected[120]  # the accuracies
    theirs, mine = ([float(line.split()[1]) for line in those[:100]] for those in (expected, lines))
    np.testing.assert_allclose(mine, theirs, rtol=1e-10)
    assert "common.layers.BatchNormalization.forward" in report
    assert "common.optimizer.Adam.update" in report
    assert " 120 calls" in report
    assert "left alone in common.util: smooth_curve" in report
    assert "left alone, whole modules: common.functions, common.multi_layer_net_extend" in report


@pytest.mark.timing
@pytest.mark.parametrize("arguments", [(), ("one", "--two"), ("--exit",)])
def test_script_sees_what_python_gives_it(arguments: tuple[str, ...]) -> None:
    for cwd, script in ((BOOKS / "one/ch06", "surroundings.py"), (BOOKS, "one/ch06/surroundings.py")):
        plain = python(script, *arguments, cwd=cwd)
        ours = python("-m", "kitae.dlfs", script, *arguments, cwd=cwd)
        assert ours.returncode == plain.returncode
        assert ours.stdout.split("\nkitae.dlfs:")[0] == plain.stdout
        assert ours.stderr == plain.stderr


@pytest.mark.timing
def test_an_error_of_the_script_is_shown_as_its_own_and_the_report_follows() -> None:
    plain = python("surroundings.py", "--fail", cwd=BOOKS / "one/ch06")
    ours = python("-m", "kitae.dlfs", "surroundings.py", "--fail", cwd=BOOKS / "one/ch06")
    assert (plain.returncode, ours.returncode) == (1, 1)
    assert ours.stderr == plain.stderr
    assert "kitae.dlfs: 0 names replaced" in ours.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.py"], "can't open 'nowhere.py'"),
        ([], "required: script"),
        (["--rng", "dice", "x.py"], "invalid choice: 'dice'"),
    ],
)
def test_usage_errors_are_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    from kitae.dlfs.__main__ import main

    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert exit_info.value.code == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_install_reaches_modules_that_are_loaded_and_uninstall_restores_them() -> None:
    with book("one"):
        network = importlib.import_module("common.multi_layer_net_extend")
        layers = importlib.import_module("common.layers")
        original = layers.BatchNormalization
        kitae.dlfs.install()
        assert issubclass(layers.BatchNormalization, kitae.dlfs.layers.BatchNormalization)
        assert network.BatchNormalization is layers.BatchNormalization  # a star import's copy
        made = network.MultiLayerNetExtend(4, [3], 2)
        assert isinstance(made.layers["Dropout1"], layers.Dropout)
        kitae.dlfs.uninstall()
        assert layers.BatchNormalization is network.BatchNormalization is original
        assert not any(type(finder).__module__.startswith("kitae.dlfs") for finder in sys.meta_path)


def test_install_reaches_modules_that_are_loaded_later() -> None:
    with book("one"):
        kitae.dlfs.install()
        network = importlib.import_module("common.multi_layer_net_extend")
        assert issubclass(network.Dropout, kitae.dlfs.layers.Dropout)
        kitae.dlfs.uninstall()
        assert not issubclass(network.Dropout, kitae.dlfs.layers.Dropout)


def test_a_reloaded_module_is_replaced_again() -> None:
    with book("one"):
        kitae.dlfs.install()
        layers = importlib.import_module("common.layers")
        importlib.reload(layers)
        assert issubclass(layers.Dropout, kitae.dlfs.layers.Dropout)
        kitae.dlfs.uninstall()
        assert not issubclass(layers.Dropout, kitae.dlfs.layers.Dropout)


def report() -> str:
    out = io.StringIO()
    kitae.dlfs.report(out)
    return out.getvalue()


def replaced(source: str, name: str, tmp_path: Path, by: str) -> str:
    """The report on book 1's stand-in with one line of its layers or optimizers changed by the reader."""
    root = tmp_path / "mine"
    (root / "common").mkdir(parents=True)
    for file in (BOOKS / "one/common").glob("*.py"):
        (root / "common" / file.name).write_text(file.read_text().replace(source, by))
    with book("one"):
        sys.path.insert(0, str(root))
        try:
            kitae.dlfs.install()
            importlib.import_module(name)
            return report()
        finally:
            sys.path.remove(str(root))


@pytest.mark.parametrize(
    ("source", "by", "module_name", "words"),
    [
        ("np.sqrt(var + 1e-6)", "np.sqrt(var + 1e-3)", "common.layers", "BatchNormalization (other numbers"),
        ("dropout_ratio=0.5", "dropout_ratio=0.3", "common.layers", "Dropout (another signature)"),
        ("def forward(self, x, train_flg=True)", "def forward(self, x, training=True)", "common.layers", "Dropout ("),
        ("lr=0.001", "lr=0.002", "common.optimizer", "Adam (another signature)"),
        ("+ 1e-7)", "+ 1e-5)", "common.optimizer", "RMSprop (other numbers)"),
        ("class Relu:", "class Relu:\n    def plot(self):\n        pass\n", "common.layers", "Relu (has plot,"),
    ],
)
def test_what_the_reader_changed_is_left_alone(
    source: str, by: str, module_name: str, words: str, tmp_path: Path
) -> None:
    assert words not in replaced(source, module_name, tmp_path / "as it was", source)
    assert words in " ".join(replaced(source, module_name, tmp_path / "changed", by).split())


def test_comparing_leaves_numpys_generator_and_the_counts_alone() -> None:
    with book("two"):
        np.random.seed(3)
        expected = np.random.rand()
        np.random.seed(3)
        kitae.dlfs.install()
        importlib.import_module("common.time_layers")
        importlib.import_module("common.optimizer")
        assert np.random.rand() == expected
        assert " calls " not in report()


def test_book_2_leaves_alone_what_kitae_has_not() -> None:
    with book("two"):
        kitae.dlfs.install()
        importlib.import_module("common.time_layers")
        words = report()
        assert "left alone in common.time_layers: TimeReverse" in words
        for other in ("layers", "optimizer", "util"):  # loaded or not, all that kitae has was replaced
            assert f"left alone in common.{other}" not in words


def test_layers_and_optimizers_are_pickled_under_the_books_names() -> None:
    with book("one"):
        kitae.dlfs.install()
        layers = importlib.import_module("common.layers")
        optimizer = importlib.import_module("common.optimizer").Adam()
        params, grads = {"W": np.ones(3)}, {"W": np.arange(3.0)}
        optimizer.update(params, grads)
        again = pickle.loads(pickle.dumps(optimizer))
        assert type(again) is type(optimizer)
        copy = {"W": params["W"].copy()}
        optimizer.update(params, grads)
        again.update(copy, grads)
        np.testing.assert_array_equal(copy["W"], params["W"])
        layer = layers.BatchNormalization(np.ones(3), np.zeros(3))
        layer.forward(np.random.rand(4, 3))
        assert type(pickle.loads(pickle.dumps(layer))) is layers.BatchNormalization


def test_report_without_install() -> None:
    kitae.dlfs.uninstall()
    assert report() == "kitae.dlfs: nothing is installed\n"


@pytest.mark.parametrize(
    ("name", "missing", "words"),
    [
        ("kitae.dlfs", "functions", "import common.functions"),
        ("kitae.dlfs.layers", "SigmoidWithLoss", "from common.layers import SigmoidWithLoss"),
        ("kitae.dlfs.optimizer", "AdamW", "from common.optimizer import AdamW"),
        ("kitae.dlfs.util", "eval_perplexity", "from common.util import eval_perplexity"),
        ("kitae.dlfs.time_layers", "TimeGRU", "from common.time_layers import TimeGRU"),
        ("kitae.dlfs.dezero", "Variable", "from dezero import Variable"),
        ("kitae.dlfs.dezero.optimizers", "RMSprop", "from dezero.optimizers import RMSprop"),
    ],
)
def test_a_name_that_is_not_covered_says_what_to_use(name: str, missing: str, words: str) -> None:
    with pytest.raises(AttributeError, match=words) as error:
        getattr(importlib.import_module(name), missing)
    assert missing in str(error.value)


def test_the_books_own_modules_have_every_name_of_ours() -> None:
    """Names of the faces are the stand-ins' names, which are the books'."""
    for number, name in (("one", "layers"), ("one", "optimizer"), ("two", "time_layers"), ("two", "util")):
        ours = importlib.import_module(f"kitae.dlfs.{name}")
        theirs = vars(module(number, f"common.{name}"))
        other = vars(module("two" if number == "one" else "one", "common.layers" if name != "util" else "common.util"))
        assert [n for n in ours.__all__ if n not in theirs and n not in other] == []
