"""The line that tells how training is going."""

from __future__ import annotations

import math
import sys
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from torch import Tensor

from w2vlab.callbacks.throughput import AUDIO_RATE

_SHOWN = {
    "loss": "train/loss/total",
    "accuracy": "train/accuracy",
    "perplexity": "train/codebook/perplexity_hard",
    "WER": "val/wer",
    "CER": "val/cer",
    "PER": "val/per",
    "audio s/s": AUDIO_RATE,
}
"""What is shown, by the name it is shown under."""


class TrainingProgress(TQDMProgressBar):
    """Shows loss, accuracy or error rates, code perplexity and speed: a bar on a terminal, else ten plain lines a run.

    A run without a last update gets a line an epoch instead.

    Args:
        refresh_rate: Updates of the bar are this many batches apart, because each waits for the device; 0 hides it.
    """

    def __init__(self, refresh_rate: int = 10) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self._stage = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Chooses between bar and lines."""
        super().setup(trainer, pl_module, stage)
        self._plain = self.is_enabled and not sys.stdout.isatty()
        if self._plain:
            self.disable()

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Returns what stands behind the bar."""
        metrics = trainer.callback_metrics
        return {shown: _rounded(metrics[name]) for shown, name in _SHOWN.items() if name in metrics}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens the bar, or notes how far a checkpoint was."""
        super().on_train_start(trainer, pl_module)
        self._stage, _ = _stage(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Moves the bar, or prints a line when another tenth of the run is done."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        stage, name = _stage(trainer)
        if self._plain and stage > self._stage:
            self._stage = stage
            values = ", ".join(f"{metric} {value}" for metric, value in self.get_metrics(trainer, pl_module).items())
            print(f"{name}, update {trainer.global_step}: {values}", flush=True)


def _stage(trainer: Trainer) -> tuple[int, str]:
    """Returns how many tenths of the run are done, or epochs where it has no end, and how to say it."""
    updates = trainer.estimated_stepping_batches
    if math.isinf(updates):
        return trainer.current_epoch, f"epoch {trainer.current_epoch}"
    tenths = int(10 * trainer.global_step / updates)
    return tenths, f"{10 * tenths:3d} %"


def _rounded(value: Tensor) -> str:
    return f"{value.item():.4g}"
