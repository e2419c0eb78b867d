"""Every recorded row of a run in a file that only grows."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from w2vlab.files import METRICS, write_whole


class MetricLog:
    """Appends rows of metrics to a file, a line of JSON each.

    Unlike the history in a checkpoint it keeps all of them. What is not finite is null, as JSON has no word for it.
    A run that resumes in its folder appends to the file there. What was recorded behind its checkpoint is taken out,
    because it comes again. In a new folder the file begins with the history of the checkpoint. Rows that cannot be
    written, on a full disk, are written with the next ones when there is space again.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._last: dict[str, float] = {}
        self._waiting = ""  # rows for which there was no space

    def begin(self, folder: Path, kinds: dict[str, list[dict[str, float]]], update: int | None) -> None:
        """Opens the log of a run.

        Args:
            folder: The run's.
            kinds: What the checkpoint has, by the kind of the rows; nothing of a new run.
            update: Of the checkpoint of this folder's run that is resumed; None where what is in the folder is of
                another run.

        Raises:
            OSError: It cannot be written.
        """
        self._path = folder / METRICS
        self._last = {kind: rows[-1]["update"] for kind, rows in kinds.items() if rows}
        if update is None or not self._path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            rows = (row for rows in kinds.values() for row in rows)
            write_whole(self._path, "".join(map(_line, sorted(rows, key=lambda row: row["update"]))))
        else:
            self._take_back(self._path, update)

    def _take_back(self, path: Path, update: int) -> None:
        """Takes out what comes again, and the half line that a killed process may have left."""
        kept = []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
                done = row["update"] + 0
            except (ValueError, TypeError, KeyError):
                continue
            if done <= update:
                kept.append(line + "\n")
                kind = kind_of(row)
                self._last[kind] = max(self._last.get(kind, -1), done)
        write_whole(path, "".join(kept))

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


def kind_of(row: Mapping[str, Any]) -> str:
    """Tells a row of a validation from one of training."""
    return "validation" if any(name.startswith("val/") for name in row) else "train"


def _line(row: dict[str, float]) -> str:
    values: dict[str, Any] = {name: value if math.isfinite(value) else None for name, value in row.items()}
    return json.dumps(values, allow_nan=False) + "\n"
