"""Divides the utterances of an epoch, which are in the order of their use, into batches of similar length."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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
    buckets = np.searchsorted(limits, costs, side="left")
    by_bucket = np.argsort(buckets, kind="stable")
    ends = np.cumsum(np.bincount(buckets, minlength=len(limits) + 1))
    found: list[Integers] = []
    rest: list[Integers] = []
    for first, stop in zip(np.concatenate([[0], ends[:-1]]).tolist(), ends.tolist(), strict=True):
        places = by_bucket[first:stop]
        sizes = _batch_sizes(costs[places].tolist(), budget)
        *full, last = np.split(places, np.cumsum(sizes)[:-1]) if sizes else [places]
        found += full
        rest.append(last)
    # A batch becomes full when the next utterance of its bucket comes; its last one stands for that.
    found.sort(key=lambda places: int(places[-1]))
    left = np.concatenate(rest)
    left = left[np.argsort(costs[left], kind="stable")]
    if len(left):
        last_batches = np.split(left, np.cumsum(_batch_sizes(costs[left].tolist(), budget))[:-1])
        found += sorted(last_batches, key=lambda places: int(places.min()))
    bounds = np.cumsum([0, *map(len, found)], dtype=np.int64)
    return Batches(np.concatenate(found) if found else np.zeros(0, np.int64), bounds)


def _batch_sizes(costs: list[float], budget: float) -> list[int]:
    sizes, size, largest = [], 0, 0.0
    for cost in costs:
        largest = max(largest, cost)
        if size and (size + 1) * largest > budget:
            sizes.append(size)
            size, largest = 0, cost
        size += 1
    return [*sizes, size] if size else sizes


def default_num_buckets(durations: npt.NDArray[np.float64], batch_seconds: Seconds) -> int:
    """Returns the default number of buckets.

    With more buckets less audio is cropped away, because the lengths in a bucket differ less: with the lengths of
    LibriSpeech, a batch of 87.5 s has 69 s after cropping to the shortest utterance with 10 buckets, 78 s with 50 and
    79 s with 100; with fairseq's batching it has 77 s. But which utterances meet in a batch varies less between epochs.

    Args:
        durations: Duration of each utterance after cropping, in seconds.
        batch_seconds: Maximum audio in a batch, in seconds.
    """
    num_batches = float(durations.sum()) / batch_seconds
    return int(np.clip(num_batches // _BATCHES_A_BUCKET, _FEWEST_BUCKETS, _MOST_BUCKETS))


def bucket_limits(costs: Floats, num_buckets: int) -> Floats:
    """Returns the largest cost of each bucket but the last, such that all have about the same total."""
    ordered = np.sort(costs)
    total = np.cumsum(ordered)
    shares = total[-1] * np.arange(1, num_buckets) / num_buckets
    limits: Floats = np.unique(ordered[np.searchsorted(total, shares)])
    return limits
