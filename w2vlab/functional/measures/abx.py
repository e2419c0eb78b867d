"""ABX errors: how often a sequence X is closer to B, of another category, than to A, of the same category."""

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
    """Returns the fraction of triples (A, B, X) in which X is closer to B than to A; a tie counts half.

    Args:
        to_same: Distances of each X to each A, shape `(num_x, num_a)`.
        to_other: Distances of each X to each B, shape `(num_x, num_b)`.
        same_items: Whether the X are the A, in the same order; an item is then not compared with itself.

    Raises:
        ValueError: There are no triples.

    Reference:
        Schatz et al. 2013, Evaluating speech features with the Minimal-Pair ABX task; Libri-Light, arXiv:1912.07875.
    """
    ordered = to_other.sort(dim=1).values
    closer, closer_or_tie = (torch.searchsorted(ordered, to_same.contiguous(), right=right) for right in (False, True))
    wrong = (closer + closer_or_tie).double() / 2  # number of B for each X and A, (num_x, num_a)
    counted = torch.ones_like(wrong)
    if same_items:
        counted.fill_diagonal_(0)
    triples = float(counted.sum()) * to_other.shape[1]
    if not triples:
        raise ValueError("`to_same` must have at least one pair of different items, but has none.")
    return float((wrong * counted).sum()) / triples


@dataclass(frozen=True, kw_only=True)
class Triples:
    """Triples (A, B, X) of a cell.

    Attributes:
        x: Indices of X, shape `(N,)`.
        a: Indices of A, shape `(N,)`.
        b: Indices of B, shape `(N,)`.
        wrong: 1 if X is closer to B than to A, 0.5 for a tie, else 0, shape `(N,)`.
    """

    x: Ints
    a: Ints
    b: Ints
    wrong: Floats


def triples_of(to_same: Tensor, to_other: Tensor, same_items: bool, most: int) -> Triples:
    """Returns all triples of a cell, or a sample of them, drawn with replacement by a generator with a fixed seed.

    Args:
        to_same: Distances of each X to each A, shape `(num_x, num_a)`.
        to_other: Distances of each X to each B, shape `(num_x, num_b)`.
        same_items: Whether the X are the A, in the same order; an item is then not compared with itself.
        most: Maximum number of triples.

    Reference:
        The expected error of a sample is that of all triples: Blom 1976, Biometrika 63 (3), "Some properties of
        incomplete U-statistics".
    """
    num_x, num_a, num_b = *to_same.shape, to_other.shape[1]
    choices = num_a - 1 if same_items else num_a
    number = num_x * choices * num_b
    indices = np.arange(number) if number <= most else np.random.default_rng(number).integers(0, number, most)
    x, a, b = np.unravel_index(indices, (num_x, choices, num_b))
    if same_items:
        a = a + (a >= x)  # skip the item itself
    same, other = (distances.detach().cpu().numpy() for distances in (to_same, to_other))
    same, other = same[x, a], other[x, b]
    return Triples(x=x, a=a, b=b, wrong=(same > other) + 0.5 * (same == other))


class StagedMean:
    """Averages the errors of cells in stages, so that groups with many cells have the same weight as others.

    Args:
        keys: Groups of each cell, from the coarsest to the finest, such as (pair of phones, speaker). Cells with the
            same key are averaged first, then the means of keys that differ in the last entry only, and so on. Each
            entry is one stage.

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
        """Returns the mean; NaN without cells.

        Args:
            errors: Error of each cell.
            weights: Weight of each cell; cells with weight 0 are ignored. None for equal weights.
        """
        values = np.asarray(errors, dtype=np.float64)
        counts = np.ones_like(values) if weights is None else np.asarray(weights, dtype=np.float64)
        return float(self.of_rows(values[None], counts[None])[0])

    def of_rows(self, errors: Floats, weights: Floats) -> Floats:
        """Returns the mean of each row, `(R,)`, of errors and weights `(R, cells)`."""
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
    """Sums the columns of each row by group.

    Args:
        values: Shape `(R, N)`.
        groups: Group of each column, `(N,)`.
        number: Number G of groups; None for the largest entry of `groups` plus 1.

    Returns:
        Shape `(R, G)`.
    """
    number = int(groups.max(initial=-1)) + 1 if number is None else number
    indices = np.arange(len(values))[:, None] * number + groups
    sums = np.bincount(indices.ravel(), values.ravel(), len(values) * number)
    return sums.astype(np.float64, copy=False).reshape(len(values), number)
