"""Small rows of every case on the GPU, once each: what compute-sanitizer watches. Values are tests/test_cuda.py's task.

Stops after --seconds and says how far it came; the order is shuffled, so that every family has its share.
"""

import argparse
import random
import sys
import time
from pathlib import Path

import cupy

from kitae.bench.cases import CASES

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import on_device

LARGEST = 20_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30)
    chosen = parser.parse_args()
    cupy.cuda.set_allocator(None)  # no pool: every array is an allocation of its own, whose end is watched
    rows = [
        (case, size, dtype)
        for case in CASES
        for size in case.test_sizes
        for dtype in case.dtypes
        if sum(_elements(shape) for shape in size.shapes) <= LARGEST
    ]
    random.Random(1).shuffle(rows)
    begin, done = time.monotonic(), 0
    for case, size, dtype in rows:
        if time.monotonic() - begin > chosen.seconds:
            break
        on_device.run(cupy, case, case.inputs(size, dtype), give_out=bool(case.out))
        done += 1
    print(f"{done} of {len(rows)} small rows ran")
    return 0


def _elements(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


if __name__ == "__main__":
    sys.exit(main())
