"""kitae.data's scalers against scikit-learn's and a float64 reference; one-hot labels."""

import numpy as np
import pytest
from sklearn import preprocessing

from kitae.data import MinMaxScaler, StandardScaler, one_hot

SCALERS = [StandardScaler, MinMaxScaler]


@pytest.fixture
def x(rng):
    return (rng.standard_normal((1000, 7)) * 10.0 ** np.arange(-3, 4) + 5).astype(np.float32)


class TestValues:
    def test_standard_by_hand(self):
        """Mean 3, squares 4 + 0 + 4 over 3; a constant column; a new set with other values in it."""
        train = np.array([[1.0, 7.0], [3.0, 7.0], [5.0, 7.0]])
        scaler = StandardScaler().fit(train)
        root = np.sqrt(8 / 3)
        np.testing.assert_allclose(scaler.transform(train), [[-2 / root, 0], [0, 0], [2 / root, 0]], rtol=1e-15)
        np.testing.assert_allclose(scaler.transform(np.array([[3.0 + root, 9.0]])), [[1.0, 2.0]], rtol=1e-15)

    def test_min_max_by_hand(self):
        train = np.array([[1.0, 7.0], [3.0, 7.0], [5.0, 7.0]])
        scaler = MinMaxScaler((-1, 1)).fit(train)
        assert scaler.transform(train).tolist() == [[-1, -1], [0, -1], [1, -1]]
        assert scaler.transform(np.array([[7.0, 7.5]])).tolist() == [[2.0, 0.0]]
        assert MinMaxScaler((-1, 1), clip=True).fit(train).transform(np.array([[7.0, 6.0]])).tolist() == [[1.0, -1.0]]

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [
            (StandardScaler(), preprocessing.StandardScaler()),
            (MinMaxScaler(), preprocessing.MinMaxScaler()),
            (MinMaxScaler((-1, 1)), preprocessing.MinMaxScaler((-1, 1))),
        ],
    )
    def test_as_scikit_learn(self, x, ours, theirs, dtype):
        """In float64 both are right to a few roundings of x / std, at most 5e4 here for the narrowest column; ours of
        float32 is one rounding away from theirs of float64."""
        train, test = x[:800].astype(dtype), x[800:].astype(dtype)
        train[:, 3] = 4.0
        theirs.fit(train.astype(np.float64))
        result = ours.fit(train).transform(test)
        expected = theirs.transform(test.astype(np.float64))
        assert result.dtype == dtype
        eps = np.finfo(dtype).eps
        np.testing.assert_allclose(result, expected, rtol=2 * eps, atol=5e4 * np.finfo(np.float64).eps * 8)
        # The way back: the rounding of y counts in units of the column's width, that of x in units of its values.
        error = np.abs(ours.inverse_transform(result) - test).max(axis=0)
        assert (error <= 8 * eps * np.abs(train).max(axis=0)).all()

    @pytest.mark.parametrize("offset", [1e3, 1e6, 1e8])
    def test_variance_far_from_zero(self, rng, offset):
        """sum x^2 - (sum x)^2 / n would be off by 1e16 * 2^-53 = 1 at an offset of 1e8; the blocks' means are not."""
        x = rng.standard_normal((150_000, 2)) + offset
        scaler = StandardScaler().fit(x)
        expected = (x - offset).std(axis=0)
        np.testing.assert_allclose(scaler.std, expected, rtol=1e-12)

    @pytest.mark.parametrize("value", [0.1, 1e7 + 0.1, -1e30])
    def test_constant_column_is_exactly_zero(self, value):
        x = np.full((150_000, 3), value, np.float32)
        scaler = StandardScaler()
        assert (scaler.fit_transform(x) == 0).all()
        assert (scaler.std == 1).all()
        np.testing.assert_array_equal(scaler.inverse_transform(scaler.transform(x)), x)

    def test_a_column_that_float32_loses(self, rng):
        x = (rng.standard_normal((100_000, 1)) + 3e4).astype(np.float32)
        expected = x.astype(np.float64).std()
        assert abs(StandardScaler().fit(x).std[0] / expected - 1) < 1e-12
        naive = np.sqrt(np.square(x).mean() - np.square(x.mean()))
        assert not abs(naive / expected - 1) < 1e-2

    @pytest.mark.parametrize(
        ("axis", "shape"),
        [(None, ()), (1, (3,)), (3, (5,)), ((1, 2), (3, 4)), ((2, 1), (3, 4)), ((1, 2, 3), (3, 4, 5))],
    )
    def test_axes(self, rng, axis, shape):
        x = rng.standard_normal((40, 3, 4, 5))
        scaler = StandardScaler(axis=axis).fit(x)
        kept = () if axis is None else axis if isinstance(axis, tuple) else (axis,)
        others = tuple(i for i in range(4) if i not in kept)
        assert scaler.mean.shape == shape
        expected = (x - x.mean(others, keepdims=True)) / x.std(others, keepdims=True)
        np.testing.assert_allclose(scaler.transform(x), expected, rtol=1e-12, atol=1e-13)

    @pytest.mark.parametrize("scaler", SCALERS)
    def test_pixels_become_float32(self, rng, scaler):
        x = rng.integers(0, 256, (50, 3, 4), dtype=np.uint8)
        y = scaler().fit_transform(x)
        assert y.dtype == np.float32
        np.testing.assert_allclose(y, scaler().fit_transform(x.astype(np.float64)), rtol=1e-6, atol=1e-7)

    @pytest.mark.parametrize("scaler", SCALERS)
    def test_float16_and_big_endian(self, x, scaler):
        half = scaler().fit_transform(x[:, :2].astype(np.float16))
        assert half.dtype == np.float16
        np.testing.assert_array_equal(scaler().fit_transform(x.astype(">f4")), scaler().fit_transform(x))

    @pytest.mark.parametrize("scaler", SCALERS)
    def test_memory_mapped(self, tmp_path, x, scaler):
        np.save(tmp_path / "x.npy", x)
        mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
        result = scaler().fit_transform(mapped)
        assert type(result) is np.ndarray
        np.testing.assert_array_equal(result, scaler().fit_transform(x))

    @pytest.mark.parametrize("scaler", SCALERS)
    def test_a_file_is_read_by_blocks(self, tmp_path, scaler, monkeypatch):
        """Never more than a block, of 2^17 elements, at once."""
        import kitae.data.scaling as module

        x, largest = np.zeros((4096, 512), np.float32), []
        x[0] = 1
        real = np.asarray
        monkeypatch.setattr(np, "asarray", lambda a, *r, **k: (largest.append(np.size(a)), real(a, *r, **k))[1])
        scaler().fit(x)
        assert 0 < max(largest) <= module._BLOCK

    def test_state(self, x):
        scaler = StandardScaler().fit(x)
        other = StandardScaler()
        other.load_state_dict(scaler.state_dict())
        np.testing.assert_array_equal(other.transform(x), scaler.transform(x))
        with pytest.raises(ValueError, match="load_state_dict: kind: expected 'MinMaxScaler', got 'StandardScaler'"):
            MinMaxScaler().load_state_dict({**MinMaxScaler().fit(x).state_dict(), "kind": "StandardScaler"})
        with pytest.raises(ValueError, match=r"axis: expected \[\], got \[1\]"):
            StandardScaler(axis=None).load_state_dict(scaler.state_dict())
        with pytest.raises(ValueError, match="d: expected the key 'std'"):
            StandardScaler().load_state_dict(
                {"version": 1, "kind": "StandardScaler", "axis": [1], "samples": 1, "mean": 1}
            )


