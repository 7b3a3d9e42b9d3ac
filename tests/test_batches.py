"""kitae.data.Batches: every sample once an epoch, another order each epoch, and the same bits after a resume."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest

import imitation_cupy
import kitae
from kitae.data import Batches

X = np.arange(23 * 6, dtype=np.float32).reshape(23, 2, 3)
T = np.arange(23) % 4


def epochs(batches, count):
    return [[(x.copy(), t.copy()) for x, t in batches] for _ in range(count)]


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for (x, t), (x2, t2) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(x, x2)
        np.testing.assert_array_equal(t, t2)


class TestEpochs:
    @pytest.mark.parametrize("shuffle", [True, False])
    @pytest.mark.parametrize("batch_size", [1, 5, 23, 100])
    def test_each_sample_once_with_its_target(self, batch_size, shuffle):
        batches = Batches(X, T, batch_size, seed=0, shuffle=shuffle)
        (epoch,) = epochs(batches, 1)
        assert [len(x) for x, _ in epoch] == [len(t) for _, t in epoch]
        assert len(epoch) == len(batches) == -(-23 // batch_size)
        x, t = (np.concatenate(parts) for parts in zip(*epoch, strict=True))
        order = x[:, 0, 0].argsort() if shuffle else np.arange(23)
        np.testing.assert_array_equal(x[order], X)
        np.testing.assert_array_equal(t[order], T)
        assert x.dtype == X.dtype
        assert t.dtype == T.dtype

    def test_drop_last(self):
        batches = Batches(X, T, 5, seed=0, drop_last=True)
        assert [len(x) for x, _ in batches] == [5, 5, 5, 5]
        assert len(batches) == 4

    def test_another_order_each_epoch_and_seed_the_same_order_again(self):
        first, second = epochs(Batches(X, T, 23, seed=7), 2)
        assert (first[0][0] != second[0][0]).any()
        assert (first[0][0] != epochs(Batches(X, T, 23, seed=8), 1)[0][0][0]).any()
        for ours, theirs in zip((first, second), epochs(Batches(X, T, 23, seed=7), 2), strict=True):
            assert_same(ours, theirs)

    def test_order_is_that_of_the_documented_generator(self):
        """NumPy guarantees the raw bits of PCG64: the numbers at the end hold for good."""
        bits = np.random.PCG64(np.random.SeedSequence(3, spawn_key=(1,))).random_raw(6)
        batches = Batches(np.arange(6), batch_size=6, seed=3)
        list(batches)
        (second,) = batches
        assert second.tolist() == sorted(range(6), key=lambda i: bits[i]) == [0, 5, 2, 1, 4, 3]

    def test_every_order_is_as_likely(self):
        """6,000 epochs of 3 samples: each of the 6 orders about 1,000 times. chi^2 of 5 degrees is below 25 but for
        one seed in 7,000."""
        batches = Batches(np.arange(3), batch_size=3, seed=1)
        counts = dict.fromkeys(itertools.permutations(range(3)), 0)
        for _ in range(6000):
            (order,) = batches
            counts[tuple(order.tolist())] += 1
        assert sum((n - 1000) ** 2 / 1000 for n in counts.values()) < 25

    def test_kitae_seed_fixes_the_drawn_seed(self):
        kitae.seed(5)
        first = Batches(X).seed
        kitae.seed(5)
        assert Batches(X).seed == first
        assert Batches(X).seed != first

    @pytest.mark.parametrize("shuffle", [True, False])
    def test_batches_are_new_arrays(self, shuffle):
        x = X.copy()
        for batch in Batches(x, batch_size=23, seed=0, shuffle=shuffle):
            batch[...] = -1
        np.testing.assert_array_equal(x, X)

    def test_an_iteration_left_early_is_an_epoch(self):
        batches = Batches(X, T, 5, seed=0)
        whole = epochs(Batches(X, T, 5, seed=0), 2)
        next(iter(batches))
        assert_same(epochs(batches, 1)[0], whole[1])


class TestArrays:
    def test_without_targets(self):
        (batch,) = Batches(X, batch_size=23, shuffle=False)
        np.testing.assert_array_equal(batch, X)

    def test_tuples(self):
        weights = np.linspace(0, 1, 23)
        ((x, w), (t,)) = next(iter(Batches((X, weights), (T,), 5, seed=2)))
        rows = (x[:, 0, 0] / 6).astype(int)
        np.testing.assert_array_equal(w, weights[rows])
        np.testing.assert_array_equal(t, T[rows])

    @pytest.mark.parametrize("shuffle", [True, False])
    def test_memory_mapped(self, tmp_path, shuffle):
        np.save(tmp_path / "x.npy", X)
        mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
        ours = list(Batches(mapped, T, 5, seed=1, shuffle=shuffle))
        assert_same(ours, list(Batches(X, T, 5, seed=1, shuffle=shuffle)))
        assert {type(x) for x, _ in ours} == {np.ndarray}

    @pytest.mark.timing
    def test_a_file_larger_than_the_memory_allowed_is_read_by_rows(self, tmp_path):
        """A sparse file of 64 GB under a limit of 1 GB for what the process allocates."""
        code = f"""
import resource, numpy as np
from kitae.data import Batches
x = np.memmap({str(tmp_path / "x")!r}, np.float32, "w+", shape=(2**20, 2**14))
x[12345] = 7.0
resource.setrlimit(resource.RLIMIT_DATA, (2**30, 2**30))
batches = iter(Batches(x, batch_size=64, seed=0))
for _ in range(3):
    batch = next(batches)
    assert batch.shape == (64, 2**14) and type(batch) is np.ndarray
