"""What `encoding.json` says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import w2vlab
from w2vlab.extraction.encoding.corpus import OrderedCorpus
from w2vlab.extraction.encoding.folder import ShardRecord
from w2vlab.extraction.encoding.plan import PiecePlan
from w2vlab.extraction.encoding.settings import EncodingSettings
from w2vlab.extraction.sources import FrameSource
from w2vlab.extraction.statistics import CodeStatistics
from w2vlab.types import SAMPLE_RATE

_MOST_NAMED = 10_000
"""Utterances that are named with the reason why they were left out; all are counted."""


def provenance_of(source: FrameSource, settings: EncodingSettings) -> dict[str, Any]:
    """Returns what the frames are computed from; without a date, so that the same frames give the same files."""
    data = {"what": settings.what, "data": settings.data, "w2vlab": w2vlab.__version__}
    return {**source.provenance, **data}


def describe(
    source: FrameSource,
    settings: EncodingSettings,
    pieces: PiecePlan,
    corpus: OrderedCorpus,
    records: Sequence[ShardRecord],
    unusable: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns the content of `encoding.json`, without the files.

    Args:
        source: Computed the frames.
        settings: How the corpus was encoded.
        pieces: How long recordings were cut.
        corpus: The utterances.
        records: All shards.
        unusable: Utterances that could not be used when the corpus was scanned, by reason.
    """
    failed = {name: reason for record in records for name, reason in record.failed.items()}
    codes = next((stream for stream in source.streams if stream.is_discrete), None)
    content: dict[str, Any] = {
        "version": 1,
        "grid": asdict(source.grid),
        "codebook_size": None if codes is None else codes.codebook_size,
        "num_codebooks": None if codes is None else codes.dim,
        "collapsed": settings.collapse,
        "provenance": {
            **provenance_of(source, settings),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        },
        "streams": [asdict(stream) for stream in source.streams],
        "format": settings.format,
        "utterances": sum(record.utterances for record in records),
        "hours": sum(record.samples for record in records) / SAMPLE_RATE / 3600,
        "frames": sum(record.frames for record in records),
        "left_out": {
            "unusable": dict(unusable),
            "excluded": corpus.num_excluded,
            "too_short": {"count": len(corpus.too_short), "ids": corpus.too_short[:_MOST_NAMED]},
            "unreadable": {"count": len(failed), "reasons": dict(list(failed.items())[:_MOST_NAMED])},
        },
        "cut": {
            "utterances": sum(record.cut for record in records),
            "chunk_seconds": pieces.max_seconds,
            "context_seconds": pieces.context_seconds,
        },
        "shards": [
            {"files": list(record.files), "utterances": record.utterances, "frames": record.frames}
            for record in records
        ],
    }
    counted = [CodeStatistics.from_plain(record.statistics) for record in records if record.statistics is not None]
    if counted:
        total = counted[0]
        for part in counted[1:]:
            total = total + part
        content["statistics"] = total.as_dict(source.grid.frames_per_second)
    return content
