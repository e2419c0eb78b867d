"""Divides the utterances of an epoch, which are in the order of their use, into batches of similar length."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from w2vlab.data.batches.epochs import Floats, Integers
from w2vlab.types import Seconds

_FEWEST_BUCKETS, _MOST_BUCKETS, _BATCHES_A_BUCKET = 50, 100, 10


@dataclass(frozen=True)
class Batches:
    """Batches of one lane, in order.

    Attributes:
        members: Places of the utterances in the order of the epoch, one batch after the other.
        bounds: Batch i has `members[bounds[i]:bounds[i + 1]]`.
    """

    members: Integers
    bounds: Integers

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, number: int) -> Integers:
        """Returns the places of a batch's utterances."""
        return self.members[self.bounds[number] : self.bounds[number + 1]]


def form_batches(costs: Floats, limits: Floats, budget: float) -> Batches:
    """Forms batches: each utterance goes into the bucket of its cost, and a bucket that is full becomes a batch.

    A batch is full if another utterance would raise the number of utterances times the largest cost above `budget`. The
    batches are in the order in which they become full. What is left in the buckets at the end is divided into batches
    from short to long, which come last, in the order of their first utterances.

    Args:
        costs: Cost of each utterance, in the order of their use.
        limits: Largest cost of each bucket but the last, increasing.
        budget: Maximum cost of a batch; an utterance above it is a batch by itself.
    """
    # Numbers of 8 or 16 bits are sorted several times as fast.
    buckets = np.searchsorted(limits, costs, side="left").astype(np.min_scalar_type(len(limits)))
    by_bucket = np.argsort(buckets, kind="stable")
    ends = np.cumsum(np.bincount(buckets, minlength=len(limits) + 1))
    starts: list[Integers] = []
    sizes: list[Integers] = []
    rest: list[Integers] = []
    for first, stop in pairwise([0, *ends.tolist()]):
        *full, last = _batch_sizes(costs[by_bucket[first:stop]], budget) or [0]
        starts.append(first + np.cumsum([0, *full[:-1]])[: len(full)])
        sizes.append(np.array(full, np.int64))
        rest.append(by_bucket[stop - last : stop])
    first_places, num_members = np.concatenate(starts), np.concatenate(sizes)
    # A batch becomes full when the next utterance of its bucket comes; its last one stands for that.
    order = np.argsort(by_bucket[first_places + num_members - 1], kind="stable")
    first_places, num_members = first_places[order], num_members[order]
    members = by_bucket[ranges(first_places, num_members)]
    left = np.concatenate(rest)
    left = left[np.argsort(costs[left], kind="stable")]
    last_sizes = _batch_sizes(costs[left], budget)
    if last_sizes:
        last_batches = np.split(left, np.cumsum(last_sizes)[:-1])
        last_batches.sort(key=lambda places: int(places.min()))
        members = np.concatenate([members, *last_batches])
        num_members = np.concatenate([num_members, [len(batch) for batch in last_batches]])
    return Batches(members, np.concatenate([[0], np.cumsum(num_members)]))


def _batch_sizes(costs: Floats, budget: float) -> list[int]:
    """Returns the sizes of batches, each of the next utterances whose number times their largest cost fits."""
    if not len(costs):
        return []
    # Of that many utterances, none exceeds the budget: only what comes after them is looked at one by one.
    always = max(1, int(budget / costs.max() * (1 - 1e-9)))
    values, sizes, start = costs.tolist(), [], 0
    while start < len(values):
        stop = min(start + always, len(values))
        largest = max(values[start:stop])
        while stop < len(values) and (stop + 1 - start) * max(largest, values[stop]) <= budget:
            largest = max(largest, values[stop])
            stop += 1
        sizes.append(stop - start)
        start = stop
    return sizes


def ranges(first: Integers, sizes: Integers) -> Integers:
    """Returns the integers of `[first, first + size)` for each pair, one range after the other."""
    within = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    numbers: Integers = np.repeat(first, sizes) + within
    return numbers


def default_num_buckets(epoch_seconds: Seconds, batch_seconds: Seconds) -> int:
    """Returns the default number of buckets.

    With more buckets less audio is cropped away, because the lengths in a bucket differ less: with the lengths of
    LibriSpeech, a batch of 87.5 s has 69 s after cropping to the shortest utterance with 10 buckets, 78 s with 50 and
    79 s with 100; with fairseq's batching it has 77 s. But which utterances meet in a batch varies less between epochs.

    Args:
        epoch_seconds: Audio of an epoch after cropping, in seconds.
        batch_seconds: Maximum audio in a batch, in seconds.
    """
    num_batches = epoch_seconds / batch_seconds
    return int(np.clip(num_batches // _BATCHES_A_BUCKET, _FEWEST_BUCKETS, _MOST_BUCKETS))


def bucket_limits(costs: Floats, num_buckets: int, uses: Floats | None = None) -> Floats:
    """Returns the largest cost of each bucket but the last, such that all have about the same total.

    Args:
        costs: Cost of each utterance.
        num_buckets: Number of buckets.
        uses: How many times an epoch uses each utterance; None if all the same number of times.
    """
    order = np.argsort(costs) if uses is not None else None
    ordered = np.sort(costs) if order is None else costs[order]
    total = np.cumsum(ordered if uses is None else ordered * uses[order])
    shares = total[-1] * np.arange(1, num_buckets) / num_buckets
    limits: Floats = np.unique(ordered[np.searchsorted(total, shares)])
    return limits
