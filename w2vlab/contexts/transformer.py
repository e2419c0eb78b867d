"""The Transformer of wav2vec 2.0."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from w2vlab.interfaces import ContextNetwork


class ConvPositions(nn.Module):
    """Relative positions from a wide grouped convolution.

    Args:
        model_dim: Width D.
        kernel_size: Frames that the convolution sees.
        num_groups: Groups of channels.
    """

    def __init__(self, model_dim: int, kernel_size: int, num_groups: int) -> None:
        super().__init__()
        conv = nn.Conv1d(model_dim, model_dim, kernel_size, padding=kernel_size // 2, groups=num_groups)
        nn.init.normal_(conv.weight, std=math.sqrt(4 / (kernel_size * model_dim)))
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        self.conv = weight_norm(conv, name="weight", dim=2)

    def forward(self, frames: Tensor) -> Tensor:
        """Maps `frames` `(B, T, D)` to position vectors `(B, T, D)`."""
        positions = self.conv(frames.transpose(1, 2))  # (B, D, T or T + 1): an even kernel gives one too many
        return F.gelu(positions[..., : frames.shape[1]]).transpose(1, 2)


class SelfAttention(nn.Module):
    """Multi-head self-attention, its three input projections in one matrix.

    Args:
        model_dim: Width D.
        num_heads: Heads.
        dropout: Dropout of the attention weights.
    """

    def __init__(self, model_dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.qkv = nn.Linear(model_dim, 3 * model_dim)
        self.output = nn.Linear(model_dim, model_dim)

    def forward(self, frames: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Maps `frames` `(B, T, D)`; `attention_mask` `(B, 1, 1, T)` is True where a frame may be looked at."""
        batch, length, width = frames.shape
        qkv = self.qkv(frames).view(batch, length, 3, self.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # 3 x (B, H, T, D / H)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, dropout_p=dropout)
        output: Tensor = self.output(mixed.transpose(1, 2).reshape(batch, length, width))
        return output


class TransformerLayer(nn.Module):
    """Self-attention and a feed-forward network, each around a residual connection.

    Args:
        model_dim: Width D.
        feedforward_dim: Inner width of the feed-forward network.
        num_heads: Heads.
        dropout: Dropout after each of the two.
        attention_dropout: Dropout of the attention weights.
        activation_dropout: Dropout inside the feed-forward network.
        pre_norm: Normalise before each of the two (LARGE) or after each residual connection (BASE).
    """

    def __init__(
        self,
        model_dim: int,
        feedforward_dim: int,
        num_heads: int,
        dropout: float,
        attention_dropout: float,
        activation_dropout: float,
        pre_norm: bool,
    ) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.attention = SelfAttention(model_dim, num_heads, attention_dropout)
        self.attention_norm = nn.LayerNorm(model_dim)
        self.feedforward = nn.Sequential(
            nn.Linear(model_dim, feedforward_dim),
            nn.GELU(),
            nn.Dropout(activation_dropout),
            nn.Linear(feedforward_dim, model_dim),
        )
        self.feedforward_norm = nn.LayerNorm(model_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, frames: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Maps `frames` `(B, T, D)` to `(B, T, D)`."""
        if self.pre_norm:
            frames = frames + self.dropout(self.attention(self.attention_norm(frames), attention_mask))
            frames = frames + self.dropout(self.feedforward(self.feedforward_norm(frames)))
        else:
            frames = self.attention_norm(frames + self.dropout(self.attention(frames, attention_mask)))
            frames = self.feedforward_norm(frames + self.dropout(self.feedforward(frames)))
        return frames


class TransformerContext(ContextNetwork):
    """Transformer encoder with convolutional positions. The defaults are wav2vec 2.0 BASE.

    Args:
        input_dim: Width C of the latents; supplied by the module, not by YAML.
        model_dim: Width D of the frames inside.
        num_layers: Transformer layers.
        num_heads: Attention heads of a layer (12 in the released code of BASE; the paper's text says 8).
        feedforward_dim: Inner width of the feed-forward networks.
        pre_norm: Normalise before each block (LARGE) instead of after it (BASE).
        position_kernel: Frames that the positional convolution sees.
        position_groups: Groups of the positional convolution.
        dropout: Dropout after attention and feed-forward networks.
        attention_dropout: Dropout of the attention weights.
        activation_dropout: Dropout inside the feed-forward networks.
        input_dropout: Dropout of the projected latents, before masking.

    Reference:
        Baevski et al. 2020, arXiv:2006.11477, Sections 2 and 4.2.
    """

    def __init__(
        self,
        input_dim: int,
        model_dim: int = 768,
        num_layers: int = 12,
        num_heads: int = 12,
        feedforward_dim: int = 3072,
        pre_norm: bool = False,
        position_kernel: int = 128,
        position_groups: int = 16,
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        activation_dropout: float = 0.0,
        input_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if num_heads < 1:
            raise ValueError(f"`num_heads` must be at least 1, but is {num_heads}.")
        if position_groups < 1:
            raise ValueError(f"`position_groups` must be at least 1, but is {position_groups}.")
        if model_dim % num_heads:
            raise ValueError(f"`model_dim` must be a multiple of `num_heads` ({num_heads}), but is {model_dim}.")
        if model_dim % position_groups:
            raise ValueError(
                f"`model_dim` must be a multiple of `position_groups` ({position_groups}), but is {model_dim}."
            )
        self.model_dim = self.output_dim = model_dim
        self.pre_norm = pre_norm
        self.input_projection = nn.Linear(input_dim, model_dim) if input_dim != model_dim else nn.Identity()
        self.input_dropout = nn.Dropout(input_dropout)
        self.positions = ConvPositions(model_dim, position_kernel, position_groups)
        self.norm = nn.LayerNorm(model_dim)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            TransformerLayer(
                model_dim, feedforward_dim, num_heads, dropout, attention_dropout, activation_dropout, pre_norm
            )
            for _ in range(num_layers)
        )
        for module in self.layers.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def project(self, latents: Tensor) -> Tensor:
        """Brings latents `(B, T, C)` to the model's width: `(B, T, D)`."""
        projected: Tensor = self.input_dropout(self.input_projection(latents))
        return projected

    def forward(self, frames: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Maps projected `frames` `(B, T, D)` to contexts `(B, T, D)`; `padding_mask` `(B, T)` is True on padding."""
        attention_mask = None
        if padding_mask is not None:
            frames = frames.masked_fill(padding_mask[..., None], 0.0)
            attention_mask = ~padding_mask[:, None, None, :]  # (B, 1, 1, T)
        frames = frames + self.positions(frames)
        if not self.pre_norm:
            frames = self.norm(frames)
        frames = self.dropout(frames)
        for layer in self.layers:
            frames = layer(frames, attention_mask)
        return self.norm(frames) if self.pre_norm else frames
