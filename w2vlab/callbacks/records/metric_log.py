"""An append-only JSON-lines file of all metrics of a run."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from w2vlab.utils.files import METRICS, write_atomically


class MetricLog:
    """Appends rows of metrics to `metrics.jsonl`, one JSON object a line.

    Unlike the history in a checkpoint it keeps all rows. Values that are not finite are null, because JSON has no NaN.
    A run that resumes in its folder appends to the existing file; rows after the checkpoint are removed first, because
    they are recorded again. In a new folder the file starts with the history of the checkpoint. Rows that cannot be
    written, because the disk is full, are written with the next rows when there is space again.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._last: dict[str, float] = {}
        self._unwritten = ""  # rows that could not be written yet

    def begin(self, folder: Path, kinds: dict[str, list[dict[str, float]]], update: int | None) -> None:
        """Opens the file of a run.

        Args:
            folder: The run folder.
            kinds: The rows of the checkpoint's history by kind, such as "train"; empty for a new run.
            update: Update of the checkpoint, if the run resumes in the folder of that checkpoint; None if an existing
                file belongs to another run and is to be replaced.

        Raises:
            OSError: The file cannot be written.
        """
        self._path = folder / METRICS
        self._last = {kind: rows[-1]["update"] for kind, rows in kinds.items() if rows}
        if update is None or not self._path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            rows = (row for rows in kinds.values() for row in rows)
            write_atomically(self._path, "".join(map(_line, sorted(rows, key=lambda row: row["update"]))))
        else:
            self._remove_rows_after(self._path, update)

    def _remove_rows_after(self, path: Path, update: int) -> None:
        """Removes rows after `update`, and a partial line that a killed process may have left."""
        kept = []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
                row_update = row["update"] + 0  # a TypeError if it is not a number
            except (ValueError, TypeError, KeyError):
                continue
            if row_update <= update:
                kept.append(line + "\n")
                kind = row_kind(row)
                self._last[kind] = max(self._last.get(kind, -1), row_update)
        write_atomically(path, "".join(kept))

    def record(self, kind: str, row: dict[str, float]) -> None:
        """Appends a row, unless the file has one of the same kind and update.

        Raises:
            OSError: The file cannot be written.
        """
        if self._path is not None and row["update"] > self._last.get(kind, -1):
            self._last[kind] = row["update"]
            self._append(_line(row))

    def _append(self, text: str) -> None:
        """Appends all unwritten rows and `text`; if that fails, the file keeps its size, so it has no partial line."""
        assert self._path is not None
        self._unwritten += text
        size = self._path.stat().st_size if self._path.is_file() else 0
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(self._unwritten)
        except OSError:
            with suppress(OSError):
                os.truncate(self._path, size)
            raise
        self._unwritten = ""


def row_kind(row: Mapping[str, Any]) -> str:
    """Returns whether a row has metrics of "validation" or of "train"."""
    return "validation" if any(name.startswith("val/") for name in row) else "train"


def _line(row: dict[str, float]) -> str:
    values: dict[str, Any] = {name: value if math.isfinite(value) else None for name, value in row.items()}
    return json.dumps(values, allow_nan=False) + "\n"
