"""Means over seeds, and how far their differences could be off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from w2vlab.functional.student import t_quantile


@dataclass(frozen=True)
class Mean:
    """Values of one group.

    Attributes:
        number: How many there are.
        mean: Their mean; NaN of none.
        deviation: Their standard deviation with n - 1; None of fewer than two.
    """

    number: int
    mean: float
    deviation: float | None


@dataclass(frozen=True)
class Difference:
    """By how much the mean of a group is more than that of another.

    Attributes:
        value: The difference.
        low: Lower end of its 95 % confidence interval; None where a side has one value only.
        high: Upper end.
    """

    value: float
    low: float | None
    high: float | None


def mean_of(values: Sequence[float]) -> Mean:
    """Returns mean and standard deviation.

    Args:
        values: Finite numbers, one a run.
    """
    number = len(values)
    mean = math.fsum(values) / number if number else math.nan
    if number < 2:
        return Mean(number, mean, None)
    return Mean(number, mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (number - 1)))


def difference(group: Mean, baseline: Mean) -> Difference | None:
    """Compares two groups whose deviations may differ.

    The interval is `d ± t(0.975, ν) s` with `s² = s₁²/n₁ + s₂²/n₂` and Welch's degrees of freedom
    `ν = s⁴ / ((s₁²/n₁)²/(n₁-1) + (s₂²/n₂)²/(n₂-1))`.

    Args:
        group: What is compared.
        baseline: With what.

    Returns:
        None where a side has no value.

    Reference:
        Welch 1947, Biometrika 34 (1-2), "The generalization of Student's problem when several different population
        variances are involved".
    """
    if not group.number or not baseline.number:
        return None
    value = group.mean - baseline.mean
    if group.deviation is None or baseline.deviation is None:
        return Difference(value, None, None)
    parts = [
        side**2 / number for side, number in ((group.deviation, group.number), (baseline.deviation, baseline.number))
    ]
    variance = sum(parts)
    if variance == 0:
        return Difference(value, value, value)
    # Shares of the variance, because its square may be too small for a float.
    shares = [part / variance for part in parts]
    freedom = 1 / sum(s**2 / (n - 1) for s, n in zip(shares, (group.number, baseline.number), strict=True))
    margin = t_quantile(freedom) * math.sqrt(variance)
    return Difference(value, value - margin, value + margin)
