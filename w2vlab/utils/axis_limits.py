"""Axis limits that do not clip markers."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes

_BELOW, _ABOVE = 0.04, 0.08
"""Margins below 0 and above the largest value, for half a marker, as shares of the range between them."""


def start_y_axis_at_zero(axes: Axes, top: float | None = None) -> None:
    """Sets the limits of the y axis to 0 and `top`, with a margin for markers at both ends.

    `set_ylim(bottom=0)` alone keeps an upper margin that is relative to the range of the values, so that markers are
    clipped if the values are close together and far above 0.

    Args:
        axes: The axes, with all lines drawn.
        top: The largest possible value; None for the largest value that is drawn.
    """
    if top is None:
        values = [np.asarray(line.get_ydata(), dtype=float) for line in axes.lines]
        top = max((float(value) for line in values for value in line if math.isfinite(value)), default=0.0)
    top = top if top > 0 else 1.0
    axes.set_ylim(-_BELOW * top, (1 + _ABOVE) * top)
