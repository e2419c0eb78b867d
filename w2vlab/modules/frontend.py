"""The parts of a pretrained model between the waveform and the context network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from w2vlab.encoders.pieces import EncodesInPieces
from w2vlab.functional.lengths import make_padding_mask
from w2vlab.interfaces import ContextNetwork, FeatureEncoder, Quantizer
from w2vlab.types import AudioBatch, Encoding, QuantizerOutput

FRAMES_OF_A_PIECE = 64
"""Latents that are computed at once in evaluation mode: in BASE the first layer of so many takes 8 MiB."""


class Frontend(nn.Module):
    """Computes the inputs of a pretrained context network, without masking.

    Args:
        encoder: The encoder of the waveform.
        norm: Normalizes each latent; None if they are not normalized.
        quantizer: Quantizes the latents; None if they are the input of the context network.
    """

    sees_all_frames: ClassVar[bool] = False
    """Whether what is quantized of a frame depends on all frames of the utterance, as what a teacher computes."""

    def __init__(self, encoder: FeatureEncoder, norm: nn.Module | None, quantizer: Quantizer | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.norm = norm
        self.quantizer = quantizer

    @property
    def is_discrete(self) -> bool:
        """Whether frames are entries of codebooks, which pass no gradient to the encoder in evaluation mode."""
        return self.quantizer is not None and self.quantizer.num_codebooks > 0

    def forward(self, batch: AudioBatch) -> Encoding:
        """Computes the frames of a batch, `Encoding.latents`.

        Args:
            batch: Utterances.
        """
        features = self.encoder.of_batch(batch)  # (B, T, C)
        encoding = make_encoding(self.encoder, features, features if self.norm is None else self.norm(features), batch)
        if self.quantizer is not None:
            encoding.latents = self.quantizer(encoding.latents, encoding.padding_mask).quantized  # (B, T, E)
        return encoding

    def projected(
        self, waveform: Tensor, num_samples: Sequence[int], context: ContextNetwork
    ) -> tuple[Tensor, Tensor | None]:
        """Computes the input of a context network in evaluation mode, piece by piece if that is exact.

        Args:
            waveform: Shape `(B, S)`.
            num_samples: Samples of each utterance, B integers.
            context: The context network.

        Returns:
            Projected frames `(B, T, model_dim)`, and their padding mask `(B, T)`, None without padding.
        """
        if self.quantizer is None:
            inputs = self._latents(waveform, num_samples)
        else:
            inputs = (output.quantized for output in self.quantized(waveform, num_samples))
        num_frames = [self.encoder.num_frames(samples) for samples in num_samples]
        frames: Tensor | None = None
        first = 0
        for piece in inputs:
            projected = context.project(piece)
            if projected.shape[1] == max(num_frames):
                frames = projected
                break
            if frames is None:
                frames = projected.new_empty(len(projected), max(num_frames), projected.shape[2])
            frames[:, first : first + projected.shape[1]] = projected
            first += projected.shape[1]
        assert frames is not None, "there is at least one frame"
        return frames, make_padding_mask(num_frames, frames.shape[1], frames.device)

    def quantized(self, waveform: Tensor, num_samples: Sequence[int]) -> Iterator[QuantizerOutput]:
        """Quantizes every frame in evaluation mode, piece by piece if that is exact.

        Args:
            waveform: Shape `(B, S)`.
            num_samples: Samples of each utterance, B integers.

        Yields:
            The output for the next frames of all utterances, N of them or fewer.
        """
        assert self.quantizer is not None, "checked by the caller"
        latents = self._latents(waveform, num_samples)
        num_frames = [self.encoder.num_frames(samples) for samples in num_samples]
        padding_mask = make_padding_mask(num_frames, max(num_frames), waveform.device)
        if not self.quantizer.frames_are_independent:
            latents = iter([torch.cat(list(latents), dim=1)])
        for piece in latents:
            # Utterances with padding come in one piece.
            yield self.quantizer(piece, padding_mask if piece.shape[1] == max(num_frames) else None)

    def _latents(self, waveform: Tensor, num_samples: Sequence[int]) -> Iterator[Tensor]:
        """Yields the latents `(B, t, C)`; in one piece if the utterances are padded."""
        padded = min(num_samples) < waveform.shape[1]
        if isinstance(self.encoder, EncodesInPieces) and not padded:
            pieces = self.encoder.pieces(waveform, max(1, FRAMES_OF_A_PIECE // len(waveform)))
        else:
            pieces = iter([self.encoder(waveform, num_samples)])
        for piece in pieces:
            yield piece if self.norm is None else self.norm(piece)


def make_encoding(encoder: FeatureEncoder, features: Tensor, latents: Tensor, batch: AudioBatch) -> Encoding:
    """Combines features and latents of a batch with their padding mask.

    Args:
        encoder: The encoder that computed them.
        features: Output of the encoder, `(B, T, C)`.
        latents: Latents, `(B, T, C)`.
        batch: The utterances.
    """
    num_frames = tuple(encoder.num_frames(samples) for samples in batch.num_samples)
    return Encoding(
        features=features,
        latents=latents,
        num_frames=num_frames,
        padding_mask=make_padding_mask(num_frames, latents.shape[1], latents.device),
    )
