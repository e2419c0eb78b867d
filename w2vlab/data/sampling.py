"""Batches by total seconds, the same number on every process, from any place of any epoch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
import numpy.typing as npt
from lhotse.cut import Cut
from lhotse.dataset.sampling import DynamicBucketingSampler
from lhotse.utils import fastcopy
from torch.utils.data import Sampler

from w2vlab.data.utterances import Utterances
from w2vlab.types import Seconds


@dataclass(frozen=True)
class BatchPlan:
    """What one batch is to be read from.

    Attributes:
        epoch: The epoch that it belongs to.
        cuts: Its utterances.
        substitute: Those of another batch, for when none of `cuts` can be read.
    """

    epoch: int
    cuts: tuple[Cut, ...]
    substitute: tuple[Cut, ...]


class EpochSampler(Sampler[BatchPlan]):
    """Plans the batches of one process for an epoch, through lhotse's bucketing sampler.

    Every process plans the batches of all of them and takes its share, so no two share an utterance and all make the
    same number of steps. To that end a few incomplete batches are dropped at the end of an epoch when there are several
    processes; a single one uses every utterance.

    Args:
        utterances: What to sample from.
        batch_seconds: Most audio in a batch, counted as its longest utterance times their number.
        max_seconds: The longest crop; what lies beyond it does not count.
        num_buckets: Batches are made of utterances from the same one of so many ranges of length.
        seed: The run's seed; None for a fixed order.
        world_size: Number of processes.
        rank: This process.
    """

    def __init__(
        self,
        utterances: Utterances,
        batch_seconds: Seconds,
        max_seconds: Seconds,
        num_buckets: int,
        seed: int | None,
        world_size: int,
        rank: int,
    ) -> None:
        self.epoch = 0
        self.start = 0
        self._utterances = utterances
        self._max_seconds = max_seconds
        self._batch_seconds = batch_seconds
        self._world_size = world_size
        self._sampler = DynamicBucketingSampler(
            _Cropped(utterances, max_seconds),
            max_duration=batch_seconds,
            duration_bins=_bucket_limits(np.minimum(utterances.durations, max_seconds), num_buckets),
            shuffle=seed is not None,
            # lhotse adds the epoch to the seed; without the factor, run 1 would repeat run 0 one epoch later.
            seed=(seed or 0) * 1_000_003,
            drop_last=world_size > 1 and seed is not None,
            world_size=world_size,
            rank=rank,
        )

    def set_epoch(self, epoch: int) -> None:
        """Moves to the start of `epoch`, or stays where it is in that epoch; Lightning calls it."""
        if epoch != self.epoch:
            self.move_to(epoch, 0)

    def move_to(self, epoch: int, start: int) -> None:
        """Makes the next iteration begin `start` batches into `epoch`."""
        self.epoch = epoch
        self.start = start

    def __iter__(self) -> Iterator[BatchPlan]:
        """Yields the epoch's plans from its start on.

        Raises:
            ValueError: There is not one full batch for every process.
        """
        epoch = self.epoch
        self._sampler.set_epoch(epoch)
        planned = (tuple(cut.whole for cut in cuts) for cuts in self._sampler)
        # A batch's substitute is the one before it; the first takes the second.
        head = list(islice(planned, 2))
        if not head:
            raise ValueError(
                f"`batch_seconds` must leave a full batch for each of {self._world_size} processes, but is "
                f"{self._batch_seconds} with {self._utterances.seconds:.0f} s of audio; lower it or add audio."
            )
        substitute = head[-1]
        for number, cuts in enumerate(chain(head, planned)):
            if number >= self.start:
                yield BatchPlan(epoch, cuts, substitute)
            substitute = cuts


class _Cropped(Iterable[Cut]):
    """Utterances as long as their crops will be, for the sampler to measure, with the whole one attached."""

    def __init__(self, cuts: Iterable[Cut], max_seconds: Seconds) -> None:
        self.cuts = cuts
        self.max_seconds = max_seconds

    def __iter__(self) -> Iterator[Cut]:
        for cut in self.cuts:
            yield fastcopy(cut, duration=min(cut.duration, self.max_seconds), custom={"whole": cut})


def _bucket_limits(durations: npt.NDArray[np.float64], num_buckets: int) -> list[Seconds]:
    """Returns the longest duration of each bucket but the last; all hold about the same total duration."""
    ordered = np.sort(durations)
    total = np.cumsum(ordered)
    shares = total[-1] * np.arange(1, num_buckets) / num_buckets
    return [float(limit) for limit in np.unique(ordered[np.searchsorted(total, shares)])]
