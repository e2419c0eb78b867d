from __future__ import annotations

import numpy as np
import pytest
from lhotse import Recording

from tests.data.conftest import write_ramp
from w2vlab.data.batches.bucketing import default_num_buckets
from w2vlab.data.batches.sampling import EpochSampler
from w2vlab.data.corpora.manifests import prepare_manifest
from w2vlab.data.corpora.utterances import Utterances


@pytest.fixture
def utterances(manifest):
    return Utterances(manifest.cuts, min_samples=1)


def make(
    utterances, seed: int | None = 0, world_size=1, rank=0, batch_seconds=1.5, epoch=0, start=0, accumulate=1
) -> EpochSampler:
    sampler = EpochSampler(utterances, batch_seconds, 0.4, 3, seed, world_size, rank, accumulate)
    sampler.move_to(epoch, start)
    return sampler


def ids(sampler) -> list[tuple[str, ...]]:
    return [tuple(cut.id for cut in cuts_of(sampler, plan)) for plan in sampler]


def cuts_of(sampler, plan):
    return [sampler._utterances[index] for index in plan.members.indices]


def test_one_process_uses_every_utterance_once_within_the_limit(utterances):
    sampler = make(utterances)
    used = [index for plan in sampler for index in plan.members.indices]
    assert sorted(used) == list(range(40))
    for plan in sampler:
        crops = [min(cut.duration, 0.4) for cut in cuts_of(sampler, plan)]
        assert max(crops) * len(crops) <= 1.5


def test_utterances_are_read_by_their_index(utterances):
    cuts = list(utterances)
    assert [utterances[index].id for index in range(40)] == [cut.id for cut in cuts]
    assert [cut.duration for cut in cuts] == utterances.durations.tolist()
    assert max(cut.duration for cut in cuts) == 0.59


def test_order_is_decided_by_seed_and_epoch(utterances):
    assert ids(make(utterances)) == ids(make(utterances))
    orders = [ids(make(utterances, seed=seed, epoch=epoch)) for seed in range(2) for epoch in range(2)]
    assert len({repr(order) for order in orders}) == 4


def test_set_epoch_changes_the_epoch(utterances):
    sampler = make(utterances)
    first = ids(sampler)
    sampler.set_epoch(1)
    second = ids(sampler)
    assert first != second == ids(make(utterances, epoch=1))
    sampler.set_epoch(0)
    assert ids(sampler) == first


