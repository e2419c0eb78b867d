"""Reads the properties of common audio files from a few bytes, without a decoder.

Each function returns None unless the file is of the plainest kind and complete; `probing` then opens it with
libsndfile. What is returned equals what libsndfile reports.
"""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from w2vlab.data.audio import mpeg, vorbis

if TYPE_CHECKING:
    from w2vlab.batch import Hertz

_HEAD = 1 << 13
"""Bytes that are read at the beginning of a file."""

SAMPLING_RATE_RANGE = (4_000, 384_000)
"""Lowest and highest sampling rate in Hz of a file; others are errors in the header."""

_WAV_BITS = {1: (8, 16, 24, 32), 3: (32, 64)}
"""Bits a sample by the format tag of a wav: PCM and float."""

_SKIPPED_WAV_CHUNKS = frozenset({b"LIST", b"JUNK", b"PAD ", b"fact", b"PEAK"})


@dataclass(frozen=True)
class AudioInfo:
    """Properties of an audio file.

    Attributes:
        sampling_rate: Sampling rate of the file in Hz.
        num_samples: Samples of each channel.
        num_channels: 1 for mono.
    """

    sampling_rate: Hertz
    num_samples: int
    num_channels: int


def read_plain(path: str | os.PathLike[str]) -> tuple[AudioInfo, int] | None:
    """Returns the properties of a plain and complete file and its size in bytes; None for any other file."""
    opened = _open_regular_file(path)
    if opened is None:
        return None
    descriptor, size = opened
    try:
        head = os.pread(descriptor, _HEAD, 0)
        info = None
        if head[:4] == b"RIFF":
            info = _parse_wav(head, size)
        elif head[:4] == b"OggS":
            stream = _parse_vorbis(descriptor, size)
            if stream is not None and stream.num_samples:
                info = AudioInfo(stream.sampling_rate, stream.num_samples, stream.num_channels)
        elif head[:3] == b"ID3" or head[:1] == b"\xff":
            found = mpeg.parse(head, os.pread(descriptor, mpeg.TAIL, max(0, size - mpeg.TAIL)), size)
            info = None if found is None else AudioInfo(*found)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    if info is None or not SAMPLING_RATE_RANGE[0] <= info.sampling_rate <= SAMPLING_RATE_RANGE[1]:
        return None
    return info, size


def learn(path: str | os.PathLike[str], info: AudioInfo) -> None:
    """Learns from a file that was opened with a decoder how others of its kind are read without one.

    Args:
        path: The file.
        info: Its properties by the decoder.
    """
    opened = _open_regular_file(path)
    if opened is None:
        return
    descriptor, size = opened
    try:
        stream = _parse_vorbis(descriptor, size) if os.pread(descriptor, 4, 0) == b"OggS" else None
    except OSError:
        return
    finally:
        os.close(descriptor)
    if stream is not None:
        vorbis.learn(stream, info.num_samples)


def _open_regular_file(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Returns the descriptor of a regular file and its size; None for other files."""
    try:
        # Opening a pipe would block without the flag.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):  # ValueError: a name with a zero byte
        return None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        return None
    return descriptor, status.st_size


def _parse_vorbis(descriptor: int, size: int) -> vorbis.VorbisFile | None:
    head = os.pread(descriptor, vorbis.HEAD, 0)
    start = max(0, size - vorbis.TAIL)
    tail = head if size <= len(head) else os.pread(descriptor, vorbis.TAIL, start)
    return vorbis.parse(head, tail, size)


def _parse_wav(head: bytes, size: int) -> AudioInfo | None:
    """Returns the properties of a wav of PCM or float samples that ends with its samples."""
    if head[8:12] != b"WAVE" or int.from_bytes(head[4:8], "little") + 8 != size:
        return None
    position, info = 12, None
    while position + 8 <= len(head):
        name, length = struct.unpack_from("<4sI", head, position)
        position += 8
        if name == b"data":
            if info is None or not length or position + length + length % 2 != size or length % info[1]:
                return None
            return AudioInfo(info[0], length // info[1], info[2])
        if name == b"fmt " and info is None and length in (16, 18) and position + length <= len(head):
            tag, channels, rate, byte_rate, width, bits = struct.unpack_from("<HHIIHH", head, position)
            plain = bits in _WAV_BITS.get(tag, ()) and 0 < channels <= 64 and width == channels * bits // 8
            if not plain or byte_rate != rate * width or any(head[position + 16 : position + length]):
                return None
            info = rate, width, channels
        elif name not in _SKIPPED_WAV_CHUNKS:
            return None
        position += length + length % 2
    return None
