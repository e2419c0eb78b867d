"""ABX errors of cells: how far their items are apart under some representation."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from w2vlab.evaluation.abx import AbxTask, Cell, Item
from w2vlab.functional.abx import Floats, StagedMean, count_triples
from w2vlab.functional.dtw import angular_distances, dtw

Ints = npt.NDArray[np.int64]

_MAX_NUMBERS = 1_000_000
"""In the padded frames, and in the padded distances, of the pairs that are compared at once: they fit a CPU's cache."""

_MAX_PAIRS = 100_000
"""Distances that are kept, as long as no single neighbourhood has more."""


@dataclass(frozen=True)
class AbxErrors:
    """Errors of the cells of a task, and what is left of them without each utterance.

    Attributes:
        errors: Of each cell, in [0, 1]; 0.5 is chance.
        mean: Averages them: over neighbourhoods, then speakers, then pairs of phones.
        utterances: Ids of the utterances that items come from.
        triples: Triples (A, B, X) of each cell.
        cell: Places of cells, ascending for each entry of the three below, shape `(E,)`.
        utterance: Places of utterances that have items in these cells.
        wrong_with: Triples with an item of the utterance in which X is nearer to B; equally near counts half.
        triples_with: All triples with an item of the utterance.
    """

    errors: Floats
    mean: StagedMean
    utterances: tuple[str, ...]
    triples: Floats
    cell: Ints
    utterance: Ints
    wrong_with: Floats
    triples_with: Floats

    @property
    def value(self) -> float:
        """The error in stages; NaN without cells."""
        return self.mean(self.errors)

    def without_each(self) -> Floats:
        """Returns the error in stages without each utterance, `(U,)`: triples with its items are not there.

        A cell that has no other triples is not there either. NaN where nothing is left.
        """
        found = np.empty(len(self.utterances))
        order = np.argsort(self.utterance, kind="stable")
        stops = np.cumsum(np.bincount(self.utterance, minlength=len(self.utterances)))
        for number, stop in enumerate(stops):
            entries = order[stops[number - 1] if number else 0 : stop]
            cells = self.cell[entries]
            errors, present = self.errors.copy(), np.ones(len(self.errors))
            left = self.triples[cells] - self.triples_with[entries]
            wrong = errors[cells] * self.triples[cells] - self.wrong_with[entries]
            errors[cells] = np.divide(wrong, left, out=np.zeros_like(wrong), where=left > 0)
            present[cells] = left > 0
            found[number] = self.mean(errors, present)
        return found


def measure(
    task: AbxTask,
    frames: Callable[[Item], Tensor],
    device: torch.device | str = "cpu",
    advance: Callable[[float], None] = lambda cells: None,
) -> AbxErrors:
    """Returns the errors of the cells of `task`.

    Items are compared by the angles between their frames along the cheapest alignment (`functional.dtw`). Cells of the
    same neighbourhood share distances, so what is computed together, and kept until then, is some neighbourhoods:
    memory does not grow with the number of cells.

    Args:
        task: What to compare.
        frames: Gives the frames `(T, D)` of an item, at least one.
        device: Where to compute.
        advance: Is called with every so many cells that are done.
    """
    numbers: dict[str, int] = {}
    for cell in task.cells:
        for item in (*cell.a, *cell.b, *cell.x):
            numbers.setdefault(item.utterance, len(numbers))
    within = task.speakers == "within"
    shares, places, owners = [], [], []
    for first, stop in _blocks(task.cells):
        cells = task.cells[first:stop]
        for place, (cell, (to_same, to_other)) in enumerate(zip(cells, _distances(cells, frames, device), strict=True)):
            units = [np.array([numbers[item.utterance] for item in items]) for items in (cell.x, cell.a, cell.b)]
            here, local = np.unique(np.concatenate(units), return_inverse=True)
            x, a, b = np.split(local, np.cumsum([len(cell.x), len(cell.a)]))
            shares.append(count_triples(to_same, to_other, within, x, a, b, len(here)))
            places.append(np.full(len(here), first + place))
            owners.append(here)
        advance(len(cells))
    triples = np.array([counts.triples for counts in shares])
    nothing = np.zeros(0)
    return AbxErrors(
        np.array([counts.wrong for counts in shares]) / triples,
        StagedMean([cell.key for cell in task.cells]),
        tuple(numbers),
        triples,
        np.concatenate([nothing.astype(np.int64), *places]),
        np.concatenate([nothing.astype(np.int64), *owners]),
        np.concatenate([nothing, *(counts.wrong_with for counts in shares)]),
        np.concatenate([nothing, *(counts.triples_with for counts in shares)]),
    )


