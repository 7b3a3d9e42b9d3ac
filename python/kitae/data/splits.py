"""Training, validation and test sets that share nothing."""

import hashlib
from typing import Any, NamedTuple

import numpy as np

from kitae import _checks
from kitae.data.batches import Batches

_OP = "data.train_validation_test_split"
_SETS = ("train", "validation", "test")


class Split(NamedTuple):
    """New arrays; the ``t_*`` are None where there were no targets."""

    x_train: Any
    t_train: Any
    x_validation: Any
    t_validation: Any
    x_test: Any
    t_test: Any


def train_validation_test_split(
    x: Any,
    t: Any = None,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.1,
    *,
    seed: int = 0,
    stratify: bool = False,
    groups: Any = None,
    duplicates: str = "raise",
) -> Split:
    """Cut samples into three sets at random, so that no sample of one is known from another.

    ``x``: (samples, ...), ``t``: as many targets or None. Fractions are of all samples, met to the nearest sample (with
    groups: as near as whole groups come); one may be 0, its set is then empty. The order within the sets is random; it
    is a function of ``seed``.

    ``stratify=True``: each class of ``t`` (integers) has its share in each set, to the nearest sample. ``groups``: one
    value a sample (the patient, the writer, the photograph): a group lies in one set as a whole; when stratified, it
    counts for the class that most of its samples have. ``duplicates``: what to do about identical samples, found by a
    128-bit hash of each row's bytes (-0 as 0): "raise" ValueError where they lie in two sets, "keep together" as if a
    group, "allow" (no look).

    Raises TypeError for ``Batches``: samples are split before they are augmented, else variations of one sample are in
    two sets, and the validation measures memory. CuPy arrays are hashed on the host. Differs from scikit-learn's
    ``train_test_split``: three sets at once, groups and stratification together, duplicates noticed.
    """
    count = _count(_OP, x, t)
    validation, test = (
        _checks.number(_OP, name, value, low=0, high=1, open_high=True)
        for name, value in (("validation_fraction", validation_fraction), ("test_fraction", test_fraction))
    )
    if not validation + test < 1:
        expected = "fractions that leave samples to train on"
        raise _checks.error(ValueError, _OP, "validation_fraction + test_fraction", expected, validation + test)
    seed = _checks.integer(_OP, "seed", seed, low=0, high=2**64 - 1)
    duplicates = _checks.one_of(_OP, "duplicates", duplicates, ("raise", "keep together", "allow"))
    classes = _classes(t, count) if _checks.boolean(_OP, "stratify", stratify) else np.zeros(count, np.int64)
    units = np.arange(count) if groups is None else _numbered("groups", groups, count)
    same = np.arange(count) if duplicates == "allow" else _numbers_of_rows(x)
    if duplicates == "keep together":
        units = _join(units, same)
    sets = _assign(units, classes, {"validation": validation, "test": test}, seed)
    if duplicates == "raise":
        _refuse_shared(same, sets)
    order = np.random.default_rng(seed).permutation(count)
    rows = [order[sets[order] == number] for number in range(len(_SETS))]
    return Split(*(None if array is None else _rows(array, taken) for taken in rows for array in (x, t)))


def shared_samples(first: Any, second: Any) -> tuple[np.ndarray, np.ndarray]:
    """Rows of ``first`` that stand in ``second`` too, and for each the first such row of ``second``.

    For sets that somebody else has split; identical bytes count (-0 as 0). Dtypes and shapes of samples must agree.
    """
    op = "data.shared_samples"
    for name, array in (("first", first), ("second", second)):
        _refuse_no_array(op, name, array)
    if first.shape[1:] != second.shape[1:] or first.dtype != second.dtype:
        expected = f"samples of shape {first.shape[1:]}, dtype {first.dtype}, as in the first"
        raise _checks.error(ValueError, op, "second", expected, second)
    places: dict[bytes, int] = {}
    for row, digest in enumerate(_hashes(second)):
        places.setdefault(digest, row)
    pairs = [(row, places[digest]) for row, digest in enumerate(_hashes(first)) if digest in places]
    return tuple(np.array(pairs, np.int64).reshape(-1, 2).T)  # type: ignore[return-value]


def refuse_batches(op: str, argument: str, value: Any) -> None:
    if isinstance(value, Batches):
        expected = "arrays: samples are split first, batched and augmented after, or variations of one are in two sets"
        raise _checks.error(TypeError, op, argument, expected, value)


def _refuse_no_array(op: str, argument: str, value: Any) -> None:
    refuse_batches(op, argument, value)
    if type(value) not in (np.ndarray, np.memmap) and not _checks.is_cupy(value):
        raise _checks.not_an_array(op, argument, value)
    if value.ndim == 0:
        raise _checks.error(ValueError, op, argument, "shape (samples, ...)", value)


