"""Pages of an Ogg file, with their checksums.

Reference:
    RFC 3533.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from w2vlab.data.audio.containers import read_at

MAX_PAGE = 65_307
"""Largest page in bytes."""

_HEADER = struct.Struct("<4sBBqIII B")
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class OggError(Exception):
    """Raised for a page that is damaged, or bytes that are no page."""


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        place: Its first byte in the file.
        size: Its size in bytes, with its header.
        flags: 1 if it continues a packet, plus 2 if it is the first of its stream, plus 4 if it is the last.
        granule: Position at the end of the last packet that ends on it; -1 if none does.
        serial: Number of its stream.
        sequence: Number of the page in its stream.
        pieces: Its pieces of packets; the first and the last one may be incomplete.
        is_open: Whether the last piece continues on the next page.
    """

    place: int
    size: int
    flags: int
    granule: int
    serial: int
    sequence: int
    pieces: list[bytes]
    is_open: bool


def parse_page(data: bytes, offset: int, place: int) -> Page:
    """Parses a page and verifies its checksum.

    Args:
        data: Bytes of the file.
        offset: Where the page begins in `data`.
        place: Where it begins in the file.

    Raises:
        OggError: It is damaged, cut off, or no page.
    """
    body = offset + _HEADER.size
    if len(data) < body:
        raise OggError
    capture, version, flags, granule, serial, sequence, checksum, count = _HEADER.unpack_from(data, offset)
    lacing = data[body : body + count]
    start = body + count
    stop = start + sum(lacing)
    if capture != b"OggS" or version or len(lacing) < count or len(data) < stop:
        raise OggError
    if _checksum(data[offset : offset + 22] + bytes(4) + data[offset + 26 : stop]) != checksum:
        raise OggError
    pieces, length = [], 0
    for lace in lacing:
        length += lace
        if lace < 255:
            pieces.append(data[start : start + length])
            start, length = start + length, 0
    is_open = count > 0 and lacing[-1] == 255
    if is_open:
        pieces.append(data[start:stop])
    return Page(place, stop - offset, flags, granule, serial, sequence, pieces, is_open)


def iter_pages(file: BinaryIO, place: int, size: int) -> Iterator[Page]:
    """Yields the pages of a file.

    Args:
        file: The file, whose position is restored.
        place: First byte of a page.
        size: Size of the file.

    Raises:
        OggError: A page is damaged.
    """
    data, offset = b"", 0
    while place < size:
        if len(data) - offset < MAX_PAGE and place + len(data) - offset < size:
            data, offset = read_at(file, place, 3 * MAX_PAGE), 0
        page = parse_page(data, offset, place)
        yield page
        offset += page.size
        place += page.size


def find_page_before(file: BinaryIO, first: Page, size: int, granule: int) -> Page:
    """Finds a page shortly before a position, by bisection.

    Args:
        file: The file, whose position is restored.
        first: The first page that may be returned.
        size: Size of the file.
        granule: The position.

    Returns:
        A page on which a packet ends, at `granule` or earlier; `first` if the file is small.
    """
    found, stop = first, size
    while stop - found.place > 2 * MAX_PAGE:
        middle = (found.place + stop) // 2
        page = _find_page(file, middle)
        if page is None or page.granule > granule:
            stop = middle
        else:
            found = page
    return found


def _find_page(file: BinaryIO, place: int) -> Page | None:
    """Returns the first page after `place` on which a packet ends; None if there is none in twice the length of one."""
    data = read_at(file, place, 2 * MAX_PAGE)
    offset = data.find(b"OggS")
    while offset >= 0:
        try:
            page = parse_page(data, offset, place + offset)
        except OggError:
            pass
        else:
            if page.granule >= 0:
                return page
        offset = data.find(b"OggS", offset + 1)
    return None


def _checksum(data: bytes) -> int:
    """Returns Ogg's CRC-32: that of zlib with the bits of each byte in reverse, and without its two inversions."""
    reverse = zlib.crc32(data.translate(_REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(reverse.to_bytes(4, "little").translate(_REVERSED_BITS))
