"""Hiding fewer or more frames, and finding those near visible ones, against plain loops."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from w2vlab.functional.frame_sets import extend_frames, make_mask, near_visible, subsample_frames


def rng(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)


@st.composite
def hidden_frames(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    """Some, but not all, of the frames of an utterance."""
    num_frames = draw(st.integers(2, 40))
    hidden = draw(st.sets(st.integers(0, num_frames - 1), min_size=1, max_size=num_frames - 1))
    return np.array(sorted(hidden)), num_frames


@given(hidden_frames(), st.integers(0, 50), st.integers(0, 1000))
@settings(deadline=None)
def test_subsampled_and_extended_frames(case: tuple[np.ndarray, int], size: int, seed: int) -> None:
    frames, num_frames = case
    fewer = subsample_frames(frames, size, rng(seed))
    assert len(fewer) == min(len(frames), size)
    assert set(fewer) <= set(frames)
    more = extend_frames(frames, size, num_frames, rng(seed))
    assert len(more) == max(len(frames), min(size, num_frames - 1))
    assert set(more) >= set(frames)
    assert more[-1] < num_frames
    for row in (fewer, more):
        assert (np.diff(row) > 0).all()


def test_the_generator_is_unused_if_nothing_changes() -> None:
    generator = rng(0)
    frames = np.array([1, 2])
    assert subsample_frames(frames, 2, generator) is frames
    assert extend_frames(frames, 2, 9, generator) is frames
    assert generator.random() == rng(0).random()


def test_frames_are_removed_and_added_uniformly() -> None:
    frames, left, added = np.arange(0, 20, 2), np.zeros(20), np.zeros(20)
    for seed in range(4000):
        left[subsample_frames(frames, 4, rng(seed))] += 1
        added[extend_frames(frames, 14, 20, rng(seed))] += 1
    # Of ten each, four are left or added; a standard error is 31.
    assert (abs(left[::2] - 1600) < 190).all()
    assert (abs(added[1::2] - 1600) < 190).all()
    assert (left[1::2] == 0).all()
    assert (added[::2] == 4000).all()


@given(hidden_frames(), st.integers(1, 45))
@settings(deadline=None)
def test_frames_near_a_visible_one(case: tuple[np.ndarray, int], reach: int) -> None:
    frames, num_frames = case
    visible = [frame for frame in range(num_frames) if frame not in set(frames)]
    expected = [frame for frame in frames if min(abs(frame - other) for other in visible) <= reach]
    assert near_visible(frames, num_frames, reach).tolist() == expected
    assert expected, "a hidden frame beside a visible one is near"


def test_rows_of_a_mask() -> None:
    mask = make_mask([np.array([1, 2, 4]), np.array([0])], [np.array([1, 4]), np.array([0])], (6, 3))
    assert mask.frames.tolist() == [[False, True, True, False, True, False], [True] + [False] * 5]
    assert mask.targets.tolist() == [[1, 4], [0, 0]]
    assert mask.targets.dtype == torch.int64
    assert mask.num_targets == (2, 1)
    assert mask.channels is None
