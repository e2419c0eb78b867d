"""The members of a tar as a table beside it, so that its headers are read once and not by each process."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from w2vlab.data.shards.members import list_members
from w2vlab.data.shards.remote.eviction import MEMBERS
from w2vlab.data.shards.shar import NO_DATA, by_key

_ROW = np.dtype([("key", "<u8"), ("offset", "<i8"), ("size", "<i8")])


def read_table(path: Path, file: Any) -> npt.NDArray[Any]:
    """Returns the audio members of a tar, ordered by the hashes of their keys.

    Args:
        path: The tar; the table is beside it.
        file: The open tar.
    """
    beside = path.with_name(path.name + MEMBERS)
    with suppress(OSError, ValueError, EOFError):
        table = np.load(beside, allow_pickle=False)
        if table.dtype == _ROW and table.ndim == 1:
            return np.asarray(table)
    table = _make(file)
    temporary = beside.with_name(f"{beside.name}.{os.getpid()}")
    with suppress(OSError):  # the folder may be read-only, or its disk full
        with temporary.open("wb") as written:
            np.save(written, table, allow_pickle=False)
        temporary.replace(beside)
    return table


def find_member(table: npt.NDArray[Any], key: str) -> tuple[int, int] | None:
    """Returns first byte and size of a member; None if it is not in the table.

    Args:
        table: The table.
        key: Name of the member without its suffix.
    """
    wanted = _hash(key)
    row = int(np.searchsorted(table["key"], np.uint64(wanted)))
    if row == len(table) or int(table["key"][row]) != wanted:
        return None
    return int(table["offset"][row]), int(table["size"][row])


def _make(file: BinaryIO) -> npt.NDArray[Any]:
    members = by_key(list_members(file))
    rows = [(_hash(key), m.offset, m.size) for key, m in members.items() if m.suffix != NO_DATA]
    return np.sort(np.array(rows, dtype=_ROW), order="key")


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little")
