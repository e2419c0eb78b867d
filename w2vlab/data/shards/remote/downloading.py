"""Fetches a file whole: repeated after failures, resumed where it broke off, checked by size and checksum."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Any, BinaryIO, cast

from w2vlab.data.shards.remote.files import transport_of
from w2vlab.data.shards.remote.retries import TIMEOUT, Attempts, seconds_of
from w2vlab.data.shards.remote.transport import FetchError, OutageError, Stream
from w2vlab.data.shards.shard import ShardFile
from w2vlab.types import Seconds


def download(wanted: ShardFile, file: BinaryIO, patience: Seconds, make_room: Callable[[int], None]) -> None:
    """Writes a file of a server.

    Args:
        wanted: The file, with what is known of it.
        file: File to write to, open for reading and writing; if it has bytes, the rest is fetched.
        patience: Seconds without progress after which it is given up.
        make_room: Called with the number of bytes before they are written.

    Raises:
        FetchError: The server does not deliver it, or another file than the one that is wanted.
        OSError: It cannot be written.
    """
    if not _can_resume(wanted):
        file.truncate(0)
    resumed = _size(file) > 0
    _download(wanted, file, patience, make_room)
    if wanted.sha256 is None or _sha256(file) == wanted.sha256:
        return
    if resumed:  # the bytes that were there already may be of another version
        file.truncate(0)
        _download(wanted, file, patience, make_room)
    if (found := _sha256(file)) != wanted.sha256:
        file.truncate(0)
        raise FetchError(
            f"{wanted.location}: its SHA-256 must be {wanted.sha256} by the index, but is {found}: write it again."
        )


def _can_resume(wanted: ShardFile) -> bool:
    return wanted.sha256 is not None or (wanted.tag is not None and not wanted.tag.startswith("W/"))


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _sha256(file: BinaryIO) -> str:
    file.seek(0)
    return hashlib.file_digest(cast(Any, file), "sha256").hexdigest()


def _download(wanted: ShardFile, file: BinaryIO, patience: Seconds, make_room: Callable[[int], None]) -> None:
    attempts = Attempts(wanted.location, patience)
    timeout = seconds_of(TIMEOUT)
    transport = transport_of(wanted.location)
    tag = wanted.tag
    while wanted.size is None or _size(file) != wanted.size:
        if wanted.size is not None and _size(file) > wanted.size:
            file.truncate(0)
        have = _size(file)
        try:
            with transport.open(wanted.location, have, tag, timeout) as stream:
                _check_size(wanted, stream)
                other_version = have > 0 and None not in (tag, stream.facts.tag) and tag != stream.facts.tag
                if stream.start == 0 or not have:
                    tag = stream.facts.tag or tag
                elif other_version or stream.start != have:
                    file.truncate(0)
                    tag = stream.facts.tag
                    continue
                file.truncate(stream.start)
                make_room(max(0, (stream.facts.size or 0) - stream.start))
                _write(file, stream, stream.facts.size or wanted.size, attempts)
        except OutageError as error:
            attempts.failed(error)
        else:
            break
    attempts.succeeded()


def _check_size(wanted: ShardFile, stream: Stream) -> None:
    if None not in (wanted.size, stream.facts.size) and wanted.size != stream.facts.size:
        raise FetchError(
            f"{wanted.location}: it must have {wanted.size:,} bytes, as when the corpus was scanned, but has "
            f"{stream.facts.size:,}. Upload it again, or start anew: then the corpus is scanned again."
        )


def _write(file: BinaryIO, stream: Stream, total: int | None, attempts: Attempts) -> None:
    """Appends the bytes that come.

    Raises:
        OutageError: The file then has fewer than `total`.
    """
    file.seek(0, os.SEEK_END)
    for chunk in stream.chunks:
        file.write(chunk)
        file.flush()
        attempts.reached(_size(file))
    if total is not None and _size(file) < total:
        raise OutageError(f"the connection was closed after {_size(file):,} of {total:,} bytes")
