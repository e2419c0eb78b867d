"""Features and codes as NumPy's arrays: all frames of a shard in one file, as fairseq dumps features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from w2vlab.extraction.sources import Stream
from w2vlab.extraction.writing.lists import with_ending, write_lines, write_lists
from w2vlab.extraction.writing.shared import check_lines, runs_of, whole_file
from w2vlab.extraction.writing.utterance import EncodedUtterance, Frames, code_type
from w2vlab.extraction.writing.writer import ShardWriter
from w2vlab.units.array_files import COUNTS_NPY, LEN, NPY
from w2vlab.utils.files import folder_name


class NpyWriter(ShardWriter):
    """Writes the frames of all utterances of a shard as one array, which NumPy can map into memory.

    `.npy` has the frames, `(sum of T, D)` float32 or `(sum of T, G)` int16 (int32 beyond 32,768 entries); `.len` the
    number of frames of each utterance, a line each; `.ids` the ids, and `.tsv` fairseq's manifest, where every
    utterance is a whole file. Line i of each is utterance i. Of several streams, each has an array with its name
    (`shard-00000.layer-6.npy`). With `collapse`, the rows are runs, and `.counts.npy` has their frames.
    """

    def check(self, names: Iterable[str]) -> None:
        """Checks ids and paths; see `ShardWriter`."""
        names = tuple(names)
        super().check(names)
        check_lines(names)

    def write(self, path: Path, utterances: Sequence[EncodedUtterance]) -> list[Path]:
        """Writes a shard; see `ShardWriter`."""
        files = write_lists(path, utterances)
        lengths = [utterance.num_frames for utterance in utterances]
        for stream in self._streams:
            frames = [utterance.frames[stream.name] for utterance in utterances]
            if self._collapse:
                runs = [runs_of(codes) for codes in frames]
                frames = [codes for codes, _ in runs]
                lengths = [len(codes) for codes in frames]
                files.append(_write(with_ending(path, COUNTS_NPY), [counts for _, counts in runs], (), np.int32))
            name = "" if len(self._streams) == 1 else f".{stream_name(stream)}"
            kind = code_type(stream.codebook_size) if stream.is_discrete else np.float32
            files.append(_write(with_ending(path, f"{name}{NPY}"), frames, (stream.dim,), kind))
        return [*files, write_lines(with_ending(path, LEN), map(str, lengths))]

    def finish(self, out: Path, shards: Sequence[Sequence[Path]], description: Mapping[str, Any]) -> list[Path]:
        """Returns the files of all shards, which stay apart; fairseq's dumps have shards, too."""
        return [file for shard in shards for file in shard]


def stream_name(stream: Stream) -> str:
    """Returns the name of a stream in the name of a file: `layer-6`."""
    return folder_name(stream.name.replace(" ", "-"))


def _write(path: Path, frames: Sequence[Frames], inner: tuple[int, ...], kind: Any) -> Path:
    """Writes an array from its pieces, without a copy of all of them."""
    kind = np.dtype(kind)
    header = {
        "descr": np.lib.format.dtype_to_descr(kind),
        "fortran_order": False,
        "shape": (sum(map(len, frames)), *inner),
    }
    with whole_file(path) as unfinished, unfinished.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for piece in frames:
            file.write(np.ascontiguousarray(piece, dtype=kind).data)
    return path
