"""Digits, with ONNX's operators before and after: ONNX's reference evaluator, then kitae.onnx.

python examples/onnx_digits.py        (needs: pip install onnx scikit-learn)

The network is written out below; BatchNormalization and Adam are the operators of ONNX.
"""

import time
from itertools import pairwise

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

import kitae.onnx
from kitae.data import digits, train_test_split

STEPS = 200
SIZES = (64, 256, 256, 10)


class Evaluated:
    """The two operators as models of one node, run by ONNX's reference evaluator."""

    def __init__(self, tensors):
        names = [f"{kind}{i}" for kind in "XGVH" for i in range(tensors)]
        results = [f"{kind}_new{i}" for kind in "XVH" for i in range(tensors)]
        self.names = ["R", "T", *names]
        self.adam = self.model("Adam", self.names, results, "ai.onnx.preview.training")
        self.inputs = ["x", "scale", "B", "mean", "var"]
        self.norm = self.model("BatchNormalization", self.inputs, ["y", "m", "v"], "", training_mode=1)

    @staticmethod
    def model(name, inputs, outputs, domain, **attributes):
        node = helper.make_node(name, inputs, outputs, domain=domain, **attributes)
        kinds = {"T": onnx.TensorProto.INT64}
        takes = [helper.make_tensor_value_info(n, kinds.get(n, onnx.TensorProto.FLOAT), None) for n in inputs]
        gives = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in outputs]
        opsets = [helper.make_opsetid("", 15), helper.make_opsetid("ai.onnx.preview.training", 1)]
        return ReferenceEvaluator(
            helper.make_model(helper.make_graph([node], name, takes, gives), opset_imports=opsets)
        )

    def BatchNormalization(self, *inputs, training_mode):
        return self.norm.run(None, dict(zip(self.inputs, inputs, strict=True)))

    def Adam(self, *inputs):
        return self.adam.run(None, dict(zip(self.names, inputs, strict=True)))


def train(operators):
    """The trained parameters and statistics, and the median milliseconds of a step spent in the operators."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((m, n)) * np.sqrt(2 / m) for m, n in pairwise(SIZES)]
    norms = [np.full(n, value) for n in SIZES[1:-1] for value in (1.0, 0.0)]  # scale and B of each
    params = [p.astype(np.float32) for p in (*weights, *norms)]
    states = [np.zeros_like(p) for p in params + params]  # V, then H
    running = [np.full(n, value, np.float32) for n in SIZES[1:-1] for value in (0.0, 1.0)]
    rate, times = np.array(1e-3, np.float32), np.zeros(STEPS)
    for step in range(STEPS):
        batch = rng.choice(len(x_train), 128)
        x, targets, seen = x_train[batch], np.eye(10, dtype=np.float32)[t_train[batch]], []
        for layer in range(2):
            z = x @ params[layer]
            scale, shift = params[3 + 2 * layer : 5 + 2 * layer]
            start = time.perf_counter()
            y, *moved = operators.BatchNormalization(
                z, scale, shift, *running[2 * layer : 2 * layer + 2], training_mode=1
            )
            times[step] += time.perf_counter() - start
            running[2 * layer : 2 * layer + 2] = moved
            seen.append((x, z, y))
            x = np.maximum(y, 0)
        logits = np.exp((z := x @ params[2]) - z.max(axis=1, keepdims=True))
        dout = (logits / logits.sum(axis=1, keepdims=True) - targets) / len(batch)
        grads = [None, None, x.T @ dout, *[None] * 4]
        dout = dout @ params[2].T
        for layer in (1, 0):
            x, z, y = seen[layer]
            dout = dout * (y > 0)
            std = np.sqrt(z.var(axis=0) + np.float32(1e-5))
            normal = (z - z.mean(axis=0)) / std
            grads[3 + 2 * layer], grads[4 + 2 * layer] = (dout * normal).sum(axis=0), dout.sum(axis=0)
            dout = params[3 + 2 * layer] / std * (dout - dout.mean(axis=0) - normal * (dout * normal).mean(axis=0))
            grads[layer] = x.T @ dout
            dout = dout @ params[layer].T
        start = time.perf_counter()
        results = operators.Adam(rate, np.array(step, np.int64), *params, *grads, *states)
        times[step] += time.perf_counter() - start
        params, states = list(results[: len(params)]), list(results[len(params) :])
    return params, running, np.median(times) * 1000


def accuracy(params, running):
    x = x_test
    for layer in range(2):
        scale, shift = params[3 + 2 * layer : 5 + 2 * layer]
        mean, var = running[2 * layer : 2 * layer + 2]
        x = np.maximum(kitae.onnx.BatchNormalization(x @ params[layer], scale, shift, mean, var), 0)
    return np.mean((x @ params[2]).argmax(axis=1) == t_test)


data = digits()
pixels = data.images.reshape(-1, 64).astype(np.float32) / 16
x_train, t_train, x_test, t_test = train_test_split(pixels, data.labels)

before = train(Evaluated(7))
after = train(kitae.onnx)
for name, (params, running, milliseconds) in (("before", before), ("after", after)):
    right = accuracy(params, running)
    print(
        f"{name:>6}: BatchNormalization and Adam take {milliseconds:.2f} ms a step; "
        f"after {STEPS} steps {right:.1%} of the test images are right"
    )
largest = max(np.max(np.abs(a - b)) for a, b in zip(before[0], after[0], strict=True))
print(f"{before[2] / after[2]:.1f} times as fast; the largest difference of a parameter is {largest:.1e}")
