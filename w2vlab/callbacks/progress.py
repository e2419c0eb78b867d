"""Progress bar or progress lines of training."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Timer, TQDMProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from w2vlab.callbacks.throughput import AUDIO_RATE

_SHOWN = {
    "loss": "train/loss/total",
    "accuracy": "train/accuracy",
    "explained": "train/explained_variance",
    "perplexity": "train/codebook/perplexity_hard",
    "WER": "val/wer",
    "CER": "val/cer",
    "PER": "val/per",
    "audio s/s": AUDIO_RATE,
}
"""Training metrics that are shown, by the displayed name."""

_VALIDATED = {
    "loss": "val/loss/total",
    "accuracy": "val/accuracy",
    "explained": "val/explained_variance",
    "perplexity": "val/codebook/perplexity_hard",
    "WER": "val/wer",
    "CER": "val/cer",
    "PER": "val/per",
}
"""Validation metrics that are shown, by the displayed name."""


class TrainingProgress(TQDMProgressBar):
    """Shows loss, accuracy or error rates, code perplexity and speed: a bar on a terminal, otherwise ten lines a run.

    Validations have separate lines, at most ten too. If the length of the run in updates is unknown, because it is
    limited by epochs of unknown length or not at all, one line an epoch is printed instead.

    Args:
        refresh_rate: Batches between two refreshes of the bar, because each synchronises with the device; 0 hides it.
    """

    def __init__(self, refresh_rate: int = 10) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self._stage = _Stage(0, 0)
        self._validated_stage: _Stage | None = None
        self._shown_update = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Uses the bar on a terminal, and lines otherwise."""
        super().setup(trainer, pl_module, stage)
        self._plain = self.is_enabled and not sys.stdout.isatty()
        if self._plain:
            self.disable()

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Returns the metrics that the bar shows."""
        values = _values(trainer, _SHOWN)
        validated = _values(trainer, {"validation loss": "val/loss/total"})
        return {**values, **validated}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens the bar; for the lines, stores the progress of a checkpoint that is resumed."""
        super().on_train_start(trainer, pl_module)
        self._stage = _Stage.of(trainer)
        self._validated_stage = self._stage if trainer.global_step and not _counts_epochs(trainer) else None
        self._shown_update = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advances the bar, or prints a line when another tenth of the run is complete."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self._plain:
            stage = _Stage.of(trainer)
            if stage.tenths > self._stage.tenths:
                self._show(trainer, stage)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints a line if progress is counted in epochs."""
        super().on_train_epoch_end(trainer, pl_module)
        if self._plain and _counts_epochs(trainer) and trainer.global_step > self._shown_update:
            self._show(trainer, _Stage.of(trainer))

    def _show(self, trainer: Trainer, stage: _Stage) -> None:
        self._stage, self._shown_update = stage, trainer.global_step
        _print_line(f"{stage.name(trainer)}, update {trainer.global_step}", _values(trainer, _SHOWN))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints a line, unless this tenth of the run had one; a validation before the first update always has one."""
        super().on_validation_end(trainer, pl_module)
        if not self._plain or trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        stage = _Stage.of(trainer)
        if self._validated_stage is None or stage != self._validated_stage:
            self._validated_stage = stage
            name = f"{stage.name(trainer)}, update {trainer.global_step}, validation"
            _print_line(name, _values(trainer, _VALIDATED))


@dataclass(frozen=True)
class _Stage:
    """The progress of a run.

    Attributes:
        tenths: Completed tenths of its updates or its time.
        epochs: Completed epochs, if progress is counted in epochs; otherwise 0.
    """

    tenths: int
    epochs: int

    @classmethod
    def of(cls, trainer: Trainer) -> _Stage:
        shares = [0.0]
        if (updates := _known_updates(trainer)) is not None:
            shares.append(trainer.global_step / updates if updates else 1.0)
        if (timer := _timer(trainer)) is not None:
            elapsed, left = timer.time_elapsed(), timer.time_remaining() or 0.0
            shares.append(min(1.0, elapsed / (elapsed + max(left, 0.0)) if elapsed else 0.0))
        return cls(int(10 * max(shares)), trainer.current_epoch if _counts_epochs(trainer) else 0)

    def name(self, trainer: Trainer) -> str:
        """Returns the progress as text: the percentage, or the current epoch, counted from 1."""
        if not _counts_epochs(trainer):
            return f"{10 * self.tenths:3d} %"
        last = trainer.max_epochs
        of = f" of {last}" if last is not None and last >= 0 else ""
        return f"epoch {self.epochs + 1}{of}"


def _known_updates(trainer: Trainer) -> int | None:
    """Returns the number of updates of the run; None if neither it nor the length of an epoch is known."""
    updates = trainer.estimated_stepping_batches
    return None if math.isinf(updates) or updates < 0 else int(updates)


def _timer(trainer: Trainer) -> Timer | None:
    """Returns the callback that ends the run after a time; None if it has none."""
    timers = (callback for callback in trainer.callbacks if isinstance(callback, Timer))  # type: ignore[attr-defined]
    return next((timer for timer in timers if timer.time_remaining() is not None), None)


def _counts_epochs(trainer: Trainer) -> bool:
    """Returns whether progress is counted in epochs, because the run is limited by epochs of unknown length or not."""
    if trainer.max_epochs is not None and trainer.max_epochs >= 0:
        return math.isinf(trainer.num_training_batches)
    return trainer.max_steps < 0 and _timer(trainer) is None


def _values(trainer: Trainer, shown: dict[str, str]) -> dict[str, str]:
    metrics = trainer.callback_metrics
    return {name: _rounded(metrics[logged]) for name, logged in shown.items() if logged in metrics}


def _print_line(start: str, values: dict[str, str]) -> None:
    print(f"{start}: {', '.join(f'{name} {value}' for name, value in values.items())}", flush=True)


def _rounded(value: Tensor) -> str:
    return f"{value.item():.4g}"
