"""The contract of masking strategies."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.contracts.tiny import WIDTH, build, classes
from w2vlab.interfaces import Masking

maskings = pytest.mark.parametrize("cls", classes("masking"), ids=lambda cls: cls.__name__)


def generators(count: int, seed: int) -> list[np.random.Generator]:
    return [np.random.default_rng((seed, row)) for row in range(count)]


@maskings
@pytest.mark.parametrize("seed", range(20))
def test_mask_is_well_formed_and_never_on_padding(cls: type, seed: int) -> None:
    masking = build(cls)
    lengths = (masking.min_frames, masking.min_frames + 11, masking.min_frames + 30)
    mask = masking(lengths, generators(3, seed), WIDTH)
    assert mask.frames.shape == (3, max(lengths))
    assert mask.frames.dtype == torch.bool
    assert mask.targets.dtype == torch.int64
    assert mask.targets.shape == (3, max(mask.num_targets))
    for row, (length, count) in enumerate(zip(lengths, mask.num_targets, strict=True)):
        targets = mask.targets[row, :count]
        assert count >= 1
        assert (targets.diff() > 0).all(), "targets are in ascending order, each once"
        assert targets[-1] < length
        assert (mask.targets[row, count:] == 0).all()
        assert not mask.frames[row, length:].any()
        assert not mask.frames[row, :length].all(), "something stays visible"
        assert mask.frames[row, targets].all() or not mask.frames.any(), "a masking that hides, hides its targets"
    if mask.channels is not None:
        assert mask.channels.shape == (3, WIDTH)
        assert mask.channels.dtype == torch.bool
        assert not mask.channels.all(dim=1).any(), "some channel is left"


@maskings
def test_mask_follows_from_its_generators(cls: type) -> None:
    masking = build(cls)
    lengths = (20, 30)
    first, second = masking(lengths, generators(2, 0), WIDTH), masking(lengths, generators(2, 0), WIDTH)
    assert torch.equal(first.frames, second.frames)
    assert torch.equal(first.targets, second.targets)
    assert first.num_targets == second.num_targets
    assert (first.channels is None) == (second.channels is None)
    assert first.channels is None or torch.equal(first.channels, second.channels)


def is_refused(masking: Masking, num_frames: int, seed: int) -> bool:
    try:
        masking((num_frames,), generators(1, seed), WIDTH)
    except ValueError as error:
        return "An utterance must have at least" in str(error)
    return False


@maskings
def test_fewest_frames_are_enough_and_needed(cls: type) -> None:
    masking = build(cls)
    for seed in range(100):
        masking((masking.min_frames,), generators(1, seed), WIDTH)
    if masking.min_frames > 1:
        one_less = masking.min_frames - 1
        assert any(is_refused(masking, one_less, seed) for seed in range(100)), "one frame less would do, too"
