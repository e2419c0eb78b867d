"""Products of spectra equal the grouped convolution, and the convolutional positions are made of them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from w2vlab.contexts.positions import ConvPositions
from w2vlab.functional.kernels import grouped_conv1d, spectra


@pytest.mark.parametrize(("kernel", "length"), [(128, 781), (128, 40), (8, 30), (5, 17), (1, 9)])
@pytest.mark.parametrize(("groups", "numbers"), [(1, 1 << 22), (3, 1 << 22), (6, 1), (6, 16 * 129)])
def test_products_of_spectra_are_the_convolution(
    kernel: int, length: int, groups: int, numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spectra, "_NUMBERS_AT_ONCE", numbers)
    torch.manual_seed(0)
    inputs = torch.randn(2, 12, length, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(12, 12 // groups, kernel, dtype=torch.float64, requires_grad=True)
    expected = F.conv1d(inputs, weight, padding=kernel // 2, groups=groups)
    found = grouped_conv1d(inputs, weight, kernel // 2)
    assert_close(found, expected)
    upstream = torch.randn_like(expected)
    for own, other in zip(
        torch.autograd.grad(found, [inputs, weight], upstream),
        torch.autograd.grad(expected, [inputs, weight], upstream),
        strict=True,
    ):
        assert_close(own, other)


def test_under_autocast_spectra_are_float32_and_the_result_is_not() -> None:
    torch.manual_seed(0)
    inputs, weight = torch.randn(2, 12, 50), torch.randn(12, 4, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = grouped_conv1d(inputs, weight, 4)
    assert found.dtype == torch.bfloat16
    assert_close(found, F.conv1d(inputs, weight, padding=4, groups=3).bfloat16(), rtol=1 / 128, atol=1e-5)


def test_positions_are_those_of_the_module_that_has_the_parameters() -> None:
    torch.manual_seed(0)
    positions = ConvPositions(12, 8, 3).double()
    frames = torch.randn(2, 30, 12, dtype=torch.float64)
    convolved = F.conv1d(frames.transpose(1, 2), positions.conv.weight, positions.conv.bias, padding=4, groups=3)
    expected = F.gelu(convolved[..., :30]).transpose(1, 2)
    assert_close(positions(frames), expected)


def test_no_spectrum_is_kept_for_the_backward_pass() -> None:
    inputs, weight = torch.randn(1, 4, 20, requires_grad=True), torch.randn(4, 2, 8, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        grouped_conv1d(inputs, weight, 4)
    assert {id(tensor) for tensor in kept} == {id(inputs), id(weight)}


def test_a_gradient_of_positions_that_is_not_needed_is_not_computed() -> None:
    inputs, weight = torch.randn(1, 4, 20), torch.randn(4, 2, 8)
    for wanted in (inputs, weight):
        wanted.requires_grad_()
        found = torch.autograd.grad(grouped_conv1d(inputs, weight, 4).square().sum(), wanted)[0]
        expected = torch.autograd.grad(F.conv1d(inputs, weight, padding=4, groups=2).square().sum(), wanted)[0]
        assert_close(found, expected, rtol=1e-4, atol=1e-4)
        wanted.requires_grad_(False)
