"""A figure and how far it could be off."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % confidence interval, which always holds it.

    Attributes:
        value: The figure itself.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    @classmethod
    def around(cls, value: float, margin: float, lowest: float, highest: float) -> Interval:
        """Returns `value ± margin`, cut to what the figure can be."""
        return cls(value, max(lowest, value - margin), min(highest, value + margin))
