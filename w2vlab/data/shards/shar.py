"""Reads a shard of lhotse's Shar: a file of cuts, and a tar with the audio of each."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from lhotse.cut import MonoCut, MultiCut
from lhotse.cut.data import DataCut
from lhotse.serialization import deserialize_item

from w2vlab.data.audio.audio_files import UnusableAudioError
from w2vlab.data.audio.probing import AudioInfo, probe
from w2vlab.data.shards.found import BYTES, GAIN, MEMBER, PLACE, SHARD, Found, with_audio_in_shard
from w2vlab.data.shards.members import Contents, Member, list_members, open_at
from w2vlab.data.shards.shard import Shard
from w2vlab.utils.checks import is_valid_utf8

MISSING = "missing from its shard"

NO_DATA = ".nodata"
"""Suffix of the member of an utterance without audio."""

NOT_AUDIO = (".json", ".nometa")
"""Suffixes of members that are beside the audio."""


def read_shar(cuts: Path, shard: Shard, tar: Path | None, place: Path) -> list[Found]:
    """Returns the utterances of a shard.

    Args:
        cuts: The file of its cuts, on this machine.
        shard: The shard.
        tar: The tar on this machine, whose members and headers are checked; None if it is on a server: then its
            members are counted when it is read.
        place: Where the tar is, or its copy will be, on this machine.
    """
    plain, defect = _read_cuts(cuts)
    name = shard.recording.name
    if tar is None:
        found = [_describe(cut, shard, place, None, None) for cut in plain]
        return found + _lost_cuts(shard, len(plain), defect, ())
    try:
        file = tar.open("rb")
    except OSError:
        found = [Found(_id(cut), reason="in a shard that is missing or cannot be read:", shard=name) for cut in plain]
        return found + _lost_cuts(shard, len(plain), defect, ())
    with file:
        contents = list_members(file)
        members = by_key(contents)
        found = [_probe(cut, shard, place, file, members, contents) for cut in plain]
    unlisted = sorted({*members} - {_id(cut) for cut in plain}) if defect else ()
    return found + _lost_cuts(shard, len(plain), defect, unlisted)


def by_key(contents: Contents) -> dict[str, Member]:
    """Returns the audio members of a tar by the ids of their utterances; of two of an id, the first."""
    members: dict[str, Member] = {}
    for member in contents.members:
        if member.suffix not in NOT_AUDIO:
            members.setdefault(member.key, member)
    return members


def _read_cuts(path: Path) -> tuple[list[Any], str | None]:
    """Returns the cuts of a file up to its first defect, as plain data, and the defect."""
    cuts: list[Any] = []
    try:
        for line in _lines(path):
            if line.strip():
                cuts.append(json.loads(line))
    # A compressed file may be cut off or damaged anywhere, and so may a line be.
    except (OSError, EOFError, ValueError, zlib.error, RecursionError) as error:
        return cuts, f"in the damaged part of {path.name} ({type(error).__name__})"
    return cuts, None


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as raw:
        compressed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        if compressed:
            with gzip.open(raw) as file:
                yield from file
        else:
            yield from raw


def _lost_cuts(shard: Shard, number: int, defect: str | None, unlisted: Any) -> list[Found]:
    """Returns the utterances that the index counts, or the tar has, and the file of cuts does not have."""
    assert shard.cuts is not None, "a shard of Shar has cuts"
    if defect and unlisted:
        return [Found(name, reason=defect) for name in unlisted]
    missing = max(int(defect is not None), (shard.utterances or 0) - number)
    reason = defect or f"counted by the index, but not in {shard.cuts.name}"
    return [Found(f"{shard.cuts.name}:{number + place + 1}", reason=reason) for place in range(missing)]


def _probe(
    plain: Any, shard: Shard, place: Path, file: BinaryIO, members: Mapping[str, Member], contents: Contents
) -> Found:
    name = _id(plain)
    member = members.get(name)
    if member is None:
        cut_off = next((reason for other, reason in contents.unusable.items() if Member(other, 0, 0).key == name), None)
        return Found(name, reason=cut_off or MISSING, shard=shard.recording.name)
    if member.suffix == NO_DATA:
        return Found(name, reason="without audio in its shard")
    try:
        info = probe(open_at(file, member))
    except UnusableAudioError as error:
        return Found(name, reason=str(error))
    return _describe(plain, shard, place, member, info)


def _describe(plain: Any, shard: Shard, place: Path, member: Member | None, info: AudioInfo | None) -> Found:
    name = _id(plain)
    cut = _parse(plain)
    if cut is None:
        return Found(name, reason="not a plain cut of a recording")
    if not is_valid_utf8(name):
        return Found(repr(name), reason="with a name that is not UTF-8")
    assert cut.recording is not None
    if info is not None and info.num_channels < len(cut.recording.channel_ids or ()):
        return Found(name, reason="with fewer channels than its manifest says")
    own = cut.custom or {}
    sizes = own.get(BYTES)
    fields: dict[str, Any] = {
        # The size of the member would make an utterance of a server another one than that of a local folder.
        BYTES: sizes if isinstance(sizes, list) and all(isinstance(size, int) for size in sizes) else [],
        SHARD: shard.recording.location,
        MEMBER: name if member is None else member.name,
    }
    if member is not None:
        fields[PLACE] = [member.offset, member.size]
    if isinstance(own.get(GAIN), int | float):
        fields[GAIN] = float(own[GAIN])
    return Found(name, with_audio_in_shard(cut, place, fields), info)


def _parse(plain: Any) -> DataCut | None:
    try:
        cut = deserialize_item(plain)
    except Exception:  # lhotse raises many types of errors for malformed cuts
        return None
    return cut if isinstance(cut, MonoCut | MultiCut) and cut.recording is not None else None


def _id(plain: Any) -> str:
    name = plain.get("id") if isinstance(plain, dict) else None
    return name if isinstance(name, str) else repr(name)
