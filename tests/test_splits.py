"""Splits: sizes, shares of classes, whole groups, and nothing that is in two sets."""

import numpy as np
import pytest

from kitae.data import Batches, shared_samples, train_test_split, train_validation_test_split

SETS = ("train", "validation", "test")
COUNT = 200


@pytest.fixture
def x(rng):
    return rng.standard_normal((COUNT, 2, 3))


def rows_of(x, split):
    """Which rows of x each set has."""
    places = {row.tobytes(): i for i, row in enumerate(x)}
    return [[places[row.tobytes()] for row in getattr(split, f"x_{name}")] for name in SETS]


class TestSizes:
    @pytest.mark.parametrize("fractions", [(0.1, 0.2), (0, 0.25), (0.5, 0)])
    def test_each_sample_in_one_set_with_its_target(self, x, fractions):
        t = np.arange(COUNT)
        split = train_validation_test_split(x, t, *fractions, seed=3)
        rows = rows_of(x, split)
        assert sorted(row for own in rows for row in own) == list(range(COUNT))
        assert [len(r) for r in rows[1:]] == [round(COUNT * f) for f in fractions]
        for name, own in zip(SETS, rows, strict=True):
            assert getattr(split, f"t_{name}").tolist() == own

    def test_order_is_random_and_seeded(self, x):
        first, same, other = (rows_of(x, train_validation_test_split(x, seed=seed)) for seed in (0, 0, 1))
        assert first == same
        assert first != other
        assert first[0] != sorted(first[0])

    def test_without_targets(self, x):
        assert train_validation_test_split(x).t_train is None

    def test_copies(self, x):
        split = train_validation_test_split(x)
        assert not np.shares_memory(split.x_train, x)

    def test_memory_mapped(self, tmp_path, x):
        np.save(tmp_path / "x.npy", x)
        split = train_validation_test_split(np.load(tmp_path / "x.npy", mmap_mode="r"), seed=4)
        np.testing.assert_array_equal(split.x_test, train_validation_test_split(x, seed=4).x_test)


class TestStratified:
    def test_each_class_has_its_share(self, x, rng):
        t = rng.permutation(np.repeat([0, 1, 2, 3], [100, 57, 33, 10]))
        split = train_validation_test_split(x, t, 0.15, 0.2, stratify=True)
        for name, fraction in (("validation", 0.15), ("test", 0.2)):
            counts = np.bincount(getattr(split, f"t_{name}"), minlength=4)
            exact = fraction * np.bincount(t)
            assert (np.abs(counts - exact) <= 1).all()
            assert abs(counts.sum() - fraction * COUNT) <= 0.5

    def test_refused(self, x):
        with pytest.raises(TypeError, match="t: expected integer labels"):
            train_validation_test_split(x, stratify=True)
        with pytest.raises(ValueError, match="t: expected integer labels"):
            train_validation_test_split(x, np.zeros((COUNT, 3)), stratify=True)


class TestGroups:
    def test_a_group_is_in_one_set(self, x, rng):
        groups = rng.integers(0, 30, COUNT)
        rows = rows_of(x, train_validation_test_split(x, None, 0.2, 0.2, groups=groups))
        seen = [set(groups[r].tolist()) for r in rows]
        assert sum(map(len, seen)) == len(set.union(*seen))
        # A group has about 7 samples of 200: half of one away from the share at most, but for the largest.
        assert all(abs(len(r) - 40) <= 7 for r in rows[1:])

    def test_strings_and_stratified(self, x, rng):
        groups = np.array([f"writer {i}" for i in rng.integers(0, 40, COUNT)])
        t = (np.array([int(name.split()[1]) for name in groups]) % 3).astype(np.int64)
        split = train_validation_test_split(x, t, 0.2, 0.2, groups=groups, stratify=True)
        rows = rows_of(x, split)
        assert not set(groups[rows[0]]) & set(groups[rows[2]])
        shares = np.bincount(split.t_test) / np.bincount(t)
        assert (np.abs(shares - 0.2) < 0.15).all()

    def test_too_few(self, x):
        with pytest.raises(ValueError, match=r"x: expected enough samples or groups for a .* set, got 2 in all"):
            train_validation_test_split(x, groups=np.arange(COUNT) % 2)

    def test_wrong_length(self, x):
        with pytest.raises(ValueError, match=r"groups: expected shape \(200,\), a value a sample, got .*\(3,\)"):
            train_validation_test_split(x, groups=np.arange(3))


