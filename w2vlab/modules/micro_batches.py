"""The micro-batches of an update, known at its first one."""

from __future__ import annotations

import lightning.pytorch as pl

from w2vlab.types import AudioBatch


def micro_batches_of_update(first: AudioBatch, batch_idx: int, trainer: pl.Trainer) -> list[AudioBatch]:
    """Returns the micro-batches of this process in the update that begins with `first`.

    Args:
        first: The first micro-batch, with all of them in `update` if there may be several.
        batch_idx: Its number in the epoch.
        trainer: The trainer, which says how many make an update, and where the epoch ends.

    Raises:
        ValueError: The batch does not hold its update, or holds more than the update has.
    """
    accumulate: int = trainer.accumulate_grad_batches
    if accumulate == 1:
        return [first]
    if first.update is None:
        raise ValueError(
            "`accumulate_grad_batches` must be 1 for a loader whose batches do not hold the update that they belong "
            f"to, but is {accumulate}: the loss is divided by the predictions of the whole update. Use "
            "SpeechDataModule, or w2vlab.data.WholeUpdates(loader, accumulate_grad_batches)."
        )
    if len(first.update) > accumulate:
        raise ValueError(
            f"`accumulate_grad_batches` must be {len(first.update)}, as many micro-batches as `AudioBatch.update` "
            f"holds, but is {accumulate}."
        )
    left = trainer.num_training_batches - batch_idx  # `limit_train_batches` may end the epoch within the update
    return [batch for number, batch in enumerate(first.update) if number < left]


def check_order(ids: tuple[str, ...], drawn: tuple[tuple[str, ...], ...], number: int) -> None:
    """Checks that a micro-batch is the one for which masks were drawn when its update began.

    Args:
        ids: Utterances of the micro-batch.
        drawn: Utterances of each micro-batch of the update, when it began.
        number: The number of the micro-batch in the update.

    Raises:
        ValueError: It is another one.
    """
    if number >= len(drawn) or ids != drawn[number]:
        expected = ", ".join(drawn[number]) if number < len(drawn) else "the first of the next update"
        raise ValueError(
            f"Micro-batch {number + 1} of an update must be that of `AudioBatch.update` ({expected}), but has "
            f"{', '.join(ids)}. `WholeUpdates` must be given the trainer's `accumulate_grad_batches`."
        )
