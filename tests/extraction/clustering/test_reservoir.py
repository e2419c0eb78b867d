"""The sample of frames that k-means is computed from."""

import logging

import numpy as np
import pytest
import torch

from w2vlab.extraction.clustering.reservoir import Reservoir


def utterance(number: int) -> tuple[str, torch.Tensor]:
    """Frames whose first column is a name of the frame."""
    length = 20 + 7 * (number % 5)
    frames = 1000 * number + torch.arange(length).float()
    return f"utterance {number}", torch.stack([frames, -frames, frames / 7], dim=1)


CORPUS = [utterance(number) for number in range(40)]


def filled(order: list[int] | range, size: int = 100, seed: int = 0) -> Reservoir:
    reservoir = Reservoir(size, 3, seed)
    for number in order:
        reservoir.add(*CORPUS[number])
    return reservoir


def test_the_sample_is_the_same_for_any_order_and_division_of_the_corpus() -> None:
    expected, keys = filled(range(40)).sample()
    backwards, _ = filled(range(39, -1, -1)).sample()
    assert np.array_equal(backwards, expected)
    ours, theirs = filled(range(0, 40, 2)), filled(range(1, 40, 2))
    ours.add_sample(*theirs.sample(), theirs.num_seen)
    merged, merged_keys = ours.sample()
    assert np.array_equal(merged, expected)
    assert np.array_equal(merged_keys, keys)
    assert ours.num_seen == sum(len(frames) for _, frames in CORPUS)


def test_the_frames_are_those_with_the_smallest_keys_without_repeats() -> None:
    frames, keys = filled(range(40)).sample()
    everything, all_keys = filled(range(40), size=100_000).sample()
    assert len(everything) == sum(len(frames) for _, frames in CORPUS)
    assert np.array_equal(frames, everything[:100])
    assert np.array_equal(keys, np.sort(all_keys)[:100])
    assert len(np.unique(frames[:, 0])) == 100
    known = np.concatenate([frames.numpy() for _, frames in CORPUS])
    assert {tuple(row) for row in frames} <= {tuple(row) for row in known}


def test_every_frame_is_as_likely_as_any_other() -> None:
    total = sum(len(frames) for _, frames in CORPUS)
    names = np.concatenate([frames[:, 0].numpy() for _, frames in CORPUS])
    draws, size = 80, 100
    counts = dict.fromkeys(names.tolist(), 0)
    for seed in range(draws):
        for name in filled(range(40), size, seed).sample()[0][:, 0].tolist():
            counts[name] += 1
    expected = draws * size / total
    variance = draws * size / total * (1 - size / total)
    chi_squared = sum((value - expected) ** 2 for value in counts.values()) / variance
    assert abs(chi_squared - total) < 4 * np.sqrt(2 * total)
    # Early and late utterances, first and last frames.
    for part in (names[:200], names[-200:], [frames[0, 0].item() for _, frames in CORPUS]):
        mean = np.mean([counts[name] for name in part])
        assert abs(mean - expected) < 4 * np.sqrt(variance / len(part))


def test_other_seeds_and_pieces_have_other_keys() -> None:
    assert not np.array_equal(filled(range(40)).sample()[0], filled(range(40), seed=1).sample()[0])
    frames = torch.zeros(5, 3)
    keys = []
    for first_frame in (0, 16000):
        reservoir = Reservoir(10, 3, seed=0)
        reservoir.add("a", frames, first_frame)
        keys.append(reservoir.sample()[1])
    assert not set(keys[0].tolist()) & set(keys[1].tolist())


def test_a_corpus_smaller_than_the_sample_is_kept_whole() -> None:
    reservoir = filled(range(3), size=1000)
    assert reservoir.num_seen == len(reservoir.sample()[0]) == 20 + 27 + 34


def test_an_utterance_may_be_longer_than_the_reservoir() -> None:
    long = torch.arange(30_000).float().view(-1, 3)
    reservoir, whole = Reservoir(7, 3, seed=0), Reservoir(10_000, 3, seed=0)
    reservoir.add("long", long)
    whole.add("long", long)
    assert np.array_equal(reservoir.sample()[0], whole.sample()[0][:7])


def test_frames_that_are_not_finite_are_left_out_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    reservoir = Reservoir(50, 3, seed=0)
    name, frames = CORPUS[0]
    frames = frames.clone()
    frames[3, 1], frames[7, 0] = torch.nan, torch.inf
    with caplog.at_level(logging.WARNING):
        reservoir.add(name, frames)
    assert (reservoir.num_seen, reservoir.num_not_finite) == (18, 2)
    assert np.isfinite(reservoir.sample()[0]).all()
    assert "Left out 2 frames that are not finite so far; the last ones are of utterance 0." in caplog.text
    reservoir = Reservoir(50, 3, seed=0)
    reservoir.add("large", torch.full((4, 3), 3e38))
    assert (reservoir.num_seen, reservoir.num_not_finite) == (4, 0)
