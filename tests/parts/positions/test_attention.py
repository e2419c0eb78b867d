"""Attention with positions against transformers' two Conformers, with padding, and against loops over pairs."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.parts.positions.published import HEADS, WIDTH, copy_attention, w2v_bert, wav2vec2_conformer
from w2vlab.contexts.attention import SelfAttention
from w2vlab.positions import RelativeKeyPositions, RelativePositions, RotaryPositions

T = 13
LENGTHS = (13, 7, 1)

KINDS: dict[str, Any] = {
    "relative": RelativePositions,
    "rotary": partial(RotaryPositions, before_projection=True),
    "relative_key": partial(RelativeKeyPositions, left=4, right=2),
}
MODELS = {
    "wav2vec2-conformer, relative": partial(wav2vec2_conformer, "relative"),
    "wav2vec2-conformer, rotary": partial(wav2vec2_conformer, "rotary"),
    "w2v-bert, relative": partial(w2v_bert, "relative"),
    "w2v-bert, rotary": partial(w2v_bert, "rotary"),
    "w2v-bert, relative_key": partial(
        w2v_bert, "relative_key", left_max_position_embeddings=4, right_max_position_embeddings=2
    ),
}


def padding_mask() -> Tensor:
    return torch.arange(T)[None] >= torch.tensor(LENGTHS)[:, None]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("padded", [False, True])
def test_outputs_and_gradients_are_transformers(name: str, padded: bool) -> None:
    model = MODELS[name]()
    theirs = model.encoder.layers[0].self_attn
    ours = SelfAttention(WIDTH, HEADS, 0.0, KINDS[name.partition(", ")[2]]).double()
    copy_attention(ours, theirs)
    frames = torch.randn(3, T, WIDTH, dtype=torch.float64, requires_grad=True)
    mask, valid, added = None, torch.ones(3, T, dtype=torch.bool), None
    if padded:
        mask, valid = padding_mask(), ~padding_mask()
        added = torch.zeros(3, 1, 1, T, dtype=torch.float64).masked_fill(mask[:, None, None], -1e300)
    tables = model.encoder.embed_positions
    found = ours(frames, mask)[valid]
    expected = theirs(frames, added, None if tables is None else tables(frames))[0][valid]
    assert_close(found, expected, rtol=1e-10, atol=1e-10)
    upstream = torch.randn_like(found)
    assert_close(
        gradients(ours, found, frames, upstream), gradients(theirs, expected, frames, upstream), rtol=1e-9, atol=1e-9
    )


def gradients(module: torch.nn.Module, output: Tensor, frames: Tensor, upstream: Tensor) -> list[Tensor]:
    """The gradient of the frames, and those of all weights, in the order of their sizes and sums."""
    found = torch.autograd.grad(output, [frames, *module.parameters()], upstream)
    if isinstance(module, SelfAttention):
        weight, bias, *others = found[1:]
        parts = [*weight.chunk(3), *bias.chunk(3), *others]
    else:
        parts = list(found[1:])
    return [found[0], *sorted(parts, key=lambda tensor: (tensor.numel(), float(tensor.sum())))]


def pair_scores(part: torch.nn.Module, query: Tensor, key: Tensor) -> Tensor:
    turned, at, bias = part(query, key)
    scores = turned @ at.transpose(-1, -2) / query.shape[-1] ** 0.5
    return scores if bias is None else scores + bias


def queries_and_keys() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 1, HEADS, T, WIDTH // HEADS, dtype=torch.float64)


@pytest.mark.parametrize(("left", "right"), [(0, 0), (0, 3), (4, 0), (4, 2), (12, 12), (64, 8)])
def test_keys_have_the_embedding_of_the_clipped_distance(left: int, right: int) -> None:
    """Shaw et al., Equations 4 and 5, a pair at a time."""
    part = RelativeKeyPositions(WIDTH, HEADS, left, right).double()
    query, key = queries_and_keys()
    found = pair_scores(part, query, key)
    for head in range(HEADS):
        for i in range(T):
            for j in range(T):
                embedding = part.embeddings[max(-left, min(right, j - i)) + left]
                expected = query[0, head, i] @ (key[0, head, j] + embedding) / (WIDTH // HEADS) ** 0.5
                assert_close(found[0, head, i, j], expected)


def test_relative_scores_are_the_four_terms_of_transformer_xl() -> None:
    """Dai et al., Section 3.3, a pair at a time: content and distance, with and without their biases."""
    part = RelativePositions(WIDTH, HEADS).double()
    query, key = queries_and_keys()
    found = pair_scores(part, query, key)
    size = WIDTH // HEADS
    for i in range(T):
        for j in range(T):
            waves = [(i - j) / 10000 ** (2 * (channel // 2) / WIDTH) for channel in range(WIDTH)]
            sinusoids = torch.tensor(waves, dtype=torch.float64)
            sinusoids[0::2], sinusoids[1::2] = sinusoids[0::2].sin(), sinusoids[1::2].cos()
            distance = (part.projection.weight @ sinusoids).view(HEADS, size)
            for head in range(HEADS):
                q, k, r = query[0, head, i], key[0, head, j], distance[head]
                u, v = part.content_bias[head], part.distance_bias[head]
                assert_close(found[0, head, i, j], (q @ k + q @ r + u @ k + v @ r) / size**0.5)
