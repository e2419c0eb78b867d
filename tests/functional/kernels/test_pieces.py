"""A convolution some frames at a time equals the whole one, with its gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from w2vlab.functional.kernels import GELU, GroupNorm, LayerNorm, WaveformConv1d, conv1d, pieces, plain_kernels
from w2vlab.functional.kernels.recompute import recompute

LAYERS = [(3, 2), (2, 2), (10, 5), (5, 1), (1, 1), (2, 3), (7, 3)]


@pytest.mark.parametrize("numbers", [1, 24, 60, 150, 10_000])
@pytest.mark.parametrize("length", [10, 30, 31])
@pytest.mark.parametrize(("kernel", "stride"), LAYERS)
def test_every_window_is_in_one_piece(
    kernel: int, stride: int, length: int, numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "_NUMBERS_AT_ONCE", numbers)
    frames, weight = torch.randn(3, length, 6, dtype=torch.float64), torch.randn(5, 6, kernel, dtype=torch.float64)
    expected = F.conv1d(frames.transpose(1, 2), weight, stride=stride).transpose(1, 2)
    found = torch.full_like(expected, torch.nan)
    seen = torch.zeros(frames.shape[:2])
    for piece in pieces.pieces(frames, 6, kernel, stride, divide=True):
        (some,) = piece.of_inputs([frames])
        assert some is not None
        part = found[piece.rows, piece.outputs]
        assert part.isnan().all()
        part.copy_(F.conv1d(some.transpose(1, 2), weight, stride=stride).transpose(1, 2))
        assert (seen[piece.rows, piece.inputs][:, : piece.num_seen] == 1).all()
        seen[piece.rows, piece.inputs] += 1
        seen[piece.rows, piece.inputs].clamp_(max=1)
        assert piece.is_all == (found.isfinite().all().item() and piece.rows.start == piece.outputs.start == 0)
        if kernel >= stride and numbers >= 6 * kernel:
            assert some.numel() <= numbers + 6 * (kernel + stride)
    assert_close(found, expected)
    assert seen.all()


def _scaled(frames: Tensor, per_utterance: Tensor, scale: Tensor) -> Tensor:
    return F.gelu(frames * scale * per_utterance)


@pytest.mark.parametrize("numbers", [40, 150])
@pytest.mark.parametrize(("kernel", "stride"), LAYERS)
def test_values_and_gradients_are_those_of_the_whole(
    kernel: int, stride: int, numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "_NUMBERS_AT_ONCE", numbers)
    torch.manual_seed(0)
    frames = torch.randn(3, 47, 6, dtype=torch.float64, requires_grad=True)
    per_utterance = torch.randn(3, 1, 6, dtype=torch.float64, requires_grad=True)
    scale, bias = (torch.randn(6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    weight = torch.randn(6, 6, kernel, dtype=torch.float64, requires_grad=True)
    output = conv1d(recompute(_scaled, frames, (per_utterance,), (scale,), per_frame=True), weight, bias, stride)
    inputs = _scaled(frames, per_utterance, scale).transpose(1, 2)
    expected = F.conv1d(inputs, weight, bias, stride).transpose(1, 2)
    assert_close(output, expected, rtol=1e-12, atol=1e-12)
    leaves, upstream = [frames, per_utterance, scale, weight, bias], torch.randn_like(output)
    for found, wanted in zip(
        torch.autograd.grad(output, leaves, upstream), torch.autograd.grad(expected, leaves, upstream), strict=True
    ):
        assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("norm", ["layer", "group of a channel", "group of all"])
def test_an_encoder_in_pieces_equals_plain_layers(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "_NUMBERS_AT_ONCE", 64)
    torch.manual_seed(0)
    first = WaveformConv1d(8, 10, 5).double()
    middle = LayerNorm(8, True) if norm == "layer" else GroupNorm(8 if norm == "group of a channel" else 1, 8, True)
    middle = middle.double()
    waveform, weight = torch.randn(2, 400, 1, dtype=torch.float64), torch.randn(4, 8, 3, dtype=torch.float64)
    weight.requires_grad_()
    leaves = [weight, *first.parameters(), *middle.parameters()]

    def outputs() -> list[Tensor]:
        output = conv1d(GELU(recompute=True)(middle(first(waveform))), weight, None, 2)
        return [output, *torch.autograd.grad(output.square().sum(), leaves)]

    with plain_kernels():
        expected = outputs()
    for found, wanted in zip(outputs(), expected, strict=True):
        assert_close(found, wanted, rtol=1e-10, atol=1e-10)


def test_sums_over_pieces_are_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16 256 + 1 is 256: pieces after the 256th would add nothing."""
    monkeypatch.setattr(pieces, "_NUMBERS_AT_ONCE", 2)
    frames = torch.ones(1, 512, 1, dtype=torch.bfloat16)
    offset = torch.zeros(1, 1, 1, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.ones(1, 1, 1, dtype=torch.bfloat16, requires_grad=True)
    conv1d(recompute(torch.add, frames, (offset,), per_frame=True), weight).sum().backward()
    assert offset.grad == 512
    assert weight.grad == 512
