"""Decodes segments of Ogg Opus of 48 kHz from the packet on that they depend on.

FFmpeg decodes if PyAV is installed, in less than half the time of the libopus in libsndfile: by a libopus that is
compiled for newer processors, and mono without SILK by its own decoder. The samples agree within the rounding of single
precision.

Reference:
    RFC 6716 (Opus), RFC 7845 (Opus in Ogg).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from w2vlab.data.audio.ogg import OggError, Page, find_page_before, iter_pages

if TYPE_CHECKING:
    from w2vlab.batch import Hertz


RATE: Hertz = 48_000

PRE_ROLL = 20 * RATE
"""Samples after which a decoder that began anywhere has the samples of one that began with the file.

On speech at a low bit rate, the state before the start is audible for up to 8 s, 40 dB below the signal: the long-term
prediction of SILK feeds back its own output.
"""

PRE_ROLL_OF_CELT = 2 * RATE
"""The same of packets without SILK: their samples agree in all bits after 1 s, and within 2e-7 after 0.5 s.

SILK packets after such packets begin with a new state, so these can precede them.
"""

_SAMPLES = (*(480, 960, 1920, 2880) * 3, *(480, 960) * 2, *(120, 240, 480, 960) * 4)
"""Samples of a frame by the configuration of a packet, its first 5 bits; from 16 on SILK is not used."""

_FIRST_OF_CELT = 16
_MAX_PACKET = 5760
"""Samples of the longest packet, 120 ms."""


@dataclass(frozen=True)
class Segment:
    """The packets that a segment of a file depends on.

    Attributes:
        head: The stream's header packet.
        packets: The packets.
        start: Position of the first of them in the file, in samples; negative at the beginning of the file, whose first
            samples are not part of the audio.
    """

    head: bytes
    packets: list[bytes]
    start: int

    @property
    def num_channels(self) -> int:
        """1 for mono, 2 for stereo."""
        return self.head[9]

    @property
    def is_uniform(self) -> bool:
        """Whether it does not switch between packets with and without SILK.

        If the encoder did not prepare for that, the decoder conceals it, which versions of libopus do differently.
        """
        return len({_is_celt(packet) for packet in self.packets}) == 1


def find_segment(file: BinaryIO, size: int, start: int, stop: int) -> Segment | None:
    """Finds the packets that samples depend on.

    Args:
        file: An Ogg file with one stream of Opus.
        size: Its size in bytes.
        start: First sample, at 48 kHz.
        stop: End, excluded.

    Returns:
        None if they are not known: the file is damaged there, has more than two channels, its positions do not begin at
        zero, or it has packets without audio, for which the decoder draws noise.
    """
    try:
        return _find_segment(file, size, start, stop)
    except OggError:
        return None


def _find_segment(file: BinaryIO, size: int, start: int, stop: int) -> Segment | None:
    pages = iter_pages(file, 0, size)
    head = b"".join(next(pages).pieces)
    if head[:8] != b"OpusHead" or len(head) < 19 or head[8] > 15 or head[18] or head[9] not in (1, 2):
        return None
    for page in pages:
        if not page.is_open:  # the comments end: audio begins on the next page
            break
    first = next(pages, None)
    if first is None:
        return None
    skipped = int.from_bytes(head[10:12], "little")  # samples before the first one of the audio
    page = find_page_before(file, first, size, start + skipped - PRE_ROLL)
    packets, positions = [], []
    position = -skipped
    for position, packet in _iter_packets(iter_pages(file, page.place, size), page is first, skipped):
        if position >= stop:
            break
        packets.append(packet)
        positions.append(position)
    else:
        if position < stop and (not packets or positions[-1] + num_samples(packets[-1]) < stop):
            return None
    if any(map(_may_lack_audio, packets)):
        return None
    begin = _begin(packets, positions, start)
    return Segment(head, packets[begin:], positions[begin]) if packets else None


def _iter_packets(pages: Iterator[Page], from_beginning: bool, skipped: int) -> Iterator[tuple[int, bytes]]:
    """Yields the position and content of packets.

    Args:
        pages: Pages of the stream.
        from_beginning: Whether the first page is that of the first packet; otherwise packets that end on it are not
            yielded, because their positions are not known.
        skipped: Samples of the decoder before the audio.

    Raises:
        OggError: A page is missing or damaged.
    """
    before: Page | None = None
    part = b""
    position = -skipped
    for page in pages:
        if before is not None and (page.serial, page.sequence) != (before.serial, before.sequence + 1):
            raise OggError
        if (before is not None or from_beginning) and bool(page.flags & 1) != bool(part):
            raise OggError
        pieces = [part + page.pieces[0], *page.pieces[1:]] if page.pieces else [part]
        part = pieces.pop() if page.is_open or not page.pieces else b""
        if before is None and not from_beginning:
            position = page.granule - skipped
        else:
            for packet in pieces:
                yield position, packet
                position += num_samples(packet)
            is_last = bool(page.flags & 4) and page.granule - skipped <= position  # it may end within a packet
            if pieces and not is_last and page.granule - skipped != position:
                raise OggError
        before = page


def num_samples(packet: bytes) -> int:
    """Returns the samples of a packet of each channel, at 48 kHz.

    Raises:
        OggError: The packet is empty or longer than Opus allows.
    """
    if not packet or (packet[0] & 3 == 3 and len(packet) < 2):
        raise OggError
    samples = num_frames(packet) * _SAMPLES[packet[0] >> 3]
    if not 0 < samples <= _MAX_PACKET:
        raise OggError
    return samples


def num_frames(packet: bytes) -> int:
    """Returns the number of frames of a packet."""
    code = packet[0] & 3
    return packet[1] & 63 if code == 3 else 1 if code == 0 else 2


def _begin(packets: Sequence[bytes], positions: Sequence[int], start: int) -> int:
    """Returns the packet with which decoding begins, so that the samples from `start` on are right."""
    celt = 0  # samples of packets without SILK, in a row
    for number in range(len(packets) - 2, 0, -1):
        if positions[number + 1] > start:
            continue
        celt = celt + positions[number + 1] - positions[number] if _is_celt(packets[number]) else 0
        if celt >= PRE_ROLL_OF_CELT or start - positions[number] >= PRE_ROLL:
            return number
    return 0


def _may_lack_audio(packet: bytes) -> bool:
    """Whether a frame may have at most one byte: the encoder has sent nothing in a pause."""
    frames = num_frames(packet)
    return len(packet) <= 1 + (frames if frames == 1 else 2 * frames)


def _is_celt(packet: bytes) -> bool:
    return packet[0] >> 3 >= _FIRST_OF_CELT


def decode(segment: Segment) -> npt.NDArray[np.float32] | None:
    """Decodes packets with PyAV.

    Returns:
        Samples from `segment.start` on, shape `(samples, channels)`; None if PyAV is not installed or has no libopus,
        if it cannot decode the packets, or if its samples may differ from those of libsndfile.
    """
    av = _pyav()
    if av is None or not segment.is_uniform:
        return None
    # FFmpeg's own decoder takes three quarters of the time, but has other samples of SILK and of stereo.
    is_plain = segment.num_channels == 1 and _is_celt(segment.packets[0])
    context = av.CodecContext.create("opus" if is_plain else "libopus", "r")
    context.extradata = segment.head[:10] + bytes(2) + segment.head[12:]  # nothing is dropped at the beginning
    context.sample_rate = RATE
    context.layout = "mono" if segment.num_channels == 1 else "stereo"
    if not is_plain:
        context.options = {"request_sample_fmt": "flt"}  # its default has 16 bits
    decoded = np.empty(sum(map(num_samples, segment.packets)) * segment.num_channels, np.float32)
    done = 0
    try:
        for packet in segment.packets:
            for frame in context.decode(av.Packet(packet)):
                values = np.frombuffer(frame.planes[0], np.float32, frame.samples * segment.num_channels)
                decoded[done : done + len(values)] = values
                done += len(values)
    except (av.error.FFmpegError, ValueError):  # ValueError: more samples than the packets declare
        return None
    return decoded.reshape(-1, segment.num_channels) if done == len(decoded) else None


@lru_cache(maxsize=1)
def _pyav() -> Any:
    try:
        import av
    except ImportError:
        return None
    return av if "libopus" in av.codecs_available else None
