"""ABX: is a sequence nearer to another one of its kind than to one of another kind?"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


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
    wrong = (to_same[:, :, None] > to_other[:, None, :]).double()  # (num_x, num_a, num_b)
    wrong += 0.5 * (to_same[:, :, None] == to_other[:, None, :])
    counted = torch.ones_like(to_same, dtype=torch.float64)
    if same_items:
        counted.fill_diagonal_(0)
    triples = float(counted.sum()) * to_other.shape[1]
    if not triples:
        raise ValueError("`to_same` must have a pair of two items, but there is no triple.")
    return float((wrong * counted[:, :, None]).sum()) / triples


class StagedMean:
    """Averages the errors of cells in stages, so that what has many cells does not count for more than the rest.

    Args:
        keys: Where each cell belongs, from the coarsest to the finest, such as (pair of phones, speaker). Cells of the
            same key are averaged first; then those means that agree in all but the last entry; and so on.

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
            weights: How often each cell counts, as in a resample; one of weight 0 is not there. None for once each.
        """
        values = np.asarray(errors, dtype=np.float64)
        counts = np.ones_like(values) if weights is None else np.asarray(weights, dtype=np.float64)
        for groups in self._groups:
            totals = np.bincount(groups, counts)
            sums = np.bincount(groups, counts * values)
            values = np.divide(sums, totals, out=np.zeros_like(sums), where=totals > 0)
            counts = (totals > 0).astype(np.float64)
        return float((values * counts).sum() / counts.sum()) if counts.sum() else math.nan
