"""Self-attention, and the base of the context networks that have it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from w2vlab.contexts.layer_drop import LayerDropStack
from w2vlab.contexts.positions import conv_positions
from w2vlab.functional.kernels import Dropout, Linear, add_residual, scaled_dot_product_attention
from w2vlab.interfaces import AttentionPositions, AttentionPositionsFactory, ContextNetwork
from w2vlab.utils.checks import check_at_least


class SelfAttention(nn.Module):
    """Multi-head self-attention; the projections to queries, keys and values are one linear layer.

    Args:
        model_dim: Width D.
        num_heads: Heads.
        dropout: Dropout of the attention weights.
        positions: Builds the positions of this layer; None for attention that does not see them.
        qkv_bias: Whether the projections to queries, keys and values have a bias.
    """

    def __init__(
        self,
        model_dim: int,
        num_heads: int,
        dropout: float,
        positions: AttentionPositionsFactory | None = None,
        qkv_bias: bool = True,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.qkv = Linear(model_dim, 3 * model_dim, bias=qkv_bias)
        self.output = Linear(model_dim, model_dim)
        self.positions = None if positions is None else positions(model_dim, num_heads)

    def forward(self, frames: Tensor, padding_mask: Tensor | None) -> Tensor:
        """Maps `frames` `(B, T, D)`; frames where `padding_mask` `(B, T)` is True get no attention."""
        batch, length, width = frames.shape
        qkv = self._project(frames).view(batch, length, 3, self.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # 3 x (B, H, T, D / H)
        bias = None
        if self.positions is not None:
            query, key, bias = self.positions(query, key)
        dropout = self.dropout if self.training else 0.0
        mixed = scaled_dot_product_attention(query, key, value, padding_mask, dropout, bias)  # (B, H, T, D / H)
        output: Tensor = self.output(mixed.transpose(1, 2).reshape(batch, length, width))
        return output

    def _project(self, frames: Tensor) -> Tensor:
        """Returns queries, keys and values `(B, T, 3 D)`; values come from frames that positions did not change."""
        placed = frames if self.positions is None else self.positions.place(frames)
        if placed is frames:
            projected: Tensor = self.qkv(frames)
            return projected
        weight, bias, end = self.qkv.weight, self.qkv.bias, 2 * frames.shape[-1]
        pairs = F.linear(placed, weight[:end], None if bias is None else bias[:end])
        values = F.linear(frames, weight[end:], None if bias is None else bias[end:])
        return torch.cat([pairs, values], dim=-1)


class AttentionContext(ContextNetwork):
    """Base of the networks with self-attention: the input projection and the positions of wav2vec 2.0.

    A subclass builds `norm`, `dropout` and `layers`, and says where the norm is.

    Args:
        input_dim: Width C of the latents.
        model_dim: Width D of the frames inside.
        num_heads: Attention heads of a layer.
        position_kernel: Frames that the positional convolution sees.
        position_groups: Groups of the positional convolution.
        input_dropout: Dropout of the projected latents, before masking.
        always_project: Project the latents even if they have the width `model_dim` already.
        position_layers: Convolutions of the positions; 0 for none.
    """

    norm: nn.Module
    dropout: nn.Module
    layers: LayerDropStack

    def __init__(
        self,
        input_dim: int,
        model_dim: int,
        num_heads: int,
        position_kernel: int,
        position_groups: int,
        input_dropout: float,
        always_project: bool = False,
        position_layers: int = 1,
    ) -> None:
        super().__init__()
        check_at_least(1, num_heads=num_heads)
        if model_dim % num_heads:
            raise ValueError(f"`model_dim` must be a multiple of `num_heads` ({num_heads}), but is {model_dim}.")
        self.model_dim = self.output_dim = model_dim
        projects = always_project or input_dim != model_dim
        self.input_projection = nn.Linear(input_dim, model_dim) if projects else nn.Identity()
        self.input_dropout = Dropout(input_dropout)
        self.positions = conv_positions(model_dim, position_layers, position_kernel, position_groups)

    @property
    @abstractmethod
    def norm_is_last(self) -> bool:
        """Whether `norm` is after the last layer, and not before the first."""

    @property
    def num_layers(self) -> int:
        """Layers with attention."""
        return len(self.layers)

    @property
    def utterances_are_independent(self) -> bool:
        """Whether that holds for the positions of all layers."""
        found = [module for module in self.modules() if isinstance(module, AttentionPositions)]
        return all(positions.utterances_are_independent for positions in found)

    def forward(self, frames: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Maps projected `frames` `(B, T, D)` to contexts `(B, T, D)`; `padding_mask` `(B, T)` is True on padding."""
        return self.forward_layers(frames, padding_mask)[0]

    def forward_layers(
        self,
        frames: Tensor,
        padding_mask: Tensor | None = None,
        layers: Collection[int] = (),
        feedforward: bool = False,
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Maps projected `frames` to contexts, and returns outputs of layers: as `ContextNetwork.forward_layers`."""
        frames = self.add_positions(frames, padding_mask)
        if not self.norm_is_last:
            frames = self.norm(frames)
        frames, outputs = self.layers(self.dropout(frames), padding_mask, layers, feedforward)
        return self.norm(frames) if self.norm_is_last else frames, outputs

    def project(self, latents: Tensor) -> Tensor:
        """Brings latents `(B, T, C)` to the model's width: `(B, T, D)`."""
        projected: Tensor = self.input_dropout(self.input_projection(latents))
        return projected

    def add_positions(self, frames: Tensor, padding_mask: Tensor | None) -> Tensor:
        """Adds its position to each of `frames` `(B, T, D)`, unless attention alone sees positions.

        Padding, where `padding_mask` `(B, T)` is True, is set to zero first, because the convolution of the positions
        sees it.
        """
        if padding_mask is not None:
            frames = frames.masked_fill(padding_mask[..., None], 0.0)
        if self.positions is None:
            return frames
        return add_residual(frames, self.positions(frames, padding_mask))
