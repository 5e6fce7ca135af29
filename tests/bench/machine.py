"""Describe the machine and the versions that the numbers belong to, without a name or a path of the machine."""

from __future__ import annotations

import os
import platform
import timeit
from pathlib import Path


def machine() -> dict[str, str | int | float]:
    """Return what this machine is, how busy it was before the bench, and how many ms a million additions take.

    The additions are Python's. The same machine may be half as fast on another day, if others share its host.
    """
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count() or 0,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "os": _system(),
        "kernel": f"{platform.system()} {platform.release()}",
        "load_before": round(os.getloadavg()[0], 2),
        "additions_ms": round(min(timeit.repeat("n += 1", "n = 0", number=10**6, repeat=5)) * 1000),
    }


def busy_seconds() -> float:
    """Return the seconds that all processors of this machine were at work since it started; 0 if unknown."""
    try:
        total = Path("/proc/stat").read_text().splitlines()[0]
        _name, user, nice, system, _idle, _waiting, irq, softirq, *_ = total.split()
    except (OSError, ValueError):
        return 0.0
    return sum(map(int, (user, nice, system, irq, softirq))) / os.sysconf("SC_CLK_TCK")


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.platform(terse=True)
