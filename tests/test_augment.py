"""Image augmentation: pixels against SciPy, PyTorch and Matplotlib, numbers by hand, distributions, seeds."""

import numpy as np
import pytest
from matplotlib import colors
from scipy import ndimage, stats

from kitae.data import Batches, augment, one_hot
from kitae.data.augment import color, geometry

COUNT = 40
COLOR = [augment.Hue(0.1), augment.Saturation(0.5, 2.0)]
MIXING = [augment.MixUp(), augment.CutMix()]
GRAY = [
    augment.Flip("horizontal"),
    augment.Flip("vertical"),
    augment.Flip("both"),
    augment.Rotate(30),
    augment.Translate(0.2),
    augment.Zoom(0.5, 2.0),
    augment.Crop(0.7),
    augment.Crop(padding=3),
    augment.Gamma(0.5, 2.0),
    augment.Contrast(0.5, 2.0),
    augment.Brightness(0.2),
    augment.GaussianNoise(0.1),
    augment.RandomErasing(),
    augment.RandomErasing(value="noise"),
    augment.Cutout(4),
    augment.for_digits(),
]
ALL = [*GRAY, *COLOR, augment.for_photographs()]


def named(value):
    return type(value).__name__ if isinstance(value, augment.Augmentation) else None


def generator(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture
def x(rng):
    """Away from black and white, so that small changes are not clipped."""
    return rng.uniform(0.3, 0.7, (COUNT, 3, 12, 10))


class TestAll:
    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    @pytest.mark.parametrize("augmentation", ALL, ids=named)
    def test_size_dtype_range_and_input_stay(self, x, augmentation, dtype):
        x = x.astype(dtype)
        before = x.copy()
        y = augmentation(x, rng=generator())
        assert (y.shape, y.dtype) == (x.shape, x.dtype)
        assert 0 <= y.min() <= y.max() <= 1
        np.testing.assert_array_equal(x, before)
        assert not np.shares_memory(x, y)
        # A chance of 2^-40 that none is chosen.
        changed = (y != x).any(axis=(1, 2, 3))
        assert changed.any()
        if not isinstance(augmentation, augment.Compose):
            assert not changed.all()

    @pytest.mark.parametrize("augmentation", GRAY, ids=named)
    def test_without_channels(self, x, augmentation):
        """As with one channel, the same bits."""
        gray = x[:, 0].astype(np.float32)
        ours = augmentation(gray, rng=generator())
        np.testing.assert_array_equal(ours, augmentation(gray[:, None], rng=generator())[:, 0])

    @pytest.mark.parametrize("augmentation", ALL, ids=named)
    def test_seeded(self, x, augmentation):
        first, same, other = (augmentation(x, rng=generator(seed)) for seed in (1, 1, 2))
        np.testing.assert_array_equal(first, same)
        assert (first != other).any()

    @pytest.mark.parametrize("augmentation", [a for a in ALL if not isinstance(a, augment.Compose)], ids=named)
    def test_never_and_always(self, x, augmentation):
        """With probability 0 the bits stay; with 0.25 a quarter of many changes, within five sigma."""
        before = augmentation.probability
        try:
            augmentation.probability = 0.0
            np.testing.assert_array_equal(augmentation(x, rng=generator()), x)
            augmentation.probability = 0.25
            many = np.tile(x, (10, 1, 1, 1))
            changed = (augmentation(many, rng=generator()) != many).any(axis=(1, 2, 3)).mean()
            assert abs(changed - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 400)
        finally:
            augmentation.probability = before

    def test_targets_stay_beside(self, x):
        t = np.arange(COUNT)
        y, targets = augment.Rotate(10)(x, t, rng=generator())
        assert targets is t
        np.testing.assert_array_equal(y, augment.Rotate(10)(x, rng=generator()))

    def test_in_batches_resumed_in_the_middle(self, x):
        def batches():
            return Batches(x, np.arange(COUNT), 16, seed=5, augment=augment.for_photographs())

        whole = list(batches())
        other = batches()
        other.load_state_dict({**other.state_dict(), "position": 1})
        for ours, theirs in zip(other, whole[1:], strict=True):
            np.testing.assert_array_equal(ours[0], theirs[0])


class TestGeometry:
    def matrices(self, rng, count=COUNT):
        matrices = np.tile(np.eye(3), (count, 1, 1))
        matrices[:, :2] += rng.uniform(-0.7, 0.7, (count, 2, 3)) * [1, 1, 5]
        return matrices

    def test_as_scipy(self, x, rng):
        """SciPy's "grid-constant" also has 0 outside and goes over to it linearly."""
        matrices = self.matrices(rng)
        ours = geometry.resample(x.copy(), matrices)
        center = (np.array(x.shape[-2:]) - 1) / 2
        for i, matrix in enumerate(matrices):
            a, offset = matrix[:2, :2], center - matrix[:2, :2] @ center + matrix[:2, 2]
            theirs = [ndimage.affine_transform(c, a, offset, order=1, mode="grid-constant") for c in x[i]]
            # Both find the place by two products: places differ by a few roundings, about 1e-14 of a pixel.
            np.testing.assert_allclose(ours[i], theirs, atol=1e-13)

    @pytest.mark.requires_torch
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_as_torch(self, x, rng, dtype):
        import torch

        x, matrices = x.astype(dtype), self.matrices(rng)
        ours = geometry.resample(x.copy(), matrices)
        height, width = x.shape[-2:]
        a, b = matrices[:, :2, :2], matrices[:, :2, 2]
        # affine_grid counts columns before rows, from -1 to 1 over the image.
        theta = np.empty((COUNT, 2, 3))
        theta[:, 0, 0], theta[:, 0, 1], theta[:, 0, 2] = a[:, 1, 1], a[:, 1, 0] * height / width, b[:, 1] * 2 / width
        theta[:, 1, 0], theta[:, 1, 1], theta[:, 1, 2] = a[:, 0, 1] * width / height, a[:, 0, 0], b[:, 0] * 2 / height
        grid = torch.nn.functional.affine_grid(torch.from_numpy(theta), x.shape, align_corners=False)
        theirs = torch.nn.functional.grid_sample(
            torch.from_numpy(x), grid.to(torch.from_numpy(x).dtype), align_corners=False
        )
        # PyTorch's places are of x's dtype: off by 12 pixels times eps.
        np.testing.assert_allclose(ours, theirs.numpy(), atol=50 * np.finfo(dtype).eps)

    def test_half_a_pixel_by_hand(self):
        x = np.array([[[1.0, 2.0], [3.0, 4.0]]])
        right = geometry.resample(x.copy(), geometry.translation(np.array([[0.0, 0.5]])))
        assert right.tolist() == [[[0.5, 1.5], [1.5, 3.5]]]
        both = geometry.resample(x.copy(), geometry.translation(np.array([[-0.5, -0.5]])))
        assert both.tolist() == [[[2.5, 1.5], [1.75, 1.0]]]

    def test_a_quarter_turn_is_counterclockwise(self):
        x = np.arange(9.0).reshape(1, 3, 3)
        turned = geometry.resample(x.copy(), geometry.rotation(np.array([90.0])))
        np.testing.assert_allclose(turned[0], np.rot90(x[0]), atol=1e-14)

    @pytest.mark.parametrize(("direction", "axes"), [("horizontal", [-1]), ("vertical", [-2])])
    def test_flip_is_exact(self, x, direction, axes):
        y = augment.Flip(direction, probability=1)(x.astype(np.float16), rng=generator())
        np.testing.assert_array_equal(y, np.flip(x.astype(np.float16), axes))

    def test_flip_both_ways(self, x):
        y = augment.Flip("both", probability=1)(x, rng=generator())
        kinds = [[(y[i] == np.flip(x[i], axes)).all() for axes in (-1, -2, (-1, -2))] for i in range(COUNT)]
        assert (np.sum(kinds, axis=1) == 1).all()
        assert np.sum(kinds, axis=0).min() > 0

    def test_angles(self):
        matrices = augment.Rotate(30, probability=1).matrices(np.ones(2000, bool), (8, 8), generator())
        degrees = np.degrees(np.arctan2(matrices[:, 0, 1], matrices[:, 0, 0]))
        assert stats.kstest(degrees, stats.uniform(-30, 60).cdf).pvalue > 1e-4

    def test_shifts_are_fractions_of_height_and_width(self):
        matrices = augment.Translate(0.1, probability=1).matrices(np.ones(2000, bool), (10, 40), generator())
        for axis, most in ((0, 1.0), (1, 4.0)):
            assert stats.kstest(matrices[:, axis, 2], stats.uniform(-most, 2 * most).cdf).pvalue > 1e-4

    def test_zoom_in_enlarges(self):
        """A square of 4 pixels in 8; at twice the size it fills all, at half it is 2 pixels."""
        x = np.zeros((1, 8, 8))
        x[0, 2:6, 2:6] = 1
        larger = augment.Zoom(2, 2, probability=1)(x, rng=generator())
        assert (larger[0, 1:7, 1:7] == 1).all()
        smaller = augment.Zoom(0.5, 0.5, probability=1)(x, rng=generator())
        assert smaller[0, 3:5, 3:5].tolist() == [[1, 1], [1, 1]]
        assert smaller[0].sum() == 4

    def test_zoom_is_log_uniform(self):
        matrices = augment.Zoom(0.5, 2, probability=1).matrices(np.ones(2000, bool), (8, 8), generator())
        logs = np.log2(1 / matrices[:, 0, 0])
        assert stats.kstest(logs, stats.uniform(-1, 2).cdf).pvalue > 1e-4

    def test_crop_stays_inside(self):
        """A part of the image: all places lie within its pixels' squares, and reach the edges."""
        matrices = augment.Crop(0.5, probability=1).matrices(np.ones(2000, bool), (12, 10), generator())
        row, column = geometry.places(matrices, (12, 10))
        # Half a pixel of the result is a quarter to half of one in the source.
        for place, length in ((row, 12), (column, 10)):
            assert place.min() >= -0.5 + 0.25
            assert place.max() <= length - 0.5 - 0.25
            assert place.min() < 0
            assert place.max() > length - 1

    def test_crop_of_a_padded_image(self, x):
        y = augment.Crop(padding=2, probability=1)(x, rng=generator())
        padded = np.pad(x, ((0, 0), (0, 0), (2, 2), (2, 2)))
        found = set()
        for i in range(COUNT):
            places = [
                (r, c) for r in range(5) for c in range(5) if (padded[i, :, r : r + 12, c : c + 10] == y[i]).all()
            ]
            found.add(places[0])
        assert len(found) > 15

    def test_joined_moves_are_sampled_once(self):
        """Turned by 45 degrees and back: joined, the image is as before; one after the other, it is blurred."""

        class Turn(augment.Affine):
            def __init__(self, degrees):
                super().__init__(1)
                self.degrees = degrees

            def _draw(self, count, size, rng):
                return geometry.rotation(np.full(count, self.degrees))

        x = np.zeros((1, 9, 9))
        x[0, 4, 4] = 1
        joined = augment.Compose([Turn(45), Turn(-45)])(x, rng=generator())
        np.testing.assert_allclose(joined, x, atol=1e-14)
        apart = Turn(-45)(Turn(45)(x, rng=generator()), rng=generator())
        assert apart[0, 4, 4] == 1
        assert apart.sum() > 1.2

    def test_joined_in_the_order_given(self):
        """Moved right, then turned: the pixel is above the center; the other way round it is right of it."""
        x = np.zeros((1, 9, 9))
        x[0, 4, 4] = 1

        class Move(augment.Affine):
            def _draw(self, count, size, rng):
                return geometry.translation(np.tile([0.0, 3.0], (count, 1)))

        class Turn(augment.Affine):
            def _draw(self, count, size, rng):
                return geometry.rotation(np.full(count, 90.0))

        moved_first = augment.Compose([Move(1), Turn(1)])(x, rng=generator())[0]
        assert np.unravel_index(moved_first.argmax(), (9, 9)) == (1, 4)
        turned_first = augment.Compose([Turn(1), Move(1)])(x, rng=generator())[0]
        assert np.unravel_index(turned_first.argmax(), (9, 9)) == (4, 7)


class TestColor:
    def test_hsv_as_matplotlib(self, rng):
        rgb = rng.random((5, 3, 6, 7))
        rgb[0], rgb[1, :, 0], rgb[2, 1] = 0.4, 0, rgb[2, 0]
        ours = color.rgb_to_hsv(rgb)
        theirs = colors.rgb_to_hsv(np.moveaxis(rgb, 1, -1))
        # Formulas differ in their order: hue is off by a few roundings over the smallest spread here, about 1e-3.
        np.testing.assert_allclose(np.moveaxis(ours, 1, -1), theirs, atol=1e-12)
        np.testing.assert_allclose(np.moveaxis(color.hsv_to_rgb(ours), 1, -1), colors.hsv_to_rgb(theirs), atol=1e-12)
        np.testing.assert_allclose(color.hsv_to_rgb(ours), rgb, atol=1e-12)

    def test_gamma(self, x):
        y = augment.Gamma(2, 2, probability=1)(x, rng=generator())
        np.testing.assert_allclose(y, x**2, rtol=1e-15)

    def test_value_range(self, x):
        """Digits from 0 to 16: the middle, 8, is (1/2)^2 of 16."""
        y = augment.Gamma(2, 2, probability=1, value_range=(0, 16))(np.full((1, 2, 2), 8.0), rng=generator())
        assert y.tolist() == [[[4, 4], [4, 4]]]

    def test_contrast(self, x):
        y = augment.Contrast(1.1, 1.1, probability=1)(x, rng=generator())
        gray = np.tensordot(x, (0.299, 0.587, 0.114), ([1], [0])).mean(axis=(1, 2)).reshape(-1, 1, 1, 1)
        np.testing.assert_allclose(y, gray + 1.1 * (x - gray), rtol=1e-12)
        y = augment.Contrast(1.1, 1.1, probability=1)(x[:, 0], rng=generator())
        gray = x[:, 0].mean(axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(y, gray + 1.1 * (x[:, 0] - gray), rtol=1e-12)

    def test_brightness(self, x):
        many = np.tile(x, (50, 1, 1, 1))
        change = augment.Brightness(0.2, probability=1)(many, rng=generator()) - many
        assert np.ptp(change, axis=(1, 2, 3)).max() < 1e-15
        assert stats.kstest(change[:, 0, 0, 0], stats.uniform(-0.2, 0.4).cdf).pvalue > 1e-4

    def test_clipped(self, x):
        y = augment.Brightness(1, probability=1)(x, rng=generator())
        assert (y.min(), y.max()) == (0, 1)

    def test_noise(self):
        """Normal, of a standard deviation that differs from image to image, uniformly up to 0.05."""
        x = np.full((2000, 16, 16), 0.5)
        noise = augment.GaussianNoise(0.05, probability=1)(x, rng=generator()) - x
        std = noise.std(axis=(1, 2))
        # A std of 256 values is off by 1/sqrt(512) of itself: less than the test can see.
        assert stats.kstest(std, stats.uniform(0, 0.05).cdf).pvalue > 1e-4
        assert stats.kstest((noise / std[:, None, None])[:, 3, 4], stats.norm.cdf).pvalue > 1e-4

    def test_hue(self, x):
        y = augment.Hue(0.1, probability=1)(x, rng=generator())
        before, after = color.rgb_to_hsv(x), color.rgb_to_hsv(y)
        turn = (after[:, 0] - before[:, 0] + 0.5) % 1 - 0.5
        np.testing.assert_allclose(after[:, 1:], before[:, 1:], atol=1e-12)
        assert np.ptp(turn, axis=(1, 2)).max() < 1e-9
        assert 0.05 < np.abs(turn).max() <= 0.1 + 1e-9

    def test_saturation(self, x):
        y = augment.Saturation(0.5, 0.5, probability=1)(x, rng=generator())
        before, after = color.rgb_to_hsv(x), color.rgb_to_hsv(y)
        np.testing.assert_allclose(after[:, 1], before[:, 1] / 2, atol=1e-12)
        np.testing.assert_allclose(after[:, 2], before[:, 2], atol=1e-12)

    @pytest.mark.parametrize("augmentation", COLOR, ids=named)
    def test_needs_three_channels(self, x, augmentation):
        for bad in (x[:, :2], x[:, 0]):
            with pytest.raises(ValueError, match=r"x: expected shape \(samples, 3, height, width\): red, green, blue"):
                augmentation(bad, rng=generator())


def numbered(count, size=(8, 8)):
    """Images that are their own number, with targets that say which."""
    t = one_hot(np.arange(count), dtype=np.float64)
    return np.broadcast_to(np.arange(count, dtype=np.float64)[:, None, None], (count, *size)).copy(), t


class TestMixing:
    @pytest.mark.parametrize("augmentation", MIXING, ids=named)
    def test_targets_say_what_the_pixels_are(self, augmentation):
        """An image of number k, mixed with one of number j, has the mean that its target gives."""
        x, t = numbered(300)
        y, targets = augmentation(x, t, rng=generator())
        np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-15)
        np.testing.assert_allclose(y.mean(axis=(1, 2)), targets @ np.arange(300), rtol=1e-13)
        assert ((targets > 0).sum(axis=1) <= 2).all()
        assert (y != x).any(axis=(1, 2)).mean() > 0.5

    def test_mixup_share_is_beta(self):
        x, t = numbered(2000, (2, 2))
        _, targets = augment.MixUp(0.4)(x, t, rng=generator())
        own = np.diag(targets)
        assert stats.kstest(own, stats.beta(0.4, 0.4).cdf).pvalue > 1e-4

    def test_cutmix_is_a_rectangle(self):
        x, t = numbered(200, (8, 12))
        y, _ = augment.CutMix()(x, t, rng=generator())
        inside = y != x
        for mask in inside[inside.any(axis=(1, 2))]:
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()

    def test_ids_with_classes(self):
        x, t = numbered(10)
        ours = augment.MixUp(classes=10)(x, np.arange(10), rng=generator())
        theirs = augment.MixUp()(x, t, rng=generator())
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)

    def test_not_chosen_stay(self):
        x, t = numbered(100)
        y, targets = augment.MixUp(probability=0.5)(x, t, rng=generator())
        same = (y == x).all(axis=(1, 2))
        assert 25 < same.sum() < 75
        np.testing.assert_array_equal(targets[same], t[same])

    @pytest.mark.parametrize("augmentation", MIXING, ids=named)
    @pytest.mark.parametrize("t", [None, np.arange(40), np.ones((40, 3), int), np.ones((3, 3))], ids=str)
    def test_refused(self, x, augmentation, t):
        with pytest.raises(ValueError, match=f"{named(augmentation)}: t: expected"):
            augmentation(x, t, rng=generator())

    def test_cutout(self):
        """A square of 4 x 4, less at the edges, everywhere as likely: the center of 9 x 9 in 16 of 81 images."""
        y = augment.Cutout(4, probability=1)(np.ones((4000, 9, 9)), rng=generator())
        erased = (y == 0).sum(axis=(1, 2))
        assert set(erased.tolist()) <= {a * b for a in (2, 3, 4) for b in (2, 3, 4)}
        assert (erased == 16).mean() == pytest.approx((6 / 9) ** 2, abs=0.04)
        assert (y[:, 4, 4] == 0).mean() == pytest.approx(16 / 81, abs=0.035)

    def test_random_erasing(self):
        """Areas and aspects of whole pixels: a side of 10 is off by half a pixel."""
        x = np.ones((500, 64, 64))
        y = augment.RandomErasing((0.05, 0.2), (0.5, 2.0), probability=1, value=0.25)(x, rng=generator())
        mask = y == 0.25
        tall, wide = mask.any(axis=2).sum(axis=1), mask.any(axis=1).sum(axis=1)
        assert (mask.sum(axis=(1, 2)) == tall * wide).all()
        area, aspect = tall * wide / 64**2, tall / wide
        assert 0.045 < area.min() < 0.06
        assert 0.19 < area.max() < 0.21
        assert 0.45 < aspect.min() < 0.55
        assert 1.8 < aspect.max() < 2.2


