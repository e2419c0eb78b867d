"""Validation of the untrained model, as a baseline."""

from __future__ import annotations

import warnings
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from w2vlab.utils.messages import W2VLabWarning


class ValidateFirst(Callback):
    """Runs a full validation before the first update, and logs it at update 0.

    `w2vlab fit` adds it with `validate_first: true`. It replaces Lightning's sanity check, which runs a few of the same
    batches and logs nothing. It is skipped when a run is resumed. The training is not affected, and no checkpoint is
    written, because nothing has been trained yet.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Disables the sanity check, and warns if validation is disabled."""
        if stage != TrainerFn.FITTING:
            return
        trainer.num_sanity_val_steps = 0
        if trainer.limit_val_batches == 0 and trainer.is_global_zero:
            warnings.warn(
                "`validate_first` has no effect: `trainer.limit_val_batches` is 0.", W2VLabWarning, stacklevel=2
            )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validates after all callbacks have run `on_train_start`."""
        if trainer.global_step or trainer.ckpt_path is not None or not trainer.enable_validation:
            return
        # The same steps as for Lightning's validation in the middle of an epoch.
        trainer.validating = True
        loop: Any = trainer.fit_loop.epoch_loop.val_loop
        loop.run()
        trainer.training = True
