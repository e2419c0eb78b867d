"""What is said in the utterances of a corpus, in characters or in phones."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lhotse.serialization import load_manifest_lazy
from lhotse.supervision import SupervisionSegment

from w2vlab.data.alignments import TOLERANCE, find_alignments, read_texts
from w2vlab.data.lines import read_lines
from w2vlab.data.probing import EXTENSIONS
from w2vlab.types import Seconds
from w2vlab.vocabulary import Units

SILENCES = frozenset({"h#", "pau", "sil", "sp"})
"""What label files call a pause; no phone."""

_STRESS = "+"
"""How texts of Festival voices mark the stressed vowel in front of it."""

_APOSTROPHES = str.maketrans({"’": "'", "ʼ": "'"})  # noqa: RUF001

_WHERE = {
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
    """What is said in each utterance that a corpus tells it of.

    Args:
        texts: By the utterance's id; by the id without the ending of an audio file, where that is not there.
        units: What they are told in; see `Vocabulary`.
    """

    def __init__(self, texts: Mapping[str, str], units: Units) -> None:
        plain = normalized if units == "characters" else _spoken
        self._texts = {name: transcript for name, text in texts.items() if (transcript := plain(text))}

    def __len__(self) -> int:
        return len(self._texts)

    def of(self, utterance_id: str) -> str | None:
        """Returns the transcript of an utterance; None where it has none, or an empty one."""
        if utterance_id in self._texts:
            return self._texts[utterance_id]
        name, dot, ending = utterance_id.rpartition(".")
        return self._texts.get(name) if dot + ending.lower() in EXTENSIONS else None


def read_transcripts(source: Path, units: Units) -> Transcripts:
    """Reads the transcripts of a corpus.

    Args:
        source: The folder or manifest that the corpus is.
        units: What they are told in.

    Raises:
        ValueError: There is none, or a file is malformed.
    """
    read = _texts_of if units == "characters" else _phones_of
    transcripts = Transcripts(dict(read(source)), units)
    if not len(transcripts):
        raise ValueError(
            f"`corpus` must come with transcripts for `model.units` {units}, but {source} has none. They are looked "
            f"for: for {_WHERE[units]}."
        )
    return transcripts


def normalized(text: str) -> str:
    """Returns words in small letters with one space between them.

    Letters with their marks, digits and apostrophes inside a word are what words are made of; everything else ends one.
    """
    text = unicodedata.normalize("NFC", text).lower().translate(_APOSTROPHES)
    kept = "".join(char if unicodedata.category(char)[0] in "LMN" or char == "'" else " " for char in text)
    words = (word.strip("'") for word in kept.split())
    return " ".join(word for word in words if word)


def _spoken(phones: str) -> str:
    return " ".join(phone for phone in phones.split() if phone.lower() not in SILENCES)


def _texts_of(source: Path) -> Iterator[tuple[str, str]]:
    if source.is_dir():
        festival = source.parent / "etc" / "txt.done.data"
        if source.name == "wav" and festival.is_file():
            yield from ((name, text.replace(_STRESS, "")) for name, text in read_texts(festival).items())
        for path in sorted(source.rglob("*.trans.txt")):
            yield from _trans_txt(path, source)
    elif source.suffix == ".tsv":
        yield from _lines_beside(source, ".wrd")
    else:
        yield from _supervisions(source)


def _phones_of(source: Path) -> Iterator[tuple[str, str]]:
    if source.suffix == ".tsv":
        yield from _lines_beside(source, ".phn")
    else:
        found = find_alignments(source)
        yield from ((name, " ".join(alignment.phones)) for name, alignment in found.items())


def _trans_txt(path: Path, root: Path) -> Iterator[tuple[str, str]]:
    folder = path.parent.relative_to(root)
    for line in read_lines(path):
        name, _, text = line.partition(" ")
        if name:
            yield (folder / name).as_posix(), text


def _lines_beside(manifest: Path, ending: str) -> Iterator[tuple[str, str]]:
    path = manifest.with_suffix(ending)
    if not path.is_file():
        return
    names = [line.partition("\t")[0] for line in read_lines(manifest)[1:] if line.strip()]
    lines = read_lines(path)
    if len(lines) != len(names):
        raise ValueError(f"{path} must have a line for each of the {len(names)} of {manifest}, but has {len(lines)}.")
    yield from zip(names, lines, strict=True)


def _supervisions(manifest: Path) -> Iterator[tuple[str, str]]:
    cuts: Any = load_manifest_lazy(manifest)
    for cut in cuts:
        supervisions = sorted(getattr(cut, "supervisions", ()), key=lambda supervision: supervision.start)
        if all(_is_inside(supervision, cut.duration) for supervision in supervisions):
            yield cut.id, " ".join(supervision.text or "" for supervision in supervisions)


def _is_inside(supervision: SupervisionSegment, duration: Seconds) -> bool:
    """Tells whether a cut has all of what is said; otherwise its text says more than its audio."""
    return bool(supervision.start >= -TOLERANCE and supervision.end <= duration + TOLERANCE)
