"""Schedules of the decay of a moving average of weights."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class DecaySchedule:
    """The decay of a moving average, as a function of the updates done.

    Attributes:
        start: Decay of the first update.
        end: Decay at the end.
        updates: Updates until `end` (`linear`), or after which the distance to `end` has fallen to 1 / e of that at the
            start (`exponential`).
        shape: `linear` or `exponential`.
        frozen_from: The average no longer moves from this update on; None if it always moves.
    """

    start: float
    end: float
    updates: int
    shape: str
    frozen_from: int | None = None

    def __call__(self, update: int) -> float:
        """Returns the decay of the update that follows `update` updates done."""
        if self.frozen_from is not None and update >= self.frozen_from:
            return 1.0
        if self.shape == "exponential":
            return self.end - (self.end - self.start) * math.exp(-update / self.updates)
        return self.start + (self.end - self.start) * min(1.0, update / self.updates)
