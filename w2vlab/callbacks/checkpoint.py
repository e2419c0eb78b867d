"""Checkpoints of a run: the best one, and always the state to go on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException


class RunCheckpoint(ModelCheckpoint):
    """Adds to Lightning's callback a `last.ckpt` that is always up to date.

    Lightning's `save_last` writes only when the monitored metric has improved, and not at the end of training. The loss
    of these models may well rise while they learn to use more codes, so that state would be far behind. Here it is
    written after every validation and epoch, at the end, and when the run is interrupted.

    Args:
        kwargs: As for `ModelCheckpoint`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._last_update = 0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the best and the last state."""
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._save_last(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the last state where there was no validation."""
        super().on_train_epoch_end(trainer, pl_module)
        self._save_last(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Saves the last state."""
        super().on_exception(trainer, pl_module, exception)
        # Processes save together. An interrupt reaches all of them, an error perhaps only one, which must not wait.
        together = trainer.world_size == 1 or isinstance(exception, KeyboardInterrupt | SIGTERMException)
        if together and trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._save_last(trainer)

    def _save_last(self, trainer: Trainer) -> None:
        if trainer.fast_dev_run or trainer.global_step == self._last_update:  # type: ignore[attr-defined]
            return
        path = Path(str(self.dirpath), self.CHECKPOINT_NAME_LAST + self.FILE_EXTENSION)
        trainer.save_checkpoint(path, weights_only=False)
        self._last_update = trainer.global_step
        self.last_model_path = str(path)
