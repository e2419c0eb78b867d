"""What the first and last bytes of a file say, where libsndfile does not look or does not tell."""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass
from typing import BinaryIO

from w2vlab.types import Seconds

UNKNOWN = (1 << 36) - 1
"""Samples that are announced for a FLAC of unknown length, for libFLAC to decode to the end: the most it can have."""

NUM_FRAMES = (1 << 31) - 1
"""Frames that are announced for an mp3 without an index, for the same reason."""

_FLAC_HEAD = 26  # bytes up to the end of the number of samples in STREAMINFO
_MAX_OGG_PAGE = 65_307
_MAX_MP3_FRAME = 2_881


class Spliced:
    """A file of which the first bytes are replaced, as far as libsndfile needs one.

    Args:
        head: The bytes in front.
        file: What follows them.
        start: Its first byte.
        stop: The one behind its last.
    """

    def __init__(self, head: bytes, file: BinaryIO, start: int, stop: int) -> None:
        self._head, self._file, self._start = head, file, start
        self._size = len(head) + stop - start
        self._place = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves to a byte, as files do."""
        self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        return self._place

    def tell(self) -> int:
        """Returns the place in bytes."""
        return self._place

    def read(self, size: int) -> bytes:
        """Returns up to `size` bytes."""
        found = self._head[self._place : self._place + size]
        behind = self._place + len(found) - len(self._head)
        if len(found) < size and behind >= 0:
            self._file.seek(self._start + behind)
            found += self._file.read(max(0, min(size, self._size - self._place) - len(found)))
        self._place += len(found)
        return found


def read_at(file: BinaryIO, place: int, size: int) -> bytes:
    """Returns up to `size` bytes from `place` on; a decoder that reads the same file stays where it is."""
    before = file.tell()
    file.seek(max(0, place))
    found = file.read(size)
    file.seek(before)
    return found


def flac_without_length(file: BinaryIO, num_samples: int | None, size: int) -> Spliced | None:
    """Returns a FLAC with a number of samples in its header; None where it has one, or is no plain FLAC.

    Writers to a pipe cannot go back to fill it in, and libsndfile can neither read nor seek without.

    Args:
        file: The file.
        num_samples: How many it has; None for as many as there are.
        size: Bytes of the file.
    """
    head = read_at(file, 0, _FLAC_HEAD)
    if head[:4] != b"fLaC" or len(head) < _FLAC_HEAD:
        return None
    fields = int.from_bytes(head[18:])  # 20 bits of rate, 3 of channels, 5 of bits a sample, 36 of samples
    if fields & UNKNOWN:
        return None
    fields |= UNKNOWN if num_samples is None else num_samples
    return Spliced(head[:18] + fields.to_bytes(8), file, _FLAC_HEAD, size)


@dataclass(frozen=True)
class Mp3:
    """Where an mp3 has its audio, and what its index says of it.

    Attributes:
        start: Its first byte of audio, behind the tags.
        stop: The one behind its last, in front of the tags.
        announced: Bytes of audio that the index announces; None where there is no index, or it does not say.
    """

    start: int
    stop: int
    announced: int | None

    @property
    def has_length(self) -> bool:
        """Whether the index tells the length. One of files that were joined is of the first of them alone."""
        return self.announced is not None and self.stop - self.start <= self.announced + _MAX_MP3_FRAME

    @property
    def is_cut_off(self) -> bool:
        """Whether audio is missing that the index announces."""
        return self.announced is not None and self.stop - self.start < self.announced

    def may_last(self, seconds: Seconds) -> bool:
        """Tells whether so much audio can be in so many bytes, at 8 to 320 kbit/s and some more: indices break too."""
        audio = (self.announced or 0) - _MAX_MP3_FRAME  # the index is a frame of its own
        return audio * 8 <= 650_000 * seconds and 7_000 * seconds <= 8 * (self.announced or 0)

    def with_index(self, file: BinaryIO, rate: int, channels: int) -> Spliced:
        """Returns the file with an index, in a frame of silence, and another frame of silence, in front of it.

        Without one, libmpg123 guesses the length from the size of the file and stops there.
        """
        form = next(form for form, rates in _MP3_RATES.items() if rate in rates)
        newest, mono = form == 3, channels == 1
        flags = (0xFF, 0xE3 | form << 3, 14 << 4 | _MP3_RATES[form].index(rate) << 2, 0xC0 if mono else 0)
        size = (144 * 320_000 if newest else 72 * 160_000) // rate
        side = (17 if mono else 32) if newest else (9 if mono else 17)
        index = bytes(flags) + bytes(side) + struct.pack(">4sII", b"Info", 1, NUM_FRAMES)
        silence = bytes(flags).ljust(size, b"\0")
        return Spliced(index.ljust(size, b"\0") + silence, file, self.start, self.stop)


_MP3_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
"""Sampling rates by version: MPEG 1, 2 and 2.5, as its bits have it."""


def mp3_frame_samples(rate: int) -> int:
    """Returns how many samples a frame has."""
    return 1152 if rate >= 32_000 else 576


def find_mp3(file: BinaryIO, size: int) -> Mp3:
    """Finds the audio of an mp3 between its tags, and its index."""
    start, stop = 0, size
    while (tag := read_at(file, start, 10))[:3] == b"ID3" and len(tag) == 10:
        start += 10 + sum((byte & 127) << 7 * (3 - place) for place, byte in enumerate(tag[6:]))
        start += 10 if tag[5] & 16 else 0
    if read_at(file, stop - 128, 3) == b"TAG":
        stop -= 128
    footer = read_at(file, stop - 32, 32)
    if footer[:8] == b"APETAGEX":
        behind, flags = struct.unpack("<I4xI", footer[12:24])
        stop -= behind + (32 if flags >> 31 else 0)
    stop = max(start, stop)
    head = read_at(file, start, 64)
    for place in (head.find(b"Xing"), head.find(b"Info")):
        if place > 0 and len(head) >= place + 16:
            flags, _, announced = struct.unpack(">III", head[place + 4 : place + 16])
            return Mp3(start, stop, announced if flags & 3 == 3 else None)
    return Mp3(start, stop, None)


def ogg_fault(file: BinaryIO, size: int) -> str | None:
    """Returns what is wrong with the end of an Ogg file; None for one stream that ends with its last page.

    libsndfile plays what is there, and the first of streams that were joined.
    """
    first = read_at(file, 0, 18)[14:]
    start = max(0, size - 2 * _MAX_OGG_PAGE)
    tail = read_at(file, start, size - start)
    pages = [match.start() for match in re.finditer(rb"OggS\0", tail)]
    page = tail[pages[-1] :] if pages else b""
    if len(page) < 27 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]]) or not page[5] & 4:
        return "truncated"
    begins = any(tail[place + 5] & 2 for place in pages if start + place)
    return "several streams in one Ogg file, not read: write one each" if begins or page[14:18] != first else None


def is_flac_in_ogg(file: BinaryIO) -> bool:
    """Tells whether an Ogg file holds FLAC, which libsndfile's wheels do not read."""
    head = read_at(file, 0, 64)
    return head[:4] == b"OggS" and b"\x7fFLAC" in head


