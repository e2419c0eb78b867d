"""Every recorded row of a run in a file that only grows."""

from __future__ import annotations

import json
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from w2vlab.files import METRICS


class MetricLog:
    """Appends rows of metrics to a file, a line of JSON each.

    Unlike the history in a checkpoint it keeps all of them. What is not finite is null, as JSON has no word for it.
    A run that goes on appends to the file of its folder; in a new folder it begins with the history of its checkpoint.
    Rows that cannot be written, on a full disk, are written with the next ones when there is space again.
    What was recorded behind that checkpoint stays in the file and comes again: of two rows of one kind, training or
    validation, and one update the later one counts.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._last: dict[str, float] = {}
        self._waiting = ""  # rows for which there was no space

    def begin(self, folder: Path, kinds: dict[str, list[dict[str, float]]], resumed: bool) -> None:
        """Opens the log of a run.

        Args:
            folder: The run's.
            kinds: What the checkpoint has, by the kind of the rows; nothing of a new run.
            resumed: Whether the run goes on from a checkpoint; else what is in the folder is of another run.

        Raises:
            OSError: It cannot be written.
        """
        self._path = folder / METRICS
        self._last = {kind: rows[-1]["update"] for kind, rows in kinds.items() if rows}
        if not resumed or not self._path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            rows = (row for rows in kinds.values() for row in rows)
            self._path.write_text("".join(map(_line, sorted(rows, key=lambda row: row["update"]))), encoding="utf-8")
        elif not _ends_with_a_line(self._path):  # a killed process may have left half of one
            self._append("\n")

    def record(self, kind: str, row: dict[str, float]) -> None:
        """Appends a row, unless one of its kind and update is there.

        Raises:
            OSError: It cannot be written.
        """
        if self._path is not None and row["update"] > self._last.get(kind, -1):
            self._last[kind] = row["update"]
            self._append(_line(row))

    def _append(self, text: str) -> None:
        """Writes, after what could not be written before; where that fails, no half line is left."""
        assert self._path is not None
        self._waiting += text
        size = self._path.stat().st_size if self._path.is_file() else 0
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(self._waiting)
        except OSError:
            with suppress(OSError):
                os.truncate(self._path, size)
            raise
        self._waiting = ""


def _ends_with_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        return file.read() in (b"\n", b"")


def _line(row: dict[str, float]) -> str:
    values: dict[str, Any] = {name: value if math.isfinite(value) else None for name, value in row.items()}
    return json.dumps(values, allow_nan=False) + "\n"
