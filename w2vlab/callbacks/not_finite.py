"""Ends a run whose updates have stopped to be numbers."""

from __future__ import annotations

import logging
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from w2vlab.modules.non_finite import SkippedUpdates
from w2vlab.modules.update import TrainedModule
from w2vlab.types import RunError
from w2vlab.wording import count

logger = logging.getLogger(__name__)

_CURES = (
    "Lower the learning rate or lengthen its warm-up; with --trainer.precision=16-mixed take bf16-mixed or 32-true; "
    "listen to these utterances"
)


class NotFinite(Callback):
    """Warns of updates that were skipped because a gradient or loss was not finite, and ends a run of nothing else.

    A run in which all were skipped, however few, ends with an error, because its model is what it was at the start.
    Logs `train/skipped_updates`, all of the run so far since it was started or resumed. The 1st, 2nd, 4th, 8th, … is
    warned of, with the utterances that it was computed from.

    Args:
        max_in_a_row: As many such updates in a row end the run, at least 1.

    Raises:
        ValueError: `max_in_a_row` is less than 1.
    """

    def __init__(self, max_in_a_row: int = 10) -> None:
        super().__init__()
        if max_in_a_row < 1:
            raise ValueError(f"`max_in_a_row` must be at least 1, but is {max_in_a_row}.")
        self.max_in_a_row = max_in_a_row
        self._told = 0
        self._start = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the count anew."""
        self._told = 0
        self._start = trainer.global_step

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends a run without success that has not changed its model.

        Raises:
            RunError: All updates since it was started or resumed were skipped.
        """
        skipped = cast(TrainedModule, pl_module).skipped
        skipped.read_pending()
        updates = trainer.global_step - self._start
        if updates and skipped.total >= updates:
            raise RunError(_none_was_made(updates, skipped))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Logs, warns, and ends the run after too many.

        Raises:
            RunError: As many updates in a row as are allowed were skipped.
        """
        skipped = cast(TrainedModule, pl_module).skipped
        # Filling is queued on the device; copying a tensor made of a number there would wait for it.
        total = torch.full((), float(skipped.total), device=pl_module.device)
        pl_module.log("train/skipped_updates", total, batch_size=1)
        if skipped.total == self._told:
            return
        self._told = skipped.total
        if skipped.in_a_row >= self.max_in_a_row:
            raise RunError(
                f"{count(skipped.in_a_row, 'update')} in a row had a loss or gradient that is not finite, the last one "
                f"at update {trainer.global_step} with {_named(skipped.last_ids)}. {_CURES}. "
                "`not_finite.max_in_a_row` is how many are allowed."
            )
        # Told by the process that has the utterances, and of a gradient alone by the first.
        power_of_two = skipped.total & (skipped.total - 1) == 0
        if power_of_two and (skipped.last_ids or trainer.is_global_zero):
            logger.warning(
                "Update %d was skipped (%d so far): its loss or gradient is not finite, with %s.",
                trainer.global_step,
                skipped.total,
                _named(skipped.last_ids),
            )


def _none_was_made(updates: int, skipped: SkippedUpdates) -> str:
    return (
        f"No update was made: all {updates} had a loss or gradient that is not finite, the last one with "
        f"{_named(skipped.last_ids)}. {_CURES}."
    )


def _named(ids: tuple[str, ...]) -> str:
    return f"the utterances {', '.join(ids)}" if ids else "utterances of another process"
