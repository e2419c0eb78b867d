"""Masks of spans: what each option does, and what every combination keeps.

Statistical bounds are at least six standard errors wide; the seeds are fixed besides.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.parts.masking.masks import draw, rng, runs_of
from w2vlab.interfaces import Masking
from w2vlab.masking import ChannelMasking, NoMasking, SpanMasking


@pytest.mark.parametrize("lengths", [(781, 781), (40, 90, 60), (12,)])
def test_the_defaults_draw_as_they_always_did(lengths: tuple[int, ...]) -> None:
    """The order of the draws, on which resumed runs and goldens depend: number, starts, then unmasked frames."""
    for seed in range(20):
        generators, rows = [rng(seed, row) for row in range(len(lengths))], []
        for frames, generator in zip(lengths, generators, strict=True):
            count = max(2, int(0.65 * frames / 10 + generator.random()))
            starts = generator.choice(frames - 10, size=count, replace=False, shuffle=False)
            rows.append(sorted({start + offset for start in starts.tolist() for offset in range(10)}))
        fewest = min(map(len, rows))
        for row, generator in zip(rows, generators, strict=True):
            if len(row) > fewest:
                row[:] = sorted(generator.choice(np.array(row), size=fewest, replace=False).tolist())
        mask = draw(SpanMasking(), lengths, seed)
        assert mask.targets.tolist() == rows
        assert [torch.nonzero(row).flatten().tolist() for row in mask.frames] == rows


# With `exact`, an utterance has as many targets as spans times their length: the number of spans, seen from outside.
def span_counts(masking: partial[SpanMasking], lengths: tuple[int, ...], seed: int) -> list[int]:
    return [count // 10 for count in draw(masking(equalize="exact", length=10), lengths, seed).num_targets]


@pytest.mark.parametrize(("frames", "probability"), [(100, 0.65), (49, 0.3), (330, 0.5)])
def test_number_of_spans_is_rounded_at_random_to_the_right_mean(frames: int, probability: float) -> None:
    exact = probability * frames / 10
    masking = partial(SpanMasking, probability, min_spans=1)
    counts = [span_counts(masking, (frames,), seed)[0] for seed in range(3000)]
    assert set(counts) <= {int(exact), int(exact) + 1}
    assert np.mean(counts) == pytest.approx(exact, abs=6 * 0.5 / 3000**0.5)


def test_rounding_an_utterance_or_a_batch() -> None:
    """10.4 spans in each of 20 utterances: their own draws differ, one draw does not."""
    alone, batch = (
        [set(span_counts(partial(SpanMasking, 0.65, rounding=rounding), (160,) * 20, seed)) for seed in range(40)]
        for rounding in ("utterance", "batch")
    )
    assert {10, 11} in alone
    assert {frozenset(counts) for counts in batch} == {frozenset({10}), frozenset({11})}


def test_number_of_spans_of_fairseq2_and_speechbrain() -> None:
    fairseq2 = partial(SpanMasking, 0.65, rounding="down", count_from="shortest")
    assert span_counts(fairseq2, (200, 301, 500), 0) == [12] * 3  # 0.065 * 199 = 12.9
    assert span_counts(fairseq2, (401,), 0) == [26]  # 0.065 * 400 = 26
    assert span_counts(fairseq2, (400,), 0) == [25]
    speechbrain = partial(SpanMasking, 0.65, rounding="batch", count_from="shortest", extra_spans=1)
    drawn = [span_counts(speechbrain, (200, 301, 500), seed) for seed in range(2000)]
    assert all(len(set(counts)) == 1 for counts in drawn)
    assert {counts[0] for counts in drawn} == {13 + 1}  # 13 exactly
    drawn = [span_counts(speechbrain, (205, 301, 500), seed)[2] for seed in range(2000)]
    assert np.mean(drawn) == pytest.approx(13.325 + 1, abs=6 * 0.5 / 2000**0.5)


def test_fewest_spans() -> None:
    assert {span_counts(partial(SpanMasking, 0.01, min_spans=3), (60,), seed)[0] for seed in range(50)} == {3}


def test_masked_runs_are_at_least_a_span_long() -> None:
    masking = SpanMasking(probability=0.4, length=4, equalize="none")
    for seed in range(100):
        frames = draw(masking, (60,), seed).frames[0]
        first, end = runs_of(frames)
        assert (end - first >= 4).all()
        assert not frames[-1]


def test_a_span_may_end_with_the_utterance() -> None:
    ends = [draw(SpanMasking(last_start=True), (60,), seed).frames[0, -1].item() for seed in range(100)]
    assert set(ends) == {True, False}


def test_equalising_to_the_fewest() -> None:
    for seed in range(30):
        lengths = (40, 90, 60)
        free = draw(SpanMasking(equalize="none"), lengths, seed)
        equal = draw(SpanMasking(), lengths, seed)
        assert equal.num_targets == (min(free.num_targets),) * 3
        assert not (equal.frames & ~free.frames).any()
        assert torch.equal(equal.frames.sum(1), torch.tensor(equal.num_targets))


def test_equalising_to_the_most_as_far_as_there_are_frames() -> None:
    for seed in range(30):
        lengths = (14, 300, 60)
        free = draw(SpanMasking(equalize="none"), lengths, seed)
        equal = draw(SpanMasking(equalize="most"), lengths, seed)
        assert equal.num_targets == tuple(min(max(free.num_targets), frames - 1) for frames in lengths)
        assert not (free.frames & ~equal.frames).any()


def test_exact_number_is_all_lengths_together() -> None:
    masking = SpanMasking(1.0, equalize="exact", rounding="down", length=5, min_spans=1)
    assert draw(masking, (51, 11, 7), 0).num_targets == (50, 10, 5)
    # Varying lengths: more than what the same spans cover, as they overlap.
    varying = {"length_distribution": "poisson", "probability": 0.65}
    for seed in range(20):
        free = draw(SpanMasking(equalize="none", **varying), (300,), seed)
        full = draw(SpanMasking(equalize="exact", **varying), (300,), seed)
        assert full.num_targets[0] > free.num_targets[0]
        assert not (free.frames & ~full.frames).any()


def test_without_equalising_a_mask_depends_on_its_own_utterance_only() -> None:
    masking = SpanMasking(equalize="none")
    together = masking((40, 90), [rng(0), rng(1)], 8)
    alone = masking((90,), [rng(1)], 8)
    assert torch.equal(together.frames[1], alone.frames[0])


@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.99])
def test_frames_dropped_are_shown_again(dropout: float) -> None:
    for seed in range(20):
        whole = draw(SpanMasking(), (90, 60), seed)
        dropped = draw(SpanMasking(frame_dropout=dropout), (90, 60), seed)
        expected = max(whole.num_targets[0] - int(np.rint(dropout * whole.num_targets[0])), 1)
        assert dropped.num_targets == (expected, expected)
        assert not (dropped.frames & ~whole.frames).any()


def test_only_frames_near_a_visible_one_are_targets() -> None:
    for seed in range(20):
        whole = draw(SpanMasking(equalize="none"), (90, 200), seed)
        near = draw(SpanMasking(equalize="none", edge_frames=2), (90, 200), seed)
        assert torch.equal(near.frames, whole.frames)
        for row, frames in enumerate((90, 200)):
            visible = torch.nonzero(~whole.frames[row, :frames])  # (N, 1)
            hidden = torch.nonzero(whole.frames[row])[:, 0]  # (M,)
            expected = hidden[(visible - hidden).abs().min(dim=0).values <= 2]
            assert torch.equal(near.targets[row, : near.num_targets[row]], expected)
        equal = draw(SpanMasking(edge_frames=2), (90, 200), seed)
        assert equal.num_targets[0] == equal.num_targets[1] < equal.frames[0].sum()
    # A span of 10 has 2 * 2 frames near its edges, and far reach leaves nothing out.
    masking = partial(SpanMasking, 0.1, overlap=False, min_space=5, equalize="none")
    with_edges, whole = (draw(masking(edge_frames=reach), (300,), 0) for reach in (2, 10))
    first, end = runs_of(whole.frames[0])
    assert first[0] > 0, "or the first span has one edge only"
    assert with_edges.num_targets == (4 * len(first),)
    assert whole.num_targets == (int(whole.frames.sum()),)
    assert (end - first == 10).all()


def test_masked_share_without_overlap_is_the_probability() -> None:
    """8.4 spans of 5 in 200 frames find a place in any case, so nothing is lost to overlaps or left out."""
    masking = SpanMasking(0.21, 5, overlap=False)
    counts = [draw(masking, (200,), seed).num_targets[0] for seed in range(2000)]
    assert set(counts) == {40, 45}
    assert np.mean(counts) == pytest.approx(42, abs=6 * 2.5 / 2000**0.5)


@pytest.mark.parametrize("distribution", ["static", "uniform", "normal", "poisson"])
@pytest.mark.parametrize("min_space", [1, 3])
def test_b1_masks_without_overlap_on_a_current_numpy(distribution: str, min_space: int) -> None:
    spread = {"uniform": 1, "normal": 3}.get(distribution, 0)
    masking = SpanMasking(
        0.75, 5, overlap=False, min_space=min_space, length_distribution=distribution, length_spread=spread,
        equalize="none",
    )  # fmt: skip
    seen = set()
    for seed in range(100):
        first, end = runs_of(draw(masking, (120,), seed).frames[0])
        assert len(first) >= 2
        assert (first[1:] - end[:-1] >= min_space).all()
        seen.update((end - first).tolist())
    assert seen == {5} if distribution == "static" else len(seen) > 8
    assert distribution != "uniform" or seen == set(range(1, 11))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"probability": 1.125, "length": 15},
        {"probability": 1.0, "length": 2, "min_spans": 1},
        {"probability": 0.9, "length": 1, "extra_spans": 3},
        {"min_spans": 1, "last_start": True},
        {"min_spans": 1, "last_start": True, "length": 1, "probability": 0.3},
        {"rounding": "down", "probability": 1.5, "length": 3},
        {"rounding": "batch", "last_start": True, "equalize": "none"},
        {"replacement": True, "last_start": True, "count_from": "shortest"},
        {"equalize": "exact", "extra_spans": 1, "rounding": "batch", "probability": 2.5, "length": 4},
        {"equalize": "most", "frame_dropout": 0.9, "edge_frames": 1},
        {"overlap": False},
        {"overlap": False, "min_spans": 4, "min_space": 3, "length": 4},
        {"overlap": False, "min_spans": 1, "min_space": 0, "last_start": True, "length": 1, "probability": 0.9},
        {"overlap": False, "min_spans": 3, "length_distribution": "normal", "length_spread": 30.0},
        {"length_distribution": "uniform", "length_spread": 20},
        {"length_distribution": "poisson", "min_spans": 5, "probability": 0.1},
    ],
    ids=str,
)
def test_fewest_frames_are_enough_and_needed(options: dict[str, Any]) -> None:
    masking = SpanMasking(**options)
    for frames in range(masking.min_frames, masking.min_frames + 12):
        for seed in range(30):
            mask = draw(masking, (frames,), seed)
            assert mask.num_targets[0] >= 1
            assert not mask.frames.all()
            if not masking.overlap and masking.min_space:
                assert len(runs_of(mask.frames[0])[0]) >= masking.min_spans
    refused = []
    for seed in range(100):
        try:
            draw(masking, (masking.min_frames - 1,), seed)
        except ValueError as error:
            refused.append(str(error))
    assert refused, "one frame less would do, too"
    assert all(re.match(r"An utterance must have at least \d+ frames to mask", message) for message in refused)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 12),  # a span and a start for each of two
        ({"last_start": True}, 11),
        ({"replacement": True}, 11),
        ({"min_spans": 1, "last_start": True}, 11),  # not 10, or nothing would stay visible
        ({"overlap": False}, 32),  # 10, then 21 starts that the first span may take away, and the last frame
        ({"overlap": False, "last_start": True}, 31),
    ],
    ids=str,
)
def test_fewest_frames(options: dict[str, Any], expected: int) -> None:
    assert SpanMasking(0.1, **options).min_frames == expected


def test_short_utterance_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 12 frames to mask 2 spans of `length` 10, but has 11"):
        draw(SpanMasking(), (11,), 0)
    with pytest.raises(ValueError, match=r"at least 32 frames to mask 2 spans of `length` 10, but has 31"):
        draw(SpanMasking(0.1, overlap=False), (31,), 0)


@st.composite
def span_maskings(draw: st.DrawFn) -> SpanMasking:
    """Any combination of options that makes sense."""
    length = draw(st.integers(1, 8))
    distribution = draw(st.sampled_from(["static", "uniform", "normal", "poisson"]))
    spread = {
        "uniform": st.integers(1, 2 * length),
        "normal": st.floats(0.5, 20),
    }.get(distribution, st.just(0.0))
    overlap = draw(st.booleans())
    return SpanMasking(
        probability=draw(st.floats(0.05, 0.9)) * min(length, 1.3),
        length=length,
        min_spans=draw(st.integers(1, 3)),
        equalize=draw(st.sampled_from(["fewest", "most", "exact", "none"])),
        rounding=draw(st.sampled_from(["utterance", "batch", "down"])),
        count_from=draw(st.sampled_from(["utterance", "shortest"])),
        extra_spans=draw(st.integers(0, 2)),
        length_distribution=distribution,
        length_spread=draw(spread),
        overlap=overlap,
        min_space=1 if overlap else draw(st.integers(0, 4)),
        replacement=overlap and draw(st.booleans()),
        last_start=draw(st.booleans()),
        frame_dropout=draw(st.sampled_from([0.0, 0.3, 0.95])),
        edge_frames=draw(st.sampled_from([None, 1, 3])),
    )


@given(span_maskings(), st.lists(st.integers(0, 90), min_size=1, max_size=4), st.integers(0, 1000))
@settings(deadline=None, max_examples=400)
def test_what_every_combination_of_options_keeps(masking: SpanMasking, beyond: list[int], seed: int) -> None:
    lengths = tuple(masking.min_frames + more for more in beyond)
    mask = draw(masking, lengths, seed)
    again = draw(masking, lengths, seed)
    assert torch.equal(mask.frames, again.frames)
    assert torch.equal(mask.targets, again.targets)
    for row, (frames, count) in enumerate(zip(lengths, mask.num_targets, strict=True)):
        hidden, targets = mask.frames[row], mask.targets[row, :count]
        assert not hidden[frames:].any()
        assert 1 <= hidden.sum() < frames
        assert count >= 1
        assert (targets.diff() > 0).all()
        assert hidden[targets].all()
        assert (mask.targets[row, count:] == 0).all()
        if masking.edge_frames is None:
            assert count == hidden.sum()
        if masking.equalize == "none" and not masking.overlap and not masking.frame_dropout and masking.min_space:
            first, end = runs_of(hidden)
            assert (first[1:] - end[:-1] >= masking.min_space).all()
            assert len(first) >= masking.min_spans
            assert masking.length_distribution != "static" or (end - first == masking.length).all()
            assert masking.length_distribution != "uniform" or (end - first <= 2 * masking.length).all()
            assert masking.last_start or not hidden[frames - 1]
    if masking.equalize == "fewest" or (masking.edge_frames is not None and masking.equalize != "none"):
        assert len(set(mask.num_targets)) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"extra_spans": -1}, "`extra_spans` must not be negative, but is -1"),
        ({"overlap": False, "min_space": -1}, "`min_space` must not be negative, but is -1"),
        ({"frame_dropout": 1.0}, "`frame_dropout` must be at least 0 and below 1, but is 1"),
        ({"edge_frames": 0}, "`edge_frames` must be at least 1, but is 0"),
        ({"length_distribution": "uniform"}, "integer from 1 to twice `length`, .* but is 0"),
        ({"length_distribution": "uniform", "length_spread": 2.5}, "integer from 1 to twice `length`, .* but is 2.5"),
        ({"length_distribution": "uniform", "length_spread": 21}, "integer from 1 to twice `length`, .* but is 21"),
        ({"length_distribution": "normal"}, "`length_spread` must be above 0 .* but is 0"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpanMasking(**options)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (partial(SpanMasking, min_space=2), "`min_space` has no effect: `overlap` is true"),
        (partial(SpanMasking, overlap=False, replacement=True), "`replacement` has no effect: `overlap` is false"),
        (partial(SpanMasking, length_spread=2.0), "`length_spread` has no effect: `length_distribution` is static"),
        (partial(ChannelMasking, NoMasking, before=True), "`before` has no effect: `frames` is NoMasking"),
    ],
)
def test_options_without_effect_are_said(build: partial[Masking], message: str) -> None:
    with pytest.warns(UserWarning, match=message) as caught:
        build()
    assert len(caught) == 1
    assert caught[0].filename == __file__
