"""Settings of the C library's memory allocator, which it reads once, when a process starts."""

from __future__ import annotations

import os
import re
import stat
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

SETTINGS = {
    # Pages of 2 MiB, which the system clears and maps at once, for the whole heap.
    "hugetlb": 1,
    # Large blocks are in the heap, too, and freed ones stay there, so that no page is cleared twice.
    "mmap_max": 0,
    "trim_threshold": 1 << 40,
    # Small freed blocks are joined with their neighbours at once. In caches of their own they would lie between tensors
    # that are freed, whose places then cannot be joined to hold a larger tensor.
    "tcache_count": 0,
    "mxfast": 0,
}
"""Tunables of `glibc.malloc` for training on a CPU.

An update allocates and frees some gigabytes, in the same order each time.
"""

_VARIABLE, _SWITCH, _TUNED = "GLIBC_TUNABLES", "W2VLAB_ALLOCATOR", "tuned"

_OLDEST = (2, 35)
"""The first glibc with `hugetlb`."""

_GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Device files of the drivers of NVIDIA and AMD, and of both under WSL."""


def settings_as_environment() -> dict[str, str]:
    """Returns the environment variable that sets `SETTINGS` in a process that is started with it."""
    return {_VARIABLE: ":".join(f"glibc.malloc.{name}={value}" for name, value in SETTINGS.items())}


def uses_large_heap_pages(environment: Mapping[str, str]) -> bool:
    """Returns whether the allocator requests large pages, so that PyTorch need not align its tensors with them."""
    return re.search(r"glibc\.malloc\.hugetlb=[12]\b", environment.get(_VARIABLE, "")) is not None


def restart_with_settings() -> None:
    """Starts this process again, with the same process id and command, if the allocator is to have other settings.

    Only on a CPU and with a glibc that has the settings: a GPU allocates by itself, and its host is faster with caches
    of small blocks. Nothing is done if the environment has settings of an allocator (`GLIBC_TUNABLES`, `MALLOC_*`,
    `LD_PRELOAD`, `LD_AUDIT`) or `W2VLAB_ALLOCATOR`, if a debugger or a tracer is attached, which would be lost, if the
    process was started by another command, of which it is a fork, or if its program has been read from a pipe, which is
    empty now. If the system cannot start it again, it goes on as it is.
    """
    if not _may_be_restarted(os.environ):
        return
    # Programs with privileges lose the settings when they start, but not our own variable, which prevents a loop.
    environment = {**os.environ, **settings_as_environment(), _SWITCH: _TUNED}
    with suppress(OSError):  # such as an environment without room for one more variable
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def _may_be_restarted(environment: Mapping[str, str]) -> bool:
    chosen = (_VARIABLE, _SWITCH, "LD_PRELOAD", "LD_AUDIT")
    return (
        sys.platform == "linux"
        and _glibc_version() >= _OLDEST
        and not any(name in chosen or name.startswith("MALLOC_") for name in environment)
        and not any(Path(device).exists() for device in _GPU_DEVICES)
        and not _is_watched()
        and bool(sys.executable)
        and _can_read_program_again()
        and threading.active_count() == 1
    )


def _is_watched() -> bool:
    """Returns whether a debugger, a tracer or a profiler is attached."""
    monitoring = getattr(sys, "monitoring", None)  # since Python 3.12
    return (
        sys.gettrace() is not None
        or sys.getprofile() is not None
        or "pydevd" in sys.modules
        or (monitoring is not None and any(map(monitoring.get_tool, range(6))))
    )


def _can_read_program_again() -> bool:
    """Returns whether the command of this process is the one of the system, with a program that is not from a pipe."""
    place = len(sys.orig_argv) - len(sys.argv)  # of the program: a file, a module, or the code of `-c`
    if place < 1 or sys.orig_argv[place + 1 :] != sys.argv[1:] or sys.orig_argv[place] == "-":
        return False
    try:
        mode = os.stat(sys.orig_argv[place]).st_mode
    except (OSError, ValueError):  # a module, or code
        return True
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def _glibc_version() -> tuple[int, ...]:
    try:
        name = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, OSError, ValueError):  # another C library
        return ()
    found = re.fullmatch(r"glibc (\d+)\.(\d+).*", name)
    return tuple(map(int, found.groups())) if found else ()
