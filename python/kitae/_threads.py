"""How many threads a native call uses: min(affinity, cgroup quota, KITAE_NUM_THREADS or OMP_NUM_THREADS)."""

import math
import os
from pathlib import Path

from kitae import _checks, _dispatch


def _cgroup_limit(root: Path = Path("/")) -> float:
    """CPUs that the control group's quota allows (cgroup v2 cpu.max, v1 cfs_quota_us), inf without one."""
    limit = math.inf
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return limit
    base = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        relative = path.lstrip("/")
        if not controllers:
            # v2: a quota on any ancestor binds as well.
            group = base / relative
            candidates = [group, *(parent for parent in group.parents if parent.is_relative_to(base))]
            for candidate in candidates:
                limit = min(limit, _quota(candidate / "cpu.max", None))
        elif "cpu" in controllers.split(","):
            for folder in (base / controllers / relative, base / "cpu" / relative, base / "cpu"):
                limit = min(limit, _quota(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us"))
    return limit


def _quota(quota_file: Path, period_file: Path | None) -> float:
    try:
        words = quota_file.read_text().split()
        if period_file is not None:
            words.append(period_file.read_text().strip())
        quota, period = words[0], float(words[1])
        return math.inf if quota == "max" or float(quota) <= 0 else float(quota) / period
    except (OSError, ValueError, IndexError, ZeroDivisionError):  # no such file, or not what the kernel writes
        return math.inf


def _environment_limit() -> int | None:
    for name in ("KITAE_NUM_THREADS", "OMP_NUM_THREADS"):
        first = os.environ.get(name, "").split(",")[0].strip()
        if first.isdecimal() and int(first) > 0:
            return int(first)
    return None


def default_num_threads(root: Path = Path("/")) -> int:
    """The default of ``set_num_threads``."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    available = min(affinity, math.ceil(_cgroup_limit(root)) if _cgroup_limit(root) < math.inf else affinity)
    asked = _environment_limit()
    return max(1, min(available, asked) if asked is not None else available)


def set_num_threads(n: int) -> None:
    """Use at most ``n`` threads (the caller's included) in every later native call of this process.

    Results do not depend on it. More threads than CPUs are allowed and only cost time.
    """
    _dispatch.cpu().set_num_threads(_checks.integer("set_num_threads", "n", n, low=1, high=1024))


def get_num_threads() -> int:
    """The number of threads that a native call may use."""
    return int(_dispatch.cpu().num_threads())
