"""The Transformer of wav2vec 2.0."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor, nn

from w2vlab.contexts.attention import AttentionContext, SelfAttention
from w2vlab.contexts.layer_drop import LayerDropStack
from w2vlab.functional.kernels import GELU, Dropout, Linear, activate_in_place, add_residual, computes_inference
from w2vlab.interfaces import AttentionPositionsFactory, Compilable

_FRAMES_AT_ONCE = 512
"""Frames of which a CPU holds the wide layer inside a feed-forward network, which is 6 MiB in BASE."""


class FeedForward(nn.Sequential):
    """A linear layer, GELU, dropout and a second linear layer.

    Args:
        model_dim: Width D.
        feedforward_dim: Inner width.
        dropout: Dropout after GELU.
    """

    def __init__(self, model_dim: int, feedforward_dim: int, dropout: float) -> None:
        super().__init__(
            Linear(model_dim, feedforward_dim),
            GELU(recompute=True),
            Dropout(dropout),
            Linear(feedforward_dim, model_dim),
        )

    def forward(self, input: Tensor) -> Tensor:
        """Maps `input` `(B, T, D)` to `(B, T, D)`; in inference mode some frames at a time."""
        if self.training or input.device.type != "cpu" or not computes_inference(input):
            output: Tensor = super().forward(input)  # type: ignore[no-untyped-call]
            return output
        first, activation, _, last = self
        frames = input.flatten(0, 1)
        parts = [
            last(activate_in_place(activation, first(frames[start : start + _FRAMES_AT_ONCE])))
            for start in range(0, len(frames), _FRAMES_AT_ONCE)
        ]
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).view(*input.shape[:2], -1)


class TransformerLayer(nn.Module, Compilable):
    """Self-attention and a feed-forward network, each with a residual connection.

    Args:
        model_dim: Width D.
        feedforward_dim: Inner width of the feed-forward network.
        num_heads: Heads.
        dropout: Dropout after each of the two.
        attention_dropout: Dropout of the attention weights.
        activation_dropout: Dropout inside the feed-forward network.
        pre_norm: Normalise before each of the two (LARGE) or after each residual connection (BASE).
        positions: Builds the positions in the attention; None for none.
        qkv_bias: Whether the projections to queries, keys and values have a bias.
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
        positions: AttentionPositionsFactory | None = None,
        qkv_bias: bool = True,
    ) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.attention = SelfAttention(model_dim, num_heads, attention_dropout, positions, qkv_bias)
        self.attention_norm = nn.LayerNorm(model_dim)
        self.feedforward = FeedForward(model_dim, feedforward_dim, activation_dropout)
        self.feedforward_norm = nn.LayerNorm(model_dim)
        self.dropout = Dropout(dropout)

    @overload
    def forward(self, frames: Tensor, padding_mask: Tensor | None) -> Tensor: ...

    @overload
    def forward(
        self, frames: Tensor, padding_mask: Tensor | None, with_feedforward: Literal[True]
    ) -> tuple[Tensor, Tensor]: ...

    def forward(
        self, frames: Tensor, padding_mask: Tensor | None, with_feedforward: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Maps `frames`.

        Args:
            frames: Shape `(B, T, D)`.
            padding_mask: True on padding, shape `(B, T)`; None without padding.
            with_feedforward: Return the output of the feed-forward network, too, before dropout and residual.

        Returns:
            Shape `(B, T, D)`.
        """
        add = torch.add if with_feedforward else add_residual  # which may overwrite its second argument
        if self.pre_norm:
            frames = add_residual(frames, self.dropout(self.attention(self.attention_norm(frames), padding_mask)))
            feedforward = self.feedforward(self.feedforward_norm(frames))
            frames = add(frames, self.dropout(feedforward))
        else:
            frames = self.attention_norm(add_residual(frames, self.dropout(self.attention(frames, padding_mask))))
            feedforward = self.feedforward(frames)
            frames = self.feedforward_norm(add(frames, self.dropout(feedforward)))
        return (frames, feedforward) if with_feedforward else frames


class TransformerContext(AttentionContext):
    """Transformer encoder with convolutional positions. The defaults are wav2vec 2.0 BASE.

    The base class has what comes before the layers: `project`, a linear layer to `model_dim` and its dropout, after
    which the module masks frames; and `add_positions`, which sets padding to zero and adds the positional convolution.

    Args:
        input_dim: Width C of the latents; supplied by the module, not by YAML.
        model_dim: Width D of frames and contexts.
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
        layer_drop: LayerDrop, the probability that a layer is skipped in an update; drawn once per update, so that all
            processes and micro-batches skip the same layers (0.05 for BASE; for LARGE 0.2 on LibriSpeech and 0 on
            LibriVox).
        activation_checkpointing: Recompute each layer in the backward pass instead of keeping its activations:
            less memory, about a third more time, the same gradients.
        always_project: Project the latents even if they have the width `model_dim` already, as transformers does;
            fairseq does not.
        position_layers: 1 for the positional convolution of wav2vec 2.0, which has a weight norm; above 1 for that many
            convolutions of `position_kernel` frames with layer norms, as in data2vec (5 of 19 frames); 0 for none, if
            attention has positions.
        attention_positions: Positions in the attention of each layer, such as RotaryPositions, beside the convolution;
            None for the convolution alone.
        qkv_bias: Whether the projections to queries, keys and values have a bias; those of SpidR have none.

    Reference:
        Baevski et al. 2020, arXiv:2006.11477, Sections 2 and 4.2; LayerDrop: Fan et al. 2019, arXiv:1909.11556.
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
        layer_drop: float = 0.05,
        activation_checkpointing: bool = False,
        always_project: bool = False,
        position_layers: int = 1,
        attention_positions: AttentionPositionsFactory | None = None,
        qkv_bias: bool = True,
    ) -> None:
        if position_layers == 0 and attention_positions is None:
            raise ValueError(
                "`position_layers` must be at least 1 without `attention_positions`, but is 0: nothing else tells a "
                "Transformer where frames are."
            )
        super().__init__(
            input_dim,
            model_dim,
            num_heads,
            position_kernel,
            position_groups,
            input_dropout,
            always_project,
            position_layers,
        )
        self.pre_norm = pre_norm
        self.norm = nn.LayerNorm(model_dim)
        self.dropout = Dropout(dropout)
        layers = (
            TransformerLayer(
                *(model_dim, feedforward_dim, num_heads, dropout, attention_dropout, activation_dropout, pre_norm),
                positions=attention_positions,
                qkv_bias=qkv_bias,
            )
            for _ in range(num_layers)
        )
        self.layers = LayerDropStack(layers, layer_drop, activation_checkpointing)
        for module in self.layers.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @property
    def norm_is_last(self) -> bool:
        """As in LARGE, whose layers have their norms first."""
        return self.pre_norm
