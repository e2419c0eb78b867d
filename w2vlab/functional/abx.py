"""ABX: is a sequence nearer to another one of its kind than to one of another kind?"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


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
    ordered = to_other.sort(dim=1).values
    nearer, as_near = (torch.searchsorted(ordered, to_same.contiguous(), right=right) for right in (False, True))
    wrong = (nearer + as_near).double() / 2  # triples of each X and A, (num_x, num_a)
    counted = torch.ones_like(wrong)
    if same_items:
        counted.fill_diagonal_(0)
    triples = float(counted.sum()) * to_other.shape[1]
    if not triples:
        raise ValueError("`to_same` must have a pair of two items, but there is no triple.")
    return float((wrong * counted).sum()) / triples


@dataclass(frozen=True)
class Triples:
    """Triples (A, B, X) of a cell.

    Attributes:
        x: Places of X, shape `(N,)`.
        a: Places of A.
        b: Places of B.
        wrong: 1 where X is nearer to B, 0.5 where it is equally near.
    """

    x: Ints
    a: Ints
    b: Ints
    wrong: Floats


def triples_of(to_same: Tensor, to_other: Tensor, same_items: bool, most: int) -> Triples:
    """Returns all triples of a cell, or `most` of them, drawn with repeats by a generator of fixed seed.

    Args:
        to_same: Distances of each X from each A, shape `(num_x, num_a)`.
        to_other: Distances of each X from each B, shape `(num_x, num_b)`.
        same_items: Whether the X are the A, in the same order; an item is then not compared with itself.
        most: Most triples.

    Reference:
        A part of the triples has the expected error of all: Blom 1976, Biometrika 63 (3), "Some properties of
        incomplete U-statistics".
    """
    num_x, num_a, num_b = *to_same.shape, to_other.shape[1]
    # Where the X are the A, an X has one A fewer, and those behind its own place move up.
    choices = num_a - 1 if same_items else num_a
    number = num_x * choices * num_b
    places = np.arange(number) if number <= most else np.random.default_rng(number).integers(0, number, most)
    x, a, b = np.unravel_index(places, (num_x, choices, num_b))
    if same_items:
        a = a + (a >= x)
    near, far = (distances.detach().cpu().numpy() for distances in (to_same, to_other))
    near, far = near[x, a], far[x, b]
    return Triples(x, a, b, (near > far) + 0.5 * (near == far))


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
        return float(self.of_rows(values[None], counts[None])[0])

    def of_rows(self, errors: Floats, weights: Floats) -> Floats:
        """Returns the mean of each row of errors and their weights, `(R, cells)`, as above."""
        values, counts = errors, weights
        for groups in self._groups:
            totals = sums_of_groups(counts, groups)
            sums = sums_of_groups(counts * values, groups)
            values = np.divide(sums, totals, out=np.zeros_like(sums), where=totals > 0)
            counts = (totals > 0).astype(np.float64)
        numbers = counts.sum(axis=1)
        means: Floats = np.full(len(values), np.nan)
        np.divide((values * counts).sum(axis=1), numbers, out=means, where=numbers > 0)
        return means


def sums_of_groups(values: Floats, groups: Ints, number: int | None = None) -> Floats:
    """Sums up the columns of each row by group.

    Args:
        values: Shape `(R, N)`.
        groups: The group of each column, `(N,)`.
        number: Groups G; None where the last one has a column.

    Returns:
        Shape `(R, G)`.
    """
    number = int(groups.max(initial=-1)) + 1 if number is None else number
    places = np.arange(len(values))[:, None] * number + groups
    sums = np.bincount(places.ravel(), values.ravel(), len(values) * number)
    return sums.astype(np.float64, copy=False).reshape(len(values), number)
