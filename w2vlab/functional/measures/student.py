"""Student's t distribution."""

from __future__ import annotations

from functools import lru_cache

import mpmath

CONFIDENCE = 0.95


@lru_cache(maxsize=1024)
def t_quantile(freedom: float, confidence: float = CONFIDENCE) -> float:
    """Returns the two-sided quantile of Student's t: the `t` with `P(|T| <= t) = confidence`.

    Not SciPy's, because torchmetrics imports a large part of SciPy in every run if it is installed.

    Args:
        freedom: Degrees of freedom, at least 1. For 95 % the result is between 1.96 and 12.71.
        confidence: Probability, in (0, 1).

    Reference:
        Abramowitz and Stegun 1964, Handbook of Mathematical Functions, 26.7.1: the probability is an incomplete beta
        function.
    """

    def excess(t: float) -> float:
        return float(mpmath.betainc(0.5, freedom / 2, 0, t**2 / (freedom + t**2), regularized=True)) - confidence

    return float(mpmath.findroot(excess, (1.9, 13.0), solver="anderson"))
