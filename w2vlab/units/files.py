"""Files of units that belong to the utterances of a training: opened when they are first needed, once a process."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

from w2vlab.frame_grid import FrameGrid
from w2vlab.functional.joint_codes import JointCodes
from w2vlab.types import AudioBatch, RandomAddress, RunError
from w2vlab.units.reading import read_units
from w2vlab.units.table import UnitTable
from w2vlab.utils.messages import W2VLabWarning, count

_TABLES: WeakValueDictionary[tuple[Any, ...], UnitTable] = WeakValueDictionary()
"""The tables that are open in this process."""


class UnitFiles:
    """Units of utterances, from one file or from several, each with codebooks of its own.

    Copies of it, also those in other processes, have the paths and not the tables.

    Args:
        option: The option that names the files, for messages, such as `model.quantizer.path`.
        paths: The files or folders, as `read_units` takes them.
        num_codebooks: Codebooks G of all files together.
        codebook_size: Entries V of each codebook; of several files, those of the largest.
        stride: Samples at 16 kHz from one frame to the next, for files that do not say; None if they do.
        receptive_field: Samples that a frame depends on, for files that do not say; None for 25 ms.
    """

    def __init__(
        self,
        option: str,
        paths: Sequence[str],
        num_codebooks: int,
        codebook_size: int,
        stride: int | None = None,
        receptive_field: int | None = None,
    ) -> None:
        self.option = option
        self.paths = tuple(paths)
        self.num_codebooks = num_codebooks
        self.codebook_size = codebook_size
        self.stride = stride
        self.receptive_field = receptive_field
        self._tables: tuple[UnitTable, ...] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Returns what is copied and pickled: everything but the tables."""
        return {**vars(self), "_tables": None}

    @property
    def tables(self) -> tuple[UnitTable, ...]:
        """The tables, read at the first call.

        Raises:
            RunError: A file cannot be read, or has other codebooks than `num_codebooks` and `codebook_size` say.
        """
        if self._tables is None:
            tables = tuple(self._open(path) for path in self.paths)
            self._check_codebooks(tables)
            self._tables = tables
        return self._tables

    def at(
        self, utterances: Sequence[str], starts: Sequence[int], grid: FrameGrid, num_frames: Sequence[int]
    ) -> npt.NDArray[np.int64]:
        """Returns the codes of windows of utterances, of the frames that are nearest in time.

        Args:
            utterances: Ids of the utterances, B strings.
            starts: First sample of each window in its utterance, at 16 kHz, B integers.
            grid: Where the frames of a window are in time.
            num_frames: Frames of each window, B integers.

        Returns:
            Codes, shape `(B, T, G)`; 0 on padding.

        Raises:
            RunError: A file does not have an utterance, or its units end before the window.
        """
        tables = self.tables
        codes = np.zeros((len(utterances), max(num_frames), self.num_codebooks), dtype=np.int64)
        for row, utterance in enumerate(utterances):
            first = 0
            for table in tables:
                books = slice(first, first := first + table.num_codebooks)
                codes[row, : num_frames[row], books] = table.at(utterance, grid, starts[row], num_frames[row])
        return codes

    def of_batch(
        self,
        batch: AudioBatch,
        grid: FrameGrid,
        num_frames: Sequence[int],
        joint: JointCodes | None = None,
        dry_run: bool = False,
    ) -> npt.NDArray[np.int64]:
        """Returns the codes of the windows of a batch, of the frames that are nearest in time.

        Args:
            batch: Utterances or windows of them, found by `ids` and `starts`; without `starts` they begin at 0.
            grid: Where the frames of a window are in time.
            num_frames: Frames of each window, B integers.
            joint: The vocabulary of combinations, for one entry in place of G codes; None for the codes.
            dry_run: Draw codes at random, and read no file.

        Returns:
            Codes `(B, T, G)`, or entries `(B, T, 1)`; any on padding.

        Raises:
            RunError: As in `at`.
        """
        if dry_run:
            codes = self.invented(batch.ids, num_frames)
            return codes if joint is None else joint.invented(codes)
        codes = self.at(batch.ids, batch.starts or (0,) * len(batch), grid, num_frames)
        return codes if joint is None else joint.entries_of(codes, self.all_codes)

    def all_codes(self) -> npt.NDArray[np.integer[Any]]:
        """Returns the codes of all frames of a single file, `(N, G)`."""
        (table,) = self.tables
        return table.frames

    def invented(self, utterances: Sequence[str], num_frames: Sequence[int]) -> npt.NDArray[np.int64]:
        """Returns codes that are drawn at random, without reading a file, `(B, T, G)`; 0 on padding.

        Args:
            utterances: Ids of the utterances, B strings, which give the same codes each time.
            num_frames: Frames of each, B integers.
        """
        codes = np.zeros((len(utterances), max(num_frames), self.num_codebooks), dtype=np.int64)
        generators = RandomAddress(seed=0, update=0, ids=tuple(utterances)).generators("units")
        for row, frames, generator in zip(codes, num_frames, generators, strict=True):
            row[:frames] = generator.integers(self.codebook_size, size=(frames, self.num_codebooks))
        return codes

    def check(self, utterances: Iterable[tuple[str, int]]) -> tuple[str, str] | None:
        """Checks before a training that all its utterances are there and have the right length.

        Args:
            utterances: Id and samples at 16 kHz of each.

        Returns:
            A hash of their ids, and one of their units and where these are in time; both are the same for any order of
            the utterances. None without any.

        Raises:
            RunError: Some do not; it names the first one, and says how many there are.
        """
        checks = [_Check(table) for table in self.tables]
        for utterance, num_samples in utterances:
            for check in checks:
                check.add(utterance, num_samples)
        for check in checks:
            check.finish(self.option, self._how_to_write(check.table.name))
        for table, check in zip(self.tables, checks, strict=True):
            if check.total and table.codebook_size < self.codebook_size and len(self.paths) == 1:
                warnings.warn(
                    f"`codebook_size` is {self.codebook_size}, but {table.name} has {table.codebook_size} entries: the "
                    "other ones are never a target.",
                    category=W2VLabWarning,
                    stacklevel=2,
                )
        if not all(check.total for check in checks):
            return None
        return checks[0].digest_of_ids(), "-".join(check.digest_of_units() for check in checks)

    def _how_to_write(self, path: str) -> str:
        """Returns the command for a file: of a quantizer with several codebooks, or of k-means, which has one."""
        if self.num_codebooks > 1 and len(self.paths) == 1:
            return f"`w2vlab encode SOURCE CORPUS {path} --what codes`"
        return (
            f"`w2vlab encode SOURCE CORPUS {path} --what units --centers CENTERS`, with the CENTERS of `w2vlab cluster`"
        )

    def _open(self, path: str) -> UnitTable:
        place = Path(os.path.expanduser(path))  # as the path of a corpus; a shell does not expand it after an `=`
        try:
            stat = place.stat()
        except FileNotFoundError:
            raise RunError(
                f"`{self.option}` must be a file or a folder of units, but {path} does not exist. Write it: "
                f"{self._how_to_write(path)}."
            ) from None
        # A folder that is written again has another time, too, because its files are replaced.
        key = (str(place.resolve()), stat.st_mtime_ns, stat.st_size, self.stride, self.receptive_field)
        table = _TABLES.get(key)
        if table is None:
            table = _TABLES[key] = read_units(place, self.stride, self.receptive_field)
        return table

    def _check_codebooks(self, tables: Sequence[UnitTable]) -> None:
        slot = self.option.rpartition(".")[0]
        names = " and ".join(self.paths)
        found = sum(table.num_codebooks for table in tables)
        if found != self.num_codebooks:
            raise RunError(
                f"`{slot}.num_codebooks` must be {found}, the codebooks of {names}, but is {self.num_codebooks}."
            )
        largest = max(table.codebook_size for table in tables)
        if largest > self.codebook_size:
            raise RunError(
                f"`{slot}.codebook_size` must be {largest}, the entries of a codebook of {names}, but is "
                f"{self.codebook_size}."
            )


