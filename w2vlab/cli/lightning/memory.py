"""Settings of memory allocation and garbage collection."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from w2vlab.cli.lightning.allocator import uses_large_heap_pages

LARGE_PAGES = {"THP_MEM_ALLOC_ENABLE": "1"}
"""Environment variables of PyTorch."""


def use_large_pages() -> None:
    """Lets PyTorch allocate large pages (2 MiB) on Linux, unless the environment sets it otherwise.

    A training step on a CPU allocates and frees some gigabytes, and the system clears each page every time. With pages
    of 4 KiB that takes several times as long as writing the memory once; with large pages, a fraction of it.
    """
    if uses_large_heap_pages(os.environ):  # else PyTorch would align each tensor with a page, and leave gaps
        return
    for name, value in LARGE_PAGES.items():
        os.environ.setdefault(name, value)


_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Parameters of `mallopt`, from `malloc.h` of glibc."""


def keep_freed_memory() -> bool:
    """Lets the C library keep freed memory for the next allocation, instead of returning it to the system.

    Each update allocates and frees the same gigabytes. By default glibc returns blocks above 32 MiB at once, and others
    at the end of its heap, and the system clears every page again when it is touched. The peak of a process stays the
    same to a percent, but it does not shrink between updates.

    Nothing is changed without glibc, or if the environment has settings of its allocator (`GLIBC_TUNABLES` or
    `MALLOC_*`). Data workers inherit the setting.

    Returns:
        Whether freed memory is kept from now on.
    """
    if any(name == "GLIBC_TUNABLES" or name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if mallopt is None:
        return False
    # No mappings of single blocks, and no limit to the free memory at the end of the heap.
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Disables the garbage collector within this context.

    Imports and a parser create hundreds of thousands of objects that stay. Repeated collections would traverse all of
    them, which takes a sixth of the time of the imports.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def frozen_objects() -> Iterator[None]:
    """Excludes existing objects from garbage collection within this context."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
