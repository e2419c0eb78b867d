"""Units in text files, as fairseq reads and writes them: a line an utterance, in the order of a manifest.

`.km` has units separated by spaces, `.src` tuples of codes joined by `-`. The ids are in a file of the same name:
`.ids` (a line each, of `encode`), or otherwise the paths of a `.tsv` manifest (the root, then `PATH<tab>SAMPLES`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from w2vlab.types import RunError
from w2vlab.units.description import UnitsDescription, read_record
from w2vlab.units.parts import Integers, Part, shown

KM, SRC = ".km", ".src"
"""Endings of files of units, and of tuples of codes."""

IDS, TSV, DURATIONS = ".ids", ".tsv", ".durations"
"""Endings of the files beside one of codes; the last one has the frames of each run, if repeats are collapsed."""

DICTIONARY = "dict.{}.txt"
"""Name of fairseq's list of the units, beside the file."""

_BLOCK_BYTES = 4 * 2**20

_MAX_LINE_BYTES = 256 * 2**20
"""Longest line that is read: ten hours of sixteen codebooks have a tenth of it."""

_MAX_MANIFEST_BYTES = 4 * 2**30
"""Largest list of ids that is read; a million utterances have about 100 MB."""

_MAX_TOKEN_BYTES = 2**16

_PLAIN = b"0123456789 \n"


def describe_text(path: Path) -> UnitsDescription:
    """Returns what is known of a file: what `encode` recorded in its folder, or the entries of fairseq's dictionary.

    Args:
        path: The file.

    Raises:
        RunError: The record is damaged.
    """
    said = read_record(path)
    dictionary = path.with_name(DICTIONARY.format(path.suffix.removeprefix(".")))
    if said is None and path.suffix == KM and dictionary.is_file():
        return UnitsDescription(codebook_size=max(1, len(_lines(dictionary))), num_codebooks=1)
    return said or UnitsDescription()


def read_text(path: Path) -> Iterator[Part]:
    """Yields the units of a `.km` or `.src` file, some thousand utterances at a time.

    Args:
        path: The file.

    Raises:
        RunError: A line has something else than integers, there is no list of ids, or it has another number of lines.
    """
    ids, num_samples = read_ids(path)
    durations_path = path.with_suffix(DURATIONS)
    durations = _Durations(durations_path) if durations_path.is_file() else None
    first, groups = 0, 0
    for text, number in _blocks(path):
        lengths, codes = _parse(text, number, path, groups)
        if len(codes):
            groups = codes.shape[1]
        stop = first + len(lengths)
        if stop <= len(ids):
            yield Part(
                ids=ids[first:stop],
                lengths=lengths,
                codes=codes,
                counts=None if durations is None else durations.take(ids[first:stop], lengths),
                num_samples=None if num_samples is None else num_samples[first:stop],
            )
        first = stop
    if first != len(ids):
        raise RunError(
            f"{path} must have a line for each of the {len(ids):,} utterances of its list of ids beside it, but has "
            f"{first:,}. They are of different corpora, or one is truncated."
        )


def read_ids(path: Path) -> tuple[list[str], npt.NDArray[np.int64] | None]:
    """Returns the ids of the utterances of a file, and the samples of each if they are known.

    Args:
        path: The file, with `.ids` or `.tsv` beside it.

    Raises:
        RunError: There is neither, or they do not agree.
    """
    samples, names = _read_tsv(path.with_suffix(TSV))
    ids = path.with_suffix(IDS)
    if ids.is_file():
        names = _lines(ids)
        if samples is not None and len(samples) != len(names):
            raise RunError(
                f"{ids} and {path.with_suffix(TSV).name} must have the same utterances, but have {len(names):,} and "
                f"{len(samples):,}."
            )
    elif samples is None:
        raise RunError(
            f"{path} must have the ids of its lines beside it, in {path.with_suffix(TSV).name} (the manifest from "
            f"which it was made) or {ids.name} (an id a line), but has neither."
        )
    return names, samples


def _read_tsv(path: Path) -> tuple[npt.NDArray[np.int64] | None, list[str]]:
    if not path.is_file():
        return None, []
    lines = _lines(path)[1:]  # the first is the root
    names, samples = [], np.zeros(len(lines), dtype=np.int64)
    for number, line in enumerate(lines):
        name, tab, count = line.partition("\t")
        if not tab or not count.isascii() or not count.isdigit() or len(count) > 18:
            raise RunError(
                f"Line {number + 2} of {path} must be a path, a tab and a number of samples, but is {shown(line)!r}."
            )
        names.append(name)
        samples[number] = int(count)
    return samples, names


def _lines(path: Path) -> list[str]:
    if path.stat().st_size > _MAX_MANIFEST_BYTES:
        raise RunError(f"{path} must be at most {_MAX_MANIFEST_BYTES // 2**30} GiB, but is larger.")
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise RunError(f"{path} must be UTF-8 text, but is not: {error}.") from None
    lines = [line.removesuffix("\r") for line in lines]
    return lines if lines[-1] else lines[:-1]


