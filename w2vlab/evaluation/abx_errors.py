"""ABX errors of cells: how far their items are apart under some representation."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from w2vlab.evaluation.abx import AbxTask, Cell, Item
from w2vlab.functional.abx import StagedMean, abx_error, sums_of_groups, triples_of
from w2vlab.functional.dtw import angular_distances, dtw
from w2vlab.functional.subsampling import HALVES, QUARTERS, Floats, draw_splits

Ints = npt.NDArray[np.int64]

_MAX_NUMBERS = 1_000_000
"""In the padded frames, and in the padded distances, of the pairs that are compared at once: they fit a CPU's cache."""

_MAX_TRIPLES = 4096
"""Of a cell that are divided among parts of the utterances; its error is that of all."""

_MAX_PAIRS = 100_000
"""Distances that are kept, as long as no single neighbourhood has more."""


@dataclass(frozen=True)
class AbxErrors:
    """Errors of the cells of a task.

    Attributes:
        errors: Of each cell, in [0, 1]; 0.5 is chance.
        value: Their average: over neighbourhoods, then speakers, then pairs of phones; NaN without cells.
        num_utterances: Utterances that items come from.
        halves: The average on the halves of these utterances (`functional.subsampling`), NaN where they have no cell.
        quarters: The same on their quarters.
    """

    errors: Floats
    value: float
    num_utterances: int
    halves: Floats
    quarters: Floats


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
    numbers = {name: number for number, name in enumerate(sorted({item.utterance for item in task.items}))}
    within = task.speakers == "within"
    parts = [_Parts([cell.key for cell in task.cells], len(numbers), size) for size in (HALVES, QUARTERS)]
    errors = []
    for first, stop in _blocks(task.cells):
        cells = task.cells[first:stop]
        units, wrong, owner = [], [], []
        for place, (cell, (to_same, to_other)) in enumerate(zip(cells, _distances(cells, frames, device), strict=True)):
            errors.append(abx_error(to_same, to_other, within))
            triples = triples_of(to_same, to_other, within, _MAX_TRIPLES)
            sides = ((cell.x, triples.x), (cell.a, triples.a), (cell.b, triples.b))
            units.append([np.array([numbers[item.utterance] for item in items])[which] for items, which in sides])
            wrong.append(triples.wrong)
            owner.append(np.full(len(triples.wrong), place))
        block = np.concatenate(units, axis=1), np.concatenate(wrong), np.concatenate(owner)
        for part in parts:
            part.add(first, len(cells), *block)
        advance(len(cells))
    mean = StagedMean([cell.key for cell in task.cells])
    return AbxErrors(np.array(errors), mean(errors), len(numbers), *(part.means() for part in parts))


class _Parts:
    """The average error on each part of each split, of which the sums of cells with the same key are kept."""

    def __init__(self, keys: Sequence[tuple[Hashable, ...]], num_utterances: int, num_parts: int) -> None:
        group: dict[tuple[Hashable, ...], int] = {}
        self._group_of_cell = np.array([group.setdefault(key, len(group)) for key in keys], dtype=np.int64)
        self._mean = StagedMean(list(group))
        self._splits, self._num_parts = draw_splits(num_utterances, num_parts).astype(np.int8), num_parts
        self._sums, self._cells = np.zeros((2, len(self._splits), num_parts, len(group)))

    def add(self, first: int, number: int, units: Ints, wrong: Floats, owner: Ints) -> None:
        """Adds cells `first` to `first + number`, whose triples have items of three `units` each, `(3, N)`."""
        groups = self._group_of_cell[first : first + number]
        together = max(1, _MAX_NUMBERS // max(1, len(wrong)))
        for start in range(0, len(self._splits), together):
            rows = slice(start, start + together)
            x, a, b = self._splits[rows][:, units].transpose(1, 0, 2)  # each (splits, N)
            split, triple = np.nonzero((x == a) & (x == b))
            place = (split * self._num_parts + x[split, triple].astype(np.int64)) * number + owner[triple]
            shape = len(x) * self._num_parts, number
            triples = np.bincount(place, minlength=shape[0] * number).reshape(shape)
            errors = np.bincount(place, wrong[triple], shape[0] * number).reshape(shape) / np.maximum(triples, 1)
            for kept, values in ((self._sums, errors), (self._cells, (triples > 0).astype(np.float64))):
                kept[rows] += sums_of_groups(values, groups, kept.shape[2]).reshape(kept[rows].shape)

    def means(self) -> Floats:
        """Returns the averages, shape `(splits, parts)`."""
        errors = self._sums / np.maximum(self._cells, 1)
        rows = (errors.shape[0] * errors.shape[1], errors.shape[2])
        return self._mean.of_rows(errors.reshape(rows), (self._cells > 0).astype(np.float64).reshape(rows)).reshape(
            errors.shape[:2]
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
    for neighbourhood, part in zip(neighbourhoods, torch.split(distances, counts), strict=True):
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
