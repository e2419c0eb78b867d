"""The ABX task on triphones: which items make its cells, and how far apart they are under some representation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from w2vlab.data.alignments import Alignment
from w2vlab.functional.abx import abx_error
from w2vlab.functional.dtw import angular_distances, dtw
from w2vlab.types import Seconds

SILENCES = frozenset({"pau", "sil", "sp", "spn", "SIL", "h#", "<eps>", ""})
"""Names of pauses: they are context of a phone, but no phone that is compared with others."""

Speakers = Literal["within", "across"]

_MAX_NUMBERS = 16_000_000
"""In the padded frames, and in the padded distances, of the pairs that are compared at once."""

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


@dataclass(frozen=True)
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
    def key(self) -> tuple[str, str, str]:
        """What the errors are averaged by: the pair of phones, and in it the speaker of A and B."""
        return self.phone, self.other, self.speaker


@dataclass(frozen=True)
class AbxTask:
    """Cells to measure.

    Attributes:
        speakers: Whether X is of the same speaker as A and B.
        cells: Those that were drawn.
        num_possible: Those that there are.
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
    max_cells: int = 1500,
    max_items: int = 10,
    max_speakers_x: int = 5,
    seed: int = 0,
    ends_on: Literal["triphone", "phone"] = "triphone",
) -> AbxTask:
    """Makes the cells of a corpus, and draws some of them.

    Within a speaker, a cell is a phone, another one, the two phones around them and a speaker who has said the first at
    least twice and the second at least once between the two. Across, X is said by somebody else. Pauses are neighbours,
    and no phones of their own.

    Args:
        alignments: The phones of each utterance, by its id.
        speakers: `within` or `across`.
        max_cells: Most cells, drawn evenly.
        max_items: Most items of a phone in a cell, drawn evenly; 10 in Libri-Light.
        max_speakers_x: Across: with how many other speakers' X each A is compared at most; 5 in Libri-Light.
        seed: Of all draws.
        ends_on: Whether an item reaches over its neighbours, as in ZeroSpeech and Libri-Light, or is the phone alone.
    """
    contexts = _items_by_context(alignments, ends_on)
    possible = list(_within(contexts) if speakers == "within" else _across(contexts, max_speakers_x, seed))
    draw = np.random.default_rng(seed)
    chosen = list(range(len(possible)))
    if len(possible) > max_cells:
        chosen = sorted(draw.choice(len(possible), max_cells, replace=False).tolist())
    cells = []
    for index in chosen:
        context, speaker, speaker_x, phone, other = possible[index]
        by_speaker = contexts[context]
        a, b = (_some(by_speaker[speaker][name], max_items, draw) for name in (phone, other))
        x = a if speakers == "within" else _some(by_speaker[speaker_x][phone], max_items, draw)
        cells.append(Cell(phone, other, *context, speaker, speaker_x, a, b, x))
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


def _across(contexts: _Contexts, max_speakers_x: int, seed: int) -> Iterable[_Key]:
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


def _some(items: Sequence[_T], most: int, draw: np.random.Generator) -> tuple[_T, ...]:
    if len(items) <= most:
        return tuple(items)
    return tuple(items[index] for index in sorted(draw.choice(len(items), most, replace=False).tolist()))


def measure(
    task: AbxTask,
    frames: Callable[[Item], Tensor],
    device: torch.device | str = "cpu",
    advance: Callable[[int], None] = lambda pairs: None,
) -> list[float]:
    """Returns the error of each cell of `task`, in [0, 1]; 0.5 is chance.

    Items are compared by the angles between their frames along the cheapest alignment (`functional.dtw`). All pairs of
    all cells are computed together, those of similar lengths at a time.

    Args:
        task: What to compare.
        frames: Gives the frames `(T, D)` of an item, at least one.
        device: Where to compute.
        advance: Is told of every so many pairs that are done.
    """
    items = sorted(task.items, key=lambda item: (item.utterance, item.start, item.end))
    number = {item: index for index, item in enumerate(items)}
    pairs: dict[tuple[int, int], int] = {}
    for cell in task.cells:
        for x in cell.x:
            for y in (*cell.a, *cell.b):
                pairs.setdefault((number[x], number[y]), len(pairs))
    sequences = [frames(item) for item in items]
    distances = _pair_distances(sequences, list(pairs), torch.device(device), advance)

    def table(xs: Sequence[Item], ys: Sequence[Item]) -> Tensor:
        return distances[torch.tensor([[pairs[number[x], number[y]] for y in ys] for x in xs])]

    within = task.speakers == "within"
    return [abx_error(table(cell.x, cell.a), table(cell.x, cell.b), same_items=within) for cell in task.cells]


def _pair_distances(
    sequences: Sequence[Tensor],
    pairs: Sequence[tuple[int, int]],
    device: torch.device,
    advance: Callable[[int], None],
) -> Tensor:
    result = torch.zeros(len(pairs))
    lengths = [len(sequence) for sequence in sequences]
    order = sorted(range(len(pairs)), key=lambda p: (max(lengths[i] for i in pairs[p]), lengths[pairs[p][0]]))
    for chunk in _chunks(order, [max(lengths[i] for i in pair) for pair in pairs], sequences[0].shape[1]):
        first, second = ([pairs[p][side] for p in chunk] for side in (0, 1))
        x, y = (pad_sequence([sequences[i] for i in side], batch_first=True).to(device) for side in (first, second))
        distances = angular_distances(x, y)  # (P, N, M)
        found = dtw(distances, [lengths[i] for i in first], [lengths[i] for i in second])
        result[torch.tensor(chunk)] = found.float().cpu()
        advance(len(chunk))
    return result


def _chunks(order: Sequence[int], longest: Sequence[int], width: int) -> Iterator[list[int]]:
    """Cuts `order`, by ascending length, into parts that fit the memory."""
    chunk: list[int] = []
    for pair in order:
        if chunk and (len(chunk) + 1) * longest[pair] * max(width, longest[pair]) > _MAX_NUMBERS:
            yield chunk
            chunk = []
        chunk.append(pair)
    if chunk:
        yield chunk
