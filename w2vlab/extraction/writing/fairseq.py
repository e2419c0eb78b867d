"""Units and codes as text, in the files that fairseq trains HuBERT and BERT on codes with."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from w2vlab.extraction.sources import Stream
from w2vlab.extraction.writing.lists import join_lists, with_ending, write_lines, write_lists
from w2vlab.extraction.writing.shared import check_lines, runs_of, whole_file
from w2vlab.extraction.writing.utterance import EncodedUtterance, Frames
from w2vlab.extraction.writing.writer import ShardWriter
from w2vlab.frame_grid import FrameGrid
from w2vlab.units.text_files import DICTIONARY, DURATIONS, IDS, KM, SRC, TSV

logger = logging.getLogger(__name__)


class FairseqWriter(ShardWriter):
    """Writes a line an utterance: `units.km` with units, or `codes.src` with tuples of codes joined by `-`.

    Beside them are `.tsv`, fairseq's manifest (the root, then `PATH<tab>SAMPLES` a line; the samples are those at
    16 kHz), `.ids`, with the ids of the corpus, and for units `dict.km.txt`. Line i of each is utterance i. Where an
    utterance is not a whole file there is no `.tsv`. With `collapse`, a line has the runs, and `.durations` their
    frames.
    """

    def __init__(
        self, streams: Sequence[Stream], *, grid: FrameGrid, collapse: bool = False, provenance: Mapping[str, Any]
    ) -> None:
        if len(streams) != 1 or not streams[0].is_discrete:
            found = ", ".join(stream.name for stream in streams)
            raise ValueError(
                f"`format` must be npy for features as fairseq dumps them, or parquet, safetensors or lhotse, but is "
                f"fairseq for {found}: its text has codes or units only, and one stream of them."
            )
        super().__init__(streams, grid=grid, collapse=collapse, provenance=provenance)
        (self._stream,) = streams
        self._ending = KM if self._stream.dim == 1 else SRC

    def check(self, names: Iterable[str]) -> None:
        """Checks ids and paths; see `ShardWriter`."""
        names = tuple(names)
        super().check(names)
        check_lines(names)

    def write(self, path: Path, utterances: Sequence[EncodedUtterance]) -> list[Path]:
        """Writes a shard; see `ShardWriter`."""
        lists = write_lists(path, utterances)
        codes = [utterance.frames[self._stream.name] for utterance in utterances]
        if not self._collapse:
            return [write_lines(with_ending(path, self._ending), map(_line, codes)), *lists]
        runs = [runs_of(frames) for frames in codes]
        return [
            write_lines(with_ending(path, self._ending), (_line(found) for found, _ in runs)),
            write_lines(with_ending(path, DURATIONS), (_line(counts[:, None]) for _, counts in runs)),
            *lists,
        ]

    def finish(self, out: Path, shards: Sequence[Sequence[Path]], description: Mapping[str, Any]) -> list[Path]:
        """Joins the shards; see `ShardWriter`."""
        stem = out / self._stream.name
        stems = [_stem(shard, self._ending) for shard in shards]
        files = []
        for ending in (self._ending, *([DURATIONS] if self._collapse else [])):
            files.append(with_ending(stem, ending))
            _join(files[-1], [with_ending(shard, ending) for shard in stems])
        lists = join_lists(stem, stems)
        if not any(file.suffix == TSV for file in lists):
            logger.warning(
                "There is no %s%s: some utterances are not whole files, and fairseq reads no others. The ids are in "
                "%s%s.",
                stem.name,
                TSV,
                stem.name,
                IDS,
            )
        files += lists
        if self._stream.dim == 1:
            dictionary = out / DICTIONARY.format(KM.removeprefix("."))
            files.append(write_lines(dictionary, (f"{unit} 1" for unit in range(self._stream.codebook_size))))
        return files


def _line(codes: Frames) -> str:
    """Returns the codes `(T, G)` of an utterance as a line."""
    if not len(codes):
        return ""
    # The text of a list, without its brackets: many times faster than joining the texts of its numbers.
    if codes.shape[1] == 1:
        return str(codes[:, 0].tolist())[1:-1].replace(",", "")
    return str(codes.tolist())[2:-2].replace("], [", " ").replace(", ", "-")


def _stem(shard: Sequence[Path], ending: str) -> Path:
    """Returns the path of a shard without the endings of its files."""
    return next(file.with_name(file.name.removesuffix(ending)) for file in shard if file.name.endswith(ending))


def _join(file: Path, parts: Iterator[Path] | Sequence[Path]) -> None:
    with whole_file(file) as unfinished, unfinished.open("wb") as out:
        for part in parts:
            with part.open("rb") as lines:
                shutil.copyfileobj(lines, out)
