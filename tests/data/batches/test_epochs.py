from __future__ import annotations

import numpy as np
import pytest

from tests.data.batches.test_sampling import Lengths
from w2vlab.data.batches.epochs import order_epoch
from w2vlab.data.batches.sampling import EpochSampler


def many(num: int, shards: int = 0, uses=(1.0,), corpora=None):
    """Utterances of 1 to 3 s, some of them in shards of the same size."""
    draws = np.random.default_rng(0)
    utterances = Lengths(draws.uniform(1, 3, num))
    utterances.keys = draws.integers(2**64 - 1, size=num, dtype=np.uint64)
    utterances.uses = uses
    if corpora is not None:
        utterances.corpora = np.asarray(corpora)
    if shards:
        utterances.shards = draws.permutation(np.arange(num) % shards)
        utterances.shard_names = tuple(f"folder/recording.{number:06}.tar" for number in range(shards))
    return utterances


def test_an_epoch_uses_every_utterance_once():
    for shards in (0, 7):
        order = order_epoch(many(1000, shards), 0, 3, shuffle_shards=2, num_lanes=1)
        assert sorted(order.indices.tolist()) == list(range(1000))
        assert not order.copies.any()


@pytest.mark.parametrize("shards", [0, 40])
@pytest.mark.parametrize("uses", [0.3, 2.5])
def test_uses_are_the_same_up_to_one_after_any_number_of_epochs(shards, uses):
    utterances = many(400, shards, uses=(uses,))
    counts = np.zeros(400)
    for epoch in range(7):
        order = order_epoch(utterances, 0, epoch, 2, 1)
        counts += np.bincount(order.indices, minlength=400)
        assert counts.max() - counts.min() <= 1
        seconds = counts @ utterances.durations / utterances.durations.sum()
        assert abs(seconds - uses * (epoch + 1)) <= (1.2 / shards if shards else 0.006)  # a shard, an utterance
        assert order.copies.max() == max(np.bincount(order.indices)) - 1


def test_copies_are_spread_over_the_epoch():
    order = order_epoch(many(500, uses=(4.0,)), 0, 0, 8, 1)
    places = np.arange(2000)
    for copy in range(4):
        assert np.all(places[order.copies == copy] // 500 == copy)


def test_corpora_have_the_same_share_at_all_times():
    """A corpus in files that is used twice, and one in shards that is used once."""
    utterances = many(6000, corpora=np.arange(6000) % 3 // 2, uses=(2.0, 1.0))
    in_shards = utterances.corpora == 1
    utterances.shards = np.where(in_shards, np.arange(6000) // 3 % 20, -1)
    utterances.shard_names = tuple(f"{number}.tar" for number in range(20))
    order = order_epoch(utterances, 0, 0, 4, 1)
    for part in np.array_split(order.indices, 100):  # of 100 utterances
        seconds = np.bincount(utterances.corpora[part], utterances.durations[part])
        assert seconds[1] / seconds.sum() == pytest.approx(0.2, abs=0.02)


def test_corpora_in_files_have_the_same_share_at_all_times():
    utterances = many(3000, corpora=np.arange(3000) % 10 // 9, uses=(0.7, 1.6))
    order = order_epoch(utterances, 0, 1, 4, 1)
    whole = np.bincount(utterances.corpora[order.indices], utterances.durations[order.indices])
    for part in np.array_split(order.indices, 20):
        seconds = np.bincount(utterances.corpora[part], utterances.durations[part])
        assert seconds[1] / seconds.sum() == pytest.approx(whole[1] / whole.sum(), abs=0.02)


@pytest.mark.parametrize("lanes", [1, 4])
def test_few_shards_are_used_at_the_same_time(lanes):
    utterances = many(20_000, shards=200)
    order = order_epoch(utterances, 0, 0, shuffle_shards=4, num_lanes=lanes)
    for lane in range(lanes):
        shards = utterances.shards[order.indices[order.lanes == lane]]
        first, last = np.full(200, len(shards)), np.full(200, -1)
        np.minimum.at(first, shards, np.arange(len(shards)))
        np.maximum.at(last, shards, np.arange(len(shards)))
        used = last >= 0
        in_use = [((first <= place) & (last >= place) & used).sum() for place in range(0, len(shards), 50)]
        assert max(in_use) <= 8
        assert np.median(in_use) >= 4  # shuffled with each other


def test_the_order_of_shards_differs_between_epochs_and_seeds():
    utterances = many(2000, shards=50)
    orders = [order_epoch(utterances, *address, 2, 1).indices for address in ((0, 0), (0, 1), (1, 0))]
    assert not any(np.array_equal(orders[0], other) for other in orders[1:])
    assert np.array_equal(orders[0], order_epoch(utterances, 0, 0, 2, 1).indices)


def sequences(utterances, world_size, accumulate):
    samplers = [
        EpochSampler(utterances, 20.0, 3.0, 5, 0, world_size, rank, accumulate, 2) for rank in range(world_size)
    ]
    return samplers, [list(sampler) for sampler in samplers]


@pytest.mark.parametrize(("world_size", "accumulate"), [(2, 2), (1, 4)])
def test_lanes_do_not_depend_on_the_layout(world_size, accumulate):
    utterances = many(4000, shards=32)
    samplers, plans = sequences(utterances, world_size, accumulate)
    _, reference = sequences(utterances, 4, 1)
    assert {sampler.num_lanes for sampler in samplers} == {4}
    for rank, share in enumerate(plans):
        for number, plan in enumerate(share):
            update, step = divmod(number, accumulate)
            assert plan.members == reference[step * world_size + rank][update].members


def test_a_process_needs_the_shards_of_its_lanes_alone():
    utterances = many(8000, shards=64)
    _, plans = sequences(utterances, 4, 1)
    shards = [{int(utterances.shards[i]) for plan in share for i in plan.members.indices} for share in plans]
    in_several = [shard for shard in range(64) if sum(shard in found for found in shards) > 1]
    assert len(in_several) <= 8  # what the longest lanes have left at the end is divided
    seconds = [sum(utterances.durations[i] for plan in share for i in plan.members.indices) for share in plans]
    assert max(seconds) < 1.05 * min(seconds)


def test_lanes_lose_no_utterance():
    utterances = many(4000, shards=32)
    _, plans = sequences(utterances, 4, 1)
    used = [index for share in plans for plan in share for index in plan.members.indices]
    assert len(used) == len(set(used))
    assert len(used) > 4000 - 4 * 20  # an incomplete update at most


def test_few_shards_have_one_lane():
    (sampler, *_), _ = sequences(many(500, shards=7), 4, 1)
    assert sampler.num_lanes == 1
