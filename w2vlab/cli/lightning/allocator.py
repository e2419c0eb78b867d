"""Settings of the C library's memory allocator, which it reads once, when a process starts."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Mapping
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

_VARIABLE, _SWITCH = "GLIBC_TUNABLES", "W2VLAB_ALLOCATOR"

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
    `LD_PRELOAD`, `LD_AUDIT`) or `W2VLAB_ALLOCATOR=default`, if a debugger or a tracer is attached, which would be lost,
    or if the process was started by another command, of which it is a fork.
    """
    if _may_be_restarted(os.environ):
        os.environ.update(settings_as_environment())
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _may_be_restarted(environment: Mapping[str, str]) -> bool:
    chosen = (_VARIABLE, _SWITCH, "LD_PRELOAD", "LD_AUDIT")
    return (
        sys.platform == "linux"
        and _glibc_version() >= _OLDEST
        and not any(name in chosen or name.startswith("MALLOC_") for name in environment)
        and not any(Path(device).exists() for device in _GPU_DEVICES)
        and sys.gettrace() is None
        and sys.getprofile() is None
        and "pydevd" not in sys.modules
        and bool(sys.executable)
        and sys.orig_argv[len(sys.orig_argv) - len(sys.argv) + 1 :] == sys.argv[1:]
        and threading.active_count() == 1
    )


def _glibc_version() -> tuple[int, ...]:
    try:
        name = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, OSError, ValueError):  # another C library
        return ()
    found = re.fullmatch(r"glibc (\d+)\.(\d+).*", name)
    return tuple(map(int, found.groups())) if found else ()
