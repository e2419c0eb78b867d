"""The micro-batches of an update: their number on each process, and where a resumed run begins."""

from __future__ import annotations

import logging

from lightning.pytorch import Trainer

from w2vlab.data.fusing import num_groups
from w2vlab.types import Seconds
from w2vlab.utils.distributed import rank, world_size
from w2vlab.utils.messages import count, duration

logger = logging.getLogger(__name__)


def micro_batches_of_each(wanted: int | None, accumulated: int, processes: int) -> int:
    """Returns the micro-batches that each process accumulates for an update.

    Args:
        wanted: `data.micro_batches`, of all processes.
        accumulated: `trainer.accumulate_grad_batches`, which decides if `wanted` is None.
        processes: Number of processes.

    Raises:
        ValueError: Both are given.
    """
    if wanted is None:
        return accumulated
    if accumulated != 1:
        raise ValueError(
            f"`trainer.accumulate_grad_batches` must be left out if `data.micro_batches` is given ({wanted}), but "
            f"is {accumulated}. It follows from the number of processes; for another batch change "
            "`data.micro_batches`, or set it to null."
        )
    return -(-wanted // processes)


def check_accumulation(trainer: Trainer | None, micro_batches: int | None, at_once: int = 1) -> None:
    """Checks that the trainer accumulates as many batches on each process as an update needs.

    Args:
        trainer: The trainer; nothing is checked if it is None.
        micro_batches: Micro-batches of an update over all processes; nothing is checked if it is None.
        at_once: Micro-batches that are computed as one batch, at most.

    Raises:
        ValueError: It accumulates more or fewer.
    """
    if trainer is None or micro_batches is None:
        return
    needed = num_groups(micro_batches_of_each(micro_batches, 1, world_size()), at_once)
    accumulate = trainer.accumulate_grad_batches
    if accumulate != needed:
        fused = f", of which up to {at_once} are computed at once (`fuse_seconds`)," if at_once > 1 else ""
        raise ValueError(
            f"`accumulate_grad_batches` must be {needed} for {count(micro_batches, 'micro-batch')} an update{fused} on "
            f"{count(world_size(), 'process')}, but is {accumulate}."
        )


def describe_update(micro_batches: int, batch_seconds: Seconds) -> str:
    """Returns the size of an update in words."""
    total = f", {duration(micro_batches * batch_seconds)} nominal" if micro_batches > 1 else ""
    return f"an update: {count(micro_batches, 'micro-batch')} of up to {batch_seconds:g} s{total}"


def first_micro_batch(done: int, recorded_size: int, size: int) -> int:
    """Returns the micro-batch of the epoch at which a resumed run begins: the first one of an update.

    Logs a warning on rank 0 if the number of micro-batches in an update has changed.

    Args:
        done: Micro-batches of the epoch that are done, of all processes.
        recorded_size: Micro-batches of an update in the checkpoint, of all processes.
        size: Micro-batches of an update in the resumed run, of all processes.
    """
    repeated = done % size
    if recorded_size != size and rank() == 0:
        logger.warning(
            "Resuming with updates of %s (the checkpoint had %d): another batch than before%s.",
            count(size, "micro-batch"),
            recorded_size,
            f", repeating {count(repeated, 'micro-batch')}" if repeated else "",
        )
    return done - repeated
