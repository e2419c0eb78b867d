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
    # No squares: those of very large or small values are no floats any more.
    return Mean(number, mean, math.hypot(*(value - mean for value in values)) / math.sqrt(number - 1))


def difference(group: Mean, baseline: Mean) -> Difference | None:
    """Compares two groups whose deviations may differ.

    The interval is `d ± t(0.975, ν) s` with `s² = s₁²/n₁ + s₂²/n₂` and Welch's degrees of freedom
    `ν = s⁴ / ((s₁²/n₁)²/(n₁-1) + (s₂²/n₂)²/(n₂-1))`.

    Of normal outcomes about 95 % of such intervals hold the true difference; of two values beside five whose deviation
    is a third of theirs, 88 %: with two seeds on a side, it is the number of seeds that is missing.

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
    sides = ((group.deviation, group.number), (baseline.deviation, baseline.number))
    errors = [deviation / math.sqrt(number) for deviation, number in sides]
    error = math.hypot(*errors)
    if error == 0:
        return Difference(value, value, value)
    freedom = 1 / sum((part / error) ** 4 / (number - 1) for part, (_, number) in zip(errors, sides, strict=True))
    least = min(group.number, baseline.number) - 1  # what it is in exact numbers
    margin = t_quantile(max(least, freedom)) * error
    return Difference(value, value - margin, value + margin)
