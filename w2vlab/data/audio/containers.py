"""Parses headers and ends of audio files for what libsndfile does not report: missing lengths and truncation."""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from w2vlab.types import Seconds

MAX_FLAC_SAMPLES = (1 << 36) - 1
"""Number of samples written into the header of a FLAC of unknown length, so that libFLAC decodes to the end."""

MAX_MP3_FRAMES = (1 << 31) - 1
"""Number of frames written into the Info header of an mp3 that has none, for the same reason."""

_FLAC_HEAD = 26  # bytes up to the end of the number of samples in STREAMINFO
_MAX_OGG_PAGE = 65_307
_MAX_MP3_FRAME = 2_881


class SplicedFile:
    """A file with another header: a file-like object with the methods that libsndfile calls.

    Args:
        head: The bytes of the new header.
        file: The file whose bytes `[start, stop)` follow the header.
        start: First byte.
        stop: End, excluded.
    """

    def __init__(self, head: bytes, file: BinaryIO, start: int, stop: int) -> None:
        self._head, self._file, self._start = head, file, start
        self._size = len(head) + stop - start
        self._position = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves to a byte, as `io.IOBase.seek`."""
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        return self._position

    def tell(self) -> int:
        """Returns the position in bytes."""
        return self._position

    def read(self, size: int) -> bytes:
        """Returns up to `size` bytes."""
        data = self._head[self._position : self._position + size]
        offset = self._position + len(data) - len(self._head)
        if len(data) < size and offset >= 0:
            self._file.seek(self._start + offset)
            data += self._file.read(max(0, min(size, self._size - self._position) - len(data)))
        self._position += len(data)
        return data


def read_at(file: BinaryIO, position: int, size: int) -> bytes:
    """Returns up to `size` bytes from `position` on, and restores the file's position for a decoder that shares it."""
    before = file.tell()
    file.seek(max(0, position))
    data = file.read(size)
    file.seek(before)
    return data


def repair_flac_length(file: BinaryIO, num_samples: int | None, size: int) -> SplicedFile | None:
    """Returns a FLAC with a number of samples in its header, if the header has none.

    Writers to a pipe cannot seek back to fill it in, and libsndfile can neither read nor seek without it.

    Args:
        file: The file.
        num_samples: Number of samples; None if it is not known.
        size: Size of the file in bytes.

    Returns:
        None if the header has a number of samples, or the file is not a native FLAC.
    """
    head = read_at(file, 0, _FLAC_HEAD)
    if head[:4] != b"fLaC" or len(head) < _FLAC_HEAD:
        return None
    fields = int.from_bytes(head[18:])  # 20 bits of rate, 3 of channels, 5 of bits a sample, 36 of samples
    if fields & MAX_FLAC_SAMPLES:
        return None
    fields |= MAX_FLAC_SAMPLES if num_samples is None else num_samples
    return SplicedFile(head[:18] + fields.to_bytes(8), file, _FLAC_HEAD, size)


@dataclass(frozen=True)
class Mp3:
    """Position of the audio in an mp3, and the size that its Xing/Info header declares.

    Attributes:
        start: First byte of audio, after the tags at the beginning.
        stop: End of the audio, excluded, before the tags at the end.
        declared_bytes: Bytes of audio by the Xing/Info header; None without such a header, or if it has no size.
    """

    start: int
    stop: int
    declared_bytes: int | None

    @property
    def has_length(self) -> bool:
        """Whether the Xing/Info header has the length of all audio; in concatenated files it is that of the first."""
        return self.declared_bytes is not None and self.stop - self.start <= self.declared_bytes + _MAX_MP3_FRAME

    @property
    def is_truncated(self) -> bool:
        """Whether there is less audio than the Xing/Info header declares."""
        return self.declared_bytes is not None and self.stop - self.start < self.declared_bytes

    def is_plausible_duration(self, seconds: Seconds) -> bool:
        """Returns whether the bit rate is between about 8 and 320 kbit/s; otherwise the Xing/Info header is damaged."""
        audio = (self.declared_bytes or 0) - _MAX_MP3_FRAME  # without the frame that holds the header
        return audio * 8 <= 650_000 * seconds and 7_000 * seconds <= 8 * (self.declared_bytes or 0)

    def with_info_header(self, file: BinaryIO, rate: int, channels: int) -> SplicedFile:
        """Returns the file with two more frames at its beginning: one with an Info header, and one of silence.

        Without an Info header libmpg123 estimates the length from the size of the file, and stops decoding there.
        """
        version = next(version for version, rates in _MP3_RATES.items() if rate in rates)
        is_mpeg1, mono = version == 3, channels == 1
        header = (0xFF, 0xE3 | version << 3, 14 << 4 | _MP3_RATES[version].index(rate) << 2, 0xC0 if mono else 0)
        frame_size = (144 * 320_000 if is_mpeg1 else 72 * 160_000) // rate
        side_info = (17 if mono else 32) if is_mpeg1 else (9 if mono else 17)
        info = bytes(header) + bytes(side_info) + struct.pack(">4sII", b"Info", 1, MAX_MP3_FRAMES)
        silence = bytes(header).ljust(frame_size, b"\0")
        return SplicedFile(info.ljust(frame_size, b"\0") + silence, file, self.start, self.stop)


