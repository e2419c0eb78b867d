"""Lock of a folder that one command and the commands it starts write to."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def folder_lock(folder: Path, name: str, in_use: str) -> Iterator[int]:
    """Locks a folder, which is created; yields the file descriptor of the lock, which child processes inherit.

    The folder stays locked until this process and every process that has inherited the descriptor have ended.

    Args:
        folder: The folder.
        name: Name of the lock's file in it.
        in_use: Error message if it is locked, in which `{process}` is the number of the process that locked it.

    Raises:
        ValueError: The folder is locked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            process = os.pread(lock, 32, 0).decode(errors="replace").strip() or "?"
            raise ValueError(in_use.replace("{process}", process)) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        yield lock
    finally:
        os.close(lock)
