"""Units in Parquet files: those of `encode`, and those of others with a column of codes and one of ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from w2vlab.types import RunError
from w2vlab.units.description import CODE_STREAMS, COUNTS, METADATA, UnitsDescription
from w2vlab.units.parts import Integers, Part, check_memory
from w2vlab.utils.messages import one_line

ID, PATH, START, NUM_SAMPLES, JOINT = "id", "path", "start", "num_samples", "joint"
"""Names of the columns, besides those of the streams."""

_NUM_SHOWN = 200


def describe_parquet(path: Path) -> UnitsDescription:
    """Reads what a file says about itself.

    Args:
        path: The file.

    Raises:
        RunError: It is not a whole Parquet file with codes.
    """
    with _Open(path) as file:
        metadata = file.schema_arrow.metadata or {}
        text = metadata.get(METADATA.encode())
        if text is None:
            return UnitsDescription()
        try:
            return UnitsDescription.from_json(text.decode("utf-8"))
        except ValueError as error:  # UnicodeDecodeError is one, too
            raise RunError(
                f"{path} must have a description of its units, but {one_line(str(error), _NUM_SHOWN)}."
            ) from None


def read_parquet(path: Path) -> Iterator[Part]:
    """Yields the units of a file, a row group at a time.

    Args:
        path: The file.

    Raises:
        RunError: It is damaged, or has no column of ids or of codes.
    """
    with _Open(path) as file:
        columns = _columns(file.schema_arrow, path)
        metadata = file.metadata
        for number in range(file.num_row_groups):
            group = metadata.row_group(number)
            # What the file says that it will take, before it is read.
            check_memory(group.total_byte_size, str(path))
            yield _part(file.read_row_group(number, columns=columns), columns, path)


class _Open:
    """A Parquet file, whose errors of any kind become one with the name of the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Any:
        from pyarrow.parquet import ParquetFile

        if not self._path.is_file():  # opening a pipe would block until a process writes to it
            raise RunError(f"{self._path} must be a Parquet file, but is no file.")
        try:
            self._file = ParquetFile(self._path)
        except Exception as error:  # pyarrow has several kinds of errors, some of them of C++
            raise _unreadable(self._path, error) from error
        return self._file

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        self._file.close()
        if isinstance(error, Exception) and not isinstance(error, RunError):
            raise _unreadable(self._path, error) from error


def _unreadable(path: Path, error: Exception) -> RunError:
    reason = one_line(" ".join(str(error).split()), _NUM_SHOWN) or type(error).__name__
    return RunError(f"{path} must be a whole Parquet file, but cannot be read ({reason}).")


def _columns(schema: Any, path: Path) -> list[str]:
    """Returns the columns that are read: ids, codes, and counts and samples if they are there."""
    names = list(schema.names)
    codes = [name for name in CODE_STREAMS if name in names]
    if ID not in names or len(codes) != 1:
        found = ", ".join(one_line(name, 40) for name in names[:10])
        raise RunError(
            f"{path} must have a column `{ID}` and one of {' or '.join(f'`{name}`' for name in CODE_STREAMS)}, but "
            f"has {found or 'no columns'}."
        )
    optional = [name for name in (f"{codes[0]}_{COUNTS}", NUM_SAMPLES) if name in names]
    return [ID, codes[0], *optional]


def _part(table: Any, columns: Sequence[str], path: Path) -> Part:
    import pyarrow as pa

    ids, codes = (table.column(name).combine_chunks() for name in columns[:2])
    if not (pa.types.is_string(ids.type) or pa.types.is_large_string(ids.type)) or ids.null_count:
        raise RunError(f"The column `{ID}` of {path} must have a text in each row, but is {ids.type} or lacks some.")
    lengths, values = _flat(codes, columns[1], path)
    counts = None
    if f"{columns[1]}_{COUNTS}" in columns:
        name = f"{columns[1]}_{COUNTS}"
        runs, counts = _flat(table.column(name).combine_chunks(), name, path)
        counts = counts.reshape(-1)
        if not np.array_equal(runs, lengths):
            row = int(np.flatnonzero(runs != lengths)[0])
            raise RunError(
                f"The columns `{columns[1]}` and `{name}` of {path} must be equally long, but have "
                f"{int(lengths[row])} and {int(runs[row])} values for {one_line(ids[row].as_py(), 100)}."
            )
    num_samples = None
    if NUM_SAMPLES in columns:
        column = table.column(NUM_SAMPLES).combine_chunks()
        if not pa.types.is_integer(column.type) or column.null_count:
            raise RunError(f"The column `{NUM_SAMPLES}` of {path} must have an integer in each row.")
        num_samples = column.to_numpy(zero_copy_only=False)
    return Part(ids=ids.to_pylist(), lengths=lengths, codes=values, counts=counts, num_samples=num_samples)


def _flat(column: Any, name: str, path: Path) -> tuple[Integers, Integers]:
    """Returns the length of each row of a column of lists, and the values of all rows, `(sum, G)`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or column.null_count:
        raise RunError(f"The column `{name}` of {path} must have a list of codes in each row, but is {kind}.")
    lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
    frames, groups = column.flatten(), 1
    if pa.types.is_fixed_size_list(frames.type) and not frames.null_count:
        groups = frames.type.list_size
        frames = frames.flatten()
    elif (pa.types.is_list(frames.type) or pa.types.is_large_list(frames.type)) and not frames.null_count:
        sizes = pc.list_value_length(frames)
        groups = pc.max(sizes).as_py() or 1
        if len(sizes) and pc.min(sizes).as_py() != groups:
            raise RunError(f"The column `{name}` of {path} must have the same number of codes in each frame.")
        frames = frames.flatten()
    if not pa.types.is_integer(frames.type) or frames.null_count:
        raise RunError(f"The column `{name}` of {path} must have lists of integers, but is {kind}.")
    return lengths, frames.to_numpy(zero_copy_only=False).reshape(-1, max(1, groups))
