"""The full benchmark suite: the same as ``python -m kitae bench``, from a clone."""

import sys

from kitae.bench import main

if __name__ == "__main__":
    sys.exit(main())
