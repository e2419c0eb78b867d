"""What stands between the waveform and the context network of a pretrained model."""

from __future__ import annotations

from torch import nn

from w2vlab.functional.lengths import make_padding_mask
from w2vlab.interfaces import FeatureEncoder, Quantizer
from w2vlab.types import AudioBatch, Encoding


class Frontend(nn.Module):
    """Gives the frames that a context network was pretrained on, without masks.

    Args:
        encoder: The encoder of the waveform.
        norm: Normalises the latents; None where they are taken as they are.
        quantizer: Quantizes them; None where the context network sees latents.
    """

    def __init__(self, encoder: FeatureEncoder, norm: nn.Module | None, quantizer: Quantizer | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.norm = norm
        self.quantizer = quantizer

    @property
    def is_discrete(self) -> bool:
        """Whether frames are entries of codebooks, through which no gradient flows back in evaluation."""
        return self.quantizer is not None and self.quantizer.num_codebooks > 0

    def forward(self, batch: AudioBatch) -> Encoding:
        """Returns the frames of a batch, as `Encoding.latents`."""
        features = self.encoder(batch.waveform, batch.num_samples)  # (B, T, C)
        num_frames = tuple(self.encoder.num_frames(samples) for samples in batch.num_samples)
        padding_mask = make_padding_mask(num_frames, features.shape[1], features.device)
        frames = features if self.norm is None else self.norm(features)
        if self.quantizer is not None:
            frames = self.quantizer(frames, padding_mask).quantized  # (B, T, E)
        return Encoding(features, frames, num_frames, padding_mask)
