"""Scans a corpus in shards: yields its utterances as cuts, and what is lost of it, with the reason."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from w2vlab.data.shards.found import Found
from w2vlab.data.shards.listing import list_shards
from w2vlab.data.shards.remote.copies import local_copy, register
from w2vlab.data.shards.shar import read_shar
from w2vlab.data.shards.shard import Shard, ShardFile
from w2vlab.data.shards.sources import Source, is_url
from w2vlab.data.shards.webdataset import read_webdataset
from w2vlab.utils.limits import num_cores
from w2vlab.utils.parallel import WorkerDiedError, WorkerProcesses

SCAN_VERSION = b"w2vlab-shards-1"
"""Part of the fingerprint; increased when a scan of the same shards gives another result."""

_AT_ONCE = 8

_BYTES_OF_A_PROCESS = 1 << 29
"""Bytes of local shards for which it is worth to start another process."""

_MOST_NAMED = 5
"""Shards that reasons name, because a reason for each of thousands would hide all others."""


class ShardScan:
    """The scan of a corpus in shards.

    Args:
        source: The corpus.
        cache: The cache folder.

    Attributes:
        shards: The shards, in their order.
        fingerprint: Hash of names, sizes and versions of all files.

    Raises:
        ValueError: There are no shards, or a server does not deliver their list.
    """

    def __init__(self, source: Source, cache: Path) -> None:
        found = list_shards(source)
        self.shards = found.shards
        self._lost = found.lost
        self._cache = cache
        self.fingerprint = hashlib.blake2b(found.fingerprint, digest_size=16, person=SCAN_VERSION).hexdigest()

    def __iter__(self) -> Iterator[Iterable[Found]]:
        """Yields what each shard has, in the order of the shards; first what is lost of the corpus.

        Raises:
            ValueError: A server does not deliver a file.
        """
        sieve = _Sieve()
        yield [Found(name, reason=reason) for name, reason in self._lost.items()]
        yield from map(sieve.sift, self._read_all())

    def _read_all(self) -> Iterator[list[Found]]:
        if any(is_url(shard.recording.location) for shard in self.shards):
            yield from self._read_remote()
            return
        size = sum(_size(shard.recording) for shard in self.shards)
        number = min(num_cores(), len(self.shards), size // _BYTES_OF_A_PROCESS)
        if number < 2:
            yield from map(read_local, self.shards)
            return
        with WorkerProcesses(number) as workers:
            yield from workers.map(partial(_read_in, workers), self.shards)

    def __len__(self) -> int:
        """Returns the number of what iteration yields."""
        return len(self.shards) + 1

    def _read_remote(self) -> Iterator[list[Found]]:
        pool = ThreadPoolExecutor(_AT_ONCE)  # threads, because this waits for the server
        waiting: deque[Future[list[Found]]] = deque()
        try:
            for shard in self.shards:
                waiting.append(pool.submit(self._read, shard))
                if len(waiting) > _AT_ONCE:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _read(self, shard: Shard) -> list[Found]:
        if shard.cuts is None:
            return read_webdataset(self._fetch(shard.recording), shard)
        return read_shar(self._fetch(shard.cuts), shard, None, register(shard.recording, self._cache))

    def _fetch(self, file: ShardFile) -> Path:
        return local_copy(register(file, self._cache), file.location)


def read_local(shard: Shard) -> list[Found]:
    """Returns what a local shard has; worker processes call it."""
    tar = Path(shard.recording.location)
    return read_webdataset(tar, shard) if shard.cuts is None else read_shar(Path(shard.cuts.location), shard, tar, tar)


def _read_in(workers: WorkerProcesses, shard: Shard) -> list[Found]:
    try:
        return workers.apply(read_local, shard)
    except WorkerDiedError as death:
        reason = f"shard that ends the process that reads it, with status {death.status}"
        return [Found(shard.recording.name, reason=reason)]


def _size(file: ShardFile) -> int:
    try:
        return Path(file.location).stat().st_size
    except OSError:
        return 0


class _Sieve:
    """Passes each id on once, and names the shards that lack something as long as they are few."""

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._named: set[str] = set()

    def sift(self, found: list[Found]) -> Iterator[Found]:
        """Yields what a shard has."""
        for item in found:
            if item.cut is None:
                yield self._with_name(item)
            elif item.id in self._ids:
                yield Found(item.id, reason="listed twice")
            else:
                self._ids.add(item.id)
                yield item

    def _with_name(self, item: Found) -> Found:
        if item.shard is None:
            return item
        if len(self._named) < _MOST_NAMED:
            self._named.add(item.shard)
        name = item.shard if item.shard in self._named else "(others)"
        return replace(item, reason=f"{item.reason} {name}")
