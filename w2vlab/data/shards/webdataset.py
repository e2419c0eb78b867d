"""Reads a shard of a WebDataset: a tar of audio, with the transcript of each utterance beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from w2vlab.data.audio.audio_files import UnusableAudioError
from w2vlab.data.audio.probing import EXTENSIONS, probe, unsupported_reason
from w2vlab.data.shards.found import BYTES, MEMBER, PLACE, SHARD, Found, new_cut
from w2vlab.data.shards.members import CUT_OFF, Member, list_members, open_at
from w2vlab.data.shards.shard import Shard

TEXT_FIELDS = ("text", "sentence", "transcript", "transcription")
"""Fields of a JSON file that may have the transcript; the first that is there is used."""

_MAX_TEXT = 1 << 20


def read_webdataset(tar: Path, shard: Shard) -> list[Found]:
    """Returns the utterances of a tar: members with audio, whose transcripts are in a `.txt` or `.json` beside them.

    Args:
        tar: The tar on this machine.
        shard: The shard.
    """
    name = shard.recording.name
    try:
        file = tar.open("rb")
    except OSError:
        return [Found(name, reason="shard that cannot be read")]
    with file:
        contents = list_members(file)
        texts = {
            member.plain_name: member
            for member in contents.members
            if member.suffix.lower() in (".txt", ".json") and member.size <= _MAX_TEXT
        }
        found = []
        for member in contents.members:
            if os.path.basename(member.name).startswith("._"):  # of macOS, without audio
                continue
            reason = unsupported_reason(Path(member.name))
            if reason is not None:
                found.append(Found(_printable(member.key), reason=reason))
            elif member.suffix.lower() in EXTENSIONS:
                found.append(_read_member(member, file, tar, shard, texts))
    for other, why in contents.unusable.items():
        member = Member(other, 0, 0)
        if member.suffix.lower() in EXTENSIONS:
            found.append(Found(_printable(member.key), reason=why, shard=name))
    if contents.defect is not None:
        # What comes after it has no names; an index knows how many.
        known = any(item.reason == CUT_OFF for item in found)
        lost = max(int(not known), (shard.utterances or 0) - len(found))
        reason = "after the end of a damaged shard"
        found += [Found(f"{name}:{len(found) + place + 1}", reason=reason) for place in range(lost)]
    return found


def _read_member(member: Member, file: BinaryIO, tar: Path, shard: Shard, texts: Mapping[str, Member]) -> Found:
    key = member.key
    if _printable(key) != key:
        return Found(_printable(key), reason="with a name that is not UTF-8")
    try:
        info = probe(open_at(file, member))
    except UnusableAudioError as error:
        return Found(key, reason=str(error))
    fields = {
        BYTES: [member.size],
        SHARD: shard.recording.location,
        MEMBER: member.name,
        PLACE: [member.offset, member.size],
    }
    return Found(key, new_cut(key, info, tar, fields, _transcript(key, file, texts)), info)


def _printable(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        return repr(name)
    return name


def _transcript(key: str, file: BinaryIO, texts: Mapping[str, Member]) -> str | None:
    text = _read_text(file, texts.get(f"{key}.txt"))
    if text is not None:
        return text.strip()
    text = _read_text(file, texts.get(f"{key}.json"))
    try:
        content = None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    return next((content[name] for name in TEXT_FIELDS if isinstance(content.get(name), str)), None)


def _read_text(file: BinaryIO, member: Member | None) -> str | None:
    if member is None:
        return None
    try:
        return os.pread(file.fileno(), member.size, member.offset).decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
