"""Masks of channels.

Statistical bounds are at least six standard errors wide; the seeds are fixed besides.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from tests.parts.masking.masks import draw, from_yaml, rng, runs_of, text_of
from w2vlab.interfaces import MaskingFactory
from w2vlab.masking import ChannelMasking, NoMasking, SpanMasking
from w2vlab.types import Mask


def channel_rows(mask: Mask) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    assert mask.channels is not None
    return map(runs_of, mask.channels)


@pytest.mark.parametrize("frames", [SpanMasking, NoMasking, partial(SpanMasking, equalize="none", edge_frames=2)])
def test_channels_leave_the_frames_as_they_were(frames: MaskingFactory) -> None:
    masking = ChannelMasking(frames, 0.5, 8)
    assert masking.min_frames == frames().min_frames
    for seed in range(20):
        alone, both = draw(frames(), (40, 70), seed, 64), draw(masking, (40, 70), seed, 64)
        assert torch.equal(alone.frames, both.frames)
        assert torch.equal(alone.targets, both.targets)
        assert alone.num_targets == both.num_targets
        assert both.channels is not None
        assert both.channels.shape == (2, 64)
        assert not torch.equal(both.channels[0], both.channels[1])


def test_spans_of_channels() -> None:
    masking = ChannelMasking(NoMasking, 0.3, 8, equalize_channels=False)
    seen = torch.zeros(100, dtype=torch.bool)
    for seed in range(200):
        mask = draw(masking, (20, 20), seed, 100)
        seen |= mask.channels.any(0)
        for first, end in channel_rows(mask):
            assert (end - first >= 8).all()
            assert (end - first).sum() <= 8 * 4  # 3.75 spans
        assert torch.equal(mask.channels[1], masking((20,), [rng(seed, 1)], 100).channels[0])
    assert seen[:-1].all()
    assert not seen[-1]


def test_few_channels_expect_their_share_of_spans() -> None:
    masking = ChannelMasking(NoMasking, 0.2, 10, equalize_channels=False)  # 0.6 spans in 30 channels
    counts = [int(draw(masking, (20,), seed, 30).channels.sum()) for seed in range(2000)]
    assert set(counts) == {0, 10}
    assert np.mean(counts) == pytest.approx(6, abs=6 * 5 / 2000**0.5)
    at_least_two = ChannelMasking(NoMasking, 0.2, 10, min_channel_spans=2, equalize_channels=False)
    assert all(draw(at_least_two, (20,), seed, 30).channels.sum() > 10 for seed in range(100))


@pytest.mark.parametrize(("batch_size", "expected"), [(1, 0.40), (5, 0.34)])
def test_share_of_masked_channels(batch_size: int, expected: float) -> None:
    masking = from_yaml("channels")
    drawn = [draw(masking, (40,) * batch_size, seed, 768).channels for seed in range(500)]
    assert all((channels.sum(1) == channels[0].sum()).all() for channels in drawn)
    # The share varies by less than 0.06.
    assert torch.stack([channels.float().mean() for channels in drawn]).mean().item() == pytest.approx(
        expected, abs=0.016
    )
    assert f"{expected:.2f}" in text_of("channels")


@pytest.mark.parametrize("before", [False, True])
def test_channels_before_or_after_frames(before: bool) -> None:
    mask = draw(ChannelMasking(channel_length=4, before=before), (30,), 0, 16)
    assert mask.channels_first == before
    embedding = torch.full((16,), 2.0)
    frames = mask.hide(torch.ones(1, 30, 16), embedding)[0]  # (T, D)
    hidden, channels = mask.frames[0], mask.channels[0]
    assert channels.any()
    assert (frames[~hidden][:, channels] == 0).all()
    assert (frames[~hidden][:, ~channels] == 1).all()
    assert (frames[hidden][:, ~channels] == 2).all()
    assert (frames[hidden][:, channels] == (2 if before else 0)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channel_length": 0}, "`channel_length` must be at least 1, but is 0"),
        ({"channel_probability": 0.0}, r"must be above 0 and below `channel_length` \(64\), but is 0"),
        ({"channel_probability": 64}, r"must be above 0 and below `channel_length` \(64\), but is 64"),
        ({"min_channel_spans": -1}, "`min_channel_spans` must not be negative, but is -1"),
        ({"frames": ChannelMasking}, "`frames` must be a masking of frames, but is a ChannelMasking"),
    ],
)
def test_channels_that_cannot_be(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ChannelMasking(**arguments)


def test_too_few_channels_are_refused() -> None:
    masking = ChannelMasking(channel_probability=1.0)
    with pytest.raises(ValueError, match=r"at least 65 channels to mask 1 spans of `channel_length` 64, but has 64"):
        draw(masking, (40,), 0, 64)
