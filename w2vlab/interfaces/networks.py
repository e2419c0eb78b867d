"""The families between audio and the loss: encoders, context networks, quantizers, masking strategies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import ClassVar

import numpy as np
from torch import Tensor, nn

from w2vlab.frame_grid import FrameGrid
from w2vlab.interfaces.capabilities import OfUtterances
from w2vlab.types import (
    AudioBatch,
    Mask,
    QuantizerOutput,
    TargetSpec,
)


class FeatureEncoder(nn.Module, ABC):
    """Turns a waveform into a sequence of latents, each seeing a short stretch of audio.

    Attributes:
        output_dim: Width C of the latents.
        receptive_field: Samples that one latent sees.
        stride: Samples from one latent to the next.
    """

    output_dim: int
    receptive_field: int
    stride: int

    def num_frames(self, num_samples: int) -> int:
        """Returns how many latents `num_samples` samples give; 0 for less than the receptive field."""
        return max(0, (num_samples - self.receptive_field) // self.stride + 1)

    @property
    def grid(self) -> FrameGrid:
        """Where the latents are in time."""
        return FrameGrid(self.stride, self.receptive_field)

    @property
    def frames_are_independent(self) -> bool:
        """Whether in evaluation mode a latent depends on its receptive field alone, and not on the whole utterance."""
        return False

    @property
    def utterances_are_independent(self) -> bool:
        """Whether in training an utterance depends neither on padding nor on the others, as `data.fuse_seconds` needs.

        All noise must be drawn by the layers of `functional.kernels`, which draw it for each micro-batch.
        """
        return False

    def of_batch(self, batch: AudioBatch) -> Tensor:
        """Returns the latents `(B, T, C)` of a batch."""
        latents: Tensor = self(batch.waveform, batch.num_samples)
        return latents

    @abstractmethod
    def forward(self, waveform: Tensor, num_samples: Sequence[int]) -> Tensor:
        """Encodes `waveform` `(B, S)`, of which row b has `num_samples[b]` samples, into latents `(B, T, C)`."""


class UtteranceEncoder(FeatureEncoder, OfUtterances):
    """An encoder whose latents belong to utterances, such as embeddings of codes that a file has; audio is not read."""

    @abstractmethod
    def of_batch(self, batch: AudioBatch) -> Tensor:
        """Returns the latents `(B, T, C)` of the windows of a batch, found by `ids` and `starts`."""

    def forward(self, waveform: Tensor, num_samples: Sequence[int]) -> Tensor:
        """Raises a RuntimeError, because audio alone does not say which utterance it is."""
        raise RuntimeError(
            f"{type(self).__name__} reads a file by the ids of utterances, and cannot encode audio. Give a batch with "
            "ids to `encode` of the model; or `w2vlab evaluate`, with a corpus whose codes are in the file."
        )


class ContextNetwork(nn.Module, ABC):
    """Turns the sequence of latents into a sequence of contexts.

    Attributes:
        model_dim: Width of the frames that `forward` takes; masked frames are replaced at this width.
        output_dim: Width D of the contexts.
        causal: Whether a context is computed from its own and earlier frames only. Norms of published models that take
            statistics over the whole utterance are allowed.
    """

    model_dim: int
    output_dim: int
    causal: ClassVar[bool] = False

    @property
    def utterances_are_independent(self) -> bool:
        """As of a `FeatureEncoder`."""
        return False

    def project(self, latents: Tensor) -> Tensor:
        """Brings latents `(B, T, C)` to the width `model_dim` at which frames are masked; unchanged by default."""
        return latents

    @abstractmethod
    def forward(self, frames: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Turns projected frames into contexts.

        Args:
            frames: Shape `(B, T, model_dim)`.
            padding_mask: True on padding, shape `(B, T)`; None without padding.

        Returns:
            Contexts, shape `(B, T, D)`.
        """

    @property
    def num_layers(self) -> int:
        """Layers whose outputs `forward_layers` returns; 0 if the network is not a sequence of layers."""
        return 0

    def forward_layers(
        self,
        frames: Tensor,
        padding_mask: Tensor | None = None,
        layers: Collection[int] = (),
        feedforward: bool = False,
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Turns projected frames into contexts, and returns outputs of layers, too.

        Args:
            frames: As in `forward`.
            padding_mask: As in `forward`.
            layers: Numbers of layers, from 1 to `num_layers`.
            feedforward: Return the output of the layer's last feed-forward network, before its residual connection,
                in place of the output of the layer.

        Returns:
            Contexts `(B, T, D)`, and a dictionary of number to `(B, T, D)`. The last layer is before a final norm (of
            pre-norm networks), so that it can differ from the contexts.

        Raises:
            RuntimeError: The network is not a sequence of layers.
        """
        raise RuntimeError(f"{type(self).__name__} is not a sequence of layers, and has no `forward_layers`.")


class Quantizer(nn.Module, ABC):
    """Replaces each latent by entries of finite codebooks.

    Attributes:
        output_dim: Width E of the quantized vectors.
        num_codebooks: Codebooks G; 0 for continuous vectors.
        codebook_size: Entries V of each codebook.
        frames_are_independent: Whether in evaluation mode no frame depends on others, so that it can work in pieces.
    """

    output_dim: int
    num_codebooks: int
    codebook_size: int
    frames_are_independent: ClassVar[bool] = False

    @property
    def spec(self) -> TargetSpec:
        """The description of the targets that a prediction loss is built from."""
        return TargetSpec(dim=self.output_dim, num_codebooks=self.num_codebooks, codebook_size=self.codebook_size)

    @property
    def utterances_are_independent(self) -> bool:
        """As of a `FeatureEncoder`."""
        return False

    @abstractmethod
    def forward(self, latents: Tensor, padding_mask: Tensor | None = None) -> QuantizerOutput:
        """Quantizes latents `(B, N, C)`; `padding_mask` `(B, N)` is True on padding."""

    @abstractmethod
    def lookup(self, codes: Tensor) -> Tensor:
        """Returns the vectors `(…, E)` of `codes` `(…, G)`.

        Raises:
            RuntimeError: The quantizer has no codebook.
        """


class UtteranceTargets(Quantizer, OfUtterances):
    """A quantizer whose codes belong to utterances, such as units that a file has, and do not follow from latents."""

    @abstractmethod
    def of_utterances(self, batch: AudioBatch, grid: FrameGrid, num_frames: Sequence[int]) -> QuantizerOutput:
        """Returns the codes of every frame of a batch, on the device of its waveform.

        Args:
            batch: Utterances or windows of them, found by `ids` and `starts`.
            grid: Where the frames are that the codes are targets of.
            num_frames: Frames of each utterance, B integers.
        """

    def forward(self, latents: Tensor, padding_mask: Tensor | None = None) -> QuantizerOutput:
        """Raises a RuntimeError, because latents do not say which utterance they are of."""
        raise RuntimeError(f"{type(self).__name__} reads a file by the ids of utterances, and cannot quantize latents.")


class Masking(nn.Module, ABC):
    """Chooses which frames are masked, that is, hidden from the context network, and which are predicted."""

    @abstractmethod
    def forward(self, num_frames: Sequence[int], generators: Sequence[np.random.Generator], num_channels: int) -> Mask:
        """Draws a mask on the host for utterances of `num_frames` frames, each from its own generator.

        Args:
            num_frames: Frames of each utterance, B integers.
            generators: One source of randomness an utterance.
            num_channels: Width D of a frame, for strategies that mask channels.

        Raises:
            ValueError: An utterance is too short to be masked.
        """

    @property
    def min_frames(self) -> int:
        """The fewest frames an utterance needs; the data layer skips shorter utterances."""
        return 1
