"""Every row of the cases on every backend: against wider arithmetic, against each other bit for bit, in its bounds."""

from collections.abc import Iterator

import numpy as np
import pytest

import kitae
from conftest import THREAD_COUNTS
from guard_bands import Guarded, GuardedInputs
from kitae.bench.cases import CASES, Case, Expected, Inputs, Results, Size, Tolerance, allowed_error
from kitae.bench.cases.dropout import philox4x32

BACKENDS = ("reference", "cpu")
#: PyTorch's defaults for gradcheck.
STEP, ABSOLUTE, RELATIVE = 1e-6, 1e-5, 1e-3
GRADIENT_CHECK_ELEMENTS = 250


def run(case: Case, original: Inputs, backend: str, *, give_out: bool) -> Results:
    """One call on guarded copies; the results are copies too, so that in-place results outlive the inputs."""
    inputs = GuardedInputs(original)
    targets = {name: Guarded(np.empty_like(original[like])) for name, like in case.out.items()} if give_out else {}
    with kitae.use_backend(backend):
        results = case.call(inputs.values, {name: target.array for name, target in targets.items()})
    assert inputs.damaged(case.changes) == [], f"{case.name} on {backend}: wrote where it must not"
    for name, target in targets.items():
        assert target.intact(), f"{case.name} on {backend}: wrote outside out={name}"
        assert results[name] is target.array, f"{case.name} on {backend}: out={name} was not what came back"
    return {name: np.array(value, copy=True) for name, value in results.items()}


def family_of_result(name: str) -> str:
    """The tolerance's key: "grads.3" -> "grads", "slots.m.0" -> "m"."""
    parts = name.split(".")
    return parts[1] if parts[0] == "slots" else parts[0]


def assert_close(actual: np.ndarray, expected: Expected, allowed: np.ndarray, what: str) -> None:
    value = np.asarray(expected.value)
    assert actual.shape == value.shape, f"{what}: expected shape {value.shape}, got {actual.shape}"
    got = actual.astype(np.longdouble)
    same = (np.isnan(got) & np.isnan(value)) | (got == value)
    with np.errstate(invalid="ignore"):
        error = np.abs(got - value)
        wrong = ~same & ~(error <= allowed)
    if wrong.any():
        worst = np.unravel_index(np.argmax(np.where(wrong, np.nan_to_num(error / allowed, nan=np.inf), 0)), got.shape)
        limit = np.broadcast_to(allowed, got.shape)[worst]
        pytest.fail(
            f"{what}: {wrong.sum()} of {wrong.size} wrong; worst at {worst}: expected {value[worst]!r} "
            f"within {limit:.3g}, got {got[worst]!r}"
        )


def assert_same_bits(actual: np.ndarray, expected: np.ndarray, what: str) -> None:
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape), what
    bytes_of_each = (*actual.shape, actual.itemsize)
    left, right = (np.frombuffer(a.tobytes(), np.uint8).reshape(bytes_of_each) for a in (actual, expected))
    different = (left != right).any(axis=-1)
    if actual.dtype.kind not in "bui":
        different &= ~(np.isnan(actual) & np.isnan(expected))
    if different.any():
        first = tuple(np.argwhere(different)[0])
        pytest.fail(
            f"{what}: {different.sum()} of {different.size} differ; first at {first}: "
            f"{expected[first]!r} and {actual[first]!r}"
        )


def _rows() -> Iterator[object]:
    for case in CASES:
        for size in case.test_sizes:
            for dtype in case.dtypes:
                yield pytest.param(case, size, dtype, id=f"{case.name}-{size.label}-{dtype}")


@pytest.mark.parametrize(("case", "size", "dtype"), list(_rows()))
def test_backends_agree(case: Case, size: Size, dtype: str) -> None:
    original = case.inputs(size, dtype)
    with np.errstate(all="ignore"):
        expected = case.expected(original)
    reference = run(case, original, "reference", give_out=False)
    missing = expected.keys() - reference.keys()
    assert not missing, f"{case.name}: no result for {sorted(missing)}"
    for name, value in expected.items():
        tolerance = case.tolerance[family_of_result(name)]
        allowed = allowed_error(value, tolerance, reference[name].dtype)
        assert_close(reference[name], value, allowed, f"{case.name} {name} ({tolerance.reason})")

    runs = {}
    if case.out:
        runs["reference with out="] = run(case, original, "reference", give_out=True)
        runs["cpu without out="] = run(case, original, "cpu", give_out=False)
    for threads in THREAD_COUNTS:
        kitae.set_num_threads(threads)
        runs[f"cpu with {threads} threads"] = run(case, original, "cpu", give_out=True)
    for what, results in runs.items():
        assert results.keys() == reference.keys(), what
        for name, value in results.items():
            assert_same_bits(value, reference[name], f"{case.name} {name}: reference and {what}")


