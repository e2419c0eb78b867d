"""Reads single cuts of a prepared manifest, by the offsets of their lines."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from lhotse.cut import Cut
from lhotse.serialization import deserialize_item

from w2vlab.types import RunError


class ManifestFile:
    """A prepared manifest on disk: one cut a line. It is never changed, so an offset stays valid.

    Args:
        path: The manifest.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: tuple[int, BinaryIO] | None = None  # process id, open file

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields offset and content of each line, as plain data: building the cuts would take ten times as long."""
        offset = 0
        with self._open() as file:
            for line in file:
                yield offset, json.loads(line)
                offset += len(line)

    def cut(self, offset: int) -> Cut:
        """Returns the cut whose line begins at `offset`.

        Raises:
            RunError: The manifest has been removed.
        """
        # A worker process opens its own file, because forked processes share the position in an open file.
        if self._file is None or self._file[0] != os.getpid():
            self._file = os.getpid(), self._open()
        file = self._file[1]
        file.seek(offset)
        cut: Cut = deserialize_item(json.loads(file.readline()))
        return cut

    def mark_as_used(self) -> None:
        """Updates the time of the last use, because manifests that are not used for a long time are removed.

        Raises:
            RunError: The manifest has been removed.
        """
        if not self.path.is_file():
            raise self._removed()
        with suppress(OSError):  # a cache may be read-only
            os.utime(self.path)

    def _open(self) -> BinaryIO:
        try:
            return self.path.open("rb")
        except FileNotFoundError:
            raise self._removed() from None

    def _removed(self) -> RunError:
        return RunError(
            f"The manifest {self.path} must exist while it is in use, but has been removed. Run the command again "
            "(a training resumes from its last checkpoint): the corpus is then scanned again."
        )

    def __getstate__(self) -> dict[str, object]:
        """Leaves the open file out, for processes that are started anew."""
        return {"path": self.path, "_file": None}
