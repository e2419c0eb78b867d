"""Compute cost of a run: wall-clock time and audio, summed over resumes."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import Trainer

from w2vlab.callbacks.history import MetricHistory
from w2vlab.callbacks.throughput import PEAK_MEMORY
from w2vlab.types import Seconds
from w2vlab.utils.distributed import world_size


class RunCost:
    """Counts wall-clock time and processed audio.

    Audio is counted without padding when its update is complete. The amount on this process, times the number of
    processes, is the estimate for all.

    Attributes:
        audio_seconds: Audio of all complete updates on all processes.
    """

    def __init__(self) -> None:
        self.audio_seconds: Seconds = 0.0
        self._pending: Seconds = 0.0
        self._update = 0
        self._before: Seconds = 0.0
        self._start = time.monotonic()
        self._end: float | None = None

    def start(self) -> None:
        """Starts the clock, at the start of the run and after each resume."""
        self._start, self._end = time.monotonic(), None

    def stop(self) -> None:
        """Stops the clock, so that evaluations after the end of training are not counted."""
        self._end = time.monotonic()

    def begin(self, update: int) -> None:
        """Starts to count audio after `update` updates."""
        self._update = update
        self._pending = 0.0

    def add(self, trainer: Trainer, batch: Any) -> None:
        """Counts a micro-batch; a batch without the attribute `seconds` counts as 0."""
        self._pending += getattr(batch, "seconds", 0.0) * world_size()
        if trainer.global_step != self._update:
            self._update = trainer.global_step
            self.audio_seconds += self._pending
            self._pending = 0.0

    @property
    def seconds(self) -> Seconds:
        """Wall-clock time of training, resumed parts included."""
        return self._before + (time.monotonic() if self._end is None else self._end) - self._start

    def current(self) -> dict[str, Seconds]:
        """Returns time and audio so far, as they are logged in every row of metrics."""
        return {"seconds": round(self.seconds, 3), "audio_seconds": round(self.audio_seconds, 3)}

    def total(self, updates: int, train: MetricHistory) -> dict[str, float | None]:
        """Returns the total cost.

        Args:
            updates: Number of optimiser updates.
            train: The history with the throughput metrics.
        """
        peaks = train.series(PEAK_MEMORY)[1]
        return {**self.current(), "peak_memory_gib": max(peaks, default=None), "updates": updates}

    def state_dict(self) -> dict[str, Any]:
        """Returns the state for a checkpoint."""
        return {"seconds": self.seconds, "audio_seconds": self.audio_seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the state of `state_dict`; checkpoints of earlier versions have no audio."""
        self._before = state["seconds"]
        self.audio_seconds = state.get("audio_seconds", 0.0)
