"""Attention with dropout of its weights on a CPU, where PyTorch's fused kernel has no dropout."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from w2vlab.functional.kernels.dropout import computes_eagerly_on_cpu, draw_seed, keep_mask
from w2vlab.functional.kernels.noise import Piece, apart, separate_noise
from w2vlab.functional.precision import at_least_float32

_ROWS_AT_ONCE, _WEIGHTS_AT_ONCE = 512, 1 << 20
"""Queries, and attention weights, computed at once, so that they stay in the cache from one operation to the next."""


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    padding_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    bias: Tensor | None = None,
) -> Tensor:
    """Scaled dot-product attention.

    Equals `F.scaled_dot_product_attention(query, key, value, attn_mask=~padding_mask[:, None, None, :], dropout_p)`,
    which is the plain path: up to rounding, and in distribution with dropout, whose random numbers are others. With a
    bias, its `attn_mask` is the bias, minus infinity on padding. Without dropout, and on a GPU, it calls that function.
    With dropout on a CPU, PyTorch computes operation by operation and keeps all attention weights and their masks. Here
    none is kept, and the backward pass computes and draws them again, which uses less memory and time. As in PyTorch's
    kernel, half precision is computed in float32 and rounded once, at the end.

    Micro-batches that are computed as one batch are computed one after another, without the padding between them, if
    noise is drawn or there is padding: so each draws what it draws apart, and needs a mask only if its own utterances
    differ in length.

    Args:
        query: Shape `(B, H, T, d)`.
        key: Shape `(B, H, T, d)`.
        value: Shape `(B, H, T, d)`.
        padding_mask: True on frames that get no attention, shape `(B, T)`, or None.
        dropout_p: Probability of an attention weight to be dropped.
        bias: Added to the scaled scores, of a shape that broadcasts to `(B, H, T, T)`, or None; it gets a gradient.

    Returns:
        Shape `(B, H, T, d)`.

    Reference:
        Vaswani et al. 2017, arXiv:1706.03762, Equation 1; the backward pass from Dao et al. 2022, arXiv:2205.14135,
        Appendix B.4.
    """
    if bias is not None:
        bias = bias.expand(*query.shape[:3], key.shape[2])
    noise = separate_noise()
    if noise is not None and (dropout_p > 0 or padding_mask is not None):

        def attend(piece: Piece, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
            mask = padding_mask[piece.rows, : piece.size] if padding_mask is not None and piece.padded else None
            own = None if bias is None else bias[..., : piece.size]
            return _attention(query, key, value, mask, dropout_p, own)

        pieces = noise.pieces(query.shape[0], query.shape[2])
        tensors = (query, key, value) if bias is None else (query, key, value, bias)
        return apart(attend, pieces, *tensors, axis=2, gives_pieces=True)
    return _attention(query, key, value, padding_mask, dropout_p, bias)


def _attention(
    query: Tensor, key: Tensor, value: Tensor, padding_mask: Tensor | None, dropout_p: float, bias: Tensor | None
) -> Tensor:
    if 0 < dropout_p < 1 and computes_eagerly_on_cpu(query):
        mixed: Tensor = _DropoutAttention.apply(query, key, value, bias, padding_mask, dropout_p, draw_seed())
        return mixed
    mask = None if padding_mask is None else ~padding_mask[:, None, None, :]  # (B, 1, 1, T)
    if bias is not None:
        bias = bias.to(query.dtype)
        mask = bias if mask is None else bias.masked_fill(~mask, -torch.inf)  # (B, H, T, T)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout_p)


class _DropoutAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bias: Tensor | None,
        padding_mask: Tensor | None,
        dropout: float,
        seed: int,
    ) -> Tensor:
        ctx.dropout, ctx.seed = dropout, seed
        inputs = query, key, value
        query, key, value = (at_least_float32(tensor) for tensor in inputs)
        # Frames before heads in memory, so that joining the heads copies nothing.
        batch, heads, length, width = query.shape
        output = query.new_empty(batch, length, heads, width).transpose(1, 2)
        for number, (row, some, rows) in _chunks(query):
            weights = _weights(query, key, bias, padding_mask, (row, some, rows))  # (h, r, T)
            kept, scale = keep_mask(tuple(weights.shape), dropout, seed + number, weights.dtype)
            output[row, some, rows] = weights.mul_(kept) @ value[row, some] * scale
        ctx.save_for_backward(
            *inputs, bias, padding_mask, output
        )  # unrounded, because gradients are differences from it
        return output.to(inputs[0].dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, bias, padding_mask, output = ctx.saved_tensors
        dtype = inputs[0].dtype
        query, key, value, gradient = (at_least_float32(tensor) for tensor in (*inputs, grad_outputs[0]))
        # Side by side in memory, as in the output of the projection, so that its gradient is not copied together.
        batch, heads, length, width = query.shape
        grads = query.new_empty(batch, length, 3, heads, width).permute(2, 0, 3, 1, 4)
        grads[1:].zero_()
        grad_query, grad_key, grad_value = grads
        grad_bias = torch.empty_like(bias, memory_format=torch.contiguous_format) if ctx.needs_input_grad[3] else None
        factor = 1 / math.sqrt(width)
        # The mean gradient of a row's weights, which the gradient of softmax subtracts from each of them.
        means = (gradient * output).sum(dim=-1, keepdim=True)  # (B, H, T, 1)
        for number, (row, some, rows) in _chunks(query):
            at = row, some, rows
            weights = _weights(query, key, bias, padding_mask, at)  # (h, r, T)
            kept, scale = keep_mask(tuple(weights.shape), ctx.dropout, ctx.seed + number, weights.dtype)
            upstream = gradient[at] * scale  # (h, r, d)
            slope = (upstream @ value[row, some].transpose(1, 2)).mul_(kept)
            slope.sub_(means[at]).mul_(weights)  # (h, r, T)
            if grad_bias is not None:
                grad_bias[at] = slope
            grad_value[row, some] += weights.mul_(kept).transpose(1, 2) @ upstream
            torch.mul(slope @ key[row, some], factor, out=grad_query[at])
            grad_key[row, some] += slope.transpose(1, 2) @ (query[at] * factor)
        grad_query, grad_key, grad_value = grads.to(dtype)
        return grad_query, grad_key, grad_value, grad_bias, None, None, None


Chunk = tuple[int, slice, slice]
"""An utterance, some of its heads, and some of its queries."""


def _chunks(query: Tensor) -> Iterator[tuple[int, Chunk]]:
    """Yields the number and the indices of each chunk of the attention weights."""
    batch, heads, length, _ = query.shape
    num_rows = min(length, _ROWS_AT_ONCE)
    num_heads = max(1, _WEIGHTS_AT_ONCE // (num_rows * length))
    chunks = (
        (row, slice(head, head + num_heads), slice(first, first + num_rows))
        for row in range(batch)
        for head in range(0, heads, num_heads)
        for first in range(0, length, num_rows)
    )
    yield from enumerate(chunks)


def _weights(query: Tensor, key: Tensor, bias: Tensor | None, padding_mask: Tensor | None, at: Chunk) -> Tensor:
    """Returns the attention weights `(h, r, T)` of a chunk."""
    row, some, _ = at
    scores = query[at] * (1 / math.sqrt(query.shape[-1])) @ key[row, some].transpose(1, 2)
    if bias is not None:
        scores.add_(bias[at])
    if padding_mask is not None:
        scores.masked_fill_(padding_mask[row], -torch.inf)
    return scores.softmax(dim=-1)
