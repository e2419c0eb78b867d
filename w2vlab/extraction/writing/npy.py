"""Frames as NumPy arrays, one a shard and stream, which can be mapped into memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from w2vlab.extraction.sources import Stream
from w2vlab.extraction.writing.utterance import EncodedUtterance
from w2vlab.frame_grid import FrameGrid
from w2vlab.utils.files import replace_atomically

INDEX = ".utterances.tsv"
"""End of the name of the file that says which rows an utterance has."""

_HEADER = "id\tfirst_row\tnum_frames\tnum_samples\tpath"


class NpyWriter:
    """Writes one array of all frames of a shard for each stream, `(sum of T, D)` or `(sum of T, G)`.

    `shard-00000.layer_6.npy` has the frames, and `shard-00000.utterances.tsv` the id, first row, frames, samples at 16
    kHz and path of each utterance, with a header line. `np.load(…, mmap_mode="r")` reads single utterances.

    Args:
        streams: What the frames of each utterance are.
        grid: Where the frames are in time; `encoding.json` has it.
        collapse: Must be false.
        provenance: `encoding.json` has it.

    Raises:
        ValueError: Repeats are to be joined.
    """

    def __init__(
        self, streams: Sequence[Stream], *, grid: FrameGrid, collapse: bool = False, provenance: Mapping[str, Any]
    ) -> None:
        if collapse:
            raise ValueError(
                "`collapse` must be false for the format npy, whose rows are frames. Use --format=parquet or fairseq."
            )
        self._streams = tuple(streams)

    def write(self, path: Path, utterances: Sequence[EncodedUtterance]) -> list[Path]:
        """Writes a shard; see `ShardWriter`."""
        files = []
        for stream in self._streams:
            frames = [utterance.frames[stream.name] for utterance in utterances]
            file = path.with_name(f"{path.name}.{stream.name.replace(' ', '_')}.npy")
            with replace_atomically(file, sync=True) as unfinished, unfinished.open("wb") as opened:
                _write_joined(opened, frames)
            files.append(file)
        index = path.with_name(path.name + INDEX)
        with (
            replace_atomically(index, sync=True) as unfinished,
            unfinished.open("w", encoding="utf-8", errors="surrogateescape") as lines,
        ):
            lines.write(f"{_HEADER}\n")
            row = 0
            for utterance in utterances:
                fields = utterance.id, row, utterance.num_frames, utterance.num_samples, utterance.path or ""
                lines.write("\t".join(str(field).replace("\t", " ").replace("\n", " ") for field in fields) + "\n")
                row += utterance.num_frames
        return [*files, index]

    def finish(self, out: Path, shards: Sequence[Sequence[Path]], description: Mapping[str, Any]) -> list[Path]:
        """Returns the files of all shards: `encoding.json` lists them."""
        return [file for shard in shards for file in shard]


def _write_joined(file: Any, frames: Sequence[np.ndarray]) -> None:
    """Writes arrays as one, along their first axis, without joining them in memory."""
    shape = sum(map(len, frames)), *frames[0].shape[1:]
    header = {"descr": np.lib.format.dtype_to_descr(frames[0].dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    for array in frames:
        file.write(memoryview(np.ascontiguousarray(array)).cast("B"))
