"""Noise of several micro-batches in one tensor is that of each one apart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from w2vlab.contexts.layer_drop import LayerDropStack
from w2vlab.functional.kernels import Dropout, noise, plain_kernels, scaled_dot_product_attention
from w2vlab.functional.kernels.noise import SeparateNoise, Stream, drawing, separate_noise
from w2vlab.functional.lengths import make_padding_mask

CPU = torch.device("cpu")
SEEDS, SIZES, LENGTHS = (3, 8, 11), (2, 1, 2), (7, 7, 4, 9, 6)
ROWS = (slice(0, 2), slice(2, 3), slice(3, 5))


def together() -> SeparateNoise:
    return SeparateNoise([Stream.seeded(seed, CPU) for seed in SEEDS], SIZES, LENGTHS)


def padded(*widths: int) -> Tensor:
    frames = torch.randn(5, 9, *widths, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for row, length in enumerate(LENGTHS):
        frames[row, length:] = 0
    return frames


def own(frames: Tensor, rows: slice, axis: int = 1) -> Tensor:
    return frames[rows].narrow(axis, 0, max(LENGTHS[rows])).detach().clone().requires_grad_()


@pytest.mark.parametrize("plain", [False, True])
def test_dropout_of_each_is_that_of_it_alone(plain: bool) -> None:
    layer, frames = Dropout(0.4), padded(3).requires_grad_()
    with plain_kernels(plain), drawing(together()):
        dropped = layer(layer(frames))
    dropped.square().sum().backward()
    for seed, rows in zip(SEEDS, ROWS, strict=True):
        alone = own(frames, rows)
        torch.manual_seed(seed)
        with plain_kernels(plain):
            expected = layer(layer(alone))
        expected.square().sum().backward()
        size = expected.shape[1]
        assert torch.equal(dropped[rows, :size], expected)
        assert torch.equal(frames.grad[rows, :size], alone.grad)
        assert not dropped[rows, size:].any()
        assert not frames.grad[rows, size:].any()


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("plain", [False, True])
def test_attention_of_each_is_that_of_it_alone(plain: bool, dropout: float) -> None:
    inputs = [padded(2, 4).transpose(1, 2).requires_grad_() for _ in range(3)]  # (B, H, T, d)
    mask = make_padding_mask(LENGTHS, 9, CPU)
    with plain_kernels(plain), drawing(together()):
        mixed = scaled_dot_product_attention(*inputs, mask, dropout)
    mixed.square().sum().backward()
    for seed, rows in zip(SEEDS, ROWS, strict=True):
        alone = [own(tensor, rows, axis=2) for tensor in inputs]
        size = alone[0].shape[2]
        torch.manual_seed(seed)
        with plain_kernels(plain):
            expected = scaled_dot_product_attention(*alone, make_padding_mask(LENGTHS[rows], size, CPU), dropout)
        expected.square().sum().backward()
        assert_close(mixed[rows, :, :size], expected, rtol=1e-13, atol=1e-13)
        for tensor, one in zip(inputs, alone, strict=True):
            assert_close(tensor.grad[rows, :, :size], one.grad, rtol=1e-13, atol=1e-13)


def test_exponential_numbers_of_each_are_those_of_it_alone() -> None:
    with drawing(together()):
        drawn = noise.draw_exponential(padded(2, 5))
        again = noise.draw_exponential(padded(2, 5))
    for seed, rows in zip(SEEDS, ROWS, strict=True):
        size = max(LENGTHS[rows])
        torch.manual_seed(seed)
        assert torch.equal(drawn[rows, :size], torch.empty_like(drawn[rows, :size].contiguous()).exponential_())
        assert (drawn[rows, size:] == 1).all()
        assert not torch.equal(again[rows, :size], drawn[rows, :size])


def test_the_default_generator_is_as_before() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with plain_kernels(), drawing(together()):
        Dropout(0.5)(padded(3))
    assert torch.equal(torch.get_rng_state(), before)


class _Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.dropout = Dropout(0.5)

    def forward(self, frames: Tensor, padding_mask: Tensor | None) -> Tensor:
        return self.dropout(self.linear(frames)).tanh()


@pytest.mark.parametrize("plain", [False, True])
def test_a_recomputed_layer_draws_the_same_noise_again(plain: bool) -> None:
    """Also after the noise of later layers was drawn, and outside of the forward pass."""
    torch.manual_seed(0)
    layers = [_Noisy().double() for _ in range(3)]
    found = []
    for checkpointing in (False, True):
        frames = padded(3).requires_grad_()
        stack = LayerDropStack(layers, activation_checkpointing=checkpointing)
        with plain_kernels(plain):
            with drawing(together()):
                output = stack(frames, None)
            output.square().sum().backward()
        assert separate_noise() is None
        found.append((output.detach(), frames.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_the_axis_must_be_that_of_the_tensor() -> None:
    with drawing(together()) as _, pytest.raises(RuntimeError, match=r"for 5 of 4\. Set `data\.fuse_seconds` to null"):
        Dropout(0.5)(torch.zeros(5, 4, 3))


def test_frames_to_predict_are_another_axis() -> None:
    targets = (2, 3, 1, 4, 2)
    with drawing(together()):
        with noise.along(targets):
            drawn = noise.draw_exponential(torch.zeros(5, 4, 2))
        with noise.multiplied(2):
            assert noise.draw_exponential(torch.zeros(5, 18, 2)).shape[1] == 18
        Dropout(0.5)(padded(3))  # the frames again
    torch.manual_seed(SEEDS[0])
    assert torch.equal(drawn[:2, :3], torch.empty(2, 3, 2).exponential_())


def test_another_device_is_refused() -> None:
    with pytest.raises(ValueError, match="must be cpu or cuda to draw noise of several micro-batches, but is meta"):
        noise.default_generator(torch.device("meta"))
