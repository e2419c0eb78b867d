"""The cache folder of downloaded corpora and prepared manifests."""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from w2vlab.utils import files

logger = logging.getLogger(__name__)


def make_writable(folder: Path) -> None:
    """Creates `folder`, which is in the cache, and checks that it is writable.

    Raises:
        ValueError: It is not writable.
    """
    files.make_writable(folder, "cache_dir", "--data.cache_dir or W2VLAB_CACHE")


@contextmanager
def hold_lock(lock: Path) -> Iterator[None]:
    """Holds the lock file `lock`; waits while another process holds it. Locks of killed processes are released."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("Waiting for another process that holds %s.", lock)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
