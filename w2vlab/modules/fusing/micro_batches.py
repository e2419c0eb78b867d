"""The micro-batches of an update, available at its first one."""

from __future__ import annotations

from collections.abc import Sequence

import lightning.pytorch as pl

from w2vlab.types import AudioBatch, Draws


def micro_batches_of_update(first: AudioBatch, batch_idx: int, trainer: pl.Trainer) -> list[AudioBatch]:
    """Returns the micro-batches of this process in the update that starts with `first`.

    Args:
        first: The first micro-batch; if there may be several, its `update` has all of them.
        batch_idx: Its index in the epoch.
        trainer: The trainer, with the number of accumulated micro-batches and the length of the epoch.

    Raises:
        ValueError: The batch does not have its update, or that has too many micro-batches.
    """
    accumulate: int = trainer.accumulate_grad_batches
    if accumulate == 1:
        return [first]
    if first.update is None:
        raise ValueError(
            "`accumulate_grad_batches` must be 1 for a loader whose batches do not have the `update` that they belong "
            f"to, but is {accumulate}: the loss is divided by the predictions of the whole update. Use "
            "SpeechDataModule, or w2vlab.data.WholeUpdates(loader, accumulate_grad_batches)."
        )
    if len(first.update) > accumulate:
        raise ValueError(
            f"`accumulate_grad_batches` must be {len(first.update)}, as many micro-batches as `AudioBatch.update` "
            f"has, but is {accumulate}."
        )
    left = trainer.num_training_batches - batch_idx  # `limit_train_batches` may end the epoch within the update
    return [batch for number, batch in enumerate(first.update) if number < left]


def ids_of(draws: Sequence[Sequence[Draws]]) -> list[tuple[str, ...]]:
    """Returns the utterances of each batch of an update, from the draws of its passes."""
    return [tuple(name for one in passes for name in one.address.ids) for passes in draws]


def check_order(ids: tuple[str, ...], drawn: Sequence[tuple[str, ...]], number: int) -> None:
    """Checks that a micro-batch is the one for which masks were drawn at the start of its update.

    Args:
        ids: Utterances of the micro-batch.
        drawn: Utterances of each micro-batch at the start of the update.
        number: Index of the micro-batch in the update.

    Raises:
        ValueError: It is a different micro-batch.
    """
    if number >= len(drawn) or ids != drawn[number]:
        expected = ", ".join(drawn[number]) if number < len(drawn) else "the first of the next update"
        raise ValueError(
            f"Micro-batch {number + 1} of an update must be that of `AudioBatch.update` ({expected}), but has "
            f"{', '.join(ids)}. `WholeUpdates` must be given the trainer's `accumulate_grad_batches`."
        )