def _blocks(path: Path) -> Iterator[tuple[bytes, int]]:
    """Yields whole lines, about `_BLOCK_BYTES` at a time, and the number of the first of them."""
    with path.open("rb") as file:
        rest, number = b"", 1
        while True:
            data = file.read(_BLOCK_BYTES)
            text = rest + (data or b"\n" * bool(rest))
            end = text.rfind(b"\n") + 1
            text, rest = text[:end], text[end:]
            if len(rest) > _MAX_LINE_BYTES:
                raise RunError(f"Line {number} of {path} must be the units of an utterance, but is too long.")
            if text:
                yield text, number
                number += text.count(b"\n")
            if not data:
                return


def _parse(text: bytes, number: int, path: Path, groups: int) -> tuple[Integers, Integers]:
    """Returns the tokens of each line, and their codes `(sum, G)`.

    Args:
        text: Whole lines.
        number: Number of the first line.
        path: The file, for messages.
        groups: Codebooks of the lines before; 0 if it is not known.
    """
    joined = path.suffix == SRC
    if not groups:
        first = text.lstrip()[:_MAX_TOKEN_BYTES].split(maxsplit=1)
        groups = 1 + first[0].count(b"-") if joined and first else 1
    parsed = None if text.translate(None, _PLAIN + b"-" * joined) else _parse_plain(text, groups)
    return _parse_slowly(text, number, path, groups) if parsed is None else parsed


def _parse_plain(text: bytes, groups: int) -> tuple[Integers, Integers] | None:
    """Parses lines as `encode` and fairseq write them, fast; returns None if there is anything else."""
    signs = np.frombuffer(text, dtype=np.uint8)
    is_newline, is_space, is_dash = signs == ord("\n"), signs == ord(" "), signs == ord("-")
    newlines = np.flatnonzero(is_newline)
    is_empty = np.diff(newlines, prepend=-1) == 1
    spaces = np.searchsorted(np.flatnonzero(is_space), newlines)
    lengths = np.where(is_empty, 0, np.diff(spaces, prepend=0) + 1)
    total = int(lengths.sum())
    if groups > 1:
        # After each code of a tuple there is a dash, and after the last one a space or a newline.
        is_newline[newlines[is_empty]] = False
        separators = is_dash[is_newline | is_space | is_dash]
        if len(separators) != total * groups:
            return None
        if (separators.reshape(total, groups) != (np.arange(groups) < groups - 1)).any():
            return None
        text = text.replace(b"-", b" ")
    elif is_dash.any():
        return None
    if not total:
        return lengths, np.zeros((0, groups), dtype=np.int64)
    values: Integers = np.fromstring(text.decode("ascii"), dtype=np.int64, sep=" ")
    # Spaces that separate nothing make fewer numbers than gaps.
    return (lengths, values.reshape(total, groups)) if len(values) == total * groups else None


def _parse_slowly(text: bytes, number: int, path: Path, groups: int) -> tuple[Integers, Integers]:
    """Parses lines with other spaces, or finds what is wrong."""
    lengths: list[int] = []
    codes: list[list[int]] = []
    for index, line in enumerate(text.split(b"\n")[:-1], start=number):
        tokens = line.split()
        lengths.append(len(tokens))
        for token in tokens:
            parts = token.split(b"-") if path.suffix == SRC else [token.removeprefix(b"-")]
            if len(parts) != groups or not all(part.isdigit() and len(part) < 19 for part in parts):
                kind = f"codes of {groups} codebooks joined by -" if path.suffix == SRC else "integers"
                found = shown(token.decode("utf-8", "backslashreplace"))
                raise RunError(f"Line {index} of {path} must be {kind}, separated by spaces, but has {found}.")
            codes.append([int(part) for part in (parts if path.suffix == SRC else [token])])
    return np.array(lengths, dtype=np.int64), np.array(codes, dtype=np.int64).reshape(-1, groups)


class _Durations:
    """The frames of each run, read in step with the units."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._blocks = _blocks(path)
        self._lengths: Integers = np.zeros(0, dtype=np.int64)
        self._values: Integers = np.zeros(0, dtype=np.int64)

    def take(self, ids: list[str], lengths: Integers) -> Integers:
        """Returns the frames of each run of the next utterances."""
        while len(self._lengths) < len(lengths):
            block = next(self._blocks, None)
            if block is None:
                missing = shown(ids[len(self._lengths)])
                raise RunError(f"{self._path} must have a line for each utterance, but ends before {missing}.")
            found, values = _parse(*block, self._path, 1)
            self._lengths = np.concatenate([self._lengths, found])
            self._values = np.concatenate([self._values, values[:, 0]])
        mine = self._lengths[: len(lengths)]
        if not np.array_equal(mine, lengths):
            row = int(np.flatnonzero(mine != lengths)[0])
            raise RunError(
                f"{self._path} must have as many numbers as there are units of {shown(ids[row])} "
                f"({int(lengths[row])}), but has {int(mine[row])}."
            )
        stop = int(mine.sum())
        taken, self._values, self._lengths = self._values[:stop], self._values[stop:], self._lengths[len(lengths) :]
        return taken
