"""Computes the ABX errors of cells from distances between the frames of their items."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from w2vlab.evaluation.tasks.abx import AbxTask, Cell, Item
from w2vlab.functional.measures.abx import StagedMean, abx_error, sums_of_groups, triples_of
from w2vlab.functional.measures.dtw import angular_distances, dtw
from w2vlab.functional.measures.subsampling import HALVES, QUARTERS, Floats, draw_splits

Ints = npt.NDArray[np.int64]

_MAX_ELEMENTS = 1_000_000
"""Maximum size of the padded frames and of the padded distances of a batch of pairs, so that they fit a CPU's cache."""

_MAX_TRIPLES = 4096
"""Maximum number of triples of a cell that are used for errors on parts of the utterances; its error uses all."""

_MAX_PAIRS = 100_000
"""Number of distances that are kept in memory at a time; more only if a single context has more."""


@dataclass(frozen=True, kw_only=True)
class AbxErrors:
    """Errors of the cells of a task.

    Attributes:
        errors: Error of each cell, in [0, 1]; 0.5 is chance.
        value: Their average over contexts, then speakers, then pairs of phones; NaN without cells.
        num_utterances: Number of utterances that the items come from.
        halves: The average on halves of these utterances (`functional.measures.subsampling`); NaN for a half without
            cells.
        quarters: The same on quarters.
    """

    errors: Floats
    value: float
    num_utterances: int
    halves: Floats
    quarters: Floats


def measure_abx(
    task: AbxTask,
    frames: Callable[[Item], Tensor],
    device: torch.device | str = "cpu",
    advance: Callable[[float], None] = lambda cells: None,
) -> AbxErrors:
    """Computes the errors of the cells of `task`.

    The distance of two items is the mean angle between their frames along the best alignment
    (`functional.measures.dtw`). Cells of the same context share distances, so a few contexts are computed at a time;
    therefore memory does not grow with the number of cells.

    Args:
        task: The cells.
        frames: Returns the frames `(T, D)` of an item, at least one.
        device: Device that computes the distances.
        advance: Called with the number of cells that were completed since the last call.
    """
    numbers = {name: number for number, name in enumerate(sorted({item.utterance for item in task.items}))}
    within = task.speakers == "within"
    keys = [cell.key for cell in task.cells]
    halves, quarters = (_SplitErrors(keys, len(numbers), num_parts) for num_parts in (HALVES, QUARTERS))
    errors = []
    for first, stop in _context_blocks(task.cells):
        cells = task.cells[first:stop]
        units, wrong, owner = [], [], []
        for index, (cell, (to_same, to_other)) in enumerate(zip(cells, _distances(cells, frames, device), strict=True)):
            errors.append(abx_error(to_same, to_other, within))
            triples = triples_of(to_same, to_other, within, _MAX_TRIPLES)
            sides = ((cell.x, triples.x), (cell.a, triples.a), (cell.b, triples.b))
            units.append([np.array([numbers[item.utterance] for item in items])[which] for items, which in sides])
            wrong.append(triples.wrong)
            owner.append(np.full(len(triples.wrong), index))
        block = np.concatenate(units, axis=1), np.concatenate(wrong), np.concatenate(owner)
        for split in (halves, quarters):
            split.add(first, len(cells), *block)
        advance(len(cells))
    return AbxErrors(
        errors=np.array(errors),
        value=StagedMean(keys)(errors),
        num_utterances=len(numbers),
        halves=halves.means(),
        quarters=quarters.means(),
    )


