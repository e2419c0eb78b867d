"""Means over seeds, and confidence intervals of their differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from w2vlab.functional.measures.student import t_quantile


@dataclass(frozen=True)
class Mean:
    """Mean and standard deviation of a group.

    Attributes:
        number: Number of values n.
        mean: Mean; NaN without values.
        deviation: Standard deviation with n - 1; None with fewer than two values.
    """

    number: int
    mean: float
    deviation: float | None


@dataclass(frozen=True)
class Difference:
    """The difference of the means of two groups.

    Attributes:
        value: The difference.
        low: Lower end of its 95 % confidence interval; None if a group has one value only.
        high: Upper end of the interval.
    """

    value: float
    low: float | None
    high: float | None


def compute_mean(values: Sequence[float]) -> Mean:
    """Returns mean and standard deviation.

    Args:
        values: Finite numbers, one a run.
    """
    number = len(values)
    mean = math.fsum(values) / number if number else math.nan
    if number < 2:
        return Mean(number, mean, None)
    # `hypot`, because squares of very large or small values overflow or underflow.
    return Mean(number, mean, math.hypot(*(value - mean for value in values)) / math.sqrt(number - 1))


def compare_means(group: Mean, baseline: Mean) -> Difference | None:
    """Returns the difference of two means, with Welch's confidence interval for unequal variances.

    The interval is `d ± t(0.975, ν) s` with `s² = s₁²/n₁ + s₂²/n₂` and Welch's degrees of freedom
    `ν = s⁴ / ((s₁²/n₁)²/(n₁-1) + (s₂²/n₂)²/(n₂-1))`.

    For normally distributed outcomes about 95 % of such intervals contain the true difference. For two values compared
    with five whose deviation is a third of theirs, it is 88 %: two seeds in a group are too few.

    Args:
        group: The group.
        baseline: The group that it is compared with.

    Returns:
        The difference; None if a group has no values.

    Reference:
        Welch 1947, Biometrika 34 (1-2), "The generalization of Student's problem when several different population
        variances are involved".
    """
    if not group.number or not baseline.number:
        return None
    value = group.mean - baseline.mean
    if group.deviation is None or baseline.deviation is None:
        return Difference(value, None, None)
    sides = ((group.deviation, group.number), (baseline.deviation, baseline.number))
    errors = [deviation / math.sqrt(number) for deviation, number in sides]
    error = math.hypot(*errors)
    if error == 0:
        return Difference(value, value, value)
    freedom = 1 / sum((part / error) ** 4 / (number - 1) for part, (_, number) in zip(errors, sides, strict=True))
    least = min(group.number, baseline.number) - 1  # the exact lower bound, which rounding may violate
    margin = t_quantile(max(least, freedom)) * error
    return Difference(value, value - margin, value + margin)
