"""The final measurement of a run, for its picture and its summary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Bar:
    """A bar of an accuracy with its 95 % confidence interval, in [0, 1].

    Attributes:
        name: Label of the bar.
        value: The accuracy.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    name: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ProbeResult:
    """The result of the probe at the end of a run.

    Attributes:
        title: Title of the panel.
        bars: Bars of the panel.
        rows: Rows of the summary table, by name.
    """

    title: str
    bars: tuple[Bar, ...]
    rows: Mapping[str, str]
