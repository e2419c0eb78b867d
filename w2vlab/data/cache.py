"""The folder that fetched corpora and prepared manifests go to."""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from w2vlab import files

logger = logging.getLogger(__name__)


def make_writable(folder: Path) -> None:
    """Creates `folder`, a part of the cache, and makes sure that files can be put there.

    Raises:
        ValueError: They cannot.
    """
    files.make_writable(folder, "cache_dir", "--data.cache_dir or W2VLAB_CACHE")


@contextmanager
def exclusive(lock: Path) -> Iterator[None]:
    """Holds the lock file `lock`, waiting for another process to release it; a killed process releases its locks."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("Waiting for another process that holds %s.", lock)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
