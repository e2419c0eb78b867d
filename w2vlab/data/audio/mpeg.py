"""Finds the length of mp3 files by their Xing/Info and LAME header, without a decoder."""

from __future__ import annotations

import struct
from typing import NamedTuple

from w2vlab.data.audio.containers import Mp3, mp3_samples_per_frame

TAIL = 128
"""Bytes from the end of a file that `parse` needs: where tags are."""

_DECODER_DELAY = 529

_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_KBITS = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


class _Frame(NamedTuple):
    rate: int
    channels: int
    size: int
    side: int  # bytes of header and side information


def parse(head: bytes, tail: bytes, size: int) -> tuple[int, int, int] | None:
    """Reads the first frame, which has the length of the audio instead of audio.

    Args:
        head: The beginning of the file.
        tail: The last `TAIL` bytes.
        size: Size of the file in bytes.

    Returns:
        Sampling rate, number of samples and number of channels; None unless it is a Layer III file whose header has
        the number of its frames and bytes, as many as it has, and the samples that its encoder has added.
    """
    start = _skip_tag(head)
    if start is None or tail[:3] == b"TAG" or b"APETAGEX" in tail:
        return None
    frame = _parse_frame(head, start)
    if frame is None:
        return None
    # To recognize the format a decoder needs two more frames of the same kind.
    place = start + frame.size
    for _ in range(2):
        other = _parse_frame(head, place)
        if other is None or (other.rate, other.channels) != (frame.rate, frame.channels):
            return None
        place += other.size
    place = start + frame.side
    if head[place : place + 4] not in (b"Xing", b"Info") or any(head[start + 6 : place]):
        return None
    (flags,) = struct.unpack_from(">I", head, place + 4)
    if flags & 3 != 3 or flags > 15:
        return None
    frames, declared = struct.unpack_from(">II", head, place + 8)
    place += 16 + (100 if flags & 4 else 0) + (4 if flags & 8 else 0)
    if head[place : place + 4] != b"LAME" and head[place : place + 4] != b"Lavc":
        return None
    added = int.from_bytes(head[place + 21 : place + 24], "big")
    file = Mp3(start, size, declared)
    if added & 0xFFF < _DECODER_DELAY:  # then the decoder removes nothing at the end
        return None
    num_samples = frames * mp3_samples_per_frame(frame.rate) - (added >> 12) - (added & 0xFFF)
    if file.is_truncated or not file.has_length or num_samples <= 0:
        return None
    if not file.is_plausible_duration(num_samples / frame.rate):
        return None
    return frame.rate, num_samples, frame.channels


def _skip_tag(head: bytes) -> int | None:
    """Returns where the audio begins: after an ID3 tag of the simplest kind; None if that is not in `head`."""
    if head[:3] != b"ID3":
        return 0
    if len(head) < 10 or head[3] not in (3, 4) or head[4] or head[5] or any(byte & 128 for byte in head[6:10]):
        return None
    start = 10 + sum(byte << 7 * (3 - place) for place, byte in enumerate(head[6:10]))
    return start if start + 4 <= len(head) else None


def _parse_frame(head: bytes, start: int) -> _Frame | None:
    """Returns the properties of a Layer III frame without a checksum."""
    if len(head) < start + 4 or head[start] != 0xFF or head[start + 1] & 0xE7 != 0xE3:
        return None
    version, bits, mode = head[start + 1] >> 3 & 3, head[start + 2], head[start + 3]
    if version == 1 or bits >> 2 & 3 == 3 or bits >> 4 in (0, 15) or mode & 3 == 2:
        return None
    newest, mono = version == 3, mode >> 6 == 3
    rate = _RATES[version][bits >> 2 & 3]
    size = (144_000 if newest else 72_000) * _KBITS[newest][bits >> 4] // rate + (bits >> 1 & 1)
    side = (17 if mono else 32) if newest else (9 if mono else 17)
    return _Frame(rate, 1 if mono else 2, size, 4 + side)
