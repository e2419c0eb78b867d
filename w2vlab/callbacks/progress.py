"""The line that tells how training is going."""

from __future__ import annotations

import math
import sys
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.trainer.states import TrainerFn
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
"""What is shown of the training, by the name it is shown under."""

_VALIDATED = {
    "loss": "val/loss/total",
    "accuracy": "val/accuracy",
    "perplexity": "val/codebook/perplexity_hard",
    "WER": "val/wer",
    "CER": "val/cer",
    "PER": "val/per",
}
"""What is shown of a validation."""


class TrainingProgress(TQDMProgressBar):
    """Shows loss, accuracy or error rates, code perplexity and speed: a bar on a terminal, else ten plain lines a run.

    Validations have lines of their own, as many at most. A run without a last update gets a line an epoch instead.

    Args:
        refresh_rate: Updates of the bar are this many batches apart, because each waits for the device; 0 hides it.
    """

    def __init__(self, refresh_rate: int = 10) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self._stage = 0
        self._validated_stage = -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Chooses between bar and lines."""
        super().setup(trainer, pl_module, stage)
        self._plain = self.is_enabled and not sys.stdout.isatty()
        if self._plain:
            self.disable()

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Returns what stands behind the bar."""
        values = _values(trainer, _SHOWN)
        validated = _values(trainer, {"validation loss": "val/loss/total"})
        return {**values, **validated}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens the bar, or notes how far a checkpoint was."""
        super().on_train_start(trainer, pl_module)
        self._stage, _ = _stage(trainer)
        self._validated_stage = self._stage if trainer.global_step else -1

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Moves the bar, or prints a line when another tenth of the run is done."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        stage, name = _stage(trainer)
        if self._plain and stage > self._stage:
            self._stage = stage
            _print_line(f"{name}, update {trainer.global_step}", _values(trainer, _SHOWN))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints a line, unless this tenth of the run had one; a validation before the first update always has."""
        super().on_validation_end(trainer, pl_module)
        if not self._plain or trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        stage, name = _stage(trainer)
        if stage > self._validated_stage:
            self._validated_stage = stage
            _print_line(f"{name}, update {trainer.global_step}, validation", _values(trainer, _VALIDATED))


def _values(trainer: Trainer, shown: dict[str, str]) -> dict[str, str]:
    metrics = trainer.callback_metrics
    return {name: _rounded(metrics[logged]) for name, logged in shown.items() if logged in metrics}


def _print_line(start: str, values: dict[str, str]) -> None:
    print(f"{start}: {', '.join(f'{name} {value}' for name, value in values.items())}", flush=True)


def _stage(trainer: Trainer) -> tuple[int, str]:
    """Returns how many tenths of the run are done, or epochs where it has no end, and how to say it."""
    updates = trainer.estimated_stepping_batches
    if math.isinf(updates):
        return trainer.current_epoch, f"epoch {trainer.current_epoch}"
    tenths = int(10 * trainer.global_step / updates)
    return tenths, f"{10 * tenths:3d} %"


def _rounded(value: Tensor) -> str:
    return f"{value.item():.4g}"
