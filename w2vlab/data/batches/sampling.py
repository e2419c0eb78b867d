"""Plans the batches of an epoch: one sequence, the same for any number of processes, divided among the processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch.utils.data import Sampler

from w2vlab.data.batches.bucketing import bucket_limits, form_batches, ranges
from w2vlab.data.batches.epochs import EpochOrder, Floats, Integers, order_epoch
from w2vlab.data.corpora.utterances import Utterances
from w2vlab.data.fusing import grouped, num_groups
from w2vlab.types import Seconds
from w2vlab.utils.messages import count, duration


@dataclass(frozen=True)
class Members:
    """The utterances of a micro-batch.

    Attributes:
        indices: Their indices in `Utterances`.
        copies: How many times each was used before in the epoch, which is more than 0 only in a mixture of corpora.
    """

    indices: tuple[int, ...]
    copies: tuple[int, ...]


@dataclass(frozen=True)
class BatchPlan:
    """One micro-batch.

    Attributes:
        epoch: The epoch of the batch.
        members: Its utterances.
        substitute: Utterances of another batch, which are used if none of `members` can be read.
        counted: False if the batch only repeats another one so that all processes make the same number of steps.
        update: Updates of the run that are done before that of the batch; None if that is not known.
    """

    epoch: int
    members: Members
    substitute: Members
    counted: bool = True
    update: int | None = None

    def of_update(self, update: int) -> BatchPlan:
        """Returns the plan with the number of its update."""
        return replace(self, update=update)


@dataclass(frozen=True)
class GroupPlan:
    """Micro-batches of an update that are computed at once.

    Attributes:
        plans: The micro-batches.
        numbers: Number of each among those of this process in the update, ascending.
    """

    plans: tuple[BatchPlan, ...]
    numbers: tuple[int, ...]

    def of_update(self, update: int) -> GroupPlan:
        """Returns the plan with the number of its update."""
        return replace(self, plans=tuple(plan.of_update(update) for plan in self.plans))


class EpochSampler(Sampler[BatchPlan | GroupPlan]):
    """Plans the micro-batches of one process for an epoch.

    Every process plans the complete sequence of the epoch, which depends on the seed and the epoch alone, as arrays of
    indices, and takes its part of it, from any place on. An update consists of the next `world_size * accumulate`
    micro-batches of the sequence: the i-th one of rank r in update u has index
    `(u * accumulate + i) * world_size + r`. Therefore layouts with the same product of processes and accumulation
    compute the same updates.

    Shards are divided into lanes, one for each micro-batch of an update, if there are at least twice as many shards:
    micro-batch i of every update is of lane i, so a process needs the shards of its lanes only.

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
        shuffle_shards: Shards whose utterances are shuffled with each other.
        quadratic_seconds: An utterance of t seconds counts as t + t² / `quadratic_seconds`; None for t.
        at_once: Micro-batches that are computed as one batch, at most; above 1, groups of them are planned.

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
        shuffle_shards: int = 8,
        quadratic_seconds: Seconds | None = None,
        at_once: int = 1,
    ) -> None:
        self.epoch = 0
        self.repeats = False
        self.start = 0
        self._utterances = utterances
        self._batch_seconds = batch_seconds
        self._max_seconds = max_seconds
        self._seed = seed
        self._world_size = world_size
        self._rank = rank
        self._update = world_size * accumulate
        self._num_groups = num_groups(accumulate, at_once)
        self._at_once = at_once
        self._shuffle_shards = shuffle_shards
        self._cropped = np.minimum(utterances.durations, max_seconds)
        self._costs = (
            self._cropped if quadratic_seconds is None else self._cropped * (1 + self._cropped / quadratic_seconds)
        )
        all_once = seed is None or set(utterances.uses) == {1.0}
        self.limits = bucket_limits(
            self._costs, num_buckets, None if all_once else np.array(utterances.uses)[utterances.corpora]
        )
        self._planned: _PlannedEpoch | None = None

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

    @property
    def num_batches(self) -> int:
        """This process's micro-batches in the epoch, or groups of them, from its beginning.

        Raises:
            ValueError: An epoch has fewer micro-batches than one update needs.
        """
        return self._num_updates(len(self._plan_epoch())) * self._num_groups

    @property
    def num_lanes(self) -> int:
        """Lanes into which shards are divided; 1 if there are too few of them."""
        if self._seed is None:
            return 1
        in_shards = self._utterances.shards[self._utterances.shards >= 0]
        num_shards = np.count_nonzero(np.bincount(in_shards, minlength=1))
        return self._update if num_shards >= 2 * self._update else 1

    def __iter__(self) -> Iterator[BatchPlan | GroupPlan]:
        """Yields this process's plans of the epoch: of micro-batches, or of the groups of each update.

        Raises:
            RunError: A manifest has been removed.
            ValueError: An epoch has fewer micro-batches than one update needs.
        """
        self._utterances.mark_as_used()
        planned = self._plan_epoch()
        # All validations have the same draws; the updates of a training are numbered over its epochs.
        number_of_update = 0 if self._seed is None else None
        for update in range(self.start // self._update, self._num_updates(len(planned))):
            first = update * self._update
            # The last update of a validation is filled up with its first batch.
            plans = [
                planned.plan(number if number < len(planned) else first, number < len(planned), number_of_update)
                for number in range(first + self._rank, first + self._update, self._world_size)
            ]
            yield from plans if self._at_once == 1 else self._groups(plans)

    def _groups(self, plans: Sequence[BatchPlan]) -> Iterator[GroupPlan]:
        lengths = [self._cropped[list(plan.members.indices)].min() for plan in plans]
        for numbers in grouped(lengths, self._num_groups):
            yield GroupPlan(tuple(plans[number] for number in numbers), numbers)

    def _num_updates(self, num_batches: int) -> int:
        if self._seed is None:
            return -(-num_batches // self._update)
        if num_batches < self._update:
            seconds = self._utterances.cropped_seconds(self._max_seconds)
            raise ValueError(
                f"`batch_seconds` must leave {count(self._update, 'micro-batch')} for an update, but is "
                f"{self._batch_seconds} with {duration(seconds)} of audio in an epoch, which make "
                f"{num_batches}; lower it or `micro_batches`, use fewer processes, or add audio."
            )
        return num_batches // self._update

    def _plan_epoch(self) -> _PlannedEpoch:
        epoch = 0 if self.repeats else self.epoch
        if self._planned is None or self._planned.epoch != epoch:
            self._planned = None  # both at once may not fit in memory
            num_lanes = self.num_lanes
            if self._seed is None:
                every = np.arange(len(self._utterances))
                order = EpochOrder(every, np.zeros_like(every), np.zeros_like(every))
            else:
                order = order_epoch(self._utterances, self._seed, epoch, self._shuffle_shards, num_lanes, self._cropped)
            self._planned = _PlannedEpoch(epoch, order, self._costs, self.limits, self._batch_seconds, num_lanes)
        return self._planned


class _PlannedEpoch:
    """The sequence of micro-batches of an epoch, as arrays: those of 10 million utterances have 80 MB."""

    def __init__(
        self, epoch: int, order: EpochOrder, costs: Floats, limits: Floats, budget: float, num_lanes: int
    ) -> None:
        self.epoch = epoch
        places = [np.flatnonzero(order.lanes == lane) for lane in range(num_lanes)]
        batches = [form_batches(costs[order.indices[those]], limits, budget) for those in places]
        members = np.concatenate([those[formed.members] for those, formed in zip(places, batches, strict=True)])
        sizes = np.concatenate([np.diff(formed.bounds) for formed in batches])
        first = np.cumsum(sizes) - sizes
        if num_lanes > 1:
            sequence = _interleave([len(formed) for formed in batches])
            first, sizes = first[sequence], sizes[sequence]
            members = members[ranges(first, sizes)]
        self._bounds = np.concatenate([[0], np.cumsum(sizes)])
        self._indices = order.indices[members].astype(np.min_scalar_type(max(len(costs), 1)))
        self._copies = order.copies[members].astype(np.min_scalar_type(order.copies.max(initial=0)))

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def plan(self, number: int, counted: bool, update: int | None) -> BatchPlan:
        # The substitute of a batch is the previous one; that of the first batch is the second.
        other = number - 1 if number else min(1, len(self) - 1)
        return BatchPlan(self.epoch, self._members(number), self._members(other), counted, update)

    def _members(self, number: int) -> Members:
        those = slice(self._bounds[number], self._bounds[number + 1])
        return Members(tuple(self._indices[those].tolist()), tuple(self._copies[those].tolist()))


def _interleave(sizes: Sequence[int]) -> Integers:
    """Returns the batches of all lanes, numbered lane by lane, in the order in which they are taken from each in turn.

    What the longer lanes have left when the shortest one ends comes last.
    """
    lanes = np.concatenate([np.full(size, lane) for lane, size in enumerate(sizes)])
    numbers = np.concatenate([np.arange(size) for size in sizes])
    order: Integers = np.lexsort((lanes, numbers))
    return order