"""
        subprocess.run([sys.executable, "-c", code], check=True, timeout=120)

    @pytest.mark.parametrize("shuffle", [True, False])
    def test_cupy_arrays_stay_on_their_device(self, monkeypatch, shuffle):
        imitation_cupy.install(monkeypatch)
        with imitation_cupy.Device(1):
            x = imitation_cupy.ndarray(X)
        ours = list(Batches(x, T, 5, seed=1, shuffle=shuffle))
        assert {(type(a), a.device.id) for a, _ in ours} == {(imitation_cupy.ndarray, 1)}
        assert_same([(a.get(), t) for a, t in ours], list(Batches(X, T, 5, seed=1, shuffle=shuffle)))
        assert not any(np.shares_memory(a._host, X) for a, _ in ours)

    @pytest.mark.parametrize(
        ("x", "t", "keywords", "kind", "words"),
        [
            ([1, 2], None, {}, TypeError, "data.Batches: x: expected a numpy.ndarray"),
            (X, [1, 2], {}, TypeError, "data.Batches: t: expected a numpy.ndarray"),
            (
                X,
                T[:-1],
                {},
                ValueError,
                "data.Batches: t: expected 23 samples, as many as x has, got array of shape (22,)",
            ),
            ((X, T[1:]), None, {}, ValueError, "data.Batches: x[1]: expected 23 samples"),
            ((), None, {}, ValueError, "data.Batches: x: expected an array or a tuple of arrays, got an empty tuple"),
            (X[:0], None, {}, ValueError, "data.Batches: x: expected one sample or more, got array of shape (0, 2, 3)"),
            (np.float32(3), None, {}, TypeError, "data.Batches: x"),
            (np.array(3.0), None, {}, ValueError, "data.Batches: x: expected shape (samples, ...)"),
            (X, T, {"batch_size": 0}, ValueError, "data.Batches: batch_size: expected an integer in [1, "),
            (X, T, {"batch_size": 2.0}, TypeError, "data.Batches: batch_size"),
            (X, T, {"seed": -1}, ValueError, "data.Batches: seed"),
            (X, T, {"shuffle": 1}, TypeError, "data.Batches: shuffle: expected True or False, got 1"),
            (X, T, {"batch_size": 24, "drop_last": True}, ValueError, "data.Batches: batch_size: expected at most 23"),
            (X, T, {"augment": 3}, TypeError, "data.Batches: augment"),
        ],
    )
    def test_refused(self, x, t, keywords, kind, words):
        with pytest.raises(kind) as caught:
            Batches(x, t, **keywords)
        assert words in str(caught.value)


def add_noise(x, t, *, rng):
    return x + rng.standard_normal(x.shape).astype(x.dtype), t


class TestResume:
    @pytest.mark.parametrize("shuffle", [True, False])
    @pytest.mark.parametrize("taken", range(11))
    def test_the_rest_is_the_same_bit_for_bit(self, taken, shuffle):
        """After each number of batches, over two epochs of 5, in another object with another seed."""
        options = {"batch_size": 5, "shuffle": shuffle, "augment": add_noise}
        batches = Batches(X, T, seed=11, **options)
        whole = [batch for epoch in epochs(Batches(X, T, seed=11, **options), 4) for batch in epoch]
        stream = (batch for _ in range(4) for batch in batches)
        for _ in range(taken):
            next(stream)
        state = json.loads(json.dumps(batches.state_dict()))
        other = Batches(X, T, seed=99, **options)
        other.load_state_dict(state)
        rest = [batch for epoch in epochs(other, 5) for batch in epoch]
        assert_same(rest[: 20 - taken], whole[taken:])

    def test_after_the_last_batch_the_rest_is_empty(self):
        batches = Batches(X, T, 5, seed=0)
        stream = iter(batches)
        for _ in range(5):
            next(stream)
        state = batches.state_dict()
        assert (state["epoch"], state["position"]) == (0, 5)
        assert next(stream, None) is None
        assert (batches.epoch, batches.position) == (1, 0)
        batches.load_state_dict(state)
        assert list(batches) == []
        assert (batches.epoch, batches.position) == (1, 0)

    def test_augmentation_is_another_each_epoch_and_batch(self):
        batches = Batches(np.zeros((4, 3)), T[:4], 2, seed=0, augment=add_noise)
        values = np.concatenate([x.ravel() for epoch in epochs(batches, 3) for x, _ in epoch])
        assert len(np.unique(values)) == values.size == 36

    @pytest.mark.parametrize(
        ("change", "kind", "words"),
        [
            ({"version": 2}, ValueError, "version: expected 1, got 2"),
            ({"kind": "Adam"}, ValueError, "kind: expected 'Batches', got 'Adam'"),
            ({"samples": 24}, ValueError, "samples: expected 23, got 24"),
            ({"batch_size": 6}, ValueError, "batch_size: expected 5, got 6"),
            ({"shuffle": False}, ValueError, "shuffle: expected True, got False"),
            ({"position": 6}, ValueError, "position: expected an integer in [0, 5], got 6"),
            ({"epoch": -1}, ValueError, "epoch: expected an integer in [0, "),
            ({"epoch": 1.5}, TypeError, "epoch: expected an integer in [0, "),
            ({"seed": "3"}, TypeError, "seed: expected an integer in [0, "),
            ({"more": 1}, ValueError, "d: expected the keys"),
        ],
    )
    def test_refused_and_unchanged(self, change, kind, words):
        batches = Batches(X, T, 5, seed=0)
        next(iter(batches))
        before = batches.state_dict()
        with pytest.raises(kind) as caught:
            batches.load_state_dict({**Batches(X, T, 5, seed=3).state_dict(), **change})
        assert f"kitae.data.Batches.load_state_dict: {words}" in str(caught.value)
        assert batches.state_dict() == before
