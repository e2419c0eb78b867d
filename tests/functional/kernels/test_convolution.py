"""Convolutions as matrix products equal PyTorch's, also of frames that are recomputed in the backward pass."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from w2vlab.functional.kernels import Frames, as_tensor, conv1d
from w2vlab.functional.kernels.products import _by_library, _gradient_by_library
from w2vlab.functional.kernels.recompute import recompute
from w2vlab.functional.kernels.waveform import fold_norm_into_filters
from w2vlab.functional.lengths import group_norm_over_time

LAYERS = [(10, 5, 1), (3, 2, 6), (2, 2, 6), (8, 4, 6), (4, 2, 6), (1, 1, 6), (5, 1, 6), (2, 3, 6), (3, 7, 6)]


def scaled_gelu(frames: Tensor, padding_mask: Tensor | None, scale: Tensor) -> Tensor:
    """A cheap step with an absent input and a parameter that all utterances share."""
    assert padding_mask is None
    return F.gelu(frames * scale)


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("recomputed", [True, False])
@pytest.mark.parametrize(("kernel", "stride", "channels"), LAYERS)
def test_values_and_gradients_are_torchs(
    kernel: int, stride: int, channels: int, recomputed: bool, has_bias: bool
) -> None:
    torch.manual_seed(0)
    frames = torch.randn(3, 47, channels, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, channels, kernel, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(7, dtype=torch.float64, requires_grad=True) if has_bias else None
    scale = torch.randn(channels, dtype=torch.float64, requires_grad=True)
    inputs: Frames = recompute(scaled_gelu, frames, (None,), (scale,)) if recomputed else frames
    output = conv1d(inputs, weight, bias, stride)
    expected = F.conv1d(as_tensor(inputs).transpose(1, 2), weight, bias, stride).transpose(1, 2)
    assert_close(output, expected)
    upstream = torch.randn_like(output)
    leaves = [frames, weight, *([bias] if has_bias else []), *([scale] if recomputed else [])]
    for found, wanted in zip(
        torch.autograd.grad(output, leaves, upstream), torch.autograd.grad(expected, leaves, upstream), strict=True
    ):
        assert_close(found, wanted)


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize(("kernel", "stride", "channels"), LAYERS)
def test_the_operations_of_a_gpu_are_torchs(kernel: int, stride: int, channels: int, has_bias: bool) -> None:
    torch.manual_seed(0)
    frames = torch.randn(3, 47, channels, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, channels, kernel, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(7, dtype=torch.float64) if has_bias else None
    expected = F.conv1d(frames.transpose(1, 2), weight, bias, stride).transpose(1, 2)
    assert_close(_by_library(frames, weight, bias, stride), expected)
    upstream = torch.randn(expected.shape, dtype=torch.float64)
    wanted = torch.autograd.grad(expected, [frames, weight], upstream)
    assert_close(_gradient_by_library(frames, upstream, weight, stride, of_frames=True), wanted[0])
    assert_close(_gradient_by_library(frames, upstream, weight, stride, of_frames=False), wanted[1])


def test_a_gradient_in_half_precision_is_summed_over_utterances_in_float32() -> None:
    torch.manual_seed(0)
    frames, weight = torch.rand(64, 30, 4).bfloat16(), torch.rand(5, 4, 3).bfloat16().requires_grad_()
    conv1d(frames, weight, None, 2).backward(torch.ones(64, 14, 5, dtype=torch.bfloat16))
    wide = weight.detach().double().requires_grad_()
    conv1d(frames.double(), wide, None, 2).backward(torch.ones(64, 14, 5, dtype=torch.float64))
    assert weight.grad is not None
    assert wide.grad is not None
    # Half a step of bfloat16 in 256: once for each part of an utterance, where they average out, and at the end.
    assert_close(weight.grad.double(), wide.grad, rtol=1 / 256, atol=0)


def test_the_source_of_recomputed_frames_is_kept_and_the_frames_are_not() -> None:
    frames = torch.randn(2, 400, 16, requires_grad=True)
    weight, scale = torch.randn(8, 16, 3, requires_grad=True), torch.ones(16, requires_grad=True)
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        conv1d(recompute(scaled_gelu, frames, (None,), (scale,)), weight, None, 2)
    assert {id(tensor) for tensor in kept} == {id(tensor) for tensor in (frames, weight, scale)}


def test_a_gradient_that_is_not_needed_is_not_computed() -> None:
    frames, weight = torch.randn(2, 20, 4), torch.randn(5, 4, 3, requires_grad=True)
    conv1d(recompute(F.gelu, frames), weight, None, 2).sum().backward()
    assert weight.grad is not None
    assert frames.grad is None
    frozen = torch.randn(5, 4, 3)
    frames.requires_grad_()
    conv1d(recompute(F.gelu, frames), frozen, None, 2).sum().backward()
    expected = torch.autograd.grad(F.conv1d(F.gelu(frames).transpose(1, 2), frozen, stride=2).sum(), frames)[0]
    assert_close(frames.grad, expected)


def test_under_autocast_both_passes_are_in_half_precision_and_parameters_stay() -> None:
    torch.manual_seed(0)
    frames = torch.randn(2, 40, 8, requires_grad=True)
    weight, bias = torch.randn(6, 8, 3, requires_grad=True), torch.randn(6, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        output = conv1d(recompute(F.gelu, frames), weight, bias, 2)
    assert output.dtype == torch.bfloat16
    output.float().square().sum().backward()
    assert weight.grad.dtype == bias.grad.dtype == frames.grad.dtype == torch.float32
    exact = F.conv1d(F.gelu(frames).transpose(1, 2), weight, bias, 2).transpose(1, 2)
    assert_close(output.float(), exact, rtol=0.05, atol=0.2)
    gradient = torch.autograd.grad(exact.square().sum(), weight)[0]
    assert torch.cosine_similarity(gradient.flatten(), weight.grad.flatten(), dim=0) > 0.999


def test_a_gradient_can_be_asked_for_twice() -> None:
    frames, weight = torch.randn(1, 9, 2, requires_grad=True), torch.randn(3, 2, 2, requires_grad=True)
    total = conv1d(recompute(F.gelu, frames), weight, None, 1).sum()
    first = torch.autograd.grad(total, weight, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(total, weight)[0])


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("has_bias", [False, True])
def test_folded_filters_equal_the_norm_of_the_output_of_filters(padded: bool, has_bias: bool) -> None:
    torch.manual_seed(0)
    windows = torch.randn(2, 30, 5, dtype=torch.float64, requires_grad=True)
    filters = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    scale, offset = (torch.randn(4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    bias = torch.randn(4, dtype=torch.float64, requires_grad=True) if has_bias else None
    mask = torch.arange(30)[None] >= torch.tensor([30, 17])[:, None] if padded else None
    own, offsets = fold_norm_into_filters(windows, filters, bias, scale, offset, mask, 1e-5)
    found = windows @ own.transpose(1, 2) + offsets[:, None]
    plain = windows @ filters.t() + (0 if bias is None else bias)
    expected = group_norm_over_time(plain, 4, scale, offset, mask)
    valid = torch.ones(2, 30, 1, dtype=torch.bool) if mask is None else ~mask[..., None]
    assert_close(found * valid, expected * valid)
    inputs = [windows, filters, scale, offset, *([bias] if has_bias else [])]
    upstream = torch.randn_like(found) * valid
    for ours, wanted in zip(
        torch.autograd.grad(found, inputs, upstream), torch.autograd.grad(expected, inputs, upstream), strict=True
    ):
        assert_close(ours, wanted)  # of a bias it is zero, as the norm takes it out


def test_folded_filters_keep_an_output_that_is_small_beside_the_samples() -> None:
    """A filter of neighbouring samples' differences, on audio that hardly changes: in float32 nothing would be left."""
    torch.manual_seed(0)
    slow = 1000 + torch.cumsum(0.01 * torch.randn(1, 5000, dtype=torch.float64), dim=1)
    windows = slow.float().unfold(1, 2, 1)
    filters = torch.tensor([[1.0, -1.0], [1.0, 1.0]])
    own, offsets = fold_norm_into_filters(windows, filters, None, torch.ones(2), torch.zeros(2), None, 1e-12)
    found = windows.double() @ own.double().transpose(1, 2) + offsets.double()[:, None]
    expected = F.group_norm((windows.double() @ filters.double().t()).transpose(1, 2), 2, eps=1e-12).transpose(1, 2)
    assert_close(found[..., 0].std(), expected[..., 0].std(), rtol=1e-3, atol=0)
