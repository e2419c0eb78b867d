"""Kernels without gradients: they equal the ordinary ones, overwrite no input, and are used in inference mode alone."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.testing import assert_close

from tests.contracts.tiny import WIDTH, build, classes, padding_mask
from w2vlab.contexts import transformer
from w2vlab.contexts.transformer import FeedForward
from w2vlab.functional.kernels import (
    GELU,
    GroupedConv1d,
    Linear,
    ReLU,
    WindowProducts,
    activate_in_place,
    add_residual,
    computes_inference,
    plain_kernels,
    spectra,
)
from w2vlab.functional.kernels.inference import linear

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(dtype: torch.dtype, bias: bool) -> None:
    layer = Linear(6, 5, bias=bias).to(dtype)
    for shape in ((3, 7, 6), (7, 6), (6,), (0, 6)):
        frames = torch.randn(shape, dtype=dtype)
        expected = F.linear(frames, layer.weight, layer.bias)
        with torch.inference_mode():
            assert_close(layer(frames), expected, **({} if dtype == torch.bfloat16 else TOLERANCE))
        assert layer(frames).requires_grad


def test_linear_of_rows_that_overlap() -> None:
    frames, weight = torch.randn(20, 4), torch.randn(5, 12)
    rows = frames.as_strided((9, 12), (8, 1))
    with torch.inference_mode():
        assert_close(linear(rows, weight), rows.contiguous() @ weight.t(), **TOLERANCE)


def test_they_are_used_in_inference_mode_alone() -> None:
    frames = torch.ones(2)
    assert not computes_inference(frames)
    with torch.no_grad():
        assert not computes_inference(frames)
    with torch.inference_mode():
        assert computes_inference(frames)
        with plain_kernels():
            assert not computes_inference(frames)


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (2, 2), (3, 2), (3, 1), (10, 5), (2, 3)])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_products_of_windows(kernel: int, stride: int, batch: int, bias: bool) -> None:
    conv = nn.Conv1d(4, 6, kernel, stride, bias=bias)
    frames = torch.randn(batch, 33, 8)[..., ::2]  # not contiguous
    with torch.inference_mode():
        found = WindowProducts(conv.weight, conv.bias, stride)(frames)
        assert_close(found, conv(frames.transpose(1, 2)).transpose(1, 2), **TOLERANCE)


def test_sums_overwrite_the_update_in_inference_mode_alone() -> None:
    frames, update = torch.tensor([1.0]), torch.tensor([2.0])
    assert (add_residual(frames, update), frames, update) == (3, 1, 2)
    with torch.inference_mode():
        half = update.bfloat16()
        assert add_residual(frames, half).dtype == torch.float32
        assert half == 2
        assert add_residual(frames, update) is update
    assert (frames, update) == (1, 3)


@pytest.mark.parametrize("activation", [GELU(), ReLU()])
def test_activations_in_place(activation: nn.Module) -> None:
    frames = torch.randn(4, 5)
    expected = activation(frames)
    with torch.inference_mode():
        found = activate_in_place(activation, frames)
    assert_close(found, expected)
    assert found.data_ptr() == frames.data_ptr()


@pytest.mark.parametrize("kernel", [1, 2, 5, 8])
@pytest.mark.parametrize("length", [1, 4, 7, 8, 9, 40])
@pytest.mark.parametrize("blocks", [1, 3, 32])
def test_positions_by_spectra(kernel: int, length: int, blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectra, "_BLOCKS_AT_ONCE", blocks)
    conv = GroupedConv1d(6, kernel, 2)
    frames = torch.randn(2, 6, length)
    expected = F.conv1d(frames, conv.weight, conv.bias, padding=kernel // 2, groups=2)[..., :length]
    with torch.inference_mode():
        assert_close(conv(frames), expected, **TOLERANCE)


def changed_in_place(conv: nn.Module) -> None:
    with torch.no_grad():
        conv.parametrizations.weight.original1.mul_(-1.5)


def changed_without_a_version(conv: nn.Module) -> None:
    conv.parametrizations.weight.original0.data.add_(1)


def loaded(conv: nn.Module) -> None:
    conv.load_state_dict({name: 2 * value + 0.1 for name, value in conv.state_dict().items()})


def converted(conv: nn.Module) -> None:
    conv.double()


@pytest.mark.parametrize("change", [changed_in_place, changed_without_a_version, loaded, converted])
def test_spectra_follow_the_weight(change) -> None:
    conv = weight_norm(GroupedConv1d(6, 8, 2), name="weight", dim=2)
    frames = torch.randn(1, 6, 20)

    def check() -> None:
        inputs = frames.to(conv.bias.dtype)
        with torch.no_grad():
            expected = conv(inputs)
        with torch.inference_mode():
            assert_close(conv(inputs), expected, **TOLERANCE)
            assert_close(conv(inputs), expected, **TOLERANCE)

    check()
    change(conv)
    check()


def test_spectra_are_computed_once_and_are_not_a_part_of_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Tensor] = []
    compute = spectra.filter_spectra
    monkeypatch.setattr(spectra, "filter_spectra", lambda weight: calls.append(weight) or compute(weight))
    conv = GroupedConv1d(6, 8, 2)
    before = set(conv.state_dict()), set(vars(conv)), len(spectra._kept)
    with torch.inference_mode():
        for length in (5, 20, 5):
            conv(torch.randn(1, 6, length))
    assert len(calls) == 1
    assert (set(conv.state_dict()), set(vars(deepcopy(conv)))) == before[:2]
    assert len(spectra._kept) == before[2] + 1
    del conv
    assert len(spectra._kept) <= before[2]


@pytest.mark.parametrize("at_once", [1, 4, 512])
def test_a_feed_forward_network_of_some_frames_at_a_time(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformer, "_FRAMES_AT_ONCE", at_once)
    network = FeedForward(4, 12, 0.5).eval()
    frames = torch.randn(3, 5, 4)
    expected = network(frames)
    with torch.inference_mode():
        assert_close(network(frames), expected, **TOLERANCE)


@pytest.mark.parametrize("cls", classes("context"), ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("padded", [False, True])
def test_contexts_are_the_same_and_no_input_is_overwritten(cls: type, padded: bool) -> None:
    context = build(cls).eval()
    lengths = (11, 6) if padded else (11, 11)
    latents = torch.randn(2, 11, WIDTH)
    mask = padding_mask(lengths) if padded else None
    with torch.no_grad():
        expected = context(context.project(latents), mask)
    kept = latents.clone()
    with torch.inference_mode():
        frames = context.project(latents)
        before = frames.clone()
        found = context(frames, mask)
    for row, length in enumerate(lengths):
        assert_close(found[row, :length], expected[row, :length], **TOLERANCE)
    assert torch.equal(latents, kept)
    assert torch.equal(frames, before)
