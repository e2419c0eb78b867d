"""Masks and negatives: counts, bounds and distributions.

Every statistical bound is six standard errors wide or more, so that a correct draw fails with odds below 1e-8; the
seeds are fixed besides.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from w2vlab.functional.negatives import draw_negatives
from w2vlab.functional.spans import draw_span_starts, spans_to_frames
from w2vlab.masking import SpanMasking
from w2vlab.types import RandomAddress


def rng(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)


@pytest.mark.parametrize(("frames", "probability", "length"), [(100, 0.65, 10), (49, 0.3, 5), (33, 1.0, 4)])
def test_number_of_spans_is_rounded_at_random_to_the_right_mean(frames: int, probability: float, length: int) -> None:
    exact = probability * frames / length
    counts = [len(draw_span_starts(frames, probability, length, 1, rng(seed))) for seed in range(3000)]
    assert set(counts) <= {int(exact), int(exact) + 1}
    assert np.mean(counts) == pytest.approx(exact, abs=6 * 0.5 / 3000**0.5)


def test_fewest_spans() -> None:
    assert {len(draw_span_starts(40, 0.01, 5, 3, rng(seed))) for seed in range(50)} == {3}


def test_starts_differ_are_in_bounds_and_reach_every_place() -> None:
    seen: set[int] = set()
    for seed in range(300):
        starts = draw_span_starts(30, 0.65, 10, 2, rng(seed))
        assert len(set(starts)) == len(starts)
        seen.update(starts.tolist())
    assert seen == set(range(20))  # never 20, so the last frame stays visible


def test_spans_are_whole_and_sorted() -> None:
    assert spans_to_frames(np.array([7, 2, 3]), 3, 20).tolist() == [2, 3, 4, 5, 7, 8, 9]
    assert spans_to_frames(np.array([8]), 3, 10).tolist() == [8, 9]


def test_short_utterance_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 12 frames to mask 2 spans of `length` 10, but has 11"):
        draw_span_starts(11, 0.65, 10, 2, rng(0))


def test_masked_runs_are_at_least_a_span_long() -> None:
    masking = SpanMasking(probability=0.4, length=4, equalize=False)
    for seed in range(100):
        frames = masking((60,), [rng(seed)], 8).frames[0].numpy()
        edges = np.flatnonzero(np.diff(np.concatenate([[0], frames, [0]])))
        runs = edges[1::2] - edges[::2]
        assert (runs >= 4).all()
        assert not frames[-1]


def test_published_share_of_masked_frames() -> None:
    """0.65 and spans of 10 mask 49 % of 15.6 s, and 46 % where a batch of five is cut down to its smallest count."""
    alone, batch = SpanMasking(equalize=False), SpanMasking()
    shares = [alone((781,), [rng(seed)], 8).num_targets[0] / 781 for seed in range(1000)]
    assert np.mean(shares) == pytest.approx(0.491, abs=0.005)
    shares = [batch((781,) * 5, [rng(seed, row) for row in range(5)], 8).num_targets[0] / 781 for seed in range(400)]
    assert np.mean(shares) == pytest.approx(0.463, abs=0.005)


def test_equalising_unmasks_down_to_the_smallest_count() -> None:
    for seed in range(30):
        lengths = (40, 90, 60)
        free = SpanMasking(equalize=False)(lengths, [rng(seed, row) for row in range(3)], 8)
        equal = SpanMasking()(lengths, [rng(seed, row) for row in range(3)], 8)
        assert equal.num_targets == (min(free.num_targets),) * 3
        assert not (equal.frames & ~free.frames).any()
        assert torch.equal(equal.frames.sum(1), torch.tensor(equal.num_targets))


def test_without_equalising_a_mask_depends_on_its_own_utterance_only() -> None:
    masking = SpanMasking(equalize=False)
    together = masking((40, 90), [rng(0), rng(1)], 8)
    alone = masking((90,), [rng(1)], 8)
    assert torch.equal(together.frames[1], alone.frames[0])


def negatives_of(lengths: tuple[int, ...], count: int, update: int = 0, first: int = 0) -> torch.Tensor:
    address = RandomAddress(3, update, tuple(f"u{first + row}" for row in range(len(lengths))))
    return draw_negatives(lengths, max(lengths), count, address.generators("negatives"))


def test_a_frame_is_never_its_own_negative_in_any_row() -> None:
    """Two defects of other implementations: a row offset short by one lets later rows draw themselves and frames of
    other utterances (SpeechBrain), an exclusion on the wrong axis hits another frame (fairseq's wav2vec 1.0)."""
    lengths = (64, 17, 64, 2, 40, 64, 64, 64)
    negatives = negatives_of(lengths, 50)
    own = torch.arange(64)[:, None]
    for row, length in enumerate(lengths):
        drawn = negatives[row, :length]
        assert (drawn != own[:length]).all()
        assert (drawn >= 0).all()
        assert (drawn < length).all()
        assert (negatives[row, length:] == 0).all()


def test_negatives_are_uniform_over_the_others() -> None:
    frames, draws = 8, 20_000
    negatives = negatives_of((frames,), draws)[0]  # (frames, draws)
    counts = torch.stack([torch.bincount(row, minlength=frames) for row in negatives]).double()
    expected = draws / (frames - 1)
    statistic = ((counts - expected) ** 2 / expected)[~torch.eye(frames, dtype=torch.bool)].sum()
    # Chi-square with 8 * 6 = 48 degrees of freedom; it exceeds 128 with odds of 3e-9.
    assert statistic < 128


def test_negatives_of_utterances_and_updates_differ_and_repeat() -> None:
    both = negatives_of((30, 30), 10)
    assert torch.equal(both, negatives_of((30, 30), 10))
    assert torch.equal(both[1], negatives_of((30,), 10, first=1)[0])
    assert not torch.equal(both[0], both[1])
    assert not torch.equal(both, negatives_of((30, 30), 10, update=1))
    agreement = (both[0] == both[1]).double().mean()
    # Independent draws agree with odds of 1/29 or less; 300 of them in more than 12 % with odds below 1e-9.
    assert agreement < 0.12


def test_single_frame_has_nothing_to_be_told_from() -> None:
    with pytest.raises(ValueError, match="at least 2 frames to draw negatives from, but has 1"):
        negatives_of((5, 1), 3)


@pytest.mark.parametrize("change", ["seed", "update", "stream", "purpose", "utterance"])
def test_every_piece_of_an_address_counts(change: str) -> None:
    base = {"seed": 1, "update": 2, "ids": ("a",), "stream": "train"}
    other = base | {"seed": {"seed": 2}, "update": {"update": 3}, "stream": {"stream": "validation"}}.get(change, {})
    if change == "utterance":
        other["ids"] = ("b",)
    purpose = "negatives" if change == "purpose" else "mask"
    first = RandomAddress(**base).generators("mask")[0].integers(0, 2**62, size=4)
    again = RandomAddress(**base).generators("mask")[0].integers(0, 2**62, size=4)
    second = RandomAddress(**other).generators(purpose)[0].integers(0, 2**62, size=4)
    assert (first == again).all()
    assert (first != second).all()
