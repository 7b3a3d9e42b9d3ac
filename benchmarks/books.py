"""Scripts of the books "Deep Learning from Scratch", unmodified, before and after: the table of docs/dlfs.ja.md.

python benchmarks/books.py BOOK1 BOOK2 BOOK3          (folders of the books' repositories; - leaves one out)
python benchmarks/books.py BOOK1 - - --filter ch07 --rounds 1

Each script runs from its first update of parameters to the number below, seeded, with one thread, before and after in
turn; CPU seconds in between, medians of the rounds. The books' data has to be there (dataset/mnist.pkl, ptb.*.npy):
another, smaller set gives another table. Matplotlib is needed, and what the scripts import.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

import numpy as np

# (book, script, updates)
SCRIPTS = (
    (1, "ch06/batch_norm_test.py", 200),
    (1, "ch06/overfit_dropout.py", 150),
    (1, "ch06/optimizer_compare_mnist.py", 100),
    (1, "ch07/train_convnet.py", 10),
    (1, "ch08/train_deepnet.py", 3),
    (2, "ch01/train.py", 1500),
    (2, "ch04/train.py", 8),
    (2, "ch05/train.py", 150),
    (2, "ch06/train_rnnlm.py", 6),
    (2, "ch06/train_better_rnnlm.py", 2),
    (2, "ch07/train_seq2seq.py", 15),
    (2, "ch08/train.py", 5),
    (3, "examples/mnist.py", 20),
    (3, "examples/spiral.py", 1500),
    (3, "steps/step51.py", 20),
)
COMPARED = 100  # losses, and sums of parameters
ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "KITAE_NUM_THREADS"), "1")


class Watch:
    """Counts updates, times them, and notes the parameters after each; ends the script after the last."""

    def __init__(self, updates):
        self.updates, self.done, self.depth = updates, 0, 0
        self.start = None
        self.seconds, self.losses, self.sums = 0.0, [], []

    def optimizer(self, update, parameters):
        def watched(rule, *given):
            self.start = time.process_time() if self.start is None else self.start
            self.depth += 1  # a rule may call its parent's update
            try:
                update(rule, *given)
            finally:
                self.depth -= 1
            if self.depth:
                return
            self.done += 1
            if self.done <= COMPARED:
                self.sums.append(sum(float(np.sum(np.abs(p))) for p in parameters(rule, *given)))
            if self.done == self.updates:
                raise SystemExit

        return watched

    def loss(self, forward):
        def watched(*given):
            value = forward(*given)
            if len(self.losses) < COMPARED:
                self.losses.append(float(value if isinstance(value, (float, np.generic)) else value.data))
            return value

        return watched


def run_once(script, updates, result, installed):
    """In a process of its own."""
    folder = os.path.dirname(script)
    os.chdir(folder)
    book3 = (Path(folder).parent / "dezero").is_dir()
    # Book 2's ch08 imports from ch07, which its repository does not arrange.
    sys.path[:1] = [folder, os.path.dirname(folder), os.path.join(os.path.dirname(folder), "ch07")]
    if installed:
        import kitae.dlfs

        kitae.dlfs.install()
    watch = Watch(updates)
    rules = import_module("dezero.optimizers" if book3 else "common.optimizer")
    for rule in list(vars(rules).values()):
        if not isinstance(rule, type) or "update" not in vars(rule):
            continue
        rule.update = watch.optimizer(rule.update, of_target if book3 else of_call)
    for name in ("softmax_cross_entropy", "mean_squared_error") if book3 else ():
        functions = import_module("dezero.functions")
        setattr(functions, name, watch.loss(getattr(functions, name)))
    for name in () if book3 else ("common.layers", "common.time_layers"):
        try:
            layers = import_module(name)
        except ImportError:  # book 1 has no time layers
            continue
        for layer in ("SoftmaxWithLoss", "TimeSoftmaxWithLoss", "SigmoidWithLoss"):
            kind = vars(layers).get(layer)
            if kind is not None and kind.__module__ == name:
                kind.forward = watch.loss(kind.forward)
    np.random.seed(0)  # noqa: NPY002  the books' generator
    sys.argv = [script]
    main = type(sys)("__main__")
    main.__file__ = script
    sys.modules["__main__"] = main
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115  until the process ends
    with contextlib.suppress(SystemExit):
        exec(compile(Path(script).read_text(encoding="utf-8"), script, "exec"), vars(main))
    seconds = time.process_time() - watch.start
    np.savez(result, seconds=seconds, losses=watch.losses, sums=watch.sums, done=watch.done)


def of_target(rule):
    return [parameter.data for parameter in rule.target.params()]


def of_call(rule, params, grads):
    return params.values() if isinstance(params, dict) else params


def measure(script, updates, rounds):
    """{"before" and "after": the runs}"""
    runs = {"before": [], "after": []}
    environment = {**os.environ, **ONE_THREAD, "MPLBACKEND": "Agg", "PYTHONWARNINGS": "ignore"}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for name, results in runs.items():
                result = Path(folder) / "result.npz"
                command = [sys.executable, __file__, "--once", name, script, str(updates), str(result)]
                done = subprocess.run(command, env=environment, capture_output=True, text=True)
                if done.returncode:
                    return done.stderr.strip().splitlines()[-1]
                with np.load(result) as saved:
                    results.append({key: saved[key] for key in saved.files})
    return runs


def difference(before, after):
    if len(before) != len(after):
        return np.inf
    return float(np.max(np.abs(after - before) / np.abs(before))) if len(before) else 0.0


def main():
    if sys.argv[1:2] == ["--once"]:
        name, script, updates, result = sys.argv[2:]
        run_once(script, int(updates), result, name == "after")
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("books", nargs=3, help="the folders of books 1, 2 and 3; - for one that is not there")
    parser.add_argument("--filter", default="", help="only scripts whose path has this")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    for book, script, updates in SCRIPTS:
        if given.books[book - 1] == "-" or given.filter not in script:
            continue
        path = os.path.realpath(os.path.join(given.books[book - 1], script))
        runs = measure(path, updates, given.rounds)
        if isinstance(runs, str):
            print(f"book {book} {script}: {runs}", flush=True)
            continue
        before, after = (float(np.median([run["seconds"] for run in runs[name]])) for name in runs)
        first, second = runs["before"][0], runs["after"][0]
        losses, sums = difference(first["losses"], second["losses"]), difference(first["sums"], second["sums"])
        print(
            f"book {book} {script}: {int(first['done'])} updates, {before:.2f} s, then {after:.2f} s of CPU time: "
            f"{before / after:.2f} times as fast; largest relative difference: "
            f"losses {losses:.0e} of {len(first['losses'])}, parameters {sums:.0e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
