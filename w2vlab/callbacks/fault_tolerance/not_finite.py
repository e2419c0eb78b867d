"""Warnings about skipped non-finite updates, and the end of a run that has too many of them."""

from __future__ import annotations

import logging
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from w2vlab.modules.update import TrainedModule
from w2vlab.types import RunError
from w2vlab.utils.messages import count, one_line

logger = logging.getLogger(__name__)

_ADVICE = (
    "Lower the learning rate or lengthen its warm-up; with --trainer.precision=16-mixed use bf16-mixed or 32-true; "
    "listen to these utterances"
)


class NotFinite(Callback):
    """Warns of updates that were skipped because the loss or gradient was not finite, and ends runs with too many.

    A run in which all updates were skipped ends with an error, because its model has not changed. Logs
    `train/skipped_updates`, the number since the run was started or resumed. Warnings are logged for the 1st, 2nd, 4th,
    8th, … skipped update, with its utterances.

    Args:
        max_in_a_row: Number of consecutive skipped updates that ends the run, at least 1.

    Raises:
        ValueError: `max_in_a_row` is less than 1.
    """

    def __init__(self, max_in_a_row: int = 10) -> None:
        super().__init__()
        if max_in_a_row < 1:
            raise ValueError(f"`max_in_a_row` must be at least 1, but is {max_in_a_row}.")
        self.max_in_a_row = max_in_a_row
        self._last_total = 0
        self._first_update = 0
        self._step = 0  # updates done when the number was logged last
        self._logged = False  # whether it was logged in this update

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Resets the count."""
        self._last_total = 0
        self._first_update = self._step = trainer.global_step
        self._logged = False

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raises an error if the run has not changed its model.

        Raises:
            RunError: All updates since the run was started or resumed were skipped.
        """
        skipped = cast(TrainedModule, pl_module).skipped
        skipped.read_pending()
        updates = trainer.global_step - self._first_update
        if updates and skipped.total >= updates:
            raise RunError(
                f"No update was made: all {updates} had a loss or gradient that is not finite, the last one with "
                f"{_format_ids(skipped.last_ids)}. {_ADVICE}."
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After an update, logs the number of skipped ones, warns, and ends the run if there are too many.

        Raises:
            RunError: `max_in_a_row` consecutive updates were skipped.
        """
        # After the first micro-batch, so that the row of the update has the number, and after the update.
        within = trainer.global_step == self._step
        if within and self._logged:
            return
        self._step, self._logged = trainer.global_step, within
        skipped = cast(TrainedModule, pl_module).skipped
        # `full` fills the tensor on the device; a copy from the host would synchronise.
        total = torch.full((), float(skipped.total), device=pl_module.device)
        pl_module.log("train/skipped_updates", total, batch_size=1)
        if skipped.total == self._last_total:
            return
        self._last_total = skipped.total
        if skipped.in_a_row >= self.max_in_a_row:
            raise RunError(
                f"{count(skipped.in_a_row, 'update')} in a row had a loss or gradient that is not finite, the last one "
                f"at update {trainer.global_step} with {_format_ids(skipped.last_ids)}. {_ADVICE}. "
                "`not_finite.max_in_a_row` sets the limit."
            )
        # Logged by the process that has the utterances; if only the gradient is not finite, by process 0.
        power_of_two = skipped.total & (skipped.total - 1) == 0
        if power_of_two and (skipped.last_ids or trainer.is_global_zero):
            logger.warning(
                "Update %d was skipped (%d so far): its loss or gradient is not finite, with %s.",
                trainer.global_step,
                skipped.total,
                _format_ids(skipped.last_ids),
            )


def _format_ids(ids: tuple[str, ...]) -> str:
    return f"the utterances {', '.join(map(one_line, ids))}" if ids else "utterances of another process"