def _gradient_rows() -> Iterator[object]:
    for case in CASES:
        for size in case.test_sizes:
            elements = sum(int(np.prod(shape)) for shape in size.shapes)
            if case.gradient is not None and 0 < elements <= GRADIENT_CHECK_ELEMENTS and size.values == "normal":
                yield pytest.param(case, size, id=f"{case.name}-{size.label}")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("case", "size"), list(_gradient_rows()))
def test_gradients_by_finite_differences(case: Case, size: Size, backend: str) -> None:
    inputs = case.inputs(size, "float64")
    gradient = case.gradient
    assert gradient is not None
    with kitae.use_backend(backend):
        analytic = case.call(inputs, {})

        def loss() -> float:
            return float(np.sum(inputs["dout"] * gradient.output(inputs)))

        for name, result in gradient.of.items():
            values = inputs[name]
            for index in np.ndindex(values.shape):
                centre = values[index]
                values[index] = centre + STEP
                above = loss()
                values[index] = centre - STEP
                below = loss()
                values[index] = centre
                numeric = (above - below) / (2 * STEP)
                assert analytic[result][index] == pytest.approx(numeric, abs=ABSOLUTE, rel=RELATIVE), (
                    f"{case.name} d/d{name}{index}"
                )


def test_case_names_are_unique() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0,) * 4, (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_the_cases_own_philox_gives_random123s_vectors(
    counter: tuple[int, ...], key: tuple[int, int], words: str
) -> None:
    """Known answers that the Random123 distribution publishes for philox4x32, 10 rounds."""
    got = philox4x32(np.array([counter], np.uint64), key)[0]
    assert [int(word) for word in got] == [int(word, 16) for word in words.split()]


@pytest.mark.parametrize("layout", ["contiguous", "fortran", "channels_last", "every_other", "reversed"])
def test_guard_bands_see_a_byte_outside(layout: str) -> None:
    from kitae.bench.cases.layouts import arrange

    array = arrange(np.arange(24.0, dtype=np.float32).reshape(2, 3, 4), layout)
    guard = Guarded(array)
    assert guard.array.strides == array.strides
    np.testing.assert_array_equal(guard.array, array)
    guard.array[...] = -1
    assert guard.intact()
    assert not guard.unchanged()
    outside = np.flatnonzero(~guard._own)
    for byte in (outside[0], outside[len(outside) // 2], outside[-1]):
        guard._buffer[byte] ^= 1
        assert not guard.intact()
        guard._buffer[byte] ^= 1
    assert guard.intact()


def test_comparisons_see_one_bit_and_one_ulp() -> None:
    value = np.array([1.0, -0.0, np.nan, 3.0], np.float32)
    assert_same_bits(value.copy(), value, "the same")
    assert_same_bits(-value, -value, "NaNs match whatever their sign")
    for index, other in ((0, np.nextafter(np.float32(1), np.float32(2))), (1, 0.0), (2, 1.0)):
        changed = value.copy()
        changed[index] = other
        with pytest.raises(pytest.fail.Exception, match="1 of 4 differ"):
            assert_same_bits(changed, value, "changed")
    with pytest.raises(AssertionError):
        assert_same_bits(value.astype(np.float64), value, "another dtype")

    expected = Expected(value.astype(np.float64))
    half = allowed_error(expected, Tolerance(0.5, ""), value.dtype)
    assert_close(value, expected, half, "the same")
    for index, other in ((0, 1 + 2.0**-23), (1, 1e-30), (2, 1.0), (3, np.nan), (3, np.inf)):
        changed = value.copy()
        changed[index] = other
        with pytest.raises(pytest.fail.Exception, match="1 of 4 wrong"):
            assert_close(changed, expected, half, "changed")
