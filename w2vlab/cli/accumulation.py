"""The batch of a recipe on any number of processes: what is not there side by side is computed one after another."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from w2vlab.data import SpeechDataModule
from w2vlab.wording import W2VLabWarning, count, duration


def micro_batches_of_each(wanted: int | None, accumulated: int, processes: int) -> int:
    """Returns the micro-batches that each process accumulates for an update.

    Args:
        wanted: `data.micro_batches`, of all processes.
        accumulated: `trainer.accumulate_grad_batches`, which decides where `wanted` is None.
        processes: Number of processes.

    Raises:
        ValueError: Both are given.
    """
    if wanted is None:
        return accumulated
    if accumulated != 1:
        raise ValueError(
            f"`trainer.accumulate_grad_batches` must be left out where `data.micro_batches` is given ({wanted}), but "
            f"is {accumulated}. It follows from the number of processes; for another batch change "
            "`data.micro_batches`, or set it to null."
        )
    return -(-wanted // processes)


def settle_accumulation(trainer: pl.Trainer, datamodule: SpeechDataModule) -> None:
    """Has the trainer make updates of `data.micro_batches` micro-batches, and says so; without that option, nothing.

    From then on `val_check_interval` and `limit_train_batches`, where they are whole numbers, count updates, so that a
    recipe's hold on any number of processes. For Lightning they count micro-batches of one process.

    Args:
        trainer: The trainer, which has not run yet.
        datamodule: The data of the run.

    Raises:
        ValueError: `trainer.accumulate_grad_batches` is given as well.
    """
    wanted = datamodule.micro_batches
    if wanted is None:
        return
    processes = trainer.world_size
    each = micro_batches_of_each(wanted, trainer.accumulate_grad_batches, processes)
    trainer.accumulate_grad_batches = each
    if isinstance(trainer.limit_train_batches, int):
        trainer.limit_train_batches *= each
    if isinstance(trainer.val_check_interval, int):
        trainer.val_check_interval *= each
        if trainer.check_val_every_n_epoch is not None:
            callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by its connector
            callbacks.append(_NoValidation(trainer.val_check_interval // each))
    on = count(processes, "process")
    actual = each * processes
    if actual == wanted:
        if each > 1:
            size = f"{count(wanted, 'micro-batch')}, {duration(wanted * datamodule.batch_seconds)} nominal"
            rank_zero_info(f"An update: {size}, on {on}: {each} accumulated by each.")
        return
    sizes = [duration(number * datamodule.batch_seconds) for number in (actual, wanted)]
    rank_zero_warn(
        f"An update has {count(actual, 'micro-batch')}, {sizes[0]} nominal, in place of {wanted}, {sizes[1]}: "
        f"`data.micro_batches` cannot be shared out evenly among {on}: it is rounded up to {each} accumulated by each. "
        "Lower `data.batch_seconds` or change the number of processes to train with the batch that was asked for.",
        category=W2VLabWarning,
    )


class _NoValidation(pl.Callback):
    """Warns where epochs are too short to be validated; Lightning counts anew in each, and says nothing."""

    def __init__(self, interval: int) -> None:
        self.interval = interval

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Compares the first epoch, or what is left of it in a resumed run, with the interval."""
        epoch: Any = trainer.fit_loop.epoch_loop  # its counters are annotated as less than they are
        updates = epoch.batch_progress.current.processed // trainer.accumulate_grad_batches
        cut_short = trainer.should_stop or 0 <= trainer.max_steps <= trainer.global_step
        if updates < self.interval and trainer.current_epoch == 0 and not cut_short:
            rank_zero_warn(
                f"`trainer.val_check_interval` is {count(self.interval, 'update')}, but an epoch has {updates}: there "
                "will be no validation. Set `trainer.check_val_every_n_epoch` to null to count over epochs.",
                category=W2VLabWarning,
            )
