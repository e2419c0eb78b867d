"""What every format of files does, and which formats there are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from w2vlab.extraction.sources import Stream
from w2vlab.extraction.writing.shared import check_collapse, check_text
from w2vlab.extraction.writing.utterance import EncodedUtterance
from w2vlab.frame_grid import FrameGrid

_CLASSES = {
    "parquet": "w2vlab.extraction.writing.parquet.ParquetWriter",
    "npy": "w2vlab.extraction.writing.npy.NpyWriter",
    "safetensors": "w2vlab.extraction.writing.safetensors.SafetensorsWriter",
    "fairseq": "w2vlab.extraction.writing.fairseq.FairseqWriter",
    "lhotse": "w2vlab.extraction.writing.lhotse.LhotseWriter",
}

FORMATS = tuple(_CLASSES)
"""Names of the formats."""


class ShardWriter(ABC):
    """Writes the files of a format, a shard at a time.

    Args:
        streams: What the frames of each utterance are.
        grid: Where the frames are in time.
        collapse: Join repeats of codes, with their counts.
        provenance: What the frames are computed from, as plain data.

    Raises:
        ValueError: The format cannot hold the streams, or repeats of vectors cannot be joined.

    Attributes:
        folders: Folders of the result in which `write` puts further files, by name.
    """

    folders: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, streams: Sequence[Stream], *, grid: FrameGrid, collapse: bool = False, provenance: Mapping[str, Any]
    ) -> None:
        if collapse:
            check_collapse(streams)
        self._streams = streams
        self._grid = grid
        self._collapse = collapse
        self._provenance = provenance

    def check(self, names: Iterable[str]) -> None:
        """Checks that the format can hold ids and paths; the corpus is checked before anything is computed.

        Raises:
            RunError: One cannot be written; it is named.
        """
        check_text(names)

    @abstractmethod
    def write(self, path: Path, utterances: Sequence[EncodedUtterance]) -> list[Path]:
        """Writes a shard.

        Each file is written under a temporary name, synced to disk and renamed, so that it is complete or absent. The
        same utterances give the same bytes.

        Args:
            path: Path of the files without their suffix, `OUT/shard-00000`; the folder exists.
            utterances: Utterances in the order of the corpus, at least one; `check` accepts their names.

        Returns:
            The files of the shard, in `path.parent`, each with a name that begins with that of `path`.

        Raises:
            OSError: A file cannot be written; files of the shard that are there will be written again.
        """

    @abstractmethod
    def finish(self, out: Path, shards: Sequence[Sequence[Path]], description: Mapping[str, Any]) -> list[Path]:
        """Writes what belongs to the whole corpus, once, after the last shard, on one process.

        Args:
            out: The folder.
            shards: Files of each shard that has utterances, in the order of the corpus, as `write` returned them.
            description: What `encoding.json` will have.

        Returns:
            All files of the result. The caller removes the files of `shards` that are not among them, after it has
            written `encoding.json`; a call that was interrupted is repeated with the same arguments.

        Raises:
            OSError: A file cannot be written.
        """


def make_writer(
    format: str,
    streams: Sequence[Stream],
    collapse: bool = False,
    *,
    grid: FrameGrid,
    provenance: Mapping[str, Any],
) -> ShardWriter:
    """Returns the writer of a format.

    Args:
        format: One of `FORMATS`.
        streams: What the frames of each utterance are.
        collapse: Join repeats of codes, with their counts.
        grid: Where the frames are in time.
        provenance: What the frames are computed from, as plain data.

    Raises:
        ValueError: The format does not exist, or cannot hold the streams.
    """
    if format not in _CLASSES:
        raise ValueError(f"`format` must be one of {', '.join(FORMATS)}, but is {format}.")
    module, _, name = _CLASSES[format].rpartition(".")
    writer: ShardWriter = getattr(import_module(module), name)(
        tuple(streams), grid=grid, collapse=collapse, provenance=provenance
    )
    return writer
