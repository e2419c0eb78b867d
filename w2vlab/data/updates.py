"""Batches of a whole update at once, for terms that are functions of all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from w2vlab.data.dataset import SpeechDataset
from w2vlab.data.loader import ResilientLoader
from w2vlab.data.sampling import EpochSampler
from w2vlab.types import AudioBatch


class UpdateLoader(ResilientLoader):
    """Reads all micro-batches of an update ahead and hands them to the first, in `AudioBatch.update`.

    Args:
        dataset: As for `ResilientLoader`.
        sampler: As for `ResilientLoader`.
        num_workers: As for `ResilientLoader`.
        accumulate: Micro-batches of an update on this process.
    """

    def __init__(self, dataset: SpeechDataset, sampler: EpochSampler, num_workers: int, accumulate: int) -> None:
        super().__init__(dataset, sampler, num_workers)
        self._accumulate = accumulate

    def __iter__(self) -> Iterator[AudioBatch]:  # type: ignore[override]  # as in the base class
        """Yields the batches of an epoch, the first of each update with all of them."""
        batches = super().__iter__()
        while update := tuple(islice(batches, self._accumulate)):
            first, *rest = update
            yield replace(first, update=update)
            yield from rest


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
