"""Confidence intervals."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """A metric and its 95 % confidence interval, which always contains it.

    Attributes:
        value: The metric.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    @classmethod
    def around(cls, value: float, margin: float, lowest: float, highest: float) -> Interval:
        """Returns `value ± margin`, clipped to `[lowest, highest]`."""
        return cls(value, max(lowest, value - margin), min(highest, value + margin))
