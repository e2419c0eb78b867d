"""Shards, batches and pieces of a plan."""

from __future__ import annotations

import numpy as np
import pytest

from w2vlab.extraction.encoding import plan
from w2vlab.extraction.encoding.plan import PiecePlan, Shard, plan_batches, plan_shards
from w2vlab.frame_grid import FrameGrid

WAV2VEC2 = FrameGrid(320, 400)
CENTRED = FrameGrid(160, 0)


def test_shards_are_consecutive_and_limited() -> None:
    shards = plan_shards([10.0, 20.0, 15.0, 90.0, 1.0], shard_seconds=30, bytes_per_second=1)
    assert shards == [Shard(0, 0, 2), Shard(1, 2, 3), Shard(2, 3, 4), Shard(3, 4, 5)]
    assert [shard.name for shard in shards][:2] == ["shard-00000", "shard-00001"]
    assert plan_shards([], 30, 1) == []


def test_wide_frames_make_shards_shorter() -> None:
    shards = plan_shards([10.0] * 4, shard_seconds=900, bytes_per_second=plan.SHARD_BYTES / 20)
    assert [shard.stop for shard in shards] == [2, 4]


@pytest.mark.parametrize("grid", [WAV2VEC2, CENTRED])
@pytest.mark.parametrize("context", [0, 5])
@pytest.mark.parametrize("num_samples", [400, 20_000, 20_480 + 80, 100_000, 131_071])
def test_pieces_have_every_frame_once(grid: FrameGrid, context: int, num_samples: int) -> None:
    pieces = list(PiecePlan(grid, 64, context).pieces(3, num_samples))
    total = grid.num_frames(num_samples)
    first = 0
    for index, piece in enumerate(pieces):
        assert (piece.utterance, piece.index) == (3, index)
        # Frame `skipped` of the window is the next frame of the utterance, and the window has all frames of the piece.
        assert piece.window.start == (first - piece.skipped) * grid.stride
        assert piece.skipped == min(context, first)
        available = grid.num_frames(piece.window.length)
        assert available == min(total, first + piece.num_frames + context) - (first - piece.skipped)
        assert piece.window.start + piece.window.length <= num_samples
        first += piece.num_frames
    assert first == total
    assert pieces[-1].window.start + pieces[-1].window.length == num_samples


def test_what_is_cut() -> None:
    whole = PiecePlan.of_seconds(WAV2VEC2, None, 10.0, None)
    assert not whole.is_cut(10**9)
    assert [piece.window.length for piece in whole.pieces(0, 10**6)] == [10**6]
    plan_of = PiecePlan.of_seconds(WAV2VEC2, 60.0, 10.0, None)
    assert (plan_of.max_frames, plan_of.context_frames) == (2944, 500)  # whole blocks of 64 frames
    assert plan_of.max_seconds == pytest.approx(58.88)
    assert not plan_of.is_cut(2943 * 320 + 400)
    assert plan_of.is_cut(2944 * 320 + 400)
    assert PiecePlan.of_seconds(WAV2VEC2, 60.0, 10.0, reach=0).context_frames == 0
    assert PiecePlan.of_seconds(WAV2VEC2, 0.1, 10.0, reach=0).max_frames == 64  # at least a block


def test_batches_have_similar_lengths_and_every_piece() -> None:
    durations = np.array([9.0, 1.0, 2.0, 1.0, 3.0, 2.0, 9.0])
    whole = PiecePlan(WAV2VEC2, None, 0)
    batches = list(plan_batches(Shard(0, 1, 6), durations, whole, batch_seconds=4.0))
    lengths = [[piece.window.length for piece in batch] for batch in batches]
    assert lengths == [[16_000, 16_000], [32_000, 32_000], [48_000]]
    assert sorted(piece.utterance for batch in batches for piece in batch) == [1, 2, 3, 4, 5]
