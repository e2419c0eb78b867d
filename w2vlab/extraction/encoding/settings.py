"""The options of an encoding."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from w2vlab.extraction.encoding.computing import Computing
from w2vlab.extraction.sources import What
from w2vlab.types import Seconds


@dataclass(frozen=True, kw_only=True)
class EncodingSettings(Computing):
    """How a corpus is encoded, and how its frames are computed.

    Attributes:
        what: What is computed; for the record.
        data: A corpus, as in `data.corpus` of a run.
        out: The folder.
        format: One of `writer.FORMATS`.
        collapse: Join repeats of codes, with their counts.
        exclude: Utterances to leave out, as in `data.exclude` of a run.
        cache_dir: Folder of fetched corpora and prepared manifests.
        chunk_seconds: Longest piece of a recording that is computed at once; 0 cuts nothing; None leaves it to the
            source.
        context_seconds: Context on both sides of a piece, if frames depend on the whole recording.
        shard_minutes: Audio in a shard, at most.
    """

    what: What
    data: str
    out: Path
    format: str = "parquet"
    collapse: bool = False
    exclude: str | None = None
    cache_dir: Path | None = None
    chunk_seconds: Seconds | None = None
    context_seconds: Seconds = 10.0
    shard_minutes: float = 15.0
