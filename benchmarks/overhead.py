"""Microseconds a call on tiny arrays, beside the numbers we want, from a clone."""

import sys

from kitae.bench.overhead import main

if __name__ == "__main__":
    sys.exit(main())
