"""How memory is asked of the system, said before PyTorch is imported."""

from __future__ import annotations

import os

LARGE_PAGES = {"THP_MEM_ALLOC_ENABLE": "1"}
"""What PyTorch looks at in the environment."""


def use_large_pages() -> None:
    """Has PyTorch ask for large pages (2 MiB) on Linux, unless the environment says otherwise.

    A training step on a CPU asks for some gigabytes and gives them back, and the system clears each page anew. With
    pages of 4 KiB that takes several times as long as to write the memory once; with large ones, a fraction of it.
    """
    for name, value in LARGE_PAGES.items():
        os.environ.setdefault(name, value)
