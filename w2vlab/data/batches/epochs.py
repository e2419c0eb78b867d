"""The order of an epoch: when each utterance is used, and in which lane."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from w2vlab.data.corpora.utterances import Utterances, short_hash

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class EpochOrder:
    """The utterances of an epoch in the order of their use.

    Attributes:
        indices: Index of each utterance; one that is used twice is there twice.
        copies: How many times the utterance was used before in the epoch.
        lanes: Lane of each use, from 0.
    """

    indices: Integers
    copies: Integers
    lanes: Integers


def order_epoch(
    utterances: Utterances, seed: int, epoch: int, shuffle_shards: int, num_lanes: int, seconds: Floats | None = None
) -> EpochOrder:
    """Orders the utterances of an epoch; a function of its arguments alone.

    Each use of an utterance gets a time in [0, 1). That of an utterance in its own file is uniform. That of an
    utterance in a shard is uniform in a window of `shuffle_shards` shards around its shard, in a shuffled order of the
    shards. So an order needs no more than about that many shards at the same time. In a mixture, the times of a corpus
    are moved so that its audio is spread evenly: its share is the same from the beginning of an epoch to its end.

    In epoch e, a corpus that an epoch uses r times, such as 0.3 or 2.5 times, has floor(u + (e + 1) r) - floor(u + e r)
    uses of each utterance (of each shard). With the utterances in the order of a hash, u is the share of audio before
    it, in [0, 1). So an epoch has r times the audio of the corpus, up to one utterance (one shard), and after any
    number of epochs all have been used equally often, up to 1.

    Args:
        utterances: The utterances; their `uses` are the r of each corpus.
        seed: Seed of the run.
        epoch: The epoch, from 0.
        shuffle_shards: Shards whose utterances are shuffled with each other, at least 1.
        num_lanes: Shards are divided among that many lanes, of about the same duration.
        seconds: Audio of each utterance that is used, in seconds; by default its duration.
    """
    seconds = utterances.durations if seconds is None else seconds
    times: list[Floats] = []  # in [0, 1)
    mixed = len(utterances.uses) > 1
    indices: list[Integers] = []
    copies: list[Integers] = []
    lanes: list[Integers] = []
    lane_seconds = [(0.0, lane) for lane in range(num_lanes)]  # a heap
    for corpus, uses in enumerate(utterances.uses):
        draws = np.random.default_rng((seed, epoch, corpus))
        rows = np.flatnonzero(utterances.corpora == corpus)
        sharded = utterances.shards[rows] >= 0
        in_files = rows[~sharded]
        counts = _num_uses(utterances.keys[in_files], seconds[in_files], uses, epoch)
        which, copy = _repeat(counts)
        indices.append(in_files[which])
        copies.append(copy)
        drawn = (copy + draws.random(len(which))) / counts[which]
        times.append(_evenly(drawn, seconds[in_files[which]]) if mixed else drawn)
        lanes.append(draws.integers(num_lanes, size=len(which)))
        if sharded.any():
            found = _order_shards(utterances, rows[sharded], seconds, uses, epoch, shuffle_shards, lane_seconds, draws)
            times.append(found[0])
            indices.append(found[1])
            copies.append(found[2])
            lanes.append(found[3])
    order = np.argsort(np.concatenate(times), kind="stable")
    return EpochOrder(*(np.concatenate(parts)[order] for parts in (indices, copies, lanes)))


def _order_shards(
    utterances: Utterances,
    rows: Integers,
    seconds: Floats,
    uses: float,
    epoch: int,
    shuffle_shards: int,
    lane_seconds: list[tuple[float, int]],
    draws: np.random.Generator,
) -> tuple[Floats, Integers, Integers, Integers]:
    """Returns times, indices, copies and lanes of utterances of one corpus that are in shards."""
    rows = rows[np.argsort(utterances.shards[rows], kind="stable")]
    ordered = utterances.shards[rows]
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    shards, sizes = ordered[first], np.diff(np.concatenate([first, [len(rows)]]))
    shard_seconds = np.add.reduceat(seconds[rows], first)
    hashes = np.array([short_hash(utterances.shard_names[shard].rpartition("/")[2]) for shard in shards], np.uint64)
    counts = _num_uses(hashes, shard_seconds, uses, epoch)
    which, copy = _repeat(counts)
    order = np.argsort((copy + draws.random(len(which))) / np.maximum(counts[which], 1), kind="stable")
    which, copy = which[order], copy[order]  # uses of shards, in the order of the epoch
    lanes = np.zeros(len(which), np.int64)
    if len(lane_seconds) > 1:
        for number, shard in enumerate(which.tolist()):
            filled, lanes[number] = heapq.heappop(lane_seconds)
            heapq.heappush(lane_seconds, (filled + float(shard_seconds[shard]), int(lanes[number])))
    windows = np.zeros(len(which), np.float64)  # where the window of each use begins, in shards of its lane
    for lane in np.unique(lanes):
        inside = np.flatnonzero(lanes == lane)
        width = min(shuffle_shards, len(inside))
        windows[inside] = np.clip(np.arange(len(inside)) - width // 2, 0, len(inside) - width)
    use = np.repeat(np.arange(len(which)), sizes[which])
    within = np.arange(len(use)) - np.repeat(np.cumsum(sizes[which]) - sizes[which], sizes[which])
    indices = rows[first[which[use]] + within]
    lane = lanes[use]
    times = windows[use] + shuffle_shards * draws.random(len(use))
    for number in np.unique(lane):
        inside = np.flatnonzero(lane == number)
        times[inside] = _evenly(times[inside], seconds[indices[inside]])
    return times, indices, copy[use], lane


def _num_uses(hashes: npt.NDArray[np.uint64], seconds: Floats, uses: float, epoch: int) -> Integers:
    if uses.is_integer():
        return np.full(len(hashes), int(uses), np.int64)
    by_hash = np.argsort(hashes, kind="stable")
    until = np.cumsum(seconds[by_hash])
    before = np.empty(len(hashes))
    before[by_hash] = (until - seconds[by_hash]) / until[-1:]
    counts: Integers = np.floor(before + (epoch + 1) * uses).astype(np.int64)
    counts -= np.floor(before + epoch * uses).astype(np.int64)
    return counts


def _evenly(times: Floats, seconds: Floats) -> Floats:
    """Returns times in the same order, in [0, 1), as many apart as each use has seconds.

    So a corpus has the same share of the audio at all times, instead of one that fluctuates as random times do.
    """
    order = np.argsort(times, kind="stable")
    until = np.cumsum(seconds[order])
    even = np.empty(len(times))
    even[order] = (until - seconds[order] / 2) / until[-1:]
    return even


def _repeat(counts: Integers) -> tuple[Integers, Integers]:
    """Returns each index as often as `counts` says, and the number of earlier ones of it."""
    if len(counts) and counts.min() == counts.max() == 1:
        return np.arange(len(counts)), np.zeros(len(counts), np.int64)
    which = np.repeat(np.arange(len(counts)), counts)
    copies = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
    return which, copies