class TestDuplicates:
    def doubled(self, x):
        return np.concatenate([x, x[:50]])

    def test_raise(self, x):
        with pytest.raises(
            ValueError, match=r"x: expected different samples, got \d+ that two sets share, the first: rows"
        ):
            train_validation_test_split(self.doubled(x))

    def test_minus_zero_is_zero(self):
        x = np.arange(20.0)[:, None]
        x = np.concatenate([x, x, -x[:1]])
        split = train_validation_test_split(x, None, 0.3, 0.3, duplicates="keep together", seed=1)
        zeros = [(getattr(split, f"x_{name}") == 0).sum() for name in SETS]
        assert sorted(zeros) == [0, 0, 3]

    def test_allow(self, x):
        split = train_validation_test_split(self.doubled(x), duplicates="allow")
        assert len(shared_samples(split.x_test, split.x_train)[0]) > 0

    @pytest.mark.parametrize("stratify", [False, True])
    def test_keep_together(self, x, rng, stratify):
        doubled, t = self.doubled(x), rng.integers(0, 3, COUNT + 50)
        split = train_validation_test_split(doubled, t, duplicates="keep together", stratify=stratify)
        for one, other in (("train", "test"), ("train", "validation"), ("validation", "test")):
            assert len(shared_samples(getattr(split, f"x_{one}"), getattr(split, f"x_{other}"))[0]) == 0
        assert sum(len(getattr(split, f"x_{name}")) for name in SETS) == COUNT + 50

    def test_groups_that_share_a_sample_are_one(self, x):
        """Groups of ten; the last sample of each is the first of the next: all is one group, which nobody can split."""
        x = x.copy()
        x[10::10] = x[9:-1:10]
        with pytest.raises(ValueError, match=r"expected enough samples or groups for a .* set, got 1 in all"):
            train_validation_test_split(x, groups=np.arange(COUNT) // 10, duplicates="keep together")

    @pytest.mark.parametrize("seed", range(30))
    def test_never_a_group_or_sample_in_two_sets(self, seed):
        """A handful of samples are in two groups, which are one then; chains of them too."""
        rng = np.random.default_rng(seed)
        groups, values = rng.integers(0, 25, 60), rng.integers(0, 300, 60)
        options = {"groups": groups, "duplicates": "keep together", "seed": seed}
        split = train_validation_test_split(values[:, None], groups, 0.2, 0.2, **options)
        for part in ("x", "t"):
            sets = [set(getattr(split, f"{part}_{name}").ravel().tolist()) for name in SETS]
            assert sum(map(len, sets)) == len(set.union(*sets))


class TestSharedSamples:
    def test_places(self):
        first, second = np.array([[1], [2], [3], [2]]), np.array([[2], [5], [3], [2]])
        rows, others = shared_samples(first, second)
        assert rows.tolist() == [1, 2, 3]
        assert others.tolist() == [0, 2, 0]

    def test_none(self):
        assert [r.tolist() for r in shared_samples(np.arange(3), np.arange(3) + 5)] == [[], []]

    def test_refused(self):
        with pytest.raises(ValueError, match=r"second: expected samples of shape \(3,\), dtype float64"):
            shared_samples(np.ones((2, 3)), np.ones((2, 4)))
        with pytest.raises(TypeError, match=r"data\.shared_samples: first: expected"):
            shared_samples([1], np.ones(3))


class TestRefused:
    @pytest.mark.parametrize("split", [train_test_split, train_validation_test_split])
    def test_batches(self, x, split):
        """What was augmented is no longer to be split."""
        with pytest.raises(TypeError, match="samples are split first, batched and augmented after"):
            split(Batches(x), np.arange(COUNT))

    @pytest.mark.parametrize(
        ("options", "kind", "words"),
        [
            ({"validation_fraction": 0.5, "test_fraction": 0.5}, ValueError, r"\+ test_fraction: expected fractions"),
            ({"test_fraction": -0.1}, ValueError, "test_fraction: expected a number in"),
            ({"test_fraction": "some"}, TypeError, "test_fraction: expected a number in"),
            ({"seed": None}, TypeError, "seed: expected an integer"),
            ({"duplicates": "drop"}, ValueError, "duplicates: expected one of 'raise', 'keep together', 'allow'"),
            ({"stratify": 1}, TypeError, "stratify: expected True or False"),
        ],
    )
    def test_options(self, x, options, kind, words):
        with pytest.raises(kind, match=words):
            train_validation_test_split(x, **options)

    def test_arrays(self, x):
        with pytest.raises(TypeError, match="x: expected a"):
            train_validation_test_split(x.tolist())
        with pytest.raises(ValueError, match="t: expected 200 targets, one for each sample"):
            train_validation_test_split(x, np.ones(3))
        with pytest.raises(ValueError, match="expected enough samples or groups for a train set, got 0 in all"):
            train_validation_test_split(x[:0])