class _SplitErrors:
    """Accumulates the average error on each part of each split, as sums over cells with the same key."""

    def __init__(self, keys: Sequence[tuple[Hashable, ...]], num_utterances: int, num_parts: int) -> None:
        group: dict[tuple[Hashable, ...], int] = {}
        self._group_of_cell = np.array([group.setdefault(key, len(group)) for key in keys], dtype=np.int64)
        self._mean = StagedMean(list(group))
        self._splits, self._num_parts = draw_splits(num_utterances, num_parts).astype(np.int8), num_parts
        self._sums, self._cells = np.zeros((2, len(self._splits), num_parts, len(group)))

    def add(self, first: int, number: int, units: Ints, wrong: Floats, owner: Ints) -> None:
        """Adds the cells `[first, first + number)`.

        Args:
            first: Index of the first cell.
            number: Number of cells.
            units: Utterances of X, A and B of each triple, `(3, N)`.
            wrong: 1 if X is closer to B in the triple, 0.5 for a tie, `(N,)`.
            owner: Index of the triple's cell, from 0 for `first`, `(N,)`.
        """
        groups = self._group_of_cell[first : first + number]
        splits_at_once = max(1, _MAX_ELEMENTS // max(1, len(wrong)))
        for start in range(0, len(self._splits), splits_at_once):
            rows = slice(start, start + splits_at_once)
            x, a, b = self._splits[rows][:, units].transpose(1, 0, 2)  # each (splits, N)
            split, triple = np.nonzero((x == a) & (x == b))  # triples with all three items in the same part
            index = (split * self._num_parts + x[split, triple].astype(np.int64)) * number + owner[triple]
            shape = len(x) * self._num_parts, number
            triples = np.bincount(index, minlength=shape[0] * number).reshape(shape)
            errors = np.bincount(index, wrong[triple], shape[0] * number).reshape(shape) / np.maximum(triples, 1)
            for total, values in ((self._sums, errors), (self._cells, (triples > 0).astype(np.float64))):
                total[rows] += sums_of_groups(values, groups, total.shape[2]).reshape(total[rows].shape)

    def means(self) -> Floats:
        """Returns the averages, shape `(splits, parts)`."""
        errors = self._sums / np.maximum(self._cells, 1)
        rows = (errors.shape[0] * errors.shape[1], errors.shape[2])
        return self._mean.of_rows(errors.reshape(rows), (self._cells > 0).astype(np.float64).reshape(rows)).reshape(
            errors.shape[:2]
        )


def _context_blocks(cells: Sequence[Cell]) -> Iterator[tuple[int, int]]:
    """Yields ranges `[first, stop)` of cells with about `_MAX_PAIRS` distances; a context is in one range."""
    first = pairs = 0
    for index, cell in enumerate(cells):
        previous = cells[index - 1]
        if pairs > _MAX_PAIRS and (cell.before, cell.after) != (previous.before, previous.after):
            yield first, index
            first, pairs = index, 0
        pairs += len(cell.x) * (len(cell.a) + len(cell.b))
    if cells:
        yield first, len(cells)


def _distances(
    cells: Sequence[Cell], frames: Callable[[Item], Tensor], device: torch.device | str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields the distances of each X to each A and to each B of each cell; each pair of items is computed once."""
    by_context = itertools.groupby(cells, key=lambda cell: (cell.before, cell.after))
    contexts = [_ContextPairs.of(list(group)) for _, group in by_context]
    sequences = [frames(item) for context in contexts for item in context.items]
    offsets = itertools.accumulate((len(context.items) for context in contexts), initial=0)
    pairs = torch.cat(
        [context.compared.nonzero() + offset for context, offset in zip(contexts, offsets, strict=False)]
    )  # (P, 2)
    distances = _pair_distances(sequences, pairs, torch.device(device))
    counts = [int(context.compared.sum()) for context in contexts]
    for context, part in zip(contexts, torch.split(distances, counts), strict=True):
        table = torch.zeros(context.compared.shape)
        table[context.compared] = part
        for x, a, b in context.sides:
            yield table[x[:, None], a], table[x[:, None], b]


@dataclass(frozen=True)
class _ContextPairs:
    """The cells of one context.

    Attributes:
        items: The N items of all cells.
        compared: True for pairs of items whose distance is needed, `(N, N)`.
        sides: Indices in `items` of X, A and B of each cell.
    """

    items: list[Item]
    compared: Tensor
    sides: list[tuple[Tensor, Tensor, Tensor]]

    @classmethod
    def of(cls, cells: Sequence[Cell]) -> _ContextPairs:
        items = sorted({i for c in cells for i in (*c.a, *c.b, *c.x)}, key=lambda i: (i.utterance, i.start, i.end))
        index = {item: number for number, item in enumerate(items)}

        def indices(side: Sequence[Item]) -> Tensor:
            return torch.tensor([index[item] for item in side])

        sides = [(indices(cell.x), indices(cell.a), indices(cell.b)) for cell in cells]
        compared = torch.zeros(len(items), len(items), dtype=torch.bool)
        for x, a, b in sides:
            compared[x[:, None], a] = compared[x[:, None], b] = True
        compared.fill_diagonal_(False)  # an item is not compared with itself
        return cls(items, compared, sides)


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
    """Splits `order`, sorted by ascending length, into chunks of at most `_MAX_ELEMENTS` padded values."""
    first = 0
    for index, length in enumerate(longest):
        if index > first and (index + 1 - first) * length * max(width, length) > _MAX_ELEMENTS:
            yield order[first:index]
            first = index
    if len(order):
        yield order[first:]