_MP3_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
"""Sampling rates in Hz by the version bits of a frame header: MPEG 1, 2 and 2.5."""


def mp3_samples_per_frame(rate: int) -> int:
    """Returns the number of samples of a Layer III frame."""
    return 1152 if rate >= 32_000 else 576


def parse_mp3(file: BinaryIO, size: int) -> Mp3:
    """Finds the audio of an mp3 between its ID3 and APE tags, and reads its Xing/Info header."""
    start, stop = 0, size
    while (tag := read_at(file, start, 10))[:3] == b"ID3" and len(tag) == 10:
        start += 10 + sum((byte & 127) << 7 * (3 - position) for position, byte in enumerate(tag[6:]))
        start += 10 if tag[5] & 16 else 0
    if read_at(file, stop - 128, 3) == b"TAG":
        stop -= 128
    footer = read_at(file, stop - 32, 32)
    if footer[:8] == b"APETAGEX":
        footer_size, flags = struct.unpack("<I4xI", footer[12:24])
        stop -= footer_size + (32 if flags >> 31 else 0)
    stop = max(start, stop)
    head = read_at(file, start, 64)
    for position in (head.find(b"Xing"), head.find(b"Info")):
        if position > 0 and len(head) >= position + 16:
            flags, _, declared_bytes = struct.unpack(">III", head[position + 4 : position + 16])
            return Mp3(start, stop, declared_bytes if flags & 3 == 3 else None)
    return Mp3(start, stop, None)


def find_ogg_defect(file: BinaryIO, size: int) -> str | None:
    """Returns the defect of an Ogg file that is truncated or has several streams; None if it has neither defect.

    libsndfile reads a truncated file without an error, and of concatenated streams only the first.
    """
    first = read_at(file, 0, 18)[14:]
    start = max(0, size - 2 * _MAX_OGG_PAGE)
    tail = read_at(file, start, size - start)
    pages = [match.start() for match in re.finditer(rb"OggS\0", tail)]
    page = tail[pages[-1] :] if pages else b""
    if len(page) < 27 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]]) or not page[5] & 4:
        return "truncated"
    begins = any(tail[position + 5] & 2 for position in pages if start + position)
    return "several streams in one Ogg file, not read: write one each" if begins or page[14:18] != first else None


def is_ogg_flac(file: BinaryIO) -> bool:
    """Returns whether the file is FLAC in an Ogg container, which the libsndfile of soundfile's wheels cannot read."""
    head = read_at(file, 0, 64)
    return head[:4] == b"OggS" and b"\x7fFLAC" in head


def is_wav_complete(file: BinaryIO, size: int) -> bool:
    """Returns whether the data chunk of a wav ends inside the file; libsndfile reads truncated ones without error."""
    chunk = _find_wav_data(file)
    return chunk is None or _is_placeholder_length(chunk[1]) or sum(chunk) <= size


def repair_wav_length(file: BinaryIO, size: int) -> SplicedFile | None:
    """Returns a wav whose data chunk extends to the end of the file, if its writer has left the length at zero."""
    chunk = _find_wav_data(file)
    # A wav that has no samples, but was closed properly, has the right size in its RIFF header.
    if chunk is None or chunk[1] or int.from_bytes(read_at(file, 4, 4), "little") + 8 == size:
        return None
    return SplicedFile(read_at(file, 0, chunk[0] - 4) + b"\xff" * 4, file, chunk[0], size)


def _find_wav_data(file: BinaryIO) -> tuple[int, int] | None:
    """Returns start and declared length of the data chunk of a wav, in bytes; None without a data chunk."""
    if read_at(file, 0, 4) not in (b"RIFF", b"RF64"):
        return None
    position, large = 12, 0
    while len(header := read_at(file, position, 8)) == 8:
        name, length = struct.unpack("<4sI", header)
        if name == b"ds64":
            large = int.from_bytes(read_at(file, position + 16, 8), "little")
        if name == b"data":
            return position + 8, large if length == 0xFFFFFFFF and large else length
        position += 8 + length + length % 2
    return None


def _is_placeholder_length(length: int) -> bool:
    """Returns whether `length` is a placeholder of a writer to a pipe: zero, all ones (ffmpeg) or about 2 GiB (sox)."""
    return length in (0, 0xFFFFFFFF) or 0x7FFF0000 <= length <= 0x80000000
