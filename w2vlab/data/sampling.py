"""One sequence of batches an epoch, the same on any hardware, of which every process takes its share."""

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

from w2vlab.data.utterances import Utterances
from w2vlab.types import Seconds
from w2vlab.wording import count, duration

_FEWEST_BUCKETS, _MOST_BUCKETS, _BATCHES_A_BUCKET = 10, 100, 60


@dataclass(frozen=True)
class BatchPlan:
    """What one micro-batch is to be read from.

    Attributes:
        epoch: The epoch that it belongs to.
        cuts: Its utterances.
        substitute: Those of another batch, for when none of `cuts` can be read.
        counted: False where it repeats another one, only for all processes to make as many steps.
    """

    epoch: int
    cuts: tuple[Cut, ...]
    substitute: tuple[Cut, ...]
    counted: bool = True


class EpochSampler(Sampler[BatchPlan]):
    """Plans the micro-batches of one process for an epoch, through lhotse's bucketing sampler.

    Every process plans the epoch's whole sequence, which depends on the seed and the epoch alone, and takes its share.
    An update is the next `world_size * accumulate` of the sequence, dealt out in turn: the i-th that process r computes
    for update u is number `(u * accumulate + i) * world_size + r`. Layouts with the same product make the same updates.

    In training, what is left for less than a whole update at the end of an epoch is dropped. In validation nothing is:
    processes that would come out short repeat a batch that does not count.

    Args:
        utterances: What to sample from.
        batch_seconds: Most audio in a batch, counted as its longest utterance times their number.
        max_seconds: The longest crop; what lies beyond it does not count.
        num_buckets: Batches are made of utterances from the same one of so many ranges of length.
        seed: The run's seed; None for validation, in a fixed order.
        world_size: Number of processes.
        rank: This process.
        accumulate: Micro-batches of an update on each process.

    Attributes:
        repeats: Whether every epoch is the first one again.
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
            # lhotse adds the epoch to the seed; without the factor, run 1 would repeat run 0 one epoch later.
            seed=(seed or 0) * 1_000_003,
            # lhotse would find out the processes by itself, and share out in a way that depends on their number.
            world_size=1,
            rank=0,
        )

    def set_epoch(self, epoch: int) -> None:
        """Moves to the start of `epoch`, or stays where it is in that epoch; Lightning calls it."""
        if epoch != self.epoch:
            self.move_to(epoch, 0)

    def move_to(self, epoch: int, start: int) -> None:
        """Makes the next iteration begin in `epoch`.

        Args:
            epoch: From 0.
            start: Micro-batches of the whole sequence that are done: a whole number of updates.
        """
        self.epoch = epoch
        self.start = start

    def __iter__(self) -> Iterator[BatchPlan]:
        """Yields this process's plans of the epoch, from its start on.

        Raises:
            ValueError: There is not one whole update in an epoch.
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
                "`micro_batches`, take fewer processes, or add audio."
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
        # A batch's substitute is the one before it; the first takes the second.
        head = list(islice(planned, 2))
        substitute = head[-1]
        for cuts in chain(head, planned):
            yield BatchPlan(epoch, cuts, substitute)
            substitute = cuts


class _CroppedCuts(Iterable[Cut]):
    """Utterances as long as their crops will be, for the sampler to measure, with the whole one attached."""

    def __init__(self, cuts: Iterable[Cut], max_seconds: Seconds) -> None:
        self.cuts = cuts
        self.max_seconds = max_seconds

    def __iter__(self) -> Iterator[Cut]:
        for cut in self.cuts:
            yield fastcopy(cut, duration=min(cut.duration, self.max_seconds), custom={"whole": cut})


def default_num_buckets(durations: npt.NDArray[np.float64], batch_seconds: Seconds) -> int:
    """Returns in how many ranges of length utterances are best sorted, where no option says it.

    What a batch loses is the spread of lengths within a bucket: with lengths as LibriSpeech's, 87.5 s nominal hold
    69 s behind cropping to the shortest with 10 buckets, 78 s with 100; fairseq's own batching comes to 77 s. But a
    bucket's last batch of an epoch is not full: a small corpus, of few batches a bucket, would lose more than it gains.

    Args:
        durations: Seconds of each utterance, after cropping.
        batch_seconds: Most audio in a batch.
    """
    num_batches = float(durations.sum()) / batch_seconds
    return int(np.clip(num_batches // _BATCHES_A_BUCKET, _FEWEST_BUCKETS, _MOST_BUCKETS))


def _bucket_limits(durations: npt.NDArray[np.float64], num_buckets: int) -> list[Seconds]:
    """Returns the longest duration of each bucket but the last; all hold about the same total duration."""
    ordered = np.sort(durations)
    total = np.cumsum(ordered)
    shares = total[-1] * np.arange(1, num_buckets) / num_buckets
    return [float(limit) for limit in np.unique(ordered[np.searchsorted(total, shares)])]
