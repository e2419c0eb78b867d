"""Attention with dropout, held to the formula with the same mask."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

import w2vlab.functional.kernels.attention as attention
from w2vlab.functional.kernels import scaled_dot_product_attention
from w2vlab.functional.kernels.dropout import draw_seed, keep_mask

B, H, T, WIDTH, DROPOUT = 2, 3, 17, 4, 0.3


@pytest.fixture
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks an utterance; the last ones have fewer heads and fewer queries."""
    monkeypatch.setattr(attention, "_ROWS_AT_ONCE", 7)
    monkeypatch.setattr(attention, "_WEIGHTS_AT_ONCE", 2 * 7 * T)


def projections(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(B, H, T, WIDTH, dtype=dtype, requires_grad=True) for _ in range(3)]


def by_formula(
    query: Tensor, key: Tensor, value: Tensor, padding_mask: Tensor | None, seed: int, bias: Tensor | None = None
) -> Tensor:
    scores = query @ key.transpose(-1, -2) / math.sqrt(WIDTH)
    if bias is not None:
        scores = scores + bias
    if padding_mask is not None:
        scores = scores.masked_fill(padding_mask[:, None, None], -torch.inf)
    kept = torch.empty(B, H, T, T, dtype=query.dtype)
    scale = 0.0
    for number, chunk in attention._chunks(query):
        kept[chunk], scale = keep_mask(tuple(kept[chunk].shape), DROPOUT, seed + number, query.dtype)
    return (scores.softmax(dim=-1) * kept * scale) @ value


@pytest.mark.usefixtures("_small_chunks")
@pytest.mark.parametrize("padded", [False, True])
def test_values_and_gradients_are_those_of_the_formula(padded: bool) -> None:
    inputs = projections()
    mask = torch.arange(T)[None] >= torch.tensor([T, 10])[:, None] if padded else None
    torch.manual_seed(3)
    output = scaled_dot_product_attention(*inputs, mask, DROPOUT)
    torch.manual_seed(3)
    expected = by_formula(*inputs, mask, draw_seed())
    assert_close(output, expected)
    upstream = torch.randn_like(output)
    for found, wanted in zip(
        torch.autograd.grad(output, inputs, upstream), torch.autograd.grad(expected, inputs, upstream), strict=True
    ):
        assert_close(found, wanted)


@pytest.mark.usefixtures("_small_chunks")
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("shape", [(B, H, T, T), (1, H, T, T), (H, 1, T), (T, T)])
def test_a_bias_is_added_to_the_scores_and_gets_a_gradient(shape: tuple[int, ...], padded: bool) -> None:
    """Whatever it broadcasts from; on padding its gradient is zero."""
    bias = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    inputs = [*projections(), bias]
    mask = torch.arange(T)[None] >= torch.tensor([T, 10])[:, None] if padded else None
    torch.manual_seed(3)
    output = scaled_dot_product_attention(*inputs[:3], mask, DROPOUT, bias)
    torch.manual_seed(3)
    expected = by_formula(*inputs[:3], mask, draw_seed(), bias)
    assert_close(output, expected)
    upstream = torch.randn_like(output)
    for found, wanted in zip(
        torch.autograd.grad(output, inputs, upstream), torch.autograd.grad(expected, inputs, upstream), strict=True
    ):
        assert_close(found, wanted)


def test_a_bias_of_half_precision_is_added_in_float32() -> None:
    query, key, value, bias = (tensor.bfloat16() for tensor in (*torch.randn(3, B, H, T, WIDTH), torch.randn(T, T)))
    bias.requires_grad_()
    results = []
    for inputs in ((query, key, value, bias), [tensor.float() for tensor in (query, key, value, bias)]):
        torch.manual_seed(3)
        output = scaled_dot_product_attention(*inputs[:3], None, DROPOUT, inputs[3])
        results.append((output.bfloat16(), torch.autograd.grad(output.float().sum(), bias)[0]))
    assert torch.equal(results[0][0], results[1][0])
    assert_close(results[0][1], results[1][1], rtol=2e-2, atol=2e-2)


@pytest.mark.usefixtures("_small_chunks")
def test_every_weight_is_dropped_by_a_draw_of_its_own() -> None:
    """Equal weights and one-hot values: the output is the mask. Six standard deviations."""
    query = torch.zeros(B, H, T, T)
    output = scaled_dot_product_attention(query, query, torch.eye(T).expand(B, H, T, T), None, DROPOUT)
    kept = output > 0
    assert abs(kept.float().mean().item() - (1 - DROPOUT)) < 6 * math.sqrt(DROPOUT * (1 - DROPOUT) / kept.numel())
    rows = {tuple(row.tolist()) for row in kept.reshape(-1, T)}
    assert len(rows) > 0.95 * B * H * T  # two rows of 17 draws are rarely alike


def test_neither_weights_nor_masks_are_kept() -> None:
    inputs, kept = projections(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        scaled_dot_product_attention(*inputs, None, DROPOUT)
    assert max(tensor.numel() for tensor in kept) == B * H * T * WIDTH


@pytest.mark.parametrize("padded", [False, True])
def test_without_dropout_it_is_torchs_and_draws_nothing(padded: bool) -> None:
    inputs = projections()
    mask = torch.arange(T)[None] >= torch.tensor([T, 10])[:, None] if padded else None
    bias = torch.randn(H, T, T, dtype=torch.float64, requires_grad=True)
    state = torch.get_rng_state()
    visible = None if mask is None else ~mask[:, None, None]
    assert_close(
        scaled_dot_product_attention(*inputs, mask, 0.0), F.scaled_dot_product_attention(*inputs, attn_mask=visible)
    )
    hidden = bias.expand(B, H, T, T) if mask is None else bias.masked_fill(mask[:, None, None], -torch.inf)
    assert_close(
        scaled_dot_product_attention(*inputs, mask, 0.0, bias),
        F.scaled_dot_product_attention(*inputs, attn_mask=hidden),
    )
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("sharpness", [1.0, 3.0])
def test_half_precision_is_rounded_no_more_than_in_torchs(sharpness: float) -> None:
    """Each beside its own values in float64, as the two draw other masks."""
    query, key, value, upstream = (tensor.bfloat16() for tensor in torch.randn(4, B, H, 120, 64))

    def errors(compute: Callable[..., Tensor]) -> list[float]:
        found = []
        for dtype in (torch.bfloat16, torch.float64):
            inputs = [tensor.to(dtype).requires_grad_() for tensor in (query * sharpness, key, value)]
            torch.manual_seed(3)
            output = compute(*inputs)
            found.append([output, *torch.autograd.grad(output, inputs, upstream.to(dtype))])
        assert all(tensor.dtype == torch.bfloat16 for tensor in found[0])
        return [((half - exact).norm() / exact.norm()).item() for half, exact in zip(*found, strict=True)]

    ours = errors(lambda *inputs: scaled_dot_product_attention(*inputs, None, DROPOUT))
    torchs = errors(lambda *inputs: F.scaled_dot_product_attention(*inputs, dropout_p=DROPOUT))
    assert all(mine < 1.1 * theirs for mine, theirs in zip(ours, torchs, strict=True)), (ours, torchs)
