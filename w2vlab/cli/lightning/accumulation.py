"""The global batch of a recipe on any number of processes, by gradient accumulation."""

from __future__ import annotations

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from w2vlab.cli.lightning.epochs import interval_of
from w2vlab.data import SpeechDataModule
from w2vlab.data.batches.micro_batches import micro_batches_of_each
from w2vlab.data.fusing import describe_groups, num_groups
from w2vlab.utils.messages import W2VLabWarning, count, duration


def resolve_accumulation(trainer: pl.Trainer, datamodule: SpeechDataModule) -> None:
    """Sets gradient accumulation of the trainer so that an update has `data.micro_batches` micro-batches, and logs it.

    With that option, integer values of `val_check_interval` and `limit_train_batches` count updates, so that a recipe
    is valid for any number of processes. Lightning counts batches of one process: micro-batches, or with
    `data.fuse_seconds` groups of them.

    Args:
        trainer: The trainer before it runs; changed in place.
        datamodule: The data of the run.

    Raises:
        ValueError: Both `data.micro_batches` and `trainer.accumulate_grad_batches` are set.
    """
    wanted = datamodule.micro_batches
    if wanted is None:
        return
    processes = trainer.world_size
    each = micro_batches_of_each(wanted, trainer.accumulate_grad_batches, processes)
    # Lightning's batches: micro-batches, or groups of them that are computed at once.
    steps = num_groups(each, datamodule.at_once)
    trainer.accumulate_grad_batches = steps
    if isinstance(trainer.limit_train_batches, int):
        trainer.limit_train_batches *= steps
    if isinstance(interval := interval_of(trainer), int):
        trainer.val_check_interval = interval * steps
    on = count(processes, "process")
    actual = each * processes
    if actual == wanted:
        if each > 1:
            size = f"{count(wanted, 'micro-batch')}, {duration(wanted * datamodule.batch_seconds)} nominal"
            fused = describe_groups(each, datamodule.at_once, datamodule.batch_seconds)
            rank_zero_info(f"An update: {size}, on {on}: {each} accumulated by each{fused}.")
        return
    sizes = [duration(number * datamodule.batch_seconds) for number in (actual, wanted)]
    rank_zero_warn(
        f"An update has {count(actual, 'micro-batch')}, {sizes[0]} nominal, in place of {wanted}, {sizes[1]}: "
        f"`data.micro_batches` cannot be divided evenly among {on}: it is rounded up to {each} accumulated by each. "
        "Lower `data.batch_seconds` or change the number of processes to train with the requested batch size.",
        category=W2VLabWarning,
    )
