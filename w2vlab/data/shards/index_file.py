"""Reads the index of a corpus in shards, `shards.json`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from json import JSONDecodeError
from pathlib import Path, PurePosixPath
from typing import Any

from w2vlab.data.shards.sources import INDEX
from w2vlab.utils.plain_data import parse_json, read_text

VERSION = 1

MAX_INDEX_BYTES = 1 << 28
"""Largest index that is read: of about a million shards."""


@dataclass(frozen=True)
class ListedFile:
    """A file of a shard, as the index has it.

    Attributes:
        name: Path relative to the index, without `..`.
        size: Its size in bytes; None if it is not known.
        sha256: Its checksum in hexadecimal digits; None if it is not known.
    """

    name: str
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class ListedShard:
    """A shard of an index.

    Attributes:
        recording: The tar.
        cuts: The file with its cuts; None for a WebDataset.
        utterances: Its number of utterances; None if it is not known.
    """

    recording: ListedFile
    cuts: ListedFile | None = None
    utterances: int | None = None


def read_index(path: Path) -> str:
    """Returns the text of an index.

    Raises:
        ValueError: It cannot be read.
    """
    try:
        return read_text(path, MAX_INDEX_BYTES)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} must be the index of shards, but cannot be read: {error}.") from None


def parse_index(text: str, where: str) -> list[ListedShard]:
    """Returns the shards of an index.

    Args:
        text: The text of the index.
        where: Its path or URL, for messages.

    Raises:
        ValueError: It is malformed, of a later version, or names files outside its folder.
    """
    try:
        try:
            content = parse_json(text)
        except JSONDecodeError as error:
            raise ValueError(f"it is no JSON ({error})") from None
        if not isinstance(content, dict) or not isinstance(content.get("shards"), list):
            raise ValueError("it has no list `shards`")
        if content.get("version") != VERSION:
            raise ValueError(f"its version must be {VERSION}, but is {content.get('version')!r}")
        shards = [_shard(entry, number) for number, entry in enumerate(content["shards"])]
    except ValueError as error:
        raise ValueError(f"{where} must be an index of shards that `w2vlab prepare` wrote, but {error}.") from None
    if not shards:
        raise ValueError(f"{where} must list at least one shard, but lists none.")
    if len({shard.recording.name for shard in shards}) < len(shards):
        raise ValueError(f"{where} must list each shard once, but lists some twice.")
    return shards


def _shard(entry: Any, number: int) -> ListedShard:
    where = f"shard {number} of `shards`"
    if not isinstance(entry, dict):
        raise ValueError(f"{where} is no mapping")
    recording = _file(entry, "recording", "bytes", "sha256", where)
    if recording is None:
        raise ValueError(f"{where} has no `recording`")
    cuts = _file(entry, "cuts", "cuts_bytes", "cuts_sha256", where)
    return ListedShard(recording, cuts, _number(entry, "utterances", where))


def _file(entry: Mapping[str, Any], key: str, size: str, checksum: str, where: str) -> ListedFile | None:
    name = entry.get(key)
    if name is None:
        return None
    if not isinstance(name, str) or not is_inside(name):
        raise ValueError(f"`{key}` of {where} must be the name of a file in its folder, but is {name!r}")
    digest = entry.get(checksum)
    if digest is not None and not (isinstance(digest, str) and re.fullmatch(r"[0-9a-f]{64}", digest)):
        raise ValueError(f"`{checksum}` of {where} must be a SHA-256 in hexadecimal digits, but is {digest!r}")
    return ListedFile(name, _number(entry, size, where), digest)


def _number(entry: Mapping[str, Any], key: str, where: str) -> int | None:
    value = entry.get(key)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise ValueError(f"`{key}` of {where} must be a number of at least 0, but is {value!r}")
    return value


def is_inside(name: str) -> bool:
    """Returns whether a relative path stays in its folder, and is one that every system can have."""
    path = PurePosixPath(name)
    plain = name.isprintable() and "\\" not in name and "://" not in name and path.as_posix() == name
    return plain and bool(path.parts) and not path.is_absolute() and ".." not in path.parts


__all__ = ["INDEX", "ListedFile", "ListedShard", "is_inside", "parse_index", "read_index"]
