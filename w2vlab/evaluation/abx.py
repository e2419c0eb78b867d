"""The ABX task on triphones: which items make its cells."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from w2vlab.data.alignments import Alignment
from w2vlab.functional.staged_draw import draw_in_stages
from w2vlab.types import Seconds

SILENCES = frozenset({"pau", "sil", "sp", "spn", "SIL", "h#", "<eps>", ""})
"""Names of pauses: they are context of a phone, but no phone that is compared with others."""

Speakers = Literal["within", "across"]

_T = TypeVar("_T")


@dataclass(frozen=True)
class Item:
    """One phone with its neighbours, as it was spoken once.

    Attributes:
        utterance: Id of the utterance.
        start: Where the phone before it begins, in seconds.
        end: Where the phone behind it ends, in seconds.
    """

    utterance: str
    start: Seconds
    end: Seconds


@dataclass(frozen=True, kw_only=True)
class Cell:
    """All triples (A, B, X) of two phones in the same neighbourhood.

    Attributes:
        phone: The phone of A and X.
        other: The phone of B.
        before: The phone before each of them.
        after: The phone behind each of them.
        speaker: Who speaks A and B.
        speaker_x: Who speaks X; the same speaker within, another across.
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
        """What the errors are averaged by: the pair of phones, in this order, and in it the speaker of A and B."""
        return (self.phone, self.other), self.speaker


@dataclass(frozen=True)
class AbxTask:
    """Cells to measure.

    Attributes:
        speakers: Whether X is of the same speaker as A and B.
        cells: All cells, or those that were drawn; those of a neighbourhood lie side by side.
        num_possible: Cells that there are.
    """

    speakers: Speakers
    cells: tuple[Cell, ...]
    num_possible: int

    @property
    def items(self) -> set[Item]:
        """Everything that must be represented."""
        return {item for cell in self.cells for item in (*cell.a, *cell.b, *cell.x)}


def make_task(
    alignments: Mapping[str, Alignment],
    speakers: Speakers = "within",
    max_cells: int | None = None,
    max_items: int | None = None,
    max_speakers_x: int | None = None,
    seed: int = 0,
    ends_on: Literal["triphone", "phone"] = "triphone",
) -> AbxTask:
    """Makes the cells of a corpus: all of them and nothing drawn, unless a limit is given.

    Within a speaker, a cell is a phone, another one, the two phones around them and a speaker who has said the first at
    least twice and the second at least once between the two. Across, X is said by somebody else. Pauses are neighbours,
    and no phones of their own.

    Where `max_cells` is fewer than there are, they are drawn in the stages in which their errors are averaged, pairs of
    phones first, so that the expected value of the average is that of all cells (`functional.staged_draw`). If all
    cells were drawn alike, rare pairs would be missing.

    Args:
        alignments: The phones of each utterance, by its id.
        speakers: `within` or `across`.
        max_cells: Most cells; None for all.
        max_items: Most items of a phone in a cell, drawn evenly; None for all. Libri-Light has 10.
        max_speakers_x: Across: with how many other speakers' X each A is compared at most, drawn evenly; None for all.
            Libri-Light has 5.
        seed: Of all draws.
        ends_on: Whether an item reaches over its neighbours, as in ZeroSpeech and Libri-Light, or is the phone alone.

    Reference:
        Cells and their average: Libri-Light, arXiv:1912.07875, and ZeroSpeech 2021, arXiv:2011.11588.
    """
    contexts = _items_by_context(alignments, ends_on)
    possible = list(_within(contexts) if speakers == "within" else _across(contexts, max_speakers_x, seed))
    draw = np.random.default_rng(seed)
    chosen = list(range(len(possible)))
    if max_cells is not None and len(possible) > max_cells:
        stages = [((phone, other), speaker) for _, speaker, _, phone, other in possible]
        chosen = draw_in_stages(stages, max_cells, draw)
    cells = []
    for index in chosen:
        context, speaker, speaker_x, phone, other = possible[index]
        by_speaker = contexts[context]
        a, b = (_some(by_speaker[speaker][name], max_items, draw) for name in (phone, other))
        x = a if speakers == "within" else _some(by_speaker[speaker_x][phone], max_items, draw)
        before, after = context
        cells.append(
            Cell(
                phone=phone,
                other=other,
                before=before,
                after=after,
                speaker=speaker,
                speaker_x=speaker_x,
                a=a,
                b=b,
                x=x,
            )
        )
    return AbxTask(speakers, tuple(cells), len(possible))


_Contexts = dict[tuple[str, str], dict[str, dict[str, list[Item]]]]
"""Items by (phone before, phone behind), speaker, and phone."""

_Key = tuple[tuple[str, str], str, str, str, str]


def _items_by_context(alignments: Mapping[str, Alignment], ends_on: str) -> _Contexts:
    contexts: _Contexts = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for utterance in sorted(alignments):
        alignment = alignments[utterance]
        for n in range(1, len(alignment) - 1):
            before, phone, after = alignment.phones[n - 1 : n + 2]
            if phone in SILENCES:
                continue
            first, last = (n - 1, n + 1) if ends_on == "triphone" else (n, n)
            item = Item(utterance, float(alignment.starts[first]), float(alignment.ends[last]))
            contexts[before, after][alignment.speaker][phone].append(item)
    return contexts


def _within(contexts: _Contexts) -> Iterable[_Key]:
    for context in sorted(contexts):
        for speaker, phones in sorted(contexts[context].items()):
            for phone in sorted(phones):
                if len(phones[phone]) > 1:
                    yield from ((context, speaker, speaker, phone, other) for other in sorted(phones) if other != phone)


def _across(contexts: _Contexts, max_speakers_x: int | None, seed: int) -> Iterable[_Key]:
    draw = np.random.default_rng((seed, 1))
    for context in sorted(contexts):
        by_speaker = contexts[context]
        for speaker in sorted(by_speaker):
            for phone in sorted(by_speaker[speaker]):
                others = [name for name in sorted(by_speaker) if name != speaker and phone in by_speaker[name]]
                for speaker_x in _some(others, max_speakers_x, draw):
                    for other in sorted(by_speaker[speaker]):
                        if other != phone:
                            yield context, speaker, speaker_x, phone, other


def _some(items: Sequence[_T], most: int | None, draw: np.random.Generator) -> tuple[_T, ...]:
    if most is None or len(items) <= most:
        return tuple(items)
    return tuple(items[index] for index in sorted(draw.choice(len(items), most, replace=False).tolist()))
