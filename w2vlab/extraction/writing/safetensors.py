"""Features and codes as named tensors, which PyTorch, NumPy and JAX read one at a time, without code in the file."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from w2vlab.extraction.sources import Stream
from w2vlab.extraction.writing.lists import with_ending
from w2vlab.extraction.writing.shared import describe, runs_of, whole_file
from w2vlab.extraction.writing.utterance import EncodedUtterance, Frames
from w2vlab.extraction.writing.writer import ShardWriter
from w2vlab.frame_grid import FrameGrid
from w2vlab.units.array_files import IDS_KEY, SAFETENSORS, SAMPLES_KEY
from w2vlab.units.description import COUNTS, METADATA


class SafetensorsWriter(ShardWriter):
    """Writes a file a shard, with a tensor for each utterance and stream: `ID/units`, `ID/codes` or `ID/layer 6`.

    The name of a stream has no `/`, so what comes before the last one is the id, whatever signs it has. The metadata
    have, under the key `w2vlab`, JSON with the ids in the order of the corpus, the samples of each utterance at 16 kHz,
    the grid, the codebooks and the provenance. With `collapse`, `ID/counts` has the frames of each run.
    """

    def __init__(
        self, streams: Sequence[Stream], *, grid: FrameGrid, collapse: bool = False, provenance: Mapping[str, Any]
    ) -> None:
        super().__init__(streams, grid=grid, collapse=collapse, provenance=provenance)
        self._description = json.loads(describe(streams, grid, collapse, provenance).as_json())

    def write(self, path: Path, utterances: Sequence[EncodedUtterance]) -> list[Path]:
        """Writes a shard as one file; see `ShardWriter`."""
        from safetensors import SafetensorError
        from safetensors.numpy import save_file

        description = {
            **self._description,
            IDS_KEY: [utterance.id for utterance in utterances],
            SAMPLES_KEY: [utterance.num_samples for utterance in utterances],
        }
        file = with_ending(path, SAFETENSORS)
        with whole_file(file) as unfinished:
            unfinished.write_bytes(b"")
            mode = stat.S_IMODE(unfinished.stat().st_mode)
            try:
                save_file(self._tensors(utterances), unfinished, {METADATA: json.dumps(description, sort_keys=True)})
            except SafetensorError as error:  # such as a full disk
                raise OSError(f"{file} cannot be written: {' '.join(str(error).split())}") from error
            os.chmod(unfinished, mode)  # the library makes a file that only its owner can read
        return [file]

    def finish(self, out: Path, shards: Sequence[Sequence[Path]], description: Mapping[str, Any]) -> list[Path]:
        """Returns the files of all shards: each can be read alone."""
        return [file for shard in shards for file in shard]

    def _tensors(self, utterances: Sequence[EncodedUtterance]) -> dict[str, Frames]:
        tensors = {}
        for utterance in utterances:
            for stream in self._streams:
                frames = utterance.frames[stream.name]
                if self._collapse:
                    frames, counts = runs_of(frames)
                    tensors[f"{utterance.id}/{COUNTS}"] = counts
                # The library writes the numbers of an array that is not contiguous in the wrong order.
                tensors[f"{utterance.id}/{stream.name}"] = np.ascontiguousarray(frames)
        return tensors
