"""Subsampling confidence intervals of metrics of several utterances together, such as ABX, from halves and quarters."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from w2vlab.functional.measures.interval import Interval
from w2vlab.functional.measures.student import t_quantile

Floats = npt.NDArray[np.float64]

NUM_SPLITS = 100
"""Number of random splits of the utterances, into halves and into quarters each."""

HALVES, QUARTERS = 2, 4


def draw_splits(number: int, parts: int) -> npt.NDArray[np.int64]:
    """Draws `NUM_SPLITS` random splits of utterances into parts of the same size, with a seed given by both arguments.

    Args:
        number: Number n of utterances.
        parts: Number of parts.

    Returns:
        Part of each utterance, shape `(NUM_SPLITS, n)`.
    """
    generator = np.random.default_rng((number, parts))
    return generator.permuted(np.tile(np.arange(number) % parts, (NUM_SPLITS, 1)), axis=1)


@dataclass(frozen=True, kw_only=True)
class SubsamplingEstimate:
    """A metric, and its values on parts of the utterances; estimates on the same utterances can be compared in pairs.

    The parts of a split are disjoint, so the variance between them estimates the variance of the metric between corpora
    of n / 2 and of n / 4 utterances, V(n/2) and V(n/4). For corpora of n utterances it is extrapolated as
    V(n) = V(n/2) / 2^β. The interval is `value ± t(0.975, n - 1) · √V(n)`, clipped to the range of the metric.

    β is 1 for a mean, and at least 1 otherwise. It is larger for metrics of several utterances together, such as ABX,
    whose cells mostly need three utterances: half of the utterances have far fewer than half of the cells. For such
    metrics the jackknife and the bootstrap count the same error up to three times, and a bootstrap has fewer cells than
    the corpus. From n / 4 to n / 2 utterances β is log2(V(n/4) / V(n/2)), and it tends to 1 as n increases, so the mean
    of both is used.

    The interval is for the expected metric of corpora of n utterances; other sizes have other pairs of phones.

    Attributes:
        value: The metric, in [lowest, highest].
        number: Number n of utterances.
        halves: The metric on the halves of each split, `(S, 2)`; NaN if it is not defined on a part.
        quarters: The metric on the quarters, `(S, 4)`.
        lowest: Lowest possible value.
        highest: Highest possible value.

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
        """The metric with its interval, which is the full range if the metric is not defined on the halves."""
        half, quarter = _variance(self.halves), _variance(self.quarters)
        if half is None:
            return Interval(self.value, self.lowest, self.highest)
        observed_beta = 1.0 if quarter is None or half == 0 else max(1.0, math.log2(max(quarter, half) / half))
        margin = t_quantile(self.number - 1) * math.sqrt(half / 2 ** ((1 + observed_beta) / 2))
        return Interval.around(self.value, margin, self.lowest, self.highest)

    def minus(self, other: SubsamplingEstimate) -> Interval:
        """Returns the difference to `other` with its interval, paired by the same parts of the same utterances."""
        return SubsamplingEstimate(
            value=self.value - other.value,
            number=self.number,
            halves=self.halves - other.halves,
            quarters=self.quarters - other.quarters,
            lowest=self.lowest - other.highest,
            highest=self.highest - other.lowest,
        ).interval


def _variance(parts: Floats) -> float | None:
    """Returns the mean variance within splits that have the metric on all parts; None if there are no such splits."""
    complete = parts[np.isfinite(parts).all(axis=1)]
    return float(complete.var(axis=1, ddof=1).mean()) if len(complete) else None
