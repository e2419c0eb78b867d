"""Dropout with few random bits: the distribution, the seed, and the gradient."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from w2vlab.functional.kernels.dropout import LEVELS, Dropout, draw_seed, dropout, keep_mask


@pytest.mark.parametrize("probability", [0.05, 0.1, 0.5, 0.9])
def test_share_runs_and_neighbours_are_those_of_independent_draws(probability: float) -> None:
    """Bounds of six standard deviations: one false failure in 5e8 for each."""
    size = 1_000_000
    mask, scale = keep_mask((size,), probability, 3, torch.float32)
    kept = 1 - probability
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert abs(mask.mean().item() - kept) < 6 * math.sqrt(probability * kept / size) + 1 / LEVELS
    for lag in (1, 2, 3, 4, 1000):  # four elements share a word of random bits
        pairs = (mask[:-lag] * mask[lag:]).mean().item()
        assert abs(pairs - kept**2) < 6 * math.sqrt(kept**2 * (1 - kept**2) / (size / 3)) + 2 / LEVELS
    assert scale == pytest.approx(1 / kept, rel=1e-3)


def test_the_factor_is_that_of_the_probability_that_was_drawn() -> None:
    """0.1 is 6554 of 65536 levels, a little more: the expectation is exact all the same."""
    _, scale = keep_mask((4,), 0.1, 0, torch.float32)
    assert scale == LEVELS / (LEVELS - 6554)


def test_the_same_seed_gives_the_same_mask_and_another_one_another() -> None:
    first, again, other = (keep_mask((50, 7), 0.5, seed, torch.float32)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_seeds_come_from_the_default_generator() -> None:
    torch.manual_seed(5)
    seeds = [draw_seed() for _ in range(3)]
    torch.manual_seed(5)
    assert [draw_seed() for _ in range(3)] == seeds
    assert len(set(seeds)) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_value_and_gradient_have_the_same_mask(dtype: torch.dtype) -> None:
    frames = torch.ones(40, 50, dtype=dtype, requires_grad=True)
    output = dropout(frames, 0.3, training=True)
    output.sum().backward()
    assert output.dtype == frames.grad.dtype == dtype
    assert_close(frames.grad, output.detach(), rtol=0, atol=0)
    assert 0 < (output == 0).float().mean() < 1


def test_computed_again_it_drops_the_same() -> None:
    """As activation checkpointing does, which puts the generator back."""
    torch.manual_seed(0)
    frames = torch.randn(30, 20, requires_grad=True)
    layer = Dropout(0.4)
    output = checkpoint(lambda x: layer(x) * x, frames, use_reentrant=False)
    output.sum().backward()
    assert_close(frames.grad, 2 * output.detach() / frames.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("probability", "training"), [(0.3, False), (0.0, True), (1.0, True)])
def test_where_nothing_is_drawn_it_is_torchs(probability: float, training: bool) -> None:
    frames = torch.randn(4, 5)
    state = torch.get_rng_state()
    assert torch.equal(dropout(frames, probability, training), F.dropout(frames, probability, training))
    if not training or probability == 0:
        assert torch.equal(torch.get_rng_state(), state)
