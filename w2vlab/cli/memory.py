"""How memory is asked of the system, and when Python looks for what nobody needs any more."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

LARGE_PAGES = {"THP_MEM_ALLOC_ENABLE": "1"}
"""What PyTorch looks at in the environment."""


def use_large_pages() -> None:
    """Has PyTorch ask for large pages (2 MiB) on Linux, unless the environment says otherwise.

    A training step on a CPU asks for some gigabytes and gives them back, and the system clears each page anew. With
    pages of 4 KiB that takes several times as long as to write the memory once; with large ones, a fraction of it.
    """
    for name, value in LARGE_PAGES.items():
        os.environ.setdefault(name, value)


@contextmanager
def no_collection() -> Iterator[None]:
    """Has Python not look for cycles of objects that nobody needs, unless it does not anyway.

    Imports and a parser make hundreds of thousands of objects that stay. Python would look through all of them again
    and again on the way, which takes a sixth of the time of the imports.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def objects_kept() -> Iterator[None]:
    """Has Python not look through the objects that are there already when it looks for cycles."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
