"""Delivers all micro-batches of an update at once, for loss terms that depend on the global batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from w2vlab.data.dataset import SpeechDataset
from w2vlab.data.loader import ResilientLoader
from w2vlab.data.sampling import EpochSampler
from w2vlab.types import AudioBatch


class UpdateLoader(ResilientLoader):
    """Prefetches all micro-batches of an update, and attaches them to the first one, in `AudioBatch.update`.

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
        """Yields the batches of an epoch; the first one of an update brings all of them."""
        batches = super().__iter__()
        while update := tuple(islice(batches, self._accumulate)):
            first, *rest = update
            yield replace(first, update=update)
            yield from rest
