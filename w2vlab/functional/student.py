"""Student's t distribution."""

from __future__ import annotations

from functools import lru_cache

import mpmath

CONFIDENCE = 0.95


@lru_cache(maxsize=1024)
def t_quantile(freedom: float, confidence: float = CONFIDENCE) -> float:
    """Returns how far from 0 Student's t stays with probability `confidence`.

    SciPy has this function, but where SciPy is installed, torchmetrics loads a large part of it into every run.

    Args:
        freedom: Degrees of freedom, at least 1. For 95 % the result is between 1.96 and 12.71.
        confidence: In (0, 1).

    Reference:
        Abramowitz and Stegun 1964, Handbook of Mathematical Functions, 26.7.1: the probability is an incomplete beta
        function.
    """

    def missing(t: float) -> float:
        return float(mpmath.betainc(0.5, freedom / 2, 0, t**2 / (freedom + t**2), regularized=True)) - confidence

    return float(mpmath.findroot(missing, (1.9, 13.0), solver="anderson"))
