"""kitae against PyTorch on random shapes and layouts, from a clone: the worst ratios of every op."""

import sys

from kitae.bench.sweep import main

if __name__ == "__main__":
    sys.exit(main())
