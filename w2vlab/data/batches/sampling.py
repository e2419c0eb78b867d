"""Plans the batches of an epoch: one sequence, the same for any number of processes, divided among the processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice

import numpy as np
import numpy.typing as npt
from lhotse.cut import Cut
from lhotse.dataset.sampling import DynamicBucketingSampler
from lhotse.utils import fastcopy
from torch.utils.data import Sampler

from w2vlab.data.corpora.utterances import Utterances
from w2vlab.types import Seconds
from w2vlab.utils.messages import count, duration

_FEWEST_BUCKETS, _MOST_BUCKETS, _BATCHES_A_BUCKET = 10, 100, 60


@dataclass(frozen=True)
class BatchPlan:
    """The utterances of one micro-batch.

    Attributes:
        epoch: The epoch of the batch.
        cuts: Its utterances.
        substitute: Utterances of another batch, which are used if none of `cuts` can be read.
        counted: False if the batch only repeats another one so that all processes make the same number of steps.
    """

    epoch: int
    cuts: tuple[Cut, ...]
    substitute: tuple[Cut, ...]
    counted: bool = True


class EpochSampler(Sampler[BatchPlan]):
    """Plans the micro-batches of one process for an epoch, with lhotse's bucketing sampler.

    Every process plans the complete sequence of the epoch, which depends on the seed and the epoch alone, and takes its
    part of it. An update consists of the next `world_size * accumulate` micro-batches of the sequence: the i-th one of
    rank r in update u has index `(u * accumulate + i) * world_size + r`. Therefore layouts with the same product of
    processes and accumulation compute the same updates.

    In training, micro-batches of an incomplete update at the end of an epoch are dropped. In validation none are
    dropped: ranks that would have fewer batches repeat one that is not counted.

    Args:
        utterances: Utterances to sample from.
        batch_seconds: Maximum audio in a batch, in seconds: the longest utterance times the number of utterances.
        max_seconds: Longest crop, in seconds; longer utterances count as that long.
        num_buckets: Number of ranges of length; the utterances of a batch come from one of them.
        seed: Seed of the run; None for validation, in a fixed order.
        world_size: Number of processes.
        rank: Rank of this process.
        accumulate: Micro-batches of an update on each process.

    Attributes:
        repeats: Whether all epochs repeat the first one.
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
        accumulate: int = 1,
    ) -> None:
        self.epoch = 0
        self.repeats = False
        self.start = 0
        self._utterances = utterances
        self._batch_seconds = batch_seconds
        self._validates = seed is None
        self._world_size = world_size
        self._rank = rank
        self._update = world_size * accumulate
        self._sampler = DynamicBucketingSampler(
            _CroppedCuts(utterances, max_seconds),
            max_duration=batch_seconds,
            duration_bins=_bucket_limits(np.minimum(utterances.durations, max_seconds), num_buckets),
            shuffle=seed is not None,
            # lhotse adds the epoch to the seed, so without the factor epoch 1 with seed 0 would be epoch 0 with seed 1.
            seed=(seed or 0) * 1_000_003,
            # Otherwise lhotse would divide the batches among the processes itself, depending on their number.
            world_size=1,
            rank=0,
        )

    def set_epoch(self, epoch: int) -> None:
        """Moves to the start of `epoch`, unless the sampler is already in that epoch; called by Lightning."""
        if epoch != self.epoch:
            self.move_to(epoch, 0)

    def move_to(self, epoch: int, start: int) -> None:
        """Sets where the next iteration begins.

        Args:
            epoch: The epoch, from 0.
            start: Micro-batches of the sequence that are skipped; a multiple of the micro-batches of an update.
        """
        self.epoch = epoch
        self.start = start

    def __iter__(self) -> Iterator[BatchPlan]:
        """Yields this process's plans of the epoch.

        Raises:
            ValueError: An epoch has fewer micro-batches than one update needs.
        """
        for update in islice(self._updates(), self.start // self._update, None):
            yield from update[self._rank :: self._world_size]

    def _updates(self) -> Iterator[tuple[BatchPlan, ...]]:
        plans, size = self._plans(), self._update
        update = tuple(islice(plans, size))
        if len(update) < size and not self._validates:
            raise ValueError(
                f"`batch_seconds` must leave {count(size, 'micro-batch')} for an update, but is {self._batch_seconds} "
                f"with {duration(self._utterances.seconds)} of audio, which make {len(update)}; lower it or "
                "`micro_batches`, use fewer processes, or add audio."
            )
        while len(update) == size:
            yield update
            update = tuple(islice(plans, size))
        if update and self._validates:
            yield update + (replace(update[0], counted=False),) * (size - len(update))

    def _plans(self) -> Iterator[BatchPlan]:
        epoch = 0 if self.repeats else self.epoch
        self._sampler.set_epoch(epoch)
        planned = (tuple(cut.whole for cut in cuts) for cuts in self._sampler)
        # The substitute of a batch is the previous one; that of the first batch is the second.
        head = list(islice(planned, 2))
        substitute = head[-1]
        for cuts in chain(head, planned):
            yield BatchPlan(epoch, cuts, substitute)
            substitute = cuts


class _CroppedCuts(Iterable[Cut]):
    """Cuts with the duration of their crops, which the sampler measures; the custom field `whole` has the full cut."""

    def __init__(self, cuts: Iterable[Cut], max_seconds: Seconds) -> None:
        self.cuts = cuts
        self.max_seconds = max_seconds

    def __iter__(self) -> Iterator[Cut]:
        for cut in self.cuts:
            yield fastcopy(cut, duration=min(cut.duration, self.max_seconds), custom={"whole": cut})


def default_num_buckets(durations: npt.NDArray[np.float64], batch_seconds: Seconds) -> int:
    """Returns the default number of buckets.

    With more buckets less audio is cropped away, because the lengths in a bucket differ less: with the lengths of
    LibriSpeech, a batch of 87.5 s has 69 s after cropping to the shortest utterance with 10 buckets and 78 s with 100;
    with fairseq's batching it has 77 s. However, the last batch of each bucket is not full, so that a small corpus,
    with few batches per bucket, would lose more than it gains.

    Args:
        durations: Duration of each utterance after cropping, in seconds.
        batch_seconds: Maximum audio in a batch, in seconds.
    """
    num_batches = float(durations.sum()) / batch_seconds
    return int(np.clip(num_batches // _BATCHES_A_BUCKET, _FEWEST_BUCKETS, _MOST_BUCKETS))


def _bucket_limits(durations: npt.NDArray[np.float64], num_buckets: int) -> list[Seconds]:
    """Returns the longest duration of each bucket but the last, such that all have about the same total duration."""
    ordered = np.sort(durations)
    total = np.cumsum(ordered)
    shares = total[-1] * np.arange(1, num_buckets) / num_buckets
    return [float(limit) for limit in np.unique(ordered[np.searchsorted(total, shares)])]
