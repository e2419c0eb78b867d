"""A validation of the model as it was drawn, to see later what training has changed."""

from __future__ import annotations

import warnings
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from w2vlab.wording import W2VLabWarning


class ValidateFirst(Callback):
    """Validates before the first update, as fully as after it, and logs that at update 0.

    `w2vlab fit` adds it with `validate_first: true`. Lightning's sanity check is left out then: it runs a few of the
    same batches and logs nothing. A resumed run does not validate again. No number of the training changes, and no
    checkpoint is written: there is nothing to resume from yet.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Takes the place of the sanity check; says so where there is no validation."""
        if stage != TrainerFn.FITTING:
            return
        trainer.num_sanity_val_steps = 0
        if trainer.limit_val_batches == 0 and trainer.is_global_zero:
            warnings.warn(
                "`validate_first` has no effect: `trainer.limit_val_batches` is 0.", W2VLabWarning, stacklevel=2
            )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validates, when everything else has started."""
        if trainer.global_step or trainer.ckpt_path is not None or not trainer.enable_validation:
            return
        # As Lightning does it in the middle of an epoch.
        trainer.validating = True
        loop: Any = trainer.fit_loop.epoch_loop.val_loop
        loop.run()
        trainer.training = True
