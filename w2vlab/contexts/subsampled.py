"""A convolutional subsampling of spectral frames, before another context network."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import cast

from torch import Tensor, nn

from w2vlab.contexts.conformer import ConformerContext
from w2vlab.functional.kernels import Dropout
from w2vlab.functional.kernels.noise import multiplied
from w2vlab.interfaces import ContextFactory, ContextNetwork
from w2vlab.utils.checks import check_at_least

KERNEL = 3
"""Frames and mel channels that a convolution sees."""


class SubsampledContext(ContextNetwork):
    """Strided 2-D convolutions over log-mel frames, then another context network, as in BEST-RQ.

    The latents are stacked frames, those of `LogMelEncoder`. Masking replaces them before the convolutions, as
    published, so that nothing of a masked frame is seen. Each convolution of 3 x 3 halves the mel channels, and halves
    the frames until one is left for each latent; after it a layer norm and a leaky ReLU, as in SpeechBrain (the paper
    does not say). The frames before and after an utterance are zero.

    Args:
        input_dim: Width C of the latents; supplied by the module, not by YAML.
        context: Builds the context network after the convolutions from their width.
        num_mels: Mel channels of a frame; a latent is `input_dim / num_mels` frames, a power of 2.
        channels: Channels of each convolution.
        dropout: Dropout after each convolution.

    Reference:
        Chiu et al. 2022, arXiv:2202.01855, Section 4.1: two convolutions that leave a quarter of the frames.
    """

    def __init__(
        self,
        input_dim: int,
        context: ContextFactory = ConformerContext,
        num_mels: int = 80,
        channels: Sequence[int] = (128, 32),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        check_at_least(1, num_mels=num_mels, **{f"channels.{i}": width for i, width in enumerate(channels)})
        stack = input_dim // num_mels
        if input_dim % num_mels or stack & (stack - 1) or stack > 1 << len(channels):
            powers = " or ".join(str(1 << power) for power in range(len(channels) + 1))
            raise ValueError(
                f"`num_mels` must be so that a latent, {input_dim} channels, is {powers} frames (each of the "
                f"{len(channels)} convolutions can halve them), but is {num_mels}. Set the `stack` of the encoder, or "
                "`channels`."
            )
        self.num_mels = num_mels
        self.stack = stack
        self.model_dim = input_dim
        convolutions = []
        width, mels = 1, num_mels
        for output_width in channels:
            stride = 2 if stack > 1 else 1
            stack //= stride
            mels = (mels - 1) // 2 + 1
            convolutions.append(MelConvolution(width, output_width, mels, stride, dropout))
            width = output_width
        self.convolutions = nn.ModuleList(convolutions)
        self.context = context(width * mels)
        self.output_dim = self.context.output_dim

    @property
    def utterances_are_independent(self) -> bool:
        """Whether that holds for the context network after the convolutions."""
        return self.context.utterances_are_independent

    def forward(self, frames: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Maps masked latents `(B, T, C)` to contexts `(B, T, D)`; `padding_mask` `(B, T)` is True on padding."""
        contexts: Tensor = self.context(self._subsampled(frames, padding_mask), padding_mask)
        return contexts

    @property
    def num_layers(self) -> int:
        """Layers of the context network after the convolutions."""
        return self.context.num_layers

    def forward_layers(
        self,
        frames: Tensor,
        padding_mask: Tensor | None = None,
        layers: Collection[int] = (),
        feedforward: bool = False,
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Maps masked latents to contexts, and returns outputs of layers: as `ContextNetwork.forward_layers`."""
        frames = self._subsampled(frames, padding_mask)
        return self.context.forward_layers(frames, padding_mask, layers, feedforward)

    def _subsampled(self, frames: Tensor, padding_mask: Tensor | None) -> Tensor:
        """Maps masked latents `(B, T, C)` to the inputs of the context network after the convolutions."""
        padding = None if padding_mask is None else padding_mask.repeat_interleave(self.stack, dim=1)  # (B, stack * T)
        num_latents = frames.shape[1]
        frames = frames.reshape(len(frames), -1, self.num_mels, 1)  # (B, stack * T, mels, 1)
        for convolution in cast(Iterable[MelConvolution], self.convolutions):
            if padding is not None:
                frames = frames.masked_fill(padding[..., None, None], 0.0)
                padding = padding[:, :: convolution.stride]
            with multiplied(frames.shape[1] // convolution.stride // num_latents):
                frames = convolution(frames)
        return self.context.project(frames.flatten(2))


class MelConvolution(nn.Module):
    """A convolution over time and mel channels, a layer norm, a leaky ReLU and dropout.

    Args:
        input_width: Channels before.
        width: Channels after.
        mels: Mel channels after.
        stride: Frames from one window to the next.
        dropout: Dropout.
    """

    def __init__(self, input_width: int, width: int, mels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(input_width, width, KERNEL, stride=(stride, 2), padding=KERNEL // 2)
        self.norm = nn.LayerNorm((mels, width))
        self.activation = nn.LeakyReLU()
        self.dropout = Dropout(dropout)

    def forward(self, frames: Tensor) -> Tensor:
        """Maps frames `(B, T, F, C)` to `(B, T / stride, F / 2, C')`."""
        convolved = self.conv(frames.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        output: Tensor = self.dropout(self.activation(self.norm(convolved)))
        return output
