"""Lists the shards of a corpus, from its index or from the names of its files."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from w2vlab.data.shards.index_file import ListedFile, ListedShard, parse_index, read_index
from w2vlab.data.shards.remote.copies import check_settings
from w2vlab.data.shards.remote.files import Remote
from w2vlab.data.shards.remote.transport import FileFacts
from w2vlab.data.shards.shard import Shard, ShardFile
from w2vlab.data.shards.sources import (
    INDEX,
    ShardedCorpus,
    Source,
    expand_ranges,
    is_compressed_tar,
    is_cuts_file,
    is_tar,
    is_url,
)
from w2vlab.utils.messages import count

_NUMBERED = re.compile(r"^(cuts|recording)(\..*)?\.(?:jsonl|jsonl\.gz|tar)$")

_WITHOUT_TAR = "shard without its recording"


@dataclass(frozen=True)
class ShardList:
    """The shards of a corpus.

    Attributes:
        shards: The shards, in their order.
        fingerprint: Hash of the names, sizes and versions of all files.
        lost: Files that are missing or belong to no shard, by name, with the reason.
    """

    shards: Sequence[Shard]
    fingerprint: bytes
    lost: dict[str, str] = field(default_factory=dict)


def list_shards(source: Source) -> ShardList:
    """Lists the shards of a corpus; of a remote one, the server is asked.

    Args:
        source: A folder, a tar, a URL or a range of tars.

    Raises:
        ValueError: There are none, they are compressed, or a server does not deliver the list.
    """
    text = str(source)
    if is_url(text):
        return _list_remote(text)
    if isinstance(source, ShardedCorpus):
        paths = list(expand_ranges(text))
        missing = {Path(path).name: "missing shard" for path in paths if not Path(path).is_file()}
        if len(missing) == len(paths):
            raise ValueError(f"`corpus` must name existing tars, but none of {source} exists.")
        return _with_state([Shard(ShardFile(path)) for path in paths if Path(path).name not in missing], missing)
    if not source.is_dir():
        _refuse_compressed([source.name], str(source.parent))
        return _with_state([Shard(ShardFile(text))], {})
    if (source / INDEX).is_file():
        index = read_index(source / INDEX)
        return _with_state(
            [_local_shard(source, listed) for listed in parse_index(index, str(source / INDEX))], {}, index
        )
    names = sorted(entry.name for entry in os.scandir(source) if entry.is_file())
    shards, lost = _shards_of_names(names, text)
    # The cuts of a tar that is missing are counted one by one.
    without_tar = [name for name, reason in lost.items() if reason.startswith(_WITHOUT_TAR)]
    shards += [ListedShard(ListedFile(f"recording{_key(name)}.tar"), ListedFile(name)) for name in without_tar]
    shards.sort(key=lambda shard: shard.recording.name)
    lost = {name: reason for name, reason in lost.items() if name not in without_tar}
    return _with_state([_local_shard(source, listed) for listed in shards], lost)


def _list_remote(url: str) -> ShardList:
    check_settings()
    remote = Remote()
    path = url.partition("?")[0]
    name = PurePosixPath(path).name
    if "{" in name:
        return _remote_tars(remote, list(expand_ranges(url)))
    if is_tar(name) or is_compressed_tar(name):
        _refuse_compressed([name], url)
        return _remote_tars(remote, [url])
    index_url = url if name.endswith(".json") else f"{url}/{INDEX}"
    base = index_url.partition("?")[0].rpartition("/")[0]
    index = remote.read_text(index_url, missing_ok=url.startswith("s3://"))
    if index is not None:
        shards = [_remote_shard(base, listed) for listed in parse_index(index, index_url)]
        return ShardList(shards, _digest([index]))
    facts = {PurePosixPath(found.url).name: found for found in remote.list_files(url)}
    listed, lost = _shards_of_names(sorted(facts), url)
    shards = [_with_facts(_remote_shard(base, shard), facts) for shard in listed]
    return ShardList(shards, _digest(map(repr, shards)), lost)


def _remote_tars(remote: Remote, urls: Sequence[str]) -> ShardList:
    # Every one is asked for, so that a range that is too long is found before the training.
    facts = remote.facts(urls)
    shards = [Shard(ShardFile(found.url, found.size, None, found.tag)) for found in facts]
    return ShardList(shards, _digest(map(repr, shards)))


def _with_facts(shard: Shard, facts: dict[str, FileFacts]) -> Shard:
    def known(file: ShardFile) -> ShardFile:
        found = facts[file.name]
        return replace(file, location=found.url, size=found.size, tag=found.tag)

    return replace(shard, recording=known(shard.recording), cuts=None if shard.cuts is None else known(shard.cuts))


def _local_shard(folder: Path, listed: ListedShard) -> Shard:
    def file(found: ListedFile) -> ShardFile:
        return ShardFile(str(folder / found.name), found.size, found.sha256)

    return Shard(file(listed.recording), None if listed.cuts is None else file(listed.cuts), listed.utterances)


def _remote_shard(base: str, listed: ListedShard) -> Shard:
    def file(found: ListedFile) -> ShardFile:
        name = found.name if base.startswith("s3://") else quote(found.name)
        return ShardFile(f"{base}/{name}", found.size, found.sha256)

    return Shard(file(listed.recording), None if listed.cuts is None else file(listed.cuts), listed.utterances)


def _shards_of_names(names: Sequence[str], where: str) -> tuple[list[ListedShard], dict[str, str]]:
    """Returns the shards of a folder without an index, and the files that are lost, with the reason."""
    if not any(map(is_cuts_file, names)):
        tars = [name for name in names if is_tar(name)]
        if not tars:
            _refuse_compressed(names, where)
            raise ValueError(f"`corpus` must have shards, but in {where} there is no tar.")
        return [ListedShard(ListedFile(name)) for name in tars], {}
    cuts, recordings = _by_number(names, "cuts"), _by_number(names, "recording")
    if not recordings:
        raise ValueError(f"`corpus` must have the audio of its cuts, but in {where} there is no recording.*.tar.")
    shards = [ListedShard(ListedFile(recordings[key]), ListedFile(cuts[key])) for key in cuts if key in recordings]
    lost = {name: f"{_WITHOUT_TAR}{key}.tar" for key, name in cuts.items() if key not in recordings}
    lost |= {name: f"shard without its cuts{key}.jsonl.gz" for key, name in recordings.items() if key not in cuts}
    return shards, lost | _gaps({**cuts, **recordings})


def _key(name: str) -> str:
    """Returns the number of a shard in the name of a file, with the point before it; empty if it has none."""
    found = _NUMBERED.match(name)
    return (found.group(2) or "") if found else ""


def _by_number(names: Iterable[str], kind: str) -> dict[str, str]:
    found = ((_NUMBERED.match(name), name) for name in names)
    return {_key(name): name for match, name in found if match and match.group(1) == kind}


def _gaps(keys: Iterable[str]) -> dict[str, str]:
    """Returns the shards that are missing between the first and the last number, with the reason."""
    numbers = sorted({int(key[1:]) for key in keys if key[1:].isdecimal()})
    if not numbers or numbers[-1] - numbers[0] >= 100 * len(numbers):  # not consecutive numbers
        return {}
    missing = sorted({*range(numbers[0], numbers[-1])} - {*numbers})
    return {f"number {number}": "shard that is missing from the consecutive numbers" for number in missing}


def _refuse_compressed(names: Iterable[str], where: str) -> None:
    compressed = [name for name in names if is_compressed_tar(name)]
    if compressed:
        raise ValueError(
            f"`corpus` must have tars that are not compressed, because utterances are read at their places, but in "
            f"{where} {count(len(compressed), 'tar')} is or are: {compressed[0]}. Unpack with `gunzip`, `xz -d` or "
            "`zstd -d`; audio hardly gets larger."
        )


def _with_state(shards: Sequence[Shard], lost: dict[str, str], index: str = "") -> ShardList:
    def states() -> Iterator[str]:
        yield index
        yield repr(sorted(lost.items()))
        for shard in shards:
            for file in filter(None, (shard.cuts, shard.recording)):
                yield repr((os.fsencode(file.location).hex(), _stat(file.location)))

    return ShardList(shards, _digest(states()), lost)


def _stat(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _digest(parts: Iterable[str]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part.encode("utf-8", "surrogateescape") + b"\0")
    return digest.digest()
