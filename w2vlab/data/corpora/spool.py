"""Lists that are on disk, because those of a large corpus need much memory."""

from __future__ import annotations

import os
import pickle
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import SpooledTemporaryFile, TemporaryFile
from types import TracebackType
from typing import BinaryIO, Generic, TypeVar, overload

Item = TypeVar("Item")

_IN_MEMORY = 1 << 24
"""Bytes of a list up to which it is not written to disk."""

_WRITTEN_AT_ONCE = 1 << 20
"""Bytes of lines that are collected before they are written."""


class Spool(Sequence[Item], Generic[Item]):
    """A list in a temporary file, which the system removes with the process; 8 bytes of an item are in memory."""

    def __init__(self) -> None:
        self._file = SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115
        self._offsets = array("q")
        self._end = 0

    def append(self, item: Item) -> None:
        """Adds an item, which must be picklable; not to a list that `reordered` has returned."""
        data = pickle.dumps(item, pickle.HIGHEST_PROTOCOL)
        self._file.seek(self._end)
        self._file.write(data)
        self._offsets.append(self._end)
        self._end += len(data)

    def reordered(self, order: Iterable[int]) -> Spool[Item]:
        """Returns the items of some indices, in that order, in the same file."""
        other: Spool[Item] = Spool.__new__(Spool)
        other._file, other._end = self._file, self._end
        other._offsets = array("q", (self._offsets[index] for index in order))
        return other

    def __len__(self) -> int:
        return len(self._offsets)

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...

    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        """Reads an item, or some of them."""
        if isinstance(index, slice):
            return [self._read(offset) for offset in self._offsets[index]]
        return self._read(self._offsets[index])

    def __iter__(self) -> Iterator[Item]:
        return map(self._read, self._offsets)

    def _read(self, offset: int) -> Item:
        self._file.seek(offset)
        item: Item = pickle.load(self._file)
        return item


class Lines:
    """Lines in a temporary file, which are written in another order; used in a `with` statement.

    Args:
        folder: Where the file is; the system removes it with the process.
    """

    def __init__(self, folder: Path) -> None:
        self._file = TemporaryFile(dir=folder, buffering=_WRITTEN_AT_ONCE)  # noqa: SIM115
        self._ends = array("q", [0])

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def extend(self, lines: Iterable[bytes]) -> None:
        """Adds lines."""
        end = self._ends[-1]
        for line in lines:
            self._file.write(line)
            end += len(line)
            self._ends.append(end)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def write(self, order: Iterable[int], file: BinaryIO) -> None:
        """Writes the lines of some indices, in that order, to another file."""
        self._file.flush()
        source, ends = self._file.fileno(), self._ends
        for index in order:
            file.write(os.pread(source, ends[index + 1] - ends[index], ends[index]))
