"""Digits with thinc, before and after: thinc's own ops and optimizer, then kitae's.

python examples/thinc_digits.py        (needs: pip install "kitae[thinc]" scikit-learn)
"""

import time

import numpy as np
from thinc.api import Adam, Relu, Softmax, chain, fix_random_seed, use_ops

import kitae.thinc
from kitae.data import digits, train_test_split

STEPS = 300

data = digits()
pixels = data.images.reshape(-1, 64).astype(np.float32) / 16
x_train, t_train, x_test, t_test = train_test_split(pixels, data.labels)
targets = np.eye(10, dtype=np.float32)[t_train]


def train(make_optimizer):
    """The model, and the median milliseconds of a step and of its optimizer; the ops are those in force."""
    fix_random_seed(0)
    rng = np.random.default_rng(0)
    model = chain(Relu(256, dropout=0.2), Relu(256, dropout=0.2), Softmax())
    model.initialize(X=x_train[:2], Y=targets[:2])
    optimizer = make_optimizer(0.001)
    times = []
    for _ in range(STEPS):
        start = time.perf_counter()
        batch = rng.choice(len(x_train), 128)
        guesses, backprop = model.begin_update(x_train[batch])
        backprop((guesses - targets[batch]) / len(batch))
        middle = time.perf_counter()
        model.finish_update(optimizer)
        end = time.perf_counter()
        times.append((end - start, end - middle))
    return model, *np.median(times, axis=0) * 1000


def parameters(model):
    return [node.get_param(name) for node in model.walk() for name in node.param_names]


runs = {}
with use_ops("numpy"):
    runs["before"] = train(Adam)
with use_ops("kitae", rng="numpy"):  # NumPy's masks: the same elements are dropped
    runs["after, NumPy's masks"] = train(kitae.thinc.Adam)
with use_ops("kitae"):
    runs["after"] = train(kitae.thinc.Adam)

for name, (model, step, update) in runs.items():
    right = np.mean(model.predict(x_test).argmax(axis=1) == t_test)
    print(
        f"{name:>20}: {step:.2f} ms a step, {update:.2f} ms of it in the optimizer; "
        f"after {STEPS} steps {right:.1%} of the test images are right"
    )
before, after = runs["before"], runs["after"]
same = zip(parameters(before[0]), parameters(runs["after, NumPy's masks"][0]), strict=True)
largest = max(np.max(np.abs(a - b)) for a, b in same)
print(f"{before[1] / after[1]:.2f} times as fast, the optimizer {before[2] / after[2]:.2f} times")
print(f"with the same masks the largest difference of a parameter is {largest:.1e}")
