"""The instruction set asked for is the one that runs, and every one gives the same bits for every family."""

import json
import os

import pytest

from kitae import _isa

pytestmark = pytest.mark.timing  # starts processes that need every instruction set of a whole build
SUPPORTED = _isa.supported()

# Every public function on every dtype, odd sizes, both layouts, several threads; a hash of everything that came out.
DIGEST = """
import hashlib, itertools, json, sys
import ml_dtypes
import numpy as np
import kitae
from kitae import _dispatch

def numbers(seed, shape, dtype):
    return np.random.default_rng(seed).uniform(-2, 2, shape).astype(dtype)

def outcome():
    digests = {}
    def add(name, *arrays):
        digest = hashlib.sha256()
        for array in arrays:
            digest.update(np.ascontiguousarray(array).tobytes())
        digests[name] = digest.hexdigest()
    for dtype in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16):
        kind = np.dtype(dtype).name
        for shape, axis in (((37, 19), 1), ((3, 5, 7, 9), 1), ((2, 70, 70), 1), ((2, 9, 9, 33), -1)):
            x, dout, residual = (numbers(seed, shape, dtype) for seed in (1, 2, 3))
            channels = shape[axis]
            vectors = [numbers(seed, channels, np.float32) for seed in (4, 5, 6)]
            vectors.append(np.abs(numbers(7, channels, np.float32)))
            for training in (True, False):
                given = [vector.copy() for vector in vectors]
                y, saved = kitae.batch_norm(x, *given, training=training, axis=axis, activation="leaky_relu",
                                            residual=residual)
                gradients = kitae.batch_norm_backward(dout, saved)
                add(f"batch_norm {kind} {shape} {training}", y, saved.mean, saved.inv_std, *given, *gradients)
            for store in ("bits", "replay"):
                y, mask = kitae.dropout(x, 0.3, seed=11, offset=5, store=store)
                add(f"dropout {kind} {shape} {store}", y, mask.unpack(), kitae.dropout_backward(dout, mask))
        for cls in (kitae.SGD, kitae.Momentum, kitae.Nesterov, kitae.AdaGrad, kitae.AdaDelta, kitae.RMSProp, kitae.Adam,
                    kitae.AdamW, kitae.AMSGrad, kitae.AdaMax, kitae.NormalizedGD):
            params = [numbers(seed, n, dtype) for seed, n in enumerate((1, 17, 40001, 0))]
            keywords = {} if cls is kitae.NormalizedGD else {"max_norm": 1.0}
            optimizer = cls(params, weight_decay=0.01, l1=0.001, **keywords)
            for step in range(3):
                optimizer.step([numbers(10 * step + i, p.shape, dtype) for i, p in enumerate(params)])
            slots = optimizer.state_dict()["slots"].values()
            add(f"{cls.__name__} {kind}", *params, *[a for slot in slots for a in slot if a is not None])
        grads = [numbers(seed, n, dtype) for seed, n in enumerate((1, 17, 40001, 0))]
        norm = kitae.clip_grad_norm(grads, 1.5)
        kitae.clip_grad_value(grads, 0.01)
        add(f"clip {kind}", np.float64(norm), *grads)
    return digests


kitae.set_num_threads(THREADS)
print(json.dumps([_dispatch.cpu().variant, outcome()]))
"""


def digests(run_python, variant: str, threads: int) -> dict[str, str]:
    ran, found = json.loads(run_python(f"THREADS = {threads}\n" + DIGEST, KITAE_CPU_ISA=variant))
    assert ran == variant
    return found


def test_every_instruction_set_gives_the_same_bits(run_python):
    expected = digests(run_python, SUPPORTED[0], threads=1)
    assert len(set(expected.values())) > 80
    for variant, threads in [(SUPPORTED[0], 4), *((variant, n) for variant in SUPPORTED[1:] for n in (1, 3))]:
        found = digests(run_python, variant, threads)
        assert found == expected, [name for name in expected if found[name] != expected[name]]


@pytest.mark.parametrize("variant", SUPPORTED)
def test_the_forced_instruction_set_runs(run_python, variant):
    script = "import kitae; print(kitae._dispatch.cpu().variant)"
    assert run_python(script, KITAE_CPU_ISA=variant).strip() == variant
    assert run_python(script, KITAE_CPU_ISA=variant.removeprefix("x86_64_")).strip() == variant


def test_only_the_chosen_module_is_loaded(run_python):
    script = "import sys, kitae; print(*[name for name in sys.modules if name.startswith('kitae._cpu_')])"
    assert run_python(script, KITAE_CPU_ISA=SUPPORTED[0]).split() == [f"kitae._cpu_{SUPPORTED[0]}"]


def test_the_best_one_is_the_default(run_python):
    if "KITAE_CPU_ISA" in os.environ:
        pytest.skip("KITAE_CPU_ISA is set")
    assert run_python("import kitae; print(kitae._dispatch.cpu().variant)").strip() == SUPPORTED[-1]


UNKNOWN = """
import kitae, numpy as np
try:
    kitae.global_norm([np.ones(2)])
except ImportError as error:
    print(error)
"""


@pytest.mark.parametrize("name", ["v9", "avx", "", "x86_64_v4 "])
def test_unknown_instruction_set(run_python, name):
    message = run_python(UNKNOWN, KITAE_CPU_ISA=name)
    assert f"KITAE_CPU_ISA={name}: this CPU runs {', '.join(SUPPORTED)}" in message
    assert 'use_backend("reference")' in message
