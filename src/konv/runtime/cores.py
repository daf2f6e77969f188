"""How many cores this process may use: what affinity and the control group allow.

Half a core is none: a thread that the system stops in the middle of a call holds up the others, so
a quota of 3.5 cores makes 3 threads. (Rust's available_parallelism counts in the same way.)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def allowed(root: Path = Path("/")) -> int:
    """Whole cores, at least 1; `root` is where /proc and /sys are looked for."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, min([cores, *map(int, _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """The quota, in cores, of each control group that this process stands in, from its own up.

    A container may see the path that its group has outside, where no folder of that name is; it
    then finds its own group at the top.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        base = root / "sys/fs/cgroup"
        if controllers:
            base /= controllers
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for length in range(len(parts), -1, -1):
            folder = base.joinpath(*parts[:length])
            if not controllers:
                words = _read(folder / "cpu.max").split()
            elif "cpu" in controllers.split(","):
                names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
                words = [word for name in names for word in _read(folder / name).split()]
            else:
                words = []
            if len(words) == 2 and all(word.isdigit() for word in words):  # not "max", not -1
                yield int(words[0]) / int(words[1])


def _read(path: Path) -> str:
    """What a file says; a missing one says nothing."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
