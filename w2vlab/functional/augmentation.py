"""Draws and levels of augmentations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Audio = npt.NDArray[np.float32]

Range = tuple[float, float]
"""The lowest and the highest value of a uniform distribution."""


def check_probability(**options: float) -> None:
    """Checks that options are probabilities.

    Args:
        options: The values by their names.

    Raises:
        ValueError: One of them is below 0 or above 1, or not a number.
    """
    for name, value in options.items():
        if not 0 <= value <= 1:
            raise ValueError(f"`{name}` must be from 0 to 1, but is {value}.")


def check_range(**options: Sequence[float]) -> None:
    """Checks that options are two finite numbers in ascending order.

    Args:
        options: The values by their names.

    Raises:
        ValueError: One of them is not.
    """
    for name, value in options.items():
        if len(value) != 2 or not all(map(math.isfinite, value)) or value[0] > value[1]:
            raise ValueError(f"`{name}` must be a lower and an upper limit, in this order, but is {list(value)}.")


def decibels_to_factor(decibels: float) -> float:
    """Returns the factor of amplitudes of a level in dB."""
    return float(10.0 ** (decibels / 20))


def power(audio: Audio) -> float:
    """Returns the mean square of samples, 0 for no samples."""
    return float(np.mean(np.square(audio, dtype=np.float64))) if audio.size else 0.0