def _count(op: str, x: Any, t: Any) -> int:
    _refuse_no_array(op, "x", x)
    if t is not None:
        _refuse_no_array(op, "t", t)
        if len(t) != len(x):
            raise _checks.error(ValueError, op, "t", f"{len(x)} targets, one for each sample", t)
    return len(x)


def _classes(t: Any, count: int) -> np.ndarray:
    if t is None or t.ndim != 1 or t.dtype.kind not in "ui":
        expected = "integer labels (samples,), as stratify=True shares out each class"
        raise _checks.error(TypeError if t is None else ValueError, _OP, "t", expected, t)
    return _numbered("t", t, count)


def _numbered(argument: str, values: Any, count: int) -> np.ndarray:
    """Equal values as equal numbers from 0."""
    host = values.get() if _checks.is_cupy(values) else np.asarray(values)
    if host.shape != (count,):
        raise _checks.error(ValueError, _OP, argument, f"shape ({count},), a value a sample", values)
    return np.unique(host, return_inverse=True)[1]


def _hashes(x: Any) -> list[bytes]:
    digests: list[bytes] = []
    for start in range(0, len(x), 1024):
        block = x[start : start + 1024]
        host = block.get() if _checks.is_cupy(block) else np.ascontiguousarray(block)
        host = host + host.dtype.type(0) if host.dtype.kind == "f" else host  # -0 + 0 = 0
        digests.extend(hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in host)
    return digests


def _numbers_of_rows(x: Any) -> np.ndarray:
    numbers: dict[bytes, int] = {}
    return np.array([numbers.setdefault(digest, len(numbers)) for digest in _hashes(x)], np.int64)


def _join(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Numbers of the smallest sets that cut neither a set of ``first`` nor one of ``second``."""
    labels = first
    while True:
        joined = labels
        for numbers in (second, first):
            lowest = np.full(numbers.max(initial=-1) + 1, len(first), np.int64)
            np.minimum.at(lowest, numbers, joined)
            joined = lowest[numbers]
        if (joined == labels).all():
            return np.unique(joined, return_inverse=True)[1]
        labels = joined


def _assign(units: np.ndarray, classes: np.ndarray, fractions: dict[str, float], seed: int) -> np.ndarray:
    """For each sample the number of its set in ``_SETS``; all samples of a unit in one."""
    sizes = np.bincount(units)
    counts = np.zeros((len(sizes), classes.max(initial=0) + 1), np.int64)
    np.add.at(counts, (units, classes), 1)
    main_class = counts.argmax(axis=1)
    of_unit = np.zeros(len(sizes), np.int64)
    shuffled = np.random.default_rng([seed, 1]).permutation(len(sizes))
    # What rounding left over in one class is made up for in the next: the sum is met as well as each class.
    owed = dict.fromkeys(fractions, 0.0)
    for number in range(counts.shape[1]):
        waiting = shuffled[main_class[shuffled] == number]
        total = sizes[waiting].sum()
        for name, fraction in fractions.items():
            owed[name] += fraction * total
            reached = np.concatenate([[0], np.cumsum(sizes[waiting])])
            taken = int(np.abs(reached - owed[name]).argmin())
            of_unit[waiting[:taken]] = _SETS.index(name)
            owed[name] -= reached[taken]
            waiting = waiting[taken:]
    sets = of_unit[units]
    for name in ("train", *(name for name, fraction in fractions.items() if fraction)):
        if not (sets == _SETS.index(name)).any():
            expected = f"enough samples or groups for a {name} set"
            raise _checks.error(ValueError, _OP, "x", expected, _checks.Words(f"{len(sizes)} in all"))
    return sets


def _refuse_shared(same: np.ndarray, sets: np.ndarray) -> None:
    order = np.lexsort((sets, same))
    borders = np.flatnonzero((np.diff(same[order]) == 0) & (np.diff(sets[order]) != 0))
    if len(borders):
        one, other = sorted(order[borders[0] : borders[0] + 2].tolist())
        found = f"{len(borders)} that two sets share, the first: rows {one} and {other} ({_SETS[sets[one]]}, "
        found += f'{_SETS[sets[other]]}); duplicates="keep together" puts them into one set, "allow" lets them be'
        raise _checks.error(ValueError, _OP, "x", "different samples", _checks.Words(found))


def _rows(array: Any, rows: np.ndarray) -> Any:
    return array[rows] if _checks.is_cupy(array) else np.asarray(array)[rows]
