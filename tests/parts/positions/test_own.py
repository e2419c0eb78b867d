"""Positions of somebody else: a subclass, and nothing more."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.contracts.tiny import build_model, factory, padding_mask
from w2vlab.contexts import ConformerContext, SubsampledContext, TransformerContext
from w2vlab.interfaces import AttentionPositions
from w2vlab.modules import MaskedPrediction
from w2vlab.modules.fusing.fusable import why_not_fused
from w2vlab.positions import RotaryPositions


class LinearBiases(AttentionPositions):
    """A penalty in proportion to the distance, of another slope for each head, as in ALiBi (Press et al. 2021)."""

    def __init__(self, model_dim: int, num_heads: int, steepest: float = 0.5) -> None:
        super().__init__()
        self.slopes = [steepest ** (head + 1) for head in range(num_heads)]

    def forward(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        places = torch.arange(query.shape[2], device=query.device)
        distances = (places[:, None] - places).abs()
        return query, key, -query.new_tensor(self.slopes)[:, None, None] * distances  # (H, T, T)


class IndependentBiases(LinearBiases):
    utterances_are_independent = True


@pytest.mark.parametrize("cls", [TransformerContext, ConformerContext])
def test_a_subclass_is_all_that_is_needed(cls: type) -> None:
    network = factory(cls, attention_positions=LinearBiases, position_layers=0)(8).double().eval()
    frames = torch.randn(2, 9, 8, dtype=torch.float64)
    together = network(frames, padding_mask((9, 5)))
    assert_close(together[1, :5], network(frames[1:, :5])[0])
    attention = network.layers[0].attention
    query, key, value = attention.qkv(frames).view(2, 9, 3, 2, 4).permute(2, 0, 3, 1, 4)
    scores = query @ key.transpose(-1, -2) / 2
    for head, slope in enumerate((0.5, 0.25)):
        for i in range(9):
            for j in range(9):
                scores[:, head, i, j] -= slope * abs(i - j)
    mixed = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
    assert_close(attention(frames, None), attention.output(mixed))


@pytest.mark.parametrize("cls", [TransformerContext, ConformerContext])
def test_positions_that_declare_nothing_are_not_fused(cls: type) -> None:
    """They might draw noise for a whole batch."""
    undeclared, declared, rotary, none = (
        factory(cls, attention_positions=positions)
        for positions in (LinearBiases, IndependentBiases, RotaryPositions, None)
    )
    assert why_not_fused(build_model(MaskedPrediction, context=undeclared)) is not None
    assert not partial(SubsampledContext, context=undeclared, num_mels=4)(8).utterances_are_independent
    for context in (declared, rotary, none):
        assert why_not_fused(build_model(MaskedPrediction, context=context)) is None