class TestRefused:
    @pytest.mark.parametrize("augmentation", [augment.Rotate(1), augment.Gamma(), augment.Cutout(2)], ids=named)
    @pytest.mark.parametrize(
        ("bad", "kind", "words"),
        [
            ([[1.0]], TypeError, "x: expected a numpy.ndarray"),
            (np.ones((2, 4, 4), np.uint8), TypeError, "x: expected float16, float32 or float64"),
            (np.ones((4, 4)), ValueError, r"x: expected shape \(samples, \[channels,\] height, width\)"),
        ],
    )
    def test_images(self, augmentation, bad, kind, words):
        with pytest.raises(kind, match=f"kitae.data.augment.{named(augmentation)}: {words}"):
            augmentation(bad)

    def test_generator(self, x):
        with pytest.raises(TypeError, match=r"rng: expected a numpy\.random\.Generator or None, got 3"):
            augment.Rotate(1)(x, rng=3)

    @pytest.mark.parametrize(
        ("make", "kind", "words"),
        [
            (lambda: augment.Rotate(200), ValueError, r"Rotate: max_degrees: expected a number in \[0, 180\]"),
            (lambda: augment.Rotate(3, probability=2), ValueError, "Rotate: probability"),
            (lambda: augment.Flip("left"), ValueError, "Flip: direction"),
            (lambda: augment.Zoom(0, 1), ValueError, "Zoom: low"),
            (lambda: augment.Zoom(2, 1), ValueError, "Zoom: low, high: expected low at most high"),
            (lambda: augment.Crop(), ValueError, "Crop: min_fraction, padding: expected one of them, got neither"),
            (lambda: augment.Crop(0.5, padding=1), ValueError, "expected one of them, got both"),
            (lambda: augment.Crop(padding=1.5), TypeError, "Crop: padding"),
            (lambda: augment.Gamma(value_range=(1, 0)), ValueError, "Gamma: value_range: expected low below high"),
            (lambda: augment.Gamma(value_range=1), TypeError, "Gamma: value_range"),
            (lambda: augment.Hue(0.6), ValueError, "Hue: max_turn"),
            (lambda: augment.MixUp(0), ValueError, "MixUp: alpha"),
            (lambda: augment.Cutout(0), ValueError, "Cutout: size"),
            (lambda: augment.RandomErasing((0.5, 0.1)), ValueError, "RandomErasing: area"),
            (lambda: augment.Compose([3]), TypeError, r"Compose: augmentations\[0\]: expected an augmentation"),
        ],
    )
    def test_options(self, make, kind, words):
        with pytest.raises(kind, match=words):
            make()