@pytest.mark.parametrize(("world_size", "accumulate"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_starts_inside_an_epoch(utterances, world_size, accumulate):
    layout = dict(epoch=3, world_size=world_size, rank=world_size - 1, accumulate=accumulate)
    full = list(make(utterances, **layout))
    assert {plan.epoch for plan in full} == {3}
    for done in range(0, len(full) + accumulate, accumulate):
        assert list(make(utterances, start=done * world_size, **layout)) == full[done:]


def test_the_start_applies_to_its_epoch_only(utterances):
    sampler = make(utterances, epoch=3, start=2)
    sampler.set_epoch(3)  # as Lightning does after resuming
    assert ids(sampler) == ids(make(utterances, epoch=3))[2:]
    sampler.set_epoch(4)
    assert ids(sampler) == ids(make(utterances, epoch=4))


@pytest.mark.parametrize(("world_size", "accumulate"), [(1, 4), (2, 2), (4, 1), (3, 1), (1, 3), (2, 3)])
@pytest.mark.parametrize("epoch", [0, 1])
def test_all_ranks_together_have_the_sequence_of_one_process(utterances, world_size, accumulate, epoch):
    """The i-th micro-batch of rank r in update u has index u*P*A + i*P + r; incomplete updates are dropped."""
    sequence = list(make(utterances, epoch=epoch))
    size = world_size * accumulate
    shares = [
        list(make(utterances, epoch=epoch, world_size=world_size, rank=rank, accumulate=accumulate))
        for rank in range(world_size)
    ]
    updates = len(sequence) // size
    for rank, share in enumerate(shares):
        assert len(share) == updates * accumulate
        for number, plan in enumerate(share):
            update, step = divmod(number, accumulate)
            assert plan == sequence[update * size + step * world_size + rank]


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 40])
def test_validation_counts_every_utterance_once_in_as_many_steps(utterances, world_size):
    sequence = list(make(utterances, seed=None))
    shares = [list(make(utterances, seed=None, world_size=world_size, rank=rank)) for rank in range(world_size)]
    assert {len(share) for share in shares} == {-(-len(sequence) // world_size)}
    counted = [plan for step in zip(*shares, strict=True) for plan in step if plan.counted]
    assert counted == sequence
    repeated = [plan for share in shares for plan in share if not plan.counted]
    assert len(repeated) == -len(sequence) % world_size
    assert all(plan.members in [other.members for other in sequence] for plan in repeated)


def test_substitutes_are_other_batches(utterances):
    plans = list(make(utterances))
    assert plans[0].substitute == plans[1].members
    assert [plan.substitute for plan in plans[1:]] == [plan.members for plan in plans[:-1]]


def test_fixed_order_without_a_seed(utterances):
    first = ids(make(utterances, seed=None))
    assert ids(make(utterances, seed=None, epoch=7)) == first
    assert sorted(name for batch in first for name in batch) == sorted(cut.id for cut in utterances)


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_validate_on_everything(utterances, world_size):
    shares = [ids(make(utterances, seed=None, world_size=world_size, rank=rank)) for rank in range(world_size)]
    assert len({len(share) for share in shares}) == 1
    assert {name for share in shares for batch in share for name in batch} == {cut.id for cut in utterances}


def test_fewer_micro_batches_than_an_update(utterances):
    message = (
        r"^`batch_seconds` must leave 6 micro-batches for an update, but is 4 with [\d.]+ s of audio in an epoch, "
        r"which make 4; lower it or `micro_batches`, use fewer processes, or add audio\.$"
    )
    with pytest.raises(ValueError, match=message):
        list(make(utterances, world_size=2, accumulate=3, batch_seconds=4))


class Lengths:
    """Utterances with lengths only."""

    def __init__(self, durations: np.ndarray) -> None:
        self.durations = durations
        self.seconds = float(durations.sum())
        self.uses = (1.0,)
        self.corpora = np.zeros(len(durations), np.int64)
        self.shards = np.full(len(durations), -1)
        self.keys = np.arange(len(durations), dtype=np.uint64)

    def __len__(self) -> int:
        return len(self.durations)

    def mark_as_used(self) -> None:
        """There is no manifest."""


def test_little_is_lost_by_cropping_to_the_shortest():
    """Lengths as in LibriSpeech, mostly from 12 to 16 s; with 10 buckets 69.2 s are left and 7.4 % are cropped away."""
    draws = np.random.default_rng(0)
    lengths = np.where(draws.random(25_000) < 0.62, draws.normal(14.2, 1.3, 25_000), draws.uniform(2, 14, 25_000))
    durations = np.clip(lengths.round(2), 2, 17)
    num_buckets = default_num_buckets(float(np.minimum(durations, 15.625).sum()), 87.5)
    batches = [
        np.minimum(durations[list(plan.members.indices)], 15.625)
        for plan in EpochSampler(Lengths(durations), 87.5, 15.625, num_buckets, 0, 1, 0)
    ]
    used = sum(batch.min() * len(batch) for batch in batches)
    assert used / len(batches) > 76.8  # fairseq's own batching
    assert used > 0.98 * sum(batch.sum() for batch in batches)


@pytest.mark.parametrize(("hours", "expected"), [(0.1, 50), (7, 50), (20, 82), (100, 100)])
def test_default_number_of_buckets(hours, expected):
    assert default_num_buckets(hours * 3600, 87.5) == expected


@pytest.mark.parametrize("num_buckets", [3, 50, 100])
def test_more_buckets_than_batches_lose_nothing(num_buckets):
    """What is left in the buckets at the end is formed into batches across the buckets."""
    durations = np.clip(np.random.default_rng(1).lognormal(2.2, 0.35, 600), 3.8, 18)
    plans = list(EpochSampler(Lengths(durations), 87.5, 15.625, num_buckets, 0, 1, 0))
    assert sorted(index for plan in plans for index in plan.members.indices) == list(range(600))
    assert len(plans) <= 1.3 * np.minimum(durations, 15.625).sum() / 87.5


def test_a_single_utterance(tmp_path, cache):
    write_ramp(tmp_path / "one" / "a.wav", 0.3)
    one = Utterances(prepare_manifest(tmp_path / "one", cache).cuts, min_samples=1)
    assert ids(make(one)) == [("a.wav",)]


def test_utterances_at_the_limit_of_length(tmp_path, cache):
    for samples in (3199, 3200):
        write_ramp(tmp_path / "corpus" / f"{samples}.wav", samples / 16_000)
    utterances = Utterances(prepare_manifest(tmp_path / "corpus", cache).cuts, min_samples=3200)
    assert [cut.id for cut in utterances] == ["3200.wav"]
    assert utterances.left_out.counts == {"shorter than 0.2 s": 1}
    assert Recording.from_file(tmp_path / "corpus/3200.wav").num_samples == 3200
