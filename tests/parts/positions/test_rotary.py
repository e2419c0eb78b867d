"""Rotary positions, held to the equations of Su et al."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from w2vlab.contexts import ConformerContext, TransformerContext
from w2vlab.positions import RelativePositions, RotaryPositions
from w2vlab.positions.rotary import rotate

D, T = 8, 11


def rotation(frame: int, base: float) -> Tensor:
    """The matrix of Equation 15: blocks of two channels, turned by `frame * theta_i`."""
    matrix = torch.zeros(D, D, dtype=torch.float64)
    for i in range(D // 2):
        angle = frame * base ** (-2 * i / D)
        cosine, sine = math.cos(angle), math.sin(angle)
        matrix[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = torch.tensor([[cosine, -sine], [sine, cosine]])
    return matrix


IN_PAIRS = torch.arange(D).view(2, D // 2).T.flatten()
"""Channels i and i + d / 2 side by side, as the paper has them."""


@pytest.mark.parametrize("base", [10000.0, 50.0])
def test_vectors_are_turned_by_the_matrix_of_their_frame(base: float) -> None:
    torch.manual_seed(0)
    vectors = torch.randn(3, T, D, dtype=torch.float64)
    found = rotate(vectors, base)
    for frame in range(T):
        expected = vectors[:, frame, IN_PAIRS] @ rotation(frame, base).T
        assert_close(found[:, frame, IN_PAIRS], expected)


def test_scores_are_those_of_equation_16() -> None:
    """`q_m R_(n - m) k_n`: of the distance alone."""
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 2, T, D, dtype=torch.float64)
    turned, at, bias = RotaryPositions(2 * D, 2)(query, key)
    assert bias is None
    scores = turned @ at.transpose(-1, -2)
    for m in range(T):
        for n in range(T):
            expected = query[0, 1, m, IN_PAIRS] @ rotation(n - m, 10000.0) @ key[0, 1, n, IN_PAIRS]
            assert_close(scores[0, 1, m, n], expected)


def test_half_precision_is_turned_in_float32() -> None:
    """A frame of 3,000, a minute, has no exact bfloat16."""
    vectors = torch.randn(1, 3000, D).bfloat16()
    found = rotate(vectors)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, rotate(vectors.float()).bfloat16())
    assert_close(found.double(), rotate(vectors.double()), rtol=1e-2, atol=1e-2)


def test_frames_are_turned_before_the_projection_on_demand() -> None:
    part = RotaryPositions(2 * D, 2, before_projection=True)
    frames = torch.randn(3, T, 2 * D, dtype=torch.float64)
    expected = torch.cat([rotate(head) for head in frames.chunk(2, dim=-1)], dim=-1)
    assert_close(part.place(frames), expected)
    query, key = torch.randn(2, 3, 2, T, D)
    assert part(query, key)[:2] == (query, key)
    assert RotaryPositions(2 * D, 2).place(frames) is frames


@pytest.mark.parametrize("cls", [TransformerContext, ConformerContext])
def test_sizes_that_cannot_be(cls: type) -> None:
    with pytest.raises(ValueError, match=r"`model_dim / num_heads`, .* must be even for Rotary.* but is 3\."):
        cls(8, model_dim=6, num_heads=2, position_groups=2, attention_positions=RotaryPositions)
    with pytest.raises(ValueError, match=r"`model_dim` must be even for RelativePositions, .* but is 9\."):
        cls(8, model_dim=9, num_heads=3, position_groups=3, attention_positions=RelativePositions)
    with pytest.raises(ValueError, match=r"`base` must be above 1, but is 1\.0\."):
        RotaryPositions(8, 2, base=1.0)
