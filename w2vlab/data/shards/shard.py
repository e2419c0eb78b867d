"""A shard of a corpus and its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath


@dataclass(frozen=True)
class ShardFile:
    """A file of a shard.

    Attributes:
        location: Path or URL.
        size: Its bytes by the index, or by the server; None if neither says.
        sha256: Its checksum by the index; None if that has none.
        tag: What the server says of its version (ETag); None if it says nothing, and for a path.
    """

    location: str
    size: int | None = None
    sha256: str | None = None
    tag: str | None = None

    @property
    def name(self) -> str:
        """Its name without its folder."""
        return PurePosixPath(self.location.partition("?")[0]).name


@dataclass(frozen=True)
class Shard:
    """A shard of a corpus.

    Attributes:
        recording: The tar.
        cuts: The file of its cuts in lhotse's Shar; None for a WebDataset.
        utterances: Number of its utterances by the index; None without one.
    """

    recording: ShardFile
    cuts: ShardFile | None = None
    utterances: int | None = None
