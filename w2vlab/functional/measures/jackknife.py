"""Jackknife confidence intervals of metrics over the choice of utterances."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from w2vlab.functional.measures.interval import Interval
from w2vlab.functional.measures.student import t_quantile

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class JackknifeEstimate:
    """A metric, and its values with each utterance left out; estimates on the same utterances can be compared in pairs.

    The standard error is `s² = (n - 1) / n · Σ (leave_one_out_u - mean)²`, and the interval
    `value ± t(0.975, n - 1) · s`, clipped to the range of the metric. The resampled units are utterances, because their
    frames are not independent. A bootstrap would repeat utterances, which increases a plug-in mutual information.

    A metric of several utterances together, such as ABX, varies far less than `s` (Efron and Stein); for those see
    `measures.subsampling`.

    Attributes:
        value: The metric, in [lowest, highest].
        leave_one_out: The metric without each utterance, `(n,)`, in the same order in paired estimates; NaN if nothing
            is left.
        lowest: Lowest possible value.
        highest: Highest possible value.

    Reference:
        Tukey 1958, Annals of Mathematical Statistics 29, p. 614; Efron and Stein 1981, Annals of Statistics 9 (3), "The
        jackknife estimate of variance".
    """

    value: float
    leave_one_out: Floats
    lowest: float = 0.0
    highest: float = 1.0

    @property
    def interval(self) -> Interval:
        """The metric with its interval, which is the full range if there are fewer than two utterances."""
        number = len(self.leave_one_out)
        if number < 2 or not np.isfinite(self.leave_one_out).all():
            return Interval(self.value, self.lowest, self.highest)
        spread = math.fsum((self.leave_one_out - self.leave_one_out.mean()) ** 2)
        margin = t_quantile(number - 1) * math.sqrt((number - 1) / number * spread)
        return Interval.around(self.value, margin, self.lowest, self.highest)

    def minus(self, other: JackknifeEstimate) -> Interval:
        """Returns the difference to `other` with its interval, paired by utterances."""
        return JackknifeEstimate(
            value=self.value - other.value,
            leave_one_out=self.leave_one_out - other.leave_one_out,
            lowest=self.lowest - other.highest,
            highest=self.highest - other.lowest,
        ).interval

    def bias_corrected(self) -> JackknifeEstimate:
        """Removes the bias of order 1/n: `n · value - (n - 1) · mean(leave_one_out)`.

        The values that leave out an utterance become means of n - 1 pseudo-values, so the standard error is the same.

        Reference:
            Quenouille 1956, Biometrika 43, "Notes on bias in estimation"; of entropies: Zahl 1977, Ecology 58.
        """
        number = len(self.leave_one_out)
        if number < 2 or not np.isfinite(self.leave_one_out).all():
            return self
        value = number * self.value - (number - 1) * float(self.leave_one_out.mean())
        shifted = self.leave_one_out + (value - float(self.leave_one_out.mean()))
        return JackknifeEstimate(
            value=min(self.highest, max(self.lowest, value)),
            leave_one_out=shifted,
            lowest=self.lowest,
            highest=self.highest,
        )