class TestRefused:
    @pytest.mark.parametrize("scaler", SCALERS)
    def test_before_fit(self, x, scaler):
        for name in ("transform", "inverse_transform"):
            with pytest.raises(
                RuntimeError, match=rf"{scaler.__name__}\.{name}: self: expected a fit on the training set"
            ):
                getattr(scaler(), name)(x)
        with pytest.raises(RuntimeError, match="state_dict: self: expected a fit"):
            scaler().state_dict()

    @pytest.mark.parametrize(
        ("bad", "kind", "words"),
        [
            ([[1.0]], TypeError, "x: expected a numpy.ndarray"),
            (np.array([["a"]]), TypeError, "x: expected integers, float16, float32 or float64"),
            (np.array([[1j]]), TypeError, "x: expected integers"),
            (np.ones(3), ValueError, "x: expected an array with axis 1"),
            (np.ones((0, 3)), ValueError, "x: expected one sample or more"),
            (np.array([[1.0, np.nan]]), ValueError, "x: expected finite values, got NaN or infinity"),
            (np.array([[1.0], [np.inf]]), ValueError, "x: expected finite values"),
        ],
    )
    def test_fit(self, x, bad, kind, words):
        scaler = StandardScaler().fit(x)
        before = scaler.mean.copy()
        with pytest.raises(kind, match=f"kitae.data.StandardScaler.fit: {words}"):
            scaler.fit(bad)
        np.testing.assert_array_equal(scaler.mean, before)

    def test_other_sizes(self, x):
        with pytest.raises(ValueError, match=r"transform: x: expected sizes \(7,\) along axis \(1,\), as fitted"):
            StandardScaler().fit(x).transform(x[:, :5])

    @pytest.mark.parametrize(
        ("make", "kind"),
        [
            (lambda: StandardScaler(axis=0), ValueError),
            (lambda: StandardScaler(axis=1.0), TypeError),
            (lambda: StandardScaler(axis=(1, 1)), ValueError),
            (lambda: MinMaxScaler(3), TypeError),
            (lambda: MinMaxScaler((1, 1)), ValueError),
            (lambda: MinMaxScaler((0, float("nan"))), ValueError),
            (lambda: MinMaxScaler(clip=1), TypeError),
        ],
    )
    def test_options(self, make, kind):
        with pytest.raises(kind, match=r"kitae\.data\.(Standard|MinMax)Scaler: (axis|feature_range|clip): expected"):
            make()


class TestOneHot:
    def test_by_hand(self):
        y = one_hot(np.array([2, 0]))
        assert y.tolist() == [[0, 0, 1], [1, 0, 0]]
        assert y.dtype == np.float32

    def test_classes_dtype_and_shape(self):
        y = one_hot(np.array([[1, 0]], np.uint8), 4, dtype=np.float64)
        assert y.tolist() == [[[0, 1, 0, 0], [1, 0, 0, 0]]]
        assert y.dtype == np.float64
        assert one_hot(np.zeros(0, int), 3).shape == (0, 3)

    @pytest.mark.parametrize(
        ("labels", "classes", "kind", "words"),
        [
            (np.array([0, 3]), 3, ValueError, "labels: expected labels from 0 to 2, got values from 0 to 3"),
            (np.array([-1, 3]), None, ValueError, "labels: expected labels from 0, got values from -1 to 3"),
            (np.array([0.0]), None, TypeError, "labels: expected integers"),
            ([0], None, TypeError, "labels: expected a numpy.ndarray"),
            (np.array([0]), 0, ValueError, "classes: expected an integer in"),
        ],
    )
    def test_refused(self, labels, classes, kind, words):
        with pytest.raises(kind, match=f"kitae.data.one_hot: {words}"):
            one_hot(labels, classes)
