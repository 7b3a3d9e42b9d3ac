"""`import kitae` takes at most 150 ms more than `import numpy`: the best of some fresh interpreters."""

import subprocess
import sys

LIMIT_MS = 150
REPEATS = 7
SCRIPT = "import numpy, time; start = time.perf_counter(); import kitae; print(time.perf_counter() - start)"


def beyond_numpy_ms() -> list[float]:
    """Milliseconds that `import kitae` takes after `import numpy`, in fresh interpreters."""
    command = [sys.executable, "-c", SCRIPT]
    return [1e3 * float(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(REPEATS)]


if __name__ == "__main__":
    times = sorted(beyond_numpy_ms())
    print(f"import kitae after numpy: best {times[0]:.1f} ms, median {times[REPEATS // 2]:.1f} ms, limit {LIMIT_MS} ms")
    sys.exit(times[0] > LIMIT_MS)
