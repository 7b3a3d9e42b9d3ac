"""The cost of a call from a thousand to 64 million elements, from a clone."""

import sys

from kitae.bench.scaling import main

if __name__ == "__main__":
    sys.exit(main())