def wav_is_whole(file: BinaryIO, size: int) -> bool:
    """Tells whether the samples of a wav end inside the file; libsndfile takes those that are there for all."""
    found = _wav_data(file)
    return found is None or _is_unknown(found[1]) or sum(found) <= size


def wav_without_length(file: BinaryIO, size: int) -> Spliced | None:
    """Returns a wav that announces all samples up to its end, where its writer has left zero; None for others."""
    found = _wav_data(file)
    # One without samples that was closed as it should be knows its own size.
    if found is None or found[1] or int.from_bytes(read_at(file, 4, 4), "little") + 8 == size:
        return None
    return Spliced(read_at(file, 0, found[0] - 4) + b"\xff" * 4, file, found[0], size)


def _wav_data(file: BinaryIO) -> tuple[int, int] | None:
    """Returns where the samples of a wav begin and how many bytes it announces; None for what is none."""
    if read_at(file, 0, 4) not in (b"RIFF", b"RF64"):
        return None
    place, large = 12, 0
    while len(header := read_at(file, place, 8)) == 8:
        name, length = struct.unpack("<4sI", header)
        if name == b"ds64":
            large = int.from_bytes(read_at(file, place + 16, 8), "little")
        if name == b"data":
            return place + 8, large if length == 0xFFFFFFFF and large else length
        place += 8 + length + length % 2
    return None


def _is_unknown(length: int) -> bool:
    """Tells whether a writer to a pipe left `length`: zero, all ones (ffmpeg), 2 GiB (arecord) or nearly so (sox)."""
    return length in (0, 0xFFFFFFFF) or 0x7FFF0000 <= length <= 0x80000000
