"""Codes and features in Parquet files, one row an utterance."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from w2vlab.extraction.sources import Stream
from w2vlab.extraction.writing.shared import (
    describe,
    joint_ids,
    runs_of,
    whole_file,
)
from w2vlab.extraction.writing.utterance import EncodedUtterance, code_type
from w2vlab.extraction.writing.writer import ShardWriter
from w2vlab.frame_grid import FrameGrid
from w2vlab.units.description import COUNTS, METADATA
from w2vlab.units.parquet_files import ID, JOINT, NUM_SAMPLES, PATH, START

logger = logging.getLogger(__name__)

_GROUP_BYTES = 64 * 2**20
"""Values in a row group, at most, unless one utterance has more; readers take a group at a time."""


class ParquetWriter(ShardWriter):
    """Writes a file a shard, which pandas, polars, datasets and `read_units` read alike.

    The columns are `id`, `path` (null if the audio is not one file), `start` (where the utterance begins in that file,
    in seconds), `num_samples` (at 16 kHz) and one a stream by its name: of vectors, a list of fixed-size lists of
    float32; of one codebook, a list of int16, or of int32 beyond 32,768 entries; of G codebooks, a list of fixed-size
    lists of G of them, and `joint`, the tuple as one integer: its digits in base V, that of the first codebook first.
    Where V^G is beyond 64 bits there is no `joint`. With `collapse`, `units_counts` or `codes_counts` has the frames of
    each run. The metadata of the schema have, under the key `w2vlab`, the grid, the codebooks and the provenance as
    JSON.
    """

    def __init__(
        self, streams: Sequence[Stream], *, grid: FrameGrid, collapse: bool = False, provenance: Mapping[str, Any]
    ) -> None:
        super().__init__(streams, grid=grid, collapse=collapse, provenance=provenance)
        fields = [
            pa.field(ID, pa.string(), nullable=False),
            pa.field(PATH, pa.string()),
            pa.field(START, pa.float64(), nullable=False),
            pa.field(NUM_SAMPLES, pa.int64(), nullable=False),
        ]
        for stream in streams:
            fields += _fields(stream, collapse)
            if stream.is_discrete and stream.dim > 1 and _joint_type(stream) is None:
                logger.warning(
                    "The Parquet files have no column `%s`: tuples of %d codes of %d entries do not fit into 64 bits.",
                    JOINT,
                    stream.dim,
                    stream.codebook_size,
                )
        said = describe(streams, grid, collapse, provenance)
        self._schema = pa.schema(fields, metadata={METADATA: said.as_json()})

    def write(self, path: Path, utterances: Sequence[EncodedUtterance]) -> list[Path]:
        """Writes a shard as one file; see `ShardWriter`."""
        file = path.with_name(f"{path.name}.parquet")
        # One thread and no statistics of lists, which nobody asks for: the bytes depend on the utterances alone.
        with (
            whole_file(file) as unfinished,
            pq.ParquetWriter(unfinished, self._schema, compression="zstd", write_statistics=[ID, NUM_SAMPLES]) as out,
        ):
            for group in _groups(utterances):
                out.write_batch(self._batch(group), row_group_size=len(group))
        return [file]

    def finish(self, out: Path, shards: Sequence[Sequence[Path]], description: Mapping[str, Any]) -> list[Path]:
        """Returns the files of all shards: together they are the data set, without another file."""
        return [file for shard in shards for file in shard]

    def _batch(self, utterances: Sequence[EncodedUtterance]) -> pa.RecordBatch:
        columns: list[pa.Array] = [
            pa.array([utterance.id for utterance in utterances], pa.string()),
            pa.array([utterance.path for utterance in utterances], pa.string()),
            pa.array([utterance.start for utterance in utterances], pa.float64()),
            pa.array([utterance.num_samples for utterance in utterances], pa.int64()),
        ]
        for stream in self._streams:
            frames = [utterance.frames[stream.name] for utterance in utterances]
            counts: list[Any] = []
            if self._collapse:
                frames, counts = map(list, zip(*map(runs_of, frames), strict=True))
            kind = self._schema.field(stream.name).type
            columns.append(_lists(frames, kind, stream))
            if stream.is_discrete and (joint := _joint_type(stream)) is not None:
                ids = [joint_ids(codes, stream.codebook_size) for codes in frames]
                columns.append(_lists(ids, pa.list_(joint), stream))
            if counts:
                columns.append(_lists(counts, pa.list_(pa.int32()), stream))
        return pa.RecordBatch.from_arrays(columns, schema=self._schema)


def _fields(stream: Stream, collapse: bool) -> list[pa.Field]:
    """Returns the columns of a stream."""
    if not stream.is_discrete:
        return [pa.field(stream.name, pa.list_(pa.list_(pa.float32(), stream.dim)), nullable=False)]
    code = pa.from_numpy_dtype(code_type(stream.codebook_size))
    frame = code if stream.dim == 1 else pa.list_(code, stream.dim)
    fields = [pa.field(stream.name, pa.list_(frame), nullable=False)]
    if (joint := _joint_type(stream)) is not None:
        fields.append(pa.field(JOINT, pa.list_(joint), nullable=False))
    if collapse:
        fields.append(pa.field(f"{stream.name}_{COUNTS}", pa.list_(pa.int32()), nullable=False))
    return fields


def _joint_type(stream: Stream) -> pa.DataType | None:
    """Returns the type of the tuples of codes as one integer; None for one codebook, and for tuples that do not fit."""
    tuples = stream.codebook_size**stream.dim
    if stream.dim == 1 or tuples > 2**63:
        return None
    return pa.int32() if tuples <= 2**31 else pa.int64()


def _lists(frames: Sequence[Any], kind: pa.ListType, stream: Stream) -> pa.ListArray:
    """Returns a column from the offsets and the flat values, without a Python object a frame."""
    offsets = np.zeros(len(frames) + 1, dtype=np.int32)
    np.cumsum([len(values) for values in frames], out=offsets[1:])
    inner = kind.value_type
    leaf = inner.value_type if pa.types.is_fixed_size_list(inner) else inner
    flat = pa.array(np.concatenate(frames).reshape(-1), leaf)
    if inner is not leaf:
        flat = pa.FixedSizeListArray.from_arrays(flat, type=inner)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat, type=kind)


def _groups(utterances: Sequence[EncodedUtterance]) -> list[list[EncodedUtterance]]:
    """Splits a shard into row groups."""
    groups: list[list[EncodedUtterance]] = [[]]
    held = 0
    for utterance in utterances:
        size = sum(frames.nbytes for frames in utterance.frames.values())
        if groups[-1] and held + size > _GROUP_BYTES:
            groups.append([])
            held = 0
        groups[-1].append(utterance)
        held += size
    return groups
