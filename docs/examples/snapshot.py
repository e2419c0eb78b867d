"""A teacher from outside w2vlab: one part, one file."""

from __future__ import annotations

from w2vlab.interfaces import ContextNetwork
from w2vlab.teachers import EMATeacher
from w2vlab.teachers.ema import Combine


class SnapshotTeacher(EMATeacher):
    """A copy of the student that is made every `interval` updates and is constant between, and not a moving average.

    So are the targets of a deep Q-network made. Its input projection follows after every update, as that of
    `EMATeacher`.

    Args:
        context: The student's context network; supplied by the module, not by YAML.
        layers: How many of the highest layers the targets are made from, K.
        combine: The targets are the mean of the layers (`mean`), or all of them one after another (`concatenate`).
        interval: Updates from one copy to the next.

    Reference:
        Mnih et al. 2015, doi:10.1038/nature14236, Methods ("every C updates").
    """

    def __init__(
        self, context: ContextNetwork, layers: int = 8, combine: Combine = "mean", interval: int = 1000
    ) -> None:
        super().__init__(context, layers=layers, combine=combine)
        if interval < 1:
            raise ValueError(f"`interval` must be at least 1, but is {interval}.")
        self.interval = interval
        self.schedule = self._decay

    def _decay(self, update: int) -> float:
        """Returns the weight of the old copy after the update that follows `update` updates done: 0 or 1."""
        return 0.0 if (update + 1) % self.interval == 0 else 1.0
