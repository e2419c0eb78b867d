"""Lists the members of a tar, from their headers alone, and reads them at their offsets."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import BinaryIO, cast

BLOCK = 512
"""Bytes of a header in a tar; data are padded to a multiple of it."""

_NAME_BYTES = 90  # a header has 100 for the name with its suffix; longer ones are in a member before it


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file in a tar.

    Attributes:
        name: Its name, as in the tar.
        offset: First byte of its data.
        size: Its bytes.
    """

    name: str
    offset: int
    size: int

    @property
    def plain_name(self) -> str:
        """Its name without `./` at the beginning, as `tar -C FOLDER .` writes it."""
        return self.name.removeprefix("./")

    @property
    def key(self) -> str:
        """Its name without its suffix: the id of its utterance."""
        name = self.plain_name
        return name[: len(name) - len(self.suffix)] if self.suffix else name

    @property
    def suffix(self) -> str:
        """The last suffix of its name, with its dot."""
        return PurePosixPath(self.plain_name).suffix


@dataclass
class Contents:
    """The members of a tar.

    Attributes:
        members: The regular files that are complete.
        unusable: Names of other members, with the reason: a link, or one that is cut off.
        defect: Why the tar is damaged, in words; None if it is complete.
    """

    members: list[Member] = field(default_factory=list)
    unusable: dict[str, str] = field(default_factory=dict)
    defect: str | None = None


def list_members(file: BinaryIO) -> Contents:
    """Lists the members of a tar.

    A tar that was cut off is listed up to its end: also one that was cut between two members, which Python's `tarfile`
    takes for complete because it does not require the two blocks of zeros at the end.

    Args:
        file: The tar, which can seek.
    """
    found = Contents()
    size = file.seek(0, os.SEEK_END)
    end = 0
    try:
        for info in _iterate(file):
            end = max(end, info.offset_data)
            if not info.isreg():
                if not info.isdir():
                    found.unusable[info.name] = "a link or device in its shard, not read"
                continue
            if info.sparse is not None:
                found.unusable[info.name] = "a sparse file in its shard, not read"
                continue
            end = info.offset_data + info.size
            if end > size:
                found.unusable[info.name] = CUT_OFF
                found.defect = "it is cut off within a member"
                return found
            found.members.append(Member(info.name, info.offset_data, info.size))
    # The tar may be cut off within a header, damaged in the middle, or no tar.
    except (tarfile.TarError, OSError, ValueError, OverflowError, RecursionError) as error:
        found.defect = f"its headers are damaged ({error})"
        return found
    end += -end % BLOCK
    file.seek(end)
    if file.read(BLOCK) != bytes(BLOCK):
        found.defect = "it is cut off, or damaged, after its last readable member" if size else "it is empty"
    return found


CUT_OFF = "cut off in its shard"


def _iterate(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    file.seek(0)
    last = -1
    with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
        while (info := tar.next()) is not None:
            # A header with a negative size would be read again and again.
            if info.offset <= last or info.size < 0:
                raise tarfile.ReadError("a header has a negative size")
            last = info.offset
            tar.members.clear()  # type: ignore[attr-defined]  # it would keep all of them
            yield info


def is_header_of(block: bytes, member: str, size: int) -> bool:
    """Returns whether a block of a tar is the header of a member: with its size, and its name as far as it is there.

    Args:
        block: The block.
        member: Name of the member, or its key.
        size: Its bytes.
    """
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    in_header = member.isascii() and len(member) <= _NAME_BYTES
    return info.size == size and (not in_header or member in (info.name, Member(info.name, 0, 0).key))


class MemberFile(io.RawIOBase):
    """A member of a tar as a file of its own; other readers of the same descriptor do not move it.

    Args:
        descriptor: File descriptor of the tar, which must stay open.
        offset: First byte of the member.
        size: Its bytes.
    """

    def __init__(self, descriptor: int, offset: int, size: int) -> None:
        super().__init__()
        self._descriptor, self._offset, self._size = descriptor, offset, size
        self._position = 0

    def readable(self) -> bool:
        """Returns True."""
        return True

    def seekable(self) -> bool:
        """Returns True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves to a byte, as `io.IOBase.seek`."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        """Returns the position in bytes."""
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Reads into a buffer; returns the number of bytes."""
        target = memoryview(buffer).cast("B")
        wanted = max(0, min(len(target), self._size - self._position))
        got = os.preadv(self._descriptor, [target[:wanted]], self._offset + self._position) if wanted else 0
        self._position += got
        return got


def open_at(file: BinaryIO, member: Member) -> BinaryIO:
    """Opens a member of an open tar, which must stay open."""
    return cast(BinaryIO, MemberFile(file.fileno(), member.offset, member.size))
