"""The cores and the memory that this process may use, by the system and by its container."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path


def num_cores(root: Path = Path("/")) -> int:
    """Returns the number of cores that this process may use at a time, at least 1.

    A container with a limit of 1.5 cores on a machine with many sees all of them, and has 1.

    Args:
        root: Where `proc` and `sys` are.
    """
    quota = cpu_quota(root)
    return visible_cores() if quota is None else max(1, min(visible_cores(), math.floor(quota)))


def visible_cores() -> int:
    """Returns the number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Returns how many cores the container may use at a time; None without a limit."""
    found = []
    for folder in _cgroups(root):  # version 2
        quota, _, period = read_text(folder / "cpu.max").partition(" ")
        if quota.isdigit() and period.strip().isdigit():
            found.append(int(quota) / int(period))
    for folder in _cgroups(root, "cpu"):  # version 1
        micros, per = read_text(folder / "cpu.cfs_quota_us"), read_text(folder / "cpu.cfs_period_us")
        if micros.isdigit() and per.isdigit():
            found.append(int(micros) / int(per))
    return min(found, default=None)


@dataclass(frozen=True)
class MemoryLimit:
    """The memory limit of a container and its memory in use, in bytes."""

    bytes: int
    used: int


def memory_limit(root: Path = Path("/")) -> MemoryLimit | None:
    """Returns the memory that the container may use; None without a limit."""
    found = []
    for folders, limit, used in (
        (_cgroups(root), "memory.max", "memory.current"),
        (_cgroups(root, "memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        for folder in folders:
            most, now = read_text(folder / limit), read_text(folder / used)
            # In version 1, a number as large as the address space means no limit.
            if most.isdigit() and int(most) < 2**60:
                found.append(MemoryLimit(int(most), int(now) if now.isdigit() else 0))
    return min(found, key=lambda limit: limit.bytes - limit.used, default=None)


def _cgroups(root: Path, controller: str = "") -> list[Path]:
    """Returns the folders of this process's control groups, from its own up to the root of those that can be seen."""
    top = root / "sys" / "fs" / "cgroup" / controller
    for line in read_text(root / "proc" / "self" / "cgroup").splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if (controller in names.split(",")) if controller else (number == "0" and not names):
            own = top / path.strip().lstrip("/")
            return [folder for folder in (own, *own.parents) if folder == top or top in folder.parents]
    return [top]


def read_text(file: Path) -> str:
    """Returns the text of a file of the system, without the spaces around it; empty if it cannot be read."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
