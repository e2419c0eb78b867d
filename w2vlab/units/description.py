"""What a file of units says about itself: the same in every format that has room for text."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from w2vlab.frame_grid import FrameGrid
from w2vlab.types import RunError
from w2vlab.utils.messages import one_line
from w2vlab.utils.plain_data import parse_json, read_json

METADATA = "w2vlab"
"""Key of the text in the metadata of a file; a single one, so that the same units give the same bytes."""

RECORD = "encoding.json"
"""The file in a folder of `encode` that says what the folder has."""

STATE = ".encode"
"""The folder in it as long as the encoding is not complete."""

COUNTS = "counts"
"""End of the name of what has the frames of each run, if repeats are collapsed."""

CODE_STREAMS = ("units", "codes")
"""Names of columns and tensors that have units (indices of k-means centers) or codes (of a model's quantizer)."""

_LARGEST = 2**31
"""Strides, receptive fields and codebooks are below it."""


@dataclass(frozen=True, kw_only=True)
class UnitsDescription:
    """What a file of units says about itself.

    Attributes:
        grid: Where the frames are in time; None if the file does not say.
        codebook_size: Entries V of each codebook; None if the file does not say.
        num_codebooks: Codebooks G; None if the file does not say.
        collapsed: Whether repeats are joined, with their counts.
        provenance: What the units were computed from, as plain data.
    """

    grid: FrameGrid | None = None
    codebook_size: int | None = None
    num_codebooks: int | None = None
    collapsed: bool = False
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> str:
        """Returns the text that files have under the key `w2vlab`."""
        grid = None if self.grid is None else {"stride": self.grid.stride, "receptive_field": self.grid.receptive_field}
        content = {
            "version": 1,
            "grid": grid,
            "codebook_size": self.codebook_size,
            "num_codebooks": self.num_codebooks,
            "collapsed": self.collapsed,
            "provenance": dict(self.provenance),
        }
        return json.dumps(content, ensure_ascii=True, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> UnitsDescription:
        """Reads the text of a file, which anybody may have written.

        Raises:
            ValueError: It is not such a text; what it must be.
        """
        return cls.from_plain(parse_json(text))

    @classmethod
    def from_plain(cls, content: Any) -> UnitsDescription:
        """Reads a description from plain data.

        Raises:
            ValueError: It is not a description; what it must be.
        """
        if not isinstance(content, dict):
            raise ValueError("its description must be a mapping")
        grid = content.get("grid")
        if grid is not None:
            if not isinstance(grid, dict):
                raise ValueError("its `grid` must be a mapping")
            grid = FrameGrid(_whole(grid, "stride", 1) or 1, _whole(grid, "receptive_field", 0) or 0)
        provenance = content.get("provenance")
        return cls(
            grid=grid,
            codebook_size=_whole(content, "codebook_size", 1, optional=True),
            num_codebooks=_whole(content, "num_codebooks", 1, optional=True),
            collapsed=content.get("collapsed") is True,
            provenance=provenance if isinstance(provenance, dict) else {},
        )


def read_record(file: Path) -> UnitsDescription | None:
    """Reads what `encode` recorded about the files in a folder, for formats without room for text.

    Args:
        file: A file of units.

    Returns:
        None if there is no record beside the file, or if it is about other files.

    Raises:
        RunError: The record is damaged.
    """
    record = file.with_name(RECORD)
    if not record.is_file():
        return None
    try:
        content = read_json(record)
        if not isinstance(content, dict) or file.name not in content.get("files", [file.name]):
            return None
        return UnitsDescription.from_plain(content)
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise RunError(f"{record} must be as `w2vlab encode` writes it, but {one_line(str(error), 200)}.") from None


def check_complete(folder: Path) -> None:
    """Checks that a folder of `encode` has all of its files; a folder of another program has no list of them.

    Raises:
        RunError: The encoding is not complete, or a file is missing.
    """
    record = folder / RECORD
    if not record.is_file():
        if (folder / STATE).is_dir():
            raise RunError(
                f"{folder} must be a complete encoding, but is not: it is being written, or was interrupted. Run the "
                "same `w2vlab encode` again, which resumes it."
            )
        return
    try:
        content = read_json(record)
    except (ValueError, OSError) as error:
        raise RunError(f"{record} must be as `w2vlab encode` writes it, but {one_line(str(error), 200)}.") from None
    files = content.get("files") if isinstance(content, dict) else None
    for name in files if isinstance(files, dict) else ():
        if not os.path.exists(folder / name):  # False for names that no file can have, too
            raise RunError(
                f"{folder} must have all files of its {RECORD}, but {one_line(name, 100)} is missing. Encode again."
            )


def _whole(content: Mapping[str, Any], name: str, least: int, optional: bool = False) -> int | None:
    value = content.get(name)
    if value is None and optional:
        return None
    if type(value) is not int or not least <= value < _LARGEST:
        raise ValueError(f"its `{name}` must be an integer of at least {least}, but is {value!r:.40}")
    return value
