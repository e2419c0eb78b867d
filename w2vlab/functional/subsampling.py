"""How far a figure could be off that utterances make together: by halves and quarters of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from w2vlab.functional.interval import Interval
from w2vlab.functional.student import t_quantile

Floats = npt.NDArray[np.float64]

NUM_SPLITS = 100
"""Ways to divide the utterances, into halves and into quarters each."""

HALVES, QUARTERS = 2, 4


def draw_splits(number: int, parts: int) -> npt.NDArray[np.int64]:
    """Divides units into parts of the same size, in `NUM_SPLITS` ways that depend on the two numbers alone.

    Args:
        number: Units n.
        parts: Parts.

    Returns:
        The part of each unit, shape `(NUM_SPLITS, n)`.
    """
    draw = np.random.default_rng((number, parts))
    return draw.permuted(np.tile(np.arange(number) % parts, (NUM_SPLITS, 1)), axis=1)


@dataclass(frozen=True)
class Subsampled:
    """A figure, and what it is on parts of the utterances; figures of the same utterances can be paired.

    Parts of one split share no utterance, so their differences show how much the figure varies between corpora of n / 2
    and of n / 4 utterances: V(n/2) and V(n/4). Between corpora of n it is V(n) = V(n/2) / 2^β. The interval is
    `value ± t(0.975, n - 1) · √V(n)`, cut to what can be.

    β is 1 for a mean, and not less. It is more where several utterances make a figure together, as cells of ABX, most
    of which three utterances must have: half of the utterances have far fewer than half of the cells. There the
    jackknife and the bootstrap count the same error up to three times, and a bootstrap has fewer cells than the corpus.
    Up to n / 2 it was log2(V(n/4) / V(n/2)), and it falls to 1 with n, so it is taken to be half way between the two.

    The truth that it holds is what corpora of n utterances come to on average: other n have other pairs of phones.

    Attributes:
        value: The figure itself, in [lowest, highest].
        number: Utterances n.
        halves: The figure on the halves of each split, `(S, 2)`; NaN where a part has nothing to go by.
        quarters: The figure on the quarters, `(S, 4)`.
        lowest: The least that it can be.
        highest: The most.

    Reference:
        Politis, Romano and Wolf 1999, Subsampling, Chapter 8; Bertail, Politis and Romano 1999, Journal of the American
        Statistical Association 94 (446), "On subsampling estimators with unknown rate of convergence".
    """

    value: float
    number: int
    halves: Floats
    quarters: Floats
    lowest: float = 0.0
    highest: float = 1.0

    @property
    def interval(self) -> Interval:
        """The figure with its interval; all that it can be where the halves have nothing to go by."""
        half, quarter = _variance(self.halves), _variance(self.quarters)
        if half is None:
            return Interval(self.value, self.lowest, self.highest)
        before = 1.0 if quarter is None or half == 0 else max(1.0, math.log2(max(quarter, half) / half))
        margin = t_quantile(self.number - 1) * math.sqrt(half / 2 ** ((1 + before) / 2))
        return Interval.around(self.value, margin, self.lowest, self.highest)

    def minus(self, other: Subsampled) -> Interval:
        """Returns by how much this is more than `other` on the same utterances and the same parts of them."""
        return Subsampled(
            self.value - other.value,
            self.number,
            self.halves - other.halves,
            self.quarters - other.quarters,
            self.lowest - other.highest,
            self.highest - other.lowest,
        ).interval


def _variance(parts: Floats) -> float | None:
    """Returns the mean variance within the splits all of whose parts have a figure; None where there are none."""
    whole = parts[np.isfinite(parts).all(axis=1)]
    return float(whole.var(axis=1, ddof=1).mean()) if len(whole) else None
