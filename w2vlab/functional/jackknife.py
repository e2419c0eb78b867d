"""How far a figure could be off because of the utterances that it was taken on: the jackknife."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from w2vlab.functional.interval import Interval
from w2vlab.functional.student import t_quantile

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Jackknifed:
    """A figure, and what it is without each of the utterances; figures of the same utterances can be paired.

    The standard error is `s² = (n - 1) / n · Σ (without_u - mean)²`, and the interval `value ± t(0.975, n - 1) · s`,
    cut to what the figure can be. Utterances are independent; their frames are not. No utterance is there twice, as in
    a bootstrap, whose repeats make a plug-in mutual information larger than it is.

    A figure that utterances make together, as ABX, varies far less than `s` says (Efron and Stein): for those there is
    `functional.subsampling`.

    Attributes:
        value: The figure itself, in [lowest, highest].
        without: The figure without each utterance, `(n,)`, in the same order wherever they are paired; NaN where
            nothing is left.
        lowest: The least that it can be.
        highest: The most.

    Reference:
        Tukey 1958, Annals of Mathematical Statistics 29, p. 614; Efron and Stein 1981, Annals of Statistics 9 (3), "The
        jackknife estimate of variance".
    """

    value: float
    without: Floats
    lowest: float = 0.0
    highest: float = 1.0

    @property
    def interval(self) -> Interval:
        """The figure with its interval; all that it can be where fewer than two utterances give nothing to go by."""
        number = len(self.without)
        if number < 2 or not np.isfinite(self.without).all():
            return Interval(self.value, self.lowest, self.highest)
        spread = math.fsum((self.without - self.without.mean()) ** 2)
        margin = t_quantile(number - 1) * math.sqrt((number - 1) / number * spread)
        return Interval.around(self.value, margin, self.lowest, self.highest)

    def minus(self, other: Jackknifed) -> Interval:
        """Returns by how much this is more than `other` on the same utterances, each left out of both at a time."""
        lowest, highest = self.lowest - other.highest, self.highest - other.lowest
        return Jackknifed(self.value - other.value, self.without - other.without, lowest, highest).interval

    def corrected(self) -> Jackknifed:
        """Takes away the bias that falls with the number of utterances: `n · value - (n - 1) · mean of without`.

        The figures without each utterance become the means of n - 1 pseudo-values, so the standard error stays.

        Reference:
            Quenouille 1956, Biometrika 43, "Notes on bias in estimation"; of entropies: Zahl 1977, Ecology 58.
        """
        number = len(self.without)
        if number < 2 or not np.isfinite(self.without).all():
            return self
        value = number * self.value - (number - 1) * float(self.without.mean())
        shifted = self.without + (value - float(self.without.mean()))
        return Jackknifed(min(self.highest, max(self.lowest, value)), shifted, self.lowest, self.highest)
