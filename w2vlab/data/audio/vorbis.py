"""Finds the length of Vorbis files from a few pages, without setting up a decoder.

Most of the time to open a Vorbis file is spent on its codebooks, which are the same in all files of an encoder with the
same options. So the first file of each kind is opened by libsndfile; its headers are then known to be valid.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from w2vlab.data.audio.ogg import MAX_PAGE, OggError, Page, parse_page

HEAD = 1 << 14
"""Bytes from the beginning of a file that `parse` needs: the headers, and the first page of audio."""

TAIL = 2 * MAX_PAGE
"""Bytes from its end: two pages of the largest size."""

_MAX_KINDS = 64

_Kind = tuple[bytes, bytes]
"""The identification header and the setup header: what a decoder is set up from."""

_known: dict[_Kind, tuple[int, ...] | None] = {}
"""Block size of each mode, by kind of stream; None if the length of such streams was not found."""


@dataclass(frozen=True)
class VorbisFile:
    """A Vorbis file that has all of its pages.

    Attributes:
        kind: What its decoder is set up from.
        sampling_rate: Sampling rate in Hz.
        num_channels: 1 for mono.
        packets: First byte of each packet on the first page of audio.
        first: Position of the first page of audio, in samples.
        last: Position of the last page.
        is_one_page: Whether these are the same page, whose last block is cut where the audio ends.
    """

    kind: _Kind
    sampling_rate: int
    num_channels: int
    packets: bytes
    first: int
    last: int
    is_one_page: bool

    @property
    def num_samples(self) -> int | None:
        """Number of samples; None if it is not known without a decoder."""
        sizes = _known.get(self.kind)
        if sizes is None or not self.packets or self.last < self.first:
            return None
        # A packet completes half a block of its own and half a block of the one before it. If the position of the first
        # page is the sum, the stream begins at zero; otherwise it was cut from another one.
        bits = (len(sizes) - 1).bit_length()
        modes = [byte >> 1 & (1 << bits) - 1 for byte in self.packets]
        if any(byte & 1 for byte in self.packets) or max(modes) >= len(sizes):
            return None
        blocks = [sizes[mode] for mode in modes]
        duration = (sum(blocks[:-1]) + sum(blocks[1:])) // 4
        whole = self.first <= duration if self.is_one_page else self.first == duration
        return self.last if whole else None


def learn(file: VorbisFile, num_samples: int) -> None:
    """Remembers the kind of a file that a decoder has read, if its length is found.

    Args:
        file: The file.
        num_samples: Its length by the decoder.
    """
    if file.kind in _known or len(_known) >= _MAX_KINDS:
        return
    _known[file.kind] = _block_sizes(*file.kind)
    if file.num_samples not in (None, num_samples):
        _known[file.kind] = None


def parse(head: bytes, tail: bytes, size: int) -> VorbisFile | None:
    """Reads the pages at the beginning and the end of a file.

    Args:
        head: The first `HEAD` bytes.
        tail: The last `TAIL` bytes.
        size: Size of the file in bytes.

    Returns:
        None unless it is one Vorbis stream, whose first pages and last page are undamaged and which ends with its last
        page.
    """
    pages = _pages(head)
    try:
        begin = next(pages)
        (identification,) = begin.pieces
        packets: list[bytes] = []
        while len(packets) < 2:
            page = next(pages)
            if page.flags or page.serial != begin.serial:
                return None
            packets += page.pieces
        comment, setup = packets
        first = next(pages)
        last = _last_page(tail, size)
    except (StopIteration, ValueError, OggError):  # damaged, a longer header, or packets that continue on another page
        return None
    if last is None or {first.serial, last.serial} != {begin.serial} or begin.flags != 2 or first.flags & 3:
        return None
    if len(identification) != 30 or identification[:11] != b"\1vorbis\0\0\0\0" or setup[:7] != b"\5vorbis":
        return None
    if not _is_valid_comment(comment):
        return None
    channels, rate = struct.unpack_from("<BI", identification, 11)
    firsts = bytes(packet[0] for packet in first.pieces if packet)
    if len(firsts) != len(first.pieces):
        return None
    return VorbisFile((identification, setup), rate, channels, firsts, first.granule, last.granule, first.flags == 4)


def _pages(data: bytes) -> Iterator[Page]:
    """Yields pages, as long as they begin and end with a packet.

    Raises:
        OggError: A page is damaged, or not complete in `data`.
    """
    place = 0
    while True:
        page = parse_page(data, place, place)
        if page.is_open or page.flags & 1:
            return
        yield page
        place += page.size


def _last_page(tail: bytes, size: int) -> Page | None:
    """Returns the last page, if it is the end of a stream and of the file.

    Returns:
        None also if another stream begins in `tail`, or bytes are missing there or do not belong to a page.

    Raises:
        OggError: It is damaged.
    """
    place = next_place = tail.find(b"OggS\0")
    while 0 <= next_place < len(tail):
        place = next_place
        lengths = tail[place + 27 : place + 27 + tail[place + 26]] if len(tail) > place + 27 else b""
        if tail[place : place + 5] != b"OggS\0" or not lengths or (tail[place + 5] & 2 and size - len(tail) + place):
            return None
        next_place = place + 27 + len(lengths) + sum(lengths)
    if next_place != len(tail):
        return None
    page = parse_page(tail, place, size - len(tail) + place)
    return page if page.flags & 4 else None


def _is_valid_comment(packet: bytes) -> bool:
    if packet[:7] != b"\3vorbis" or not packet[-1] & 1:
        return False
    try:
        place = 11 + struct.unpack_from("<I", packet, 7)[0]
        (number,) = struct.unpack_from("<I", packet, place)
        place += 4
        for _ in range(min(number, len(packet))):
            place += 4 + struct.unpack_from("<I", packet, place)[0]
    except struct.error:
        return False
    return bool(place < len(packet))


def _block_sizes(identification: bytes, setup: bytes) -> tuple[int, ...] | None:
    """Returns the block size of each mode. The modes end the setup header, so it is read from its end.

    A mode has a bit for long blocks, 32 bits that are zero, and 8 bits for the number of a mapping, at most 63.
    """
    sizes = 1 << (identification[28] & 15), 1 << (identification[28] >> 4)
    bits = "".join(f"{byte:08b}" for byte in reversed(setup)).lstrip("0")[1:]  # from the last; without the framing bit
    flags: list[int] = []
    found = None
    while len(flags) < 64 and bits[:2] == "00" and bits[8:40] == "0" * 32 and len(bits) > 47:
        flags.append(int(bits[40]))
        bits = bits[41:]
        if int(bits[:6], 2) + 1 == len(flags):
            found = tuple(sizes[flag] for flag in reversed(flags))
    return found
