"""Opens the audio of an utterance in a shard."""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy.typing as npt
from lhotse.cut import Cut
from lhotse.utils import fastcopy

from w2vlab.data.audio.audio_files import AudioFile, UnusableAudioError
from w2vlab.data.shards.found import GAIN, MEMBER, PLACE, SHARD, shard_of
from w2vlab.data.shards.member_table import find_member, read_table
from w2vlab.data.shards.members import BLOCK, MemberFile, is_header_of
from w2vlab.data.shards.remote.copies import local_copy
from w2vlab.data.shards.remote.transport import FetchError
from w2vlab.data.shards.sources import is_url

_MOST_OPEN = 64
"""Shards that a process keeps open."""

_READ_WHOLE = 1 << 20
"""Bytes up to which a member is read at once; compressed ones also up to 64 times as many."""


class _Shard:
    """An open tar.

    Args:
        path: The tar on this machine.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # The descriptor is closed with the object: a member that is being read holds it.
        self._file = path.open("rb", buffering=0)
        self.descriptor = self._file.fileno()
        self._table: npt.NDArray[Any] | None = None

    def place_of(self, key: str) -> tuple[int, int] | None:
        """Returns first byte and size of the audio of an utterance; None if the tar does not have it."""
        if self._table is None:
            self._table = read_table(self.path, self._file)
        return find_member(self._table, key)


class _MemberOf(MemberFile):
    """A member that keeps its tar open."""

    def __init__(self, shard: _Shard, offset: int, size: int) -> None:
        super().__init__(shard.descriptor, offset, size)
        self._shard = shard


_open: OrderedDict[str, _Shard] = OrderedDict()


def open_member(cut: Any) -> BinaryIO:
    """Opens the audio of a cut of a prepared manifest; its shard is fetched if it is on a server.

    Args:
        cut: The cut, whose `shard_of` is not None.

    Raises:
        UnusableAudioError: The shard cannot be fetched or does not have it.
    """
    try:
        return _read_member(cut)
    except OSError:  # such as the stale handle of a shard that was removed on a disk of the network: once more
        _open.pop(_place_of(cut), None)
    try:
        return _read_member(cut)
    except OSError as error:
        raise UnusableAudioError(f"in a shard that is missing or cannot be read: {shard_name(cut)}") from error


def _read_member(cut: Any) -> BinaryIO:
    shard = _open_shard(cut)
    name: str = cut.custom[MEMBER]
    place = cut.custom.get(PLACE) or shard.place_of(name)
    if place is None:
        raise UnusableAudioError(f"missing from its shard {shard_name(cut)}")
    offset, size = place
    whole = size <= _READ_WHOLE
    block = os.pread(shard.descriptor, BLOCK + (size if whole else 4), offset - BLOCK)
    if not is_header_of(block[:BLOCK], name, size):
        raise UnusableAudioError(f"no longer in its shard {shard_name(cut)}, which has changed")
    if len(block) < BLOCK + min(size, 4 if not whole else size):
        raise UnusableAudioError(f"cut off in its shard {shard_name(cut)}")
    if whole:
        return io.BytesIO(block[BLOCK:])
    member = _MemberOf(shard, offset, size)
    # Of a long wav only the window is read; a decoder of another format would read in small pieces.
    if block[BLOCK:] in (b"RIFF", b"RF64") or size > 64 * _READ_WHOLE:
        return cast(BinaryIO, member)
    return io.BytesIO(member.read())


def gain_of(cut: Any) -> float:
    """Returns the factor by which the decoded samples of a cut are multiplied."""
    return float((cut.custom or {}).get(GAIN, 1.0))


def with_decoded_rate(cut: Cut) -> Cut:
    """Returns a cut with the sampling rate of its audio.

    lhotse's Shar has 48 kHz in Opus, whatever its cuts say. A scan of local shards has read the headers; those of
    remote ones are read here.

    Args:
        cut: A cut of a prepared manifest.

    Raises:
        UnusableAudioError: As in `open_member`.
    """
    recording: Any = getattr(cut, "recording", None)
    if shard_of(cut) is None or PLACE in getattr(cut, "custom", {}) or recording is None:
        return cut
    with AudioFile(open_member(cut)) as file:
        rate, samples = file.sampling_rate, file.num_samples
    if rate == recording.sampling_rate:
        return cut
    samples = round(recording.duration * rate) if samples is None else samples
    return fastcopy(
        cut, recording=fastcopy(recording, sampling_rate=rate, num_samples=samples, duration=samples / rate)
    )


def shard_name(cut: Any) -> str:
    """Returns the name of the tar that has the audio of a cut."""
    return str(cut.custom[SHARD]).partition("?")[0].rpartition("/")[2]


def _place_of(cut: Any) -> str:
    return str(cut.recording.sources[0].source)


def _open_shard(cut: Any) -> _Shard:
    location: str = cut.custom[SHARD]
    place = _place_of(cut)
    shard = _open.get(place)
    if shard is None:
        try:
            path = local_copy(Path(place), location) if is_url(location) else Path(place)
            shard = _Shard(path)
        except FetchError as error:
            raise UnusableAudioError(f"in a shard that cannot be fetched ({error})") from error
        _open[place] = shard
        while len(_open) > _MOST_OPEN:
            _open.popitem(last=False)
    _open.move_to_end(place)
    return shard
