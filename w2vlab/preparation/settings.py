"""What is prepared, and how."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from w2vlab.types import Seconds

Split = Literal["even", "vad"]

LAYOUT = 1
"""Increased when the same options give other files, so that a later version does not resume those of an earlier one."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a corpus is prepared.

    Attributes:
        source: As typed: a name, or a path.
        out: The folder to write.
        shards: Write shards of audio; otherwise a manifest that refers to the files where they are.
        shard_utterances: Most utterances in a shard.
        shard_minutes: Most audio in a shard, in minutes.
        max_seconds: Longer recordings are cut; None cuts nothing.
        split: Where they are cut.
        recipe: Options of lhotse's recipe, by name.
        processes: Processes that read and write; None for one of each core.
        cache_dir: Folder of fetched corpora and scans.
        overwrite: Replace another preparation in the folder.
        check: Compare the checksums of a complete folder with its files.
    """

    source: str
    out: Path
    shards: bool = False
    shard_utterances: int = 1000
    shard_minutes: float = 480.0
    max_seconds: Seconds | None = None
    split: Split = "even"
    recipe: Mapping[str, Any] = field(default_factory=dict)
    processes: int | None = None
    cache_dir: Path | None = None
    overwrite: bool = False
    check: bool = False

    @property
    def num_processes(self) -> int:
        """Processes that read and write."""
        return self.processes or len(os.sched_getaffinity(0))

    def identity(self) -> dict[str, Any]:
        """Returns the options that decide the bytes of the result, by name."""
        found: dict[str, Any] = {"layout": LAYOUT, "shards": self.shards}
        if self.shards:
            found |= {"shard_utterances": self.shard_utterances, "shard_minutes": self.shard_minutes}
        found["max_seconds"] = self.max_seconds
        if self.max_seconds is not None:
            found["split"] = self.split
        return found
