"""Keeps the folder of copies within its size: those that were not used for longest are removed."""

from __future__ import annotations

import logging
import shutil
import time
from contextlib import suppress
from pathlib import Path

from w2vlab.types import Seconds
from w2vlab.utils.checks import positive_from_environment
from w2vlab.utils.messages import count

GIGABYTES = "W2VLAB_SHARD_CACHE_GB"
"""Environment variable: most gigabytes (10^9 bytes) of copies, beside those that are being fetched."""

DEFAULT_GIGABYTES = 64.0

UNFINISHED = ".part"
"""Suffix of a copy that is being fetched."""

MEMBERS = ".members.npy"
"""Suffix of the table of the members of a copy."""

_ABANDONED: Seconds = 3600.0
"""Age from which on an unfinished copy is of a process that has ended, and is removed as others are."""

_COPIES = (".tar", ".jsonl", ".gz")
_warned: set[Path] = set()

logger = logging.getLogger(__name__)


def limit() -> int:
    """Returns the most bytes of copies.

    Raises:
        ValueError: The environment variable is no positive number.
    """
    return int(positive_from_environment(GIGABYTES, DEFAULT_GIGABYTES, "a number") * 1e9)


def make_room(folder: Path, size: int) -> None:
    """Removes copies until `size` more bytes fit, by the limit and on the disk.

    A process that has opened a copy reads on: the system keeps its bytes until it is closed.

    Args:
        folder: Folder of the copies.
        size: Bytes.
    """
    copies = []
    for path in folder.iterdir():
        with suppress(OSError):
            status = path.stat()
            if path.suffix in _COPIES or (path.suffix == UNFINISHED and time.time() - status.st_mtime > _ABANDONED):
                copies.append((status.st_mtime_ns, status.st_size, path))
    used, most = sum(copy[1] for copy in copies), limit()
    free = shutil.disk_usage(folder).free
    removed = 0
    for _, bytes_of_copy, path in sorted(copies):
        if used + size <= most and free >= size:
            break
        with suppress(OSError):
            path.unlink()
            path.with_name(path.name + MEMBERS).unlink(missing_ok=True)
        used -= bytes_of_copy
        free += bytes_of_copy
        removed += 1
    if removed:
        logger.debug("Removed %s from %s.", count(removed, "shard"), folder)
    if size > most and folder not in _warned:
        _warned.add(folder)
        logger.warning(
            "A shard of %.3g GB is larger than the cache of shards in %s; set %s to a multiple of it, or each shard "
            "is fetched again and again.",
            size / 1e9,
            folder,
            GIGABYTES,
        )
