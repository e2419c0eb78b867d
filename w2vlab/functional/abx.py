"""ABX: is a sequence nearer to another one of its kind than to one of another kind?"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

Floats: TypeAlias = npt.NDArray[np.float64]

_MAX_TRIPLES = 4_000_000
"""That are looked at together."""


def abx_error(to_same: Tensor, to_other: Tensor, same_items: bool) -> float:
    """Returns the share of triples (A, B, X) in which X, of the kind of A, is nearer to B; equally near counts half.

    Args:
        to_same: Distances of each X from each A, shape `(num_x, num_a)`.
        to_other: Distances of each X from each B, shape `(num_x, num_b)`.
        same_items: Whether the X are the A, in the same order; an item is then not compared with itself.

    Raises:
        ValueError: There is no triple.

    Reference:
        Schatz et al. 2013, Evaluating speech features with the Minimal-Pair ABX task; Libri-Light, arXiv:1912.07875.
    """
    num_x, num_a = to_same.shape
    units = [np.zeros(size, dtype=np.int64) for size in (num_x, num_a, to_other.shape[1])]
    counts = count_triples(to_same, to_other, same_items, *units, num_units=1)
    if not counts.triples:
        raise ValueError("`to_same` must have a pair of two items, but there is no triple.")
    return counts.wrong / counts.triples


@dataclass(frozen=True)
class TripleCounts:
    """The triples of a cell, and those that would go with each unit, such as an utterance, that items come from.

    Attributes:
        wrong: Triples in which X is nearer to B, equally near ones counted half.
        triples: All triples.
        wrong_with: Those of `wrong` in which at least one of A, B and X is of a unit, shape `(U,)`.
        triples_with: Those of `triples`, shape `(U,)`.
    """

    wrong: float
    triples: float
    wrong_with: Floats
    triples_with: Floats


def count_triples(
    to_same: Tensor,
    to_other: Tensor,
    same_items: bool,
    units_x: npt.NDArray[np.int64],
    units_a: npt.NDArray[np.int64],
    units_b: npt.NDArray[np.int64],
    num_units: int,
) -> TripleCounts:
    """Counts the triples (A, B, X) of a cell, and those in which each unit takes part.

    Args:
        to_same: Distances of each X from each A, shape `(num_x, num_a)`.
        to_other: Distances of each X from each B, shape `(num_x, num_b)`.
        same_items: Whether the X are the A, in the same order; an item is then not compared with itself.
        units_x: The unit of each X, in `[0, num_units)`.
        units_a: That of each A.
        units_b: That of each B.
        num_units: Units U.
    """
    same, other = (distances.detach().cpu().numpy() for distances in (to_same, to_other))
    outside_x, outside_a, outside_b = (
        (units[:, None] != np.arange(num_units)).astype(np.float64) for units in (units_x, units_a, units_b)
    )  # each (items, U)
    wrong = triples = 0.0
    wrong_left, triples_left = np.zeros(num_units), np.zeros(num_units)  # where a unit takes no part
    step = max(1, _MAX_TRIPLES // max(1, same.shape[1] * other.shape[1]))
    for first in range(0, len(same), step):
        near, far = same[first : first + step, :, None], other[first : first + step, None, :]
        worse = (near > far) + 0.5 * (near == far)  # (X, A, B)
        counted = np.ones(near.shape[:2])
        if same_items:
            rows = np.arange(len(near))
            counted[rows, first + rows] = 0
        worse *= counted[:, :, None]
        wrong += float(worse.sum())
        triples += float(counted.sum()) * other.shape[1]
        pairs = outside_x[first : first + step, None, :] * outside_a[None]  # (X, A, U)
        wrong_left += ((worse @ outside_b) * pairs).sum(axis=(0, 1))
        triples_left += (counted[:, :, None] * pairs).sum(axis=(0, 1)) * outside_b.sum(axis=0)
    return TripleCounts(wrong, triples, wrong - wrong_left, triples - triples_left)


class StagedMean:
    """Averages the errors of cells in stages, so that what has many cells does not count for more than the rest.

    Args:
        keys: Where each cell belongs, from the coarsest to the finest, such as (pair of phones, speaker). Cells of the
            same key are averaged first; then those means that agree in all but the last entry; and so on. Each entry
            is a stage, so a pair of phones is one entry and not two.

    Reference:
        Libri-Light, arXiv:1912.07875, and ZeroSpeech: over contexts, then over speakers, then over pairs of phones.
    """

    def __init__(self, keys: Sequence[tuple[Hashable, ...]]) -> None:
        self._groups: list[npt.NDArray[np.int64]] = []
        while keys and keys[0]:
            numbers: dict[tuple[Hashable, ...], int] = {}
            self._groups.append(np.array([numbers.setdefault(key, len(numbers)) for key in keys]))
            keys = [key[:-1] for key in numbers]

    def __call__(self, errors: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> float:
        """Returns the mean; NaN of nothing.

        Args:
            errors: One a cell.
            weights: How often each cell counts; one of weight 0 is not there. None for once each.
        """
        values = np.asarray(errors, dtype=np.float64)
        counts = np.ones_like(values) if weights is None else np.asarray(weights, dtype=np.float64)
        for groups in self._groups:
            totals = np.bincount(groups, counts)
            sums = np.bincount(groups, counts * values)
            values = np.divide(sums, totals, out=np.zeros_like(sums), where=totals > 0)
            counts = (totals > 0).astype(np.float64)
        return float((values * counts).sum() / counts.sum()) if counts.sum() else math.nan
