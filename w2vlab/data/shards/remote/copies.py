"""Copies of remote shards on the disk of the node, which all its processes share."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from w2vlab.data.shards.remote.downloading import download
from w2vlab.data.shards.remote.eviction import MEMBERS, UNFINISHED, limit, make_room
from w2vlab.data.shards.remote.retries import PATIENCE, TIMEOUT, seconds_of
from w2vlab.data.shards.remote.transport import FetchError
from w2vlab.data.shards.shard import ShardFile
from w2vlab.types import Seconds
from w2vlab.utils.files import make_writable, write_atomically

FOLDER = "W2VLAB_SHARD_CACHE"
"""Environment variable: folder of the copies, for instance on the disk of each node; by default in the cache folder."""

_FAILED = ".failed"
_QUIET: Seconds = 60.0
"""After a file was given up it is not asked for during this time, and then once in each such time."""

_given_up: dict[Path, tuple[float, str]] = {}

logger = logging.getLogger(__name__)


def register(file: ShardFile, cache: Path) -> Path:
    """Notes what is known of a remote file, for the processes that read it, and returns the path of its copy.

    Another version of the file has another path.

    Args:
        file: The file.
        cache: The cache folder.
    """
    identity = repr((file.location, file.size, file.sha256, file.tag))
    digits = hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()
    name = PurePosixPath(file.name)
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "_", name.stem)[:80]
    place = cache / "shards" / f"{stem}-{digits}{name.suffix}"
    facts = _facts_path(place)
    if not facts.is_file():
        facts.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(facts, json.dumps(asdict(file)))
    return place


def check_settings() -> None:
    """Checks the environment variables before a run: a process that reads audio would leave all of it out.

    Raises:
        ValueError: One of them is no positive number, or the folder of copies is not writable.
    """
    limit()
    seconds_of(PATIENCE)
    seconds_of(TIMEOUT)
    if os.environ.get(FOLDER):
        make_writable(copy_path(Path("_")).parent, FOLDER, f"one with {FOLDER}")


def local_copy(place: Path, url: str) -> Path:
    """Returns the local copy of a remote file, which is fetched if there is none.

    Args:
        place: Its path by `register`.
        url: Its URL.

    Raises:
        FetchError: It cannot be fetched; or could not shortly before.
    """
    copy = copy_path(place)
    if copy.is_file():
        with suppress(OSError):
            os.utime(copy)  # the oldest copies are removed first
        return copy
    patience = seconds_of(PATIENCE)
    if copy in _given_up:
        since, reason = _given_up[copy]
        if time.monotonic() - since < _QUIET:
            raise FetchError(reason)
        patience = 0.0
    try:
        _fetch(_read_facts(place, url), copy, patience)
    except FetchError as error:
        _given_up[copy] = time.monotonic(), str(error)
        raise
    _given_up.pop(copy, None)
    return copy


def copy_path(place: Path) -> Path:
    """Returns where the copy is: in the folder that the environment variable names, or at `place`."""
    folder = os.environ.get(FOLDER)
    return Path(folder).expanduser().absolute() / place.name if folder else place


def _facts_path(place: Path) -> Path:
    return place.with_name(f"{place.name}.json")


def _read_facts(place: Path, url: str) -> ShardFile:
    with suppress(OSError, ValueError, TypeError):
        found = ShardFile(**json.loads(_facts_path(place).read_text()))
        if found.location == url:
            return found
    return ShardFile(url)


def _fetch(wanted: ShardFile, copy: Path, patience: Seconds) -> None:
    began = time.time()
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        with _locked(copy) as file:
            if file is None:
                return
            failure = copy.with_name(copy.name + _FAILED)
            with suppress(OSError):
                # Another process has tried for this one, which was waiting for it.
                if failure.stat().st_mtime >= began:
                    raise FetchError(failure.read_text())
            try:
                download(wanted, file, patience, partial(make_room, copy.parent))
            except FetchError as error:
                with suppress(OSError):
                    failure.write_text(str(error))
                raise
            file.flush()
            os.fdatasync(file.fileno())
            os.replace(_unfinished(copy), copy)
            failure.unlink(missing_ok=True)
    except OSError as error:
        raise FetchError(
            f"{wanted.location}: it cannot be written to {copy.parent} ({error.strerror or error}): make room, or set "
            f"{FOLDER} to another folder."
        ) from error


def _unfinished(copy: Path) -> Path:
    return copy.with_name(copy.name + UNFINISHED)


@contextmanager
def _locked(copy: Path) -> Iterator[BinaryIO | None]:
    """Opens the unfinished copy for this process alone; yields None if another process has finished it meanwhile.

    The lock is that of the file itself, and ends with the process that holds it.
    """
    path = _unfinished(copy)
    while True:
        with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                fcntl.flock(file, fcntl.LOCK_EX)
            current = _is_current(file, path)
            if copy.is_file():
                if current:
                    path.unlink()
                yield None
                return
            if current:
                yield file
                return


def _is_current(file: BinaryIO, path: Path) -> bool:
    """Returns whether `path` still is the open file: its last holder may have renamed it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


__all__ = ["FOLDER", "MEMBERS", "check_settings", "copy_path", "local_copy", "register"]
