"""The ABX task on triphones: selects the items of its cells."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from w2vlab.data.labels.alignments import Alignment
from w2vlab.functional.measures.staged_draw import multistage_sample
from w2vlab.types import Seconds

SILENCES = frozenset({"pau", "sil", "sp", "spn", "SIL", "h#", "<eps>", ""})
"""Names of pauses; they may be the context of a phone, but are not compared themselves."""

Speakers = Literal["within", "across"]

_T = TypeVar("_T")


@dataclass(frozen=True)
class Item:
    """One realisation of a phone with its neighbours.

    Attributes:
        utterance: Id of the utterance.
        start: Start of the previous phone, in seconds.
        end: End of the next phone, in seconds.
    """

    utterance: str
    start: Seconds
    end: Seconds


@dataclass(frozen=True, kw_only=True)
class Cell:
    """All triples (A, B, X) of two phones in the same context.

    Attributes:
        phone: The phone of A and X.
        other: The phone of B.
        before: The phone before each of them.
        after: The phone after each of them.
        speaker: Speaker of A and B.
        speaker_x: Speaker of X; the same within speakers, another one across speakers.
        a: Items of `phone`.
        b: Items of `other`.
        x: Items of `phone`; the same as `a` within a speaker.
    """

    phone: str
    other: str
    before: str
    after: str
    speaker: str
    speaker_x: str
    a: tuple[Item, ...]
    b: tuple[Item, ...]
    x: tuple[Item, ...]

    @property
    def key(self) -> tuple[tuple[str, str], str]:
        """Stages of the average of the errors: the ordered pair of phones, and the speaker of A and B."""
        return (self.phone, self.other), self.speaker


@dataclass(frozen=True)
class AbxTask:
    """The cells of an ABX task.

    Attributes:
        speakers: Whether X is of the same speaker as A and B (`within`) or of another one (`across`).
        cells: All cells, or a sample of them; cells of the same context are adjacent.
        num_possible: Number of all cells.
    """

    speakers: Speakers
    cells: tuple[Cell, ...]
    num_possible: int

    @property
    def items(self) -> set[Item]:
        """All items of all cells."""
        return {item for cell in self.cells for item in (*cell.a, *cell.b, *cell.x)}


def make_task(
    alignments: Mapping[str, Alignment],
    speakers: Speakers = "within",
    max_cells: int | None = None,
    max_items: int | None = None,
    max_speakers_x: int | None = None,
    seed: int = 0,
    item_extent: Literal["triphone", "phone"] = "triphone",
) -> AbxTask:
    """Makes the cells of a corpus; without limits these are all cells, and nothing is random.

    Within speakers, a cell is given by two phones, a context of two phones around them, and a speaker with at least two
    realisations of the first phone and one of the second in that context. Across speakers, X is of another speaker.
    Pauses may be in the context, but are not compared.

    If there are more than `max_cells`, they are sampled in the stages in which their errors are averaged, pairs of
    phones first, so that the expected value of the average is that of all cells (`functional.measures.staged_draw`).
    With simple random sampling rare pairs would be missing.

    Args:
        alignments: The phones of each utterance, by its id.
        speakers: `within` or `across`.
        max_cells: Maximum number of cells; None for all.
        max_items: Maximum number of items of a phone in a cell, sampled uniformly; None for all. Libri-Light uses 10.
        max_speakers_x: Across speakers: maximum number of speakers of X for each A, sampled uniformly; None for all.
            Libri-Light uses 5.
        seed: Seed of all samples.
        item_extent: `triphone`: items include their neighbours, as in ZeroSpeech and Libri-Light; `phone`: they do not.

    Reference:
        Cells and their average: Libri-Light, arXiv:1912.07875, and ZeroSpeech 2021, arXiv:2011.11588.
    """
    contexts = _items_by_context(alignments, item_extent)
    if speakers == "within":
        possible = list(_within_speaker_keys(contexts))
    else:
        possible = list(_across_speaker_keys(contexts, max_speakers_x, seed))
    generator = np.random.default_rng(seed)
    chosen = list(range(len(possible)))
    if max_cells is not None and len(possible) > max_cells:
        stages = [((phone, other), speaker) for _, speaker, _, phone, other in possible]
        chosen = multistage_sample(stages, max_cells, generator)
    cells = []
    for index in chosen:
        (before, after), speaker, speaker_x, phone, other = possible[index]
        by_speaker = contexts[before, after]
        a, b = (_subsample(by_speaker[speaker][name], max_items, generator) for name in (phone, other))
        x = a if speakers == "within" else _subsample(by_speaker[speaker_x][phone], max_items, generator)
        cell = Cell(
            phone=phone, other=other, before=before, after=after, speaker=speaker, speaker_x=speaker_x, a=a, b=b, x=x
        )
        cells.append(cell)
    return AbxTask(speakers, tuple(cells), len(possible))


_Contexts = dict[tuple[str, str], dict[str, dict[str, list[Item]]]]
"""Items by (previous phone, next phone), speaker, and phone."""

_Key = tuple[tuple[str, str], str, str, str, str]
"""Context, speaker of A and B, speaker of X, phone of A and X, phone of B."""


def _items_by_context(alignments: Mapping[str, Alignment], item_extent: str) -> _Contexts:
    contexts: _Contexts = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for utterance in sorted(alignments):
        alignment = alignments[utterance]
        for n in range(1, len(alignment) - 1):
            before, phone, after = alignment.phones[n - 1 : n + 2]
            if phone in SILENCES:
                continue
            first, last = (n - 1, n + 1) if item_extent == "triphone" else (n, n)
            item = Item(utterance, float(alignment.starts[first]), float(alignment.ends[last]))
            contexts[before, after][alignment.speaker][phone].append(item)
    return contexts


def _within_speaker_keys(contexts: _Contexts) -> Iterable[_Key]:
    for context in sorted(contexts):
        for speaker, phones in sorted(contexts[context].items()):
            for phone in sorted(phones):
                if len(phones[phone]) > 1:
                    yield from ((context, speaker, speaker, phone, other) for other in sorted(phones) if other != phone)


def _across_speaker_keys(contexts: _Contexts, max_speakers_x: int | None, seed: int) -> Iterable[_Key]:
    generator = np.random.default_rng((seed, 1))
    for context in sorted(contexts):
        by_speaker = contexts[context]
        for speaker in sorted(by_speaker):
            for phone in sorted(by_speaker[speaker]):
                others = [name for name in sorted(by_speaker) if name != speaker and phone in by_speaker[name]]
                for speaker_x in _subsample(others, max_speakers_x, generator):
                    for other in sorted(by_speaker[speaker]):
                        if other != phone:
                            yield context, speaker, speaker_x, phone, other


def _subsample(items: Sequence[_T], size: int | None, generator: np.random.Generator) -> tuple[_T, ...]:
    if size is None or len(items) <= size:
        return tuple(items)
    return tuple(items[index] for index in sorted(generator.choice(len(items), size, replace=False).tolist()))