def _blocks(cells: Sequence[Cell]) -> Iterator[tuple[int, int]]:
    """Cuts cells into parts of about `_MAX_PAIRS` distances, between neighbourhoods."""
    first = pairs = 0
    for place, cell in enumerate(cells):
        before = cells[place - 1]
        if pairs > _MAX_PAIRS and (cell.before, cell.after) != (before.before, before.after):
            yield first, place
            first, pairs = place, 0
        pairs += len(cell.x) * (len(cell.a) + len(cell.b))
    if cells:
        yield first, len(cells)


def _distances(
    cells: Sequence[Cell], frames: Callable[[Item], Tensor], device: torch.device | str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields the distances of each X from each A and from each B of each cell; a pair of items is measured once."""
    same_place = itertools.groupby(cells, key=lambda cell: (cell.before, cell.after))
    neighbourhoods = [_Neighbourhood.of(list(group)) for _, group in same_place]
    sequences = [frames(item) for neighbourhood in neighbourhoods for item in neighbourhood.items]
    offsets = itertools.accumulate((len(neighbourhood.items) for neighbourhood in neighbourhoods), initial=0)
    pairs = torch.cat(
        [n.wanted.nonzero() + offset for n, offset in zip(neighbourhoods, offsets, strict=False)]
    )  # (P, 2)
    distances = _pair_distances(sequences, pairs, torch.device(device))
    counts = [int(neighbourhood.wanted.sum()) for neighbourhood in neighbourhoods]
    for neighbourhood, part in zip(neighbourhoods, distances.split(counts), strict=True):
        table = torch.zeros(neighbourhood.wanted.shape)
        table[neighbourhood.wanted] = part
        for x, a, b in neighbourhood.sides:
            yield table[x[:, None], a], table[x[:, None], b]


@dataclass(frozen=True)
class _Neighbourhood:
    """Cells that share items: their items, which of these are compared, and the places of X, A and B of each cell."""

    items: list[Item]
    wanted: Tensor
    sides: list[tuple[Tensor, Tensor, Tensor]]

    @classmethod
    def of(cls, cells: Sequence[Cell]) -> _Neighbourhood:
        items = sorted({i for c in cells for i in (*c.a, *c.b, *c.x)}, key=lambda i: (i.utterance, i.start, i.end))
        number = {item: place for place, item in enumerate(items)}

        def places(side: Sequence[Item]) -> Tensor:
            return torch.tensor([number[item] for item in side])

        sides = [(places(cell.x), places(cell.a), places(cell.b)) for cell in cells]
        wanted = torch.zeros(len(items), len(items), dtype=torch.bool)
        for x, a, b in sides:
            wanted[x[:, None], a] = wanted[x[:, None], b] = True
        wanted.fill_diagonal_(False)  # an item is not compared with itself
        return cls(items, wanted, sides)


def _pair_distances(sequences: Sequence[Tensor], pairs: Tensor, device: torch.device) -> Tensor:
    result = torch.zeros(len(pairs))
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    both = lengths[pairs]  # (P, 2)
    longest = both.amax(dim=1)
    order = torch.from_numpy(np.lexsort((both[:, 0].numpy(), longest.numpy())))
    for chunk in _chunks(order, longest[order].tolist(), sequences[0].shape[1]):
        first, second = pairs[chunk].unbind(dim=1)
        x, y = (
            pad_sequence([sequences[i] for i in side.tolist()], batch_first=True).to(device) for side in (first, second)
        )
        distances = angular_distances(x, y)  # (P, N, M)
        result[chunk] = dtw(distances, lengths[first].tolist(), lengths[second].tolist()).float().cpu()
    return result


def _chunks(order: Tensor, longest: Sequence[int], width: int) -> Iterator[Tensor]:
    """Cuts `order`, by ascending length, into parts that fit the memory."""
    first = 0
    for place, length in enumerate(longest):
        if place > first and (place + 1 - first) * length * max(width, length) > _MAX_NUMBERS:
            yield order[first:place]
            first = place
    if len(order):
        yield order[first:]
