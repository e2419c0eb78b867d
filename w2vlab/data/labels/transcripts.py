"""Reads the transcripts of a corpus, in characters or in phones."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lhotse.serialization import load_manifest_lazy
from lhotse.supervision import SupervisionSegment

from w2vlab.data.audio.probing import EXTENSIONS
from w2vlab.data.labels.alignments import TOLERANCE, find_alignments, read_festival_transcripts
from w2vlab.data.labels.lines import read_lines
from w2vlab.types import Seconds
from w2vlab.vocabulary import Units

SILENCES = frozenset({"h#", "pau", "sil", "sp"})
"""Names of pauses in label files; they are not phones."""

_STRESS = "+"
"""Mark after a stressed vowel in the texts of Festival voices."""

_APOSTROPHES = str.maketrans({"’": "'", "ʼ": "'"})  # noqa: RUF001

_EXPECTED_FILES = {
    "characters": (
        "a folder of audio in `.trans.txt` files, as LibriSpeech has them, or in `../etc/txt.done.data`, as a Festival "
        "voice has it; a `.tsv` manifest in a `.wrd` file beside it, line by line; a lhotse manifest in the "
        "supervisions of its cuts"
    ),
    "phones": (
        "a folder of audio in `.lab` files, beside it or in `../lab`, as a Festival voice has them; a `.tsv` manifest "
        "in a `.phn` file beside it, line by line; a lhotse manifest of cuts in the alignment `phone` of its "
        "supervisions"
    ),
}


class Transcripts:
    """Normalised transcripts by utterance.

    Args:
        texts: Text of each utterance, by its id, or by its id without the suffix of the audio file.
        units: Units of the texts; see `Vocabulary`.
    """

    def __init__(self, texts: Mapping[str, str], units: Units) -> None:
        normalizer = normalize if units == "characters" else _remove_silences
        self._texts = {name: transcript for name, text in texts.items() if (transcript := normalizer(text))}

    def __len__(self) -> int:
        return len(self._texts)

    def get(self, utterance_id: str) -> str | None:
        """Returns the transcript of an utterance; None if it has none, or an empty one."""
        if utterance_id in self._texts:
            return self._texts[utterance_id]
        stem, dot, suffix = utterance_id.rpartition(".")
        return self._texts.get(stem) if dot + suffix.lower() in EXTENSIONS else None


def read_transcripts(source: Path, units: Units) -> Transcripts:
    """Reads the transcripts of a corpus.

    Args:
        source: The folder or manifest.
        units: `characters` or `phones`.

    Raises:
        ValueError: There are no transcripts, or a file is malformed.
    """
    read = read_texts if units == "characters" else _read_phones
    transcripts = Transcripts(dict(read(source)), units)
    if not len(transcripts):
        raise ValueError(
            f"`corpus` must have transcripts for `model.units` {units}, but {source} has none. They are read: for "
            f"{_EXPECTED_FILES[units]}."
        )
    return transcripts


def normalize(text: str) -> str:
    """Returns lower-case words separated by one space.

    Words consist of letters with their marks, digits, and apostrophes inside a word; all other characters separate
    words.
    """
    text = unicodedata.normalize("NFC", text).lower().translate(_APOSTROPHES)
    kept = "".join(char if unicodedata.category(char)[0] in "LMN" or char == "'" else " " for char in text)
    words = (word.strip("'") for word in kept.split())
    return " ".join(word for word in words if word)


def _remove_silences(phones: str) -> str:
    return " ".join(phone for phone in phones.split() if phone.lower() not in SILENCES)


def read_texts(source: Path) -> Iterator[tuple[str, str]]:
    """Yields the texts of a corpus as they are in its files, with the ids of their utterances.

    Args:
        source: The folder or manifest. Ids of a folder may lack the suffix of the audio file.

    Raises:
        ValueError: A file is malformed.
    """
    if source.is_dir():
        festival = source.parent / "etc" / "txt.done.data"
        if source.name == "wav" and festival.is_file():
            yield from ((name, text.replace(_STRESS, "")) for name, text in read_festival_transcripts(festival).items())
        for path in sorted(source.rglob("*.trans.txt")):
            yield from _read_trans_txt(path, source)
    elif source.suffix == ".tsv":
        yield from _read_parallel_lines(source, ".wrd")
    else:
        yield from _read_supervisions(source)


def _read_phones(source: Path) -> Iterator[tuple[str, str]]:
    if source.suffix == ".tsv":
        yield from _read_parallel_lines(source, ".phn")
    else:
        found = find_alignments(source)
        yield from ((name, " ".join(alignment.phones)) for name, alignment in found.items())


def _read_trans_txt(path: Path, root: Path) -> Iterator[tuple[str, str]]:
    folder = path.parent.relative_to(root)
    for line in read_lines(path):
        name, _, text = line.partition(" ")
        if name:
            yield (folder / name).as_posix(), text


def _read_parallel_lines(manifest: Path, suffix: str) -> Iterator[tuple[str, str]]:
    path = manifest.with_suffix(suffix)
    if not path.is_file():
        return
    names = [line.partition("\t")[0] for line in read_lines(manifest)[1:] if line.strip()]
    lines = read_lines(path)
    if len(lines) != len(names):
        raise ValueError(
            f"{path} must have one line for each of the {len(names)} utterances of {manifest}, but has {len(lines)}."
        )
    yield from zip(names, lines, strict=True)


def _read_supervisions(manifest: Path) -> Iterator[tuple[str, str]]:
    cuts: Any = load_manifest_lazy(manifest)
    for cut in cuts:
        supervisions = sorted(getattr(cut, "supervisions", ()), key=lambda supervision: supervision.start)
        if all(_is_inside(supervision, cut.duration) for supervision in supervisions):
            yield cut.id, " ".join(supervision.text or "" for supervision in supervisions)


def _is_inside(supervision: SupervisionSegment, duration: Seconds) -> bool:
    """Returns whether a supervision is inside its cut; otherwise its text has words that are not in the audio."""
    return bool(supervision.start >= -TOLERANCE and supervision.end <= duration + TOLERANCE)