class _Check:
    """Counts the utterances that a table does not have, or has in another length, and remembers the first.

    Args:
        table: The table.
    """

    def __init__(self, table: UnitTable) -> None:
        self.table = table
        self.total = 0
        self.missing: list[str] = []
        self.wrong: list[str] = []  # messages
        self._ids = self._units = 0  # sums of hashes, which depend on no order

    def add(self, utterance: str, num_samples: int) -> None:
        """Checks one utterance."""
        self.total += 1
        if utterance not in self.table:
            self.missing.append(utterance)
            return
        try:
            self.table.check(utterance, num_samples)
        except RunError as error:
            self.wrong.append(str(error))
        key = hashlib.blake2b(utterance.encode(errors="backslashreplace")).digest()
        codes = np.ascontiguousarray(self.table.codes(utterance), dtype="<i4")  # the same for any format of the file
        digest = hashlib.blake2b(codes.tobytes(), digest_size=16, key=key).digest()
        self._ids += int.from_bytes(key[:16], "little")
        self._units += int.from_bytes(digest, "little")

    def digest_of_ids(self) -> str:
        """Returns a hash of the ids of all utterances."""
        return f"{self._ids % 2**128:032x}"

    def digest_of_units(self) -> str:
        """Returns a hash of the units of all utterances and of their grid."""
        grid = self.table.grid
        return f"{self._units % 2**128:032x}/{grid.stride}/{grid.receptive_field}"

    def finish(self, option: str, how_to_write: str) -> None:
        """Raises a RunError unless all utterances were right."""
        if self.missing:
            known = f" It has others, such as {self.table.ids[0]}." if len(self.table) else ""
            raise RunError(
                f"`{option}` must have the units of all utterances that are trained and validated on, but "
                f"{self.table.name} has none of {self.missing[0]}; it lacks {len(self.missing):,} of "
                f"{count(self.total, 'utterance')}.{known} Encode the corpus of the training, with the same ids: "
                f"{how_to_write}."
            )
        if self.wrong:
            rest = "" if len(self.wrong) == 1 else f" So do {len(self.wrong) - 1:,} more of {self.total:,} utterances."
            raise RunError(self.wrong[0] + rest)
