"""The limits of an axis, such that every mark is seen whole."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes

_BELOW, _ABOVE = 0.04, 0.08
"""Room below 0 and above the largest value, for half a mark; shares of what is between them."""


def from_zero(axes: Axes, top: float | None = None) -> None:
    """Has the axis of values begin at 0, with room for whole marks at both ends.

    `set_ylim(bottom=0)` keeps the upper limit, whose margin is a share of the values' own range: where they lie close
    together and far above 0, their marks are cut.

    Args:
        axes: With everything drawn.
        top: The largest value that there can be; None for the largest that is drawn.
    """
    if top is None:
        values = [np.asarray(line.get_ydata(), dtype=float) for line in axes.lines]
        top = max((float(value) for line in values for value in line if math.isfinite(value)), default=0.0)
    top = top if top > 0 else 1.0
    axes.set_ylim(-_BELOW * top, (1 + _ABOVE) * top)
