"""Settings of memory allocation and garbage collection."""

from __future__ import annotations

import gc
import os
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
