"""Utterances to write, and writers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from w2vlab.extraction.sources import Stream
from w2vlab.extraction.writing.utterance import EncodedUtterance, code_type
from w2vlab.extraction.writing.writer import make_writer
from w2vlab.frame_grid import FrameGrid

GRID = FrameGrid(320, 400)
PROVENANCE = {"source": "model.ckpt", "what": "codes", "layer": None, "data": "Größe/ä.wav"}


def codes_stream(num_codebooks: int, codebook_size: int) -> Stream:
    """Returns the stream of units, or of tuples of codes."""
    name = "units" if num_codebooks == 1 else "codes"
    return Stream(name=name, dim=num_codebooks, codebook_size=codebook_size)


def utterances_of(stream: Stream, frames: Sequence[Any], root: str = "/corpus") -> list[EncodedUtterance]:
    """Returns utterances with ids such as `ä 0/x.wav` and these frames."""
    kind = code_type(stream.codebook_size) if stream.is_discrete else np.dtype(np.float32)
    return [
        EncodedUtterance(
            id=f"ä {number % 3}/{number}.wav",
            path=f"{root}/ä {number % 3}/{number}.wav",
            num_samples=400 + 320 * (len(array) - 1),
            frames={stream.name: np.asarray(array, dtype=kind).reshape(-1, stream.dim)},
        )
        for number, array in enumerate(frames)
    ]


def write(
    format: str,
    out: Path,
    stream: Stream,
    utterances: Sequence[EncodedUtterance],
    collapse: bool = False,
    shard_size: int = 2,
) -> list[Path]:
    """Writes utterances as `encode` does, in shards, and its record of the folder; returns the files of the result."""
    writer = make_writer(format, [stream], collapse, grid=GRID, provenance=PROVENANCE)
    shards = [
        writer.write(out / f"shard-{number:05d}", utterances[first : first + shard_size])
        for number, first in enumerate(range(0, len(utterances), shard_size))
    ]
    description: dict[str, Any] = {
        "grid": {"stride": GRID.stride, "receptive_field": GRID.receptive_field},
        "codebook_size": stream.codebook_size,
        "num_codebooks": stream.dim,
        "collapsed": collapse,
        "provenance": PROVENANCE,
    }
    files = writer.finish(out, shards, description)
    for file in {file for shard in shards for file in shard} - set(files):
        file.unlink()
    description["files"] = {file.name: file.stat().st_size for file in files}
    (out / "encoding.json").write_text(json.dumps(description), encoding="utf-8")
    return files
