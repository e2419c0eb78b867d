"""Schedules of the decay of a moving average of weights."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class DecaySchedule:
    """The decay of a moving average, as a function of the updates done.

    The n-th update has the decay at n, as in the released code of data2vec, DinoSR and SpidR:

        linear: start + (end - start) * min(1, n / updates)      exponential: end - (end - start) * exp(-n / updates)

    Attributes:
        start: Decay at 0, before the first update.
        end: Decay at the end.
        updates: Updates until `end` (`linear`), or after which the distance to `end` has fallen to 1 / e of that at the
            start (`exponential`).
        shape: `linear` or `exponential`.
        frozen_from: The average no longer moves after this many updates; None if it always moves.
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
        number = update + 1
        if self.shape == "exponential":
            return self.end - (self.end - self.start) * math.exp(-number / self.updates)
        return self.end - (self.end - self.start) * max(0.0, 1.0 - number / self.updates)
