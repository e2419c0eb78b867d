"""The Conformer: a Transformer with a convolution in every layer."""

from __future__ import annotations

from typing import Literal, overload

import torch.nn.functional as F
from torch import Tensor, nn

from w2vlab.contexts.attention import AttentionContext, SelfAttention
from w2vlab.contexts.layer_drop import LayerDropStack
from w2vlab.functional.choices import check_choice
from w2vlab.functional.kernels import Dropout
from w2vlab.interfaces import AttentionPositionsFactory, Compilable

OuterNorm = Literal["before", "after", "none"]


class HalfFeedForward(nn.Sequential):
    """The feed-forward network at the beginning and at the end of a layer, with its norm.

    Args:
        model_dim: Width D.
        feedforward_dim: Inner width.
        dropout: Dropout after the network.
        activation_dropout: Dropout inside the network.
    """

    def __init__(self, model_dim: int, feedforward_dim: int, dropout: float, activation_dropout: float) -> None:
        super().__init__(
            nn.LayerNorm(model_dim),
            nn.Linear(model_dim, feedforward_dim),
            nn.SiLU(),
            Dropout(activation_dropout),
            nn.Linear(feedforward_dim, model_dim),
            Dropout(dropout),
        )


class ConvolutionModule(nn.Module):
    """A gated depthwise convolution over time, with its norms.

    torchaudio's has a batch norm, or a group norm over the whole utterance, and lets the convolution look into padding.
    An utterance would then depend on its padding and on the other utterances of the batch; here it does not.

    Args:
        model_dim: Width D.
        kernel_size: Frames that the convolution sees.
        dropout: Dropout after the module.
        causal: Whether the convolution sees its own and earlier frames only, and not as many later ones.
        bias: Whether the convolution and the linear layers around it have biases.
    """

    def __init__(
        self, model_dim: int, kernel_size: int, dropout: float, causal: bool = False, bias: bool = True
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(model_dim)
        self.gate = nn.Linear(model_dim, 2 * model_dim, bias=bias)
        padding = kernel_size - 1 if causal else kernel_size // 2
        self.conv = nn.Conv1d(model_dim, model_dim, kernel_size, padding=padding, groups=model_dim, bias=bias)
        self.conv_norm = nn.LayerNorm(model_dim)
        self.output = nn.Linear(model_dim, model_dim, bias=bias)
        self.dropout = Dropout(dropout)

    def forward(self, frames: Tensor, padding_mask: Tensor | None) -> Tensor:
        """Maps `frames` `(B, T, D)` to `(B, T, D)`; `padding_mask` `(B, T)` is True on padding."""
        gated = F.glu(self.gate(self.norm(frames)))  # (B, T, D)
        if padding_mask is not None:
            gated = gated.masked_fill(padding_mask[..., None], 0.0)  # as the convolution pads the end
        mixed = self.conv(gated.transpose(1, 2))  # (B, D, T or more): the last see padding alone
        mixed = self.conv_norm(mixed[..., : frames.shape[1]].transpose(1, 2))  # (B, T, D)
        output: Tensor = self.dropout(self.output(F.silu(mixed)))
        return output


class ConformerLayer(nn.Module, Compilable):
    """Half a feed-forward network, self-attention, a convolution, and the other half, each a residual.

    Args:
        model_dim: Width D.
        feedforward_dim: Inner width of the feed-forward networks.
        num_heads: Heads.
        kernel_size: Frames that the convolution sees.
        dropout: Dropout after each of the four.
        attention_dropout: Dropout of the attention weights.
        activation_dropout: Dropout inside the feed-forward networks.
        positions: Builds the positions in the attention; None for none.
        causal_convolution: Whether the convolution sees its own and earlier frames only.
        convolution_bias: Whether the convolution and the linear layers around it have biases.
    """

    def __init__(
        self,
        model_dim: int,
        feedforward_dim: int,
        num_heads: int,
        kernel_size: int,
        dropout: float,
        attention_dropout: float,
        activation_dropout: float,
        positions: AttentionPositionsFactory | None = None,
        causal_convolution: bool = False,
        convolution_bias: bool = True,
    ) -> None:
        super().__init__()
        self.first_half = HalfFeedForward(model_dim, feedforward_dim, dropout, activation_dropout)
        self.attention_norm = nn.LayerNorm(model_dim)
        self.attention = SelfAttention(model_dim, num_heads, attention_dropout, positions)
        self.dropout = Dropout(dropout)
        self.convolution = ConvolutionModule(model_dim, kernel_size, dropout, causal_convolution, convolution_bias)
        self.second_half = HalfFeedForward(model_dim, feedforward_dim, dropout, activation_dropout)
        self.norm = nn.LayerNorm(model_dim)

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
            with_feedforward: Return the output of the second feed-forward network, too, before it is halved and added.

        Returns:
            Shape `(B, T, D)`.
        """
        frames = frames + 0.5 * self.first_half(frames)
        frames = frames + self.dropout(self.attention(self.attention_norm(frames), padding_mask))
        frames = frames + self.convolution(frames, padding_mask)
        feedforward = self.second_half(frames)
        normalised: Tensor = self.norm(frames + 0.5 * feedforward)
        return (normalised, feedforward) if with_feedforward else normalised


class ConformerContext(AttentionContext):
    """Conformer with the convolutional positions of wav2vec 2.0.

    The defaults are wav2vec 2.0 BASE's where it has them. The norm inside the convolution module is over the channels
    of a frame; the paper's is over the batch, so that padding and other utterances would enter it.

    Args:
        input_dim: Width C of the latents; supplied by the module, not by YAML.
        model_dim: Width D of the frames inside.
        num_layers: Conformer layers.
        num_heads: Attention heads of a layer.
        feedforward_dim: Inner width of the feed-forward networks.
        kernel_size: Frames that the convolution of a layer sees.
        position_kernel: Frames that the positional convolution sees.
        position_groups: Groups of the positional convolution.
        dropout: Dropout after each module of a layer.
        attention_dropout: Dropout of the attention weights.
        activation_dropout: Dropout inside the feed-forward networks.
        input_dropout: Dropout of the projected latents, before masking.
        layer_drop: Probability of a layer to be left out of an update, drawn once an update for all processes alike.
        activation_checkpointing: Recompute each layer in the backward pass instead of keeping its activations:
            less memory, about a third more time, the same gradients.
        always_project: Project the latents even if they have the width `model_dim` already, as transformers does;
            fairseq does not.
        position_layers: 1 for the positional convolution of wav2vec 2.0, which has a weight norm; above 1 for that many
            convolutions of `position_kernel` frames with layer norms, as in data2vec (5 of 19 frames); 0 for none.
        attention_positions: Positions in the attention of each layer, such as RotaryPositions, beside the convolution;
            None for the convolution alone.
        causal_convolution: Whether the convolution of a layer sees its own and earlier frames only, as in w2v-BERT 2.0.
        convolution_bias: Whether that convolution and the linear layers around it have biases; in w2v-BERT 2.0 not.
        outer_norm: Where the layer norm outside of the layers is: `before` the first, `after` the last, as in
            transformers' wav2vec 2.0 Conformer, or `none`, as in w2v-BERT 2.0.

    Reference:
        Gulati et al. 2020, arXiv:2005.08100; under wav2vec 2.0: Zhang et al. 2020, arXiv:2010.10504; w2v-BERT 2.0:
        Barrault et al. 2023, arXiv:2312.05187.
    """

    def __init__(
        self,
        input_dim: int,
        model_dim: int = 768,
        num_layers: int = 12,
        num_heads: int = 12,
        feedforward_dim: int = 3072,
        kernel_size: int = 31,
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
        causal_convolution: bool = False,
        convolution_bias: bool = True,
        outer_norm: OuterNorm = "before",
    ) -> None:
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
        if kernel_size < 1:
            raise ValueError(f"`kernel_size` must be at least 1, but is {kernel_size}.")
        check_choice("outer_norm", outer_norm, OuterNorm)
        self.outer_norm = outer_norm
        self.norm = nn.Identity() if outer_norm == "none" else nn.LayerNorm(model_dim)
        self.dropout = Dropout(dropout)
        layers = (
            ConformerLayer(
                *(model_dim, feedforward_dim, num_heads, kernel_size, dropout, attention_dropout, activation_dropout),
                positions=attention_positions,
                causal_convolution=causal_convolution,
                convolution_bias=convolution_bias,
            )
            for _ in range(num_layers)
        )
        self.layers = LayerDropStack(layers, layer_drop, activation_checkpointing)

    @property
    def norm_is_last(self) -> bool:
        """As `outer_norm` says."""
        return self.outer_norm == "after"
