"""Logs the learning rate at the correct update."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import LearningRateMonitor


class RateMonitor(LearningRateMonitor):
    """A `LearningRateMonitor` that logs at the correct update if a run resumes after a validation.

    Lightning has then counted one update too many, which `RunCheckpoint` corrects only after all other callbacks.
    """

    def on_train_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Logs the learning rate."""
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
        super().on_train_batch_start(trainer, *args, **kwargs)
