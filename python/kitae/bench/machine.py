"""The machine in words: what a reader of a result needs to know, and nothing that names it."""

import os
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import kitae
from kitae import _dispatch

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_PEERS = ("torch", "jax")


def cache_bytes(level: int) -> int:
    """Size of the data cache of a level, as one core sees it; 0 where the system does not say."""
    for index in sorted(_CACHES.glob("index*")):
        try:
            if int((index / "level").read_text()) == level and (index / "type").read_text().strip() != "Instruction":
                size = (index / "size").read_text().strip()
                return int(size.rstrip("KM")) * {"K": 1 << 10, "M": 1 << 20}.get(size[-1], 1)
        except (OSError, ValueError):
            continue
    return 0


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    words = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    words = {name.strip(): value.strip() for name, value in words.items()}
    model = words.get("model name") or platform.machine()
    if "cpu family" in words:
        model += f" (family {words['cpu family']}, model {words['model']}, stepping {words['stepping']})"
    return model


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_gib() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)


def running_elsewhere(seconds: float = 0.3) -> float:
    """CPUs' worth of work that other processes did while this one slept; 0 where the system does not say."""

    def busy_seconds() -> float:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
        user, nice, system, _, _, irq, softirq, *_ = (int(field) for field in fields)
        return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")

    try:
        before = busy_seconds()
        time.sleep(seconds)
        return round((busy_seconds() - before) / seconds, 2)
    except (OSError, ValueError):
        return 0.0


def busy(load: float) -> bool:
    """Half a CPU at work for others: threads that wait for each other then wait for the scheduler."""
    return load > 0.5


def description() -> dict[str, Any]:
    versions = {"kitae": kitae.__version__, "numpy": np.__version__, "python": platform.python_version()}
    for peer in _PEERS:
        try:
            versions[peer] = metadata.version(peer)
        except metadata.PackageNotFoundError:
            continue
    return {
        "processor": processor(),
        "architecture": platform.machine(),
        "cores": cores(),
        "instruction_set": _dispatch.cpu().variant,
        "level2_bytes": cache_bytes(2),
        "level3_bytes": cache_bytes(3),
        "memory_gib": memory_gib(),
        "system": platform.system(),
        "busy_cpus": running_elsewhere(),
        "versions": versions,
    }
