"""The parts of a pretrained model between the waveform and the context network."""

from __future__ import annotations

from torch import Tensor, nn

from w2vlab.functional.lengths import make_padding_mask
from w2vlab.interfaces import FeatureEncoder, Quantizer
from w2vlab.types import AudioBatch, Encoding


class Frontend(nn.Module):
    """Computes the inputs of a pretrained context network, without masking.

    Args:
        encoder: The encoder of the waveform.
        norm: Normalizes the latents; None if they are not normalized.
        quantizer: Quantizes the latents; None if they are the input of the context network.
    """

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
        features = self.encoder(batch.waveform, batch.num_samples)  # (B, T, C)
        encoding = make_encoding(self.encoder, features, features if self.norm is None else self.norm(features), batch)
        if self.quantizer is not None:
            encoding.latents = self.quantizer(encoding.latents, encoding.padding_mask).quantized  # (B, T, E)
        return encoding


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
