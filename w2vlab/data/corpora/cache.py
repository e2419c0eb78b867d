"""The cache folder of downloaded corpora and prepared manifests."""

from __future__ import annotations

import errno
import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import gettempdir

from w2vlab.utils import files

logger = logging.getLogger(__name__)


def make_writable(folder: Path) -> None:
    """Creates `folder`, which is in the cache, and checks that it is writable.

    Raises:
        ValueError: It is not writable.
    """
    files.make_writable(folder, "cache_dir", "one with --data.cache_dir or W2VLAB_CACHE")


@contextmanager
def system_errors_in_words(folder: Path) -> Iterator[None]:
    """Says in words that a corpus may not be read, or that a disk is full while its manifest is written to `folder`.

    Raises:
        ValueError: The corpus may not be read, or the disk is full, or that of temporary files.
    """
    try:
        yield
    except PermissionError as error:
        raise ValueError(
            f"`corpus` must be readable, but {error.filename} is not ({error.strerror}): change its permissions."
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ValueError(
            f"`cache_dir` must have room for the manifest of a corpus, but the disk of {folder} or of temporary files, "
            f"{gettempdir()}, is full; free some space, or choose other folders with --data.cache_dir or W2VLAB_CACHE, "
            "and with TMPDIR."
        ) from error


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
