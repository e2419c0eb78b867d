"""What a run has cost so far, all its parts together."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import Trainer

from w2vlab.callbacks.history import MetricHistory
from w2vlab.callbacks.throughput import PEAK_MEMORY
from w2vlab.distributed import world_size
from w2vlab.types import Seconds


class RunCost:
    """Counts time and audio.

    Audio counts when its update is whole, and without padding: that of this process stands for that of the others.

    Attributes:
        audio_seconds: Audio of all whole updates of all processes together.
    """

    def __init__(self) -> None:
        self.audio_seconds: Seconds = 0.0
        self._pending: Seconds = 0.0
        self._update = 0
        self._before: Seconds = 0.0
        self._start = time.monotonic()
        self._end: float | None = None

    def start(self) -> None:
        """Starts the clock of this part of the run."""
        self._start, self._end = time.monotonic(), None

    def stop(self) -> None:
        """Stops it: what is measured of a finished run is no part of it."""
        self._end = time.monotonic()

    def begin(self, update: int) -> None:
        """Begins to count audio behind `update` updates."""
        self._update = update
        self._pending = 0.0

    def add(self, trainer: Trainer, batch: Any) -> None:
        """Counts a micro-batch; one that is not of this project has no seconds."""
        self._pending += getattr(batch, "seconds", 0.0) * world_size()
        if trainer.global_step != self._update:
            self._update = trainer.global_step
            self.audio_seconds += self._pending
            self._pending = 0.0

    @property
    def seconds(self) -> Seconds:
        """Time taken."""
        return self._before + (time.monotonic() if self._end is None else self._end) - self._start

    def so_far(self) -> dict[str, Seconds]:
        """Returns what stands in every row of metrics."""
        return {"seconds": round(self.seconds, 3), "audio_seconds": round(self.audio_seconds, 3)}

    def total(self, updates: int, train: MetricHistory) -> dict[str, float | None]:
        """Returns the whole cost.

        Args:
            updates: How many there were.
            train: Where the throughput was recorded.
        """
        peaks = train.series(PEAK_MEMORY)[1]
        return {**self.so_far(), "peak_memory_gib": max(peaks, default=None), "updates": updates}

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps."""
        return {"seconds": self.seconds, "audio_seconds": self.audio_seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` returned; checkpoints of earlier versions have no audio."""
        self._before = state["seconds"]
        self.audio_seconds = state.get("audio_seconds", 0.0)
