"""Lists of utterances beside files that have only frames, line i for utterance i: ids, and fairseq's manifest."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from w2vlab.extraction.writing.shared import whole_file
from w2vlab.extraction.writing.utterance import EncodedUtterance
from w2vlab.units.text_files import IDS, TSV


def write_lines(path: Path, lines: Iterator[str]) -> Path:
    """Writes a text file of lines; returns its path.

    Args:
        path: The file.
        lines: The lines, without ends.
    """
    with whole_file(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="\n") as out:
        out.writelines(f"{line}\n" for line in lines)
    return path


def write_lists(path: Path, utterances: Sequence[EncodedUtterance]) -> list[Path]:
    """Writes the ids of a shard, and its manifest if every utterance is a whole file.

    Args:
        path: Path of the files without their endings.
        utterances: The utterances.

    Returns:
        `.ids`, and `.tsv` where there is one.
    """
    files = [write_lines(with_ending(path, IDS), (utterance.id for utterance in utterances))]
    paths = [whole_path(utterance) for utterance in utterances]
    if None in paths:
        return files
    known = [found for found in paths if found is not None]
    root = os.path.commonpath([os.path.dirname(found) for found in known])
    rows = (
        f"{os.path.relpath(found, root)}\t{utterance.num_samples}"
        for found, utterance in zip(known, utterances, strict=True)
    )
    return [*files, write_lines(with_ending(path, TSV), _headed(root, rows))]


def join_lists(out: Path, shards: Sequence[Path]) -> list[Path]:
    """Joins the lists of all shards, a line at a time.

    Args:
        out: Path of the joined files without their endings.
        shards: Paths of the shards without their endings.

    Returns:
        `.ids`, and `.tsv` if every shard has one.
    """
    files = [
        write_lines(with_ending(out, IDS), (line for shard in shards for line in lines_of(with_ending(shard, IDS))))
    ]
    manifests = [with_ending(shard, TSV) for shard in shards]
    if not all(manifest.is_file() for manifest in manifests):
        return files
    roots = [next(lines_of(manifest)) for manifest in manifests]
    root = os.path.commonpath(roots)

    def rows() -> Iterator[str]:
        for manifest, own in zip(manifests, roots, strict=True):
            below = os.path.relpath(own, root)
            lines = lines_of(manifest)
            next(lines)
            for line in lines:
                yield line if below == "." else f"{below}/{line}"

    return [*files, write_lines(with_ending(out, TSV), _headed(root, rows()))]


def with_ending(path: Path, ending: str) -> Path:
    """Returns a path with an ending more; `with_suffix` would replace what follows a dot in its name."""
    return path.with_name(path.name + ending)


def lines_of(path: Path) -> Iterator[str]:
    """Yields the lines of a file that this module wrote, without ends."""
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            yield line.removesuffix("\n")


def whole_path(utterance: EncodedUtterance) -> str | None:
    """Returns the absolute path of the file that an utterance is; None if it is not a whole local file."""
    if utterance.path is None or not utterance.is_whole_file or "://" in utterance.path:
        return None
    return os.path.abspath(utterance.path)


def _headed(root: str, rows: Iterator[str]) -> Iterator[str]:
    yield root
    yield from rows
