"""What stands between the waveform and the context network of a pretrained model."""

from __future__ import annotations

from torch import Tensor, nn

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
        encoding = make_encoding(self.encoder, features, features if self.norm is None else self.norm(features), batch)
        if self.quantizer is not None:
            encoding.latents = self.quantizer(encoding.latents, encoding.padding_mask).quantized  # (B, T, E)
        return encoding


def make_encoding(encoder: FeatureEncoder, features: Tensor, latents: Tensor, batch: AudioBatch) -> Encoding:
    """Returns what `encoder` made of a batch, `features` and from them `latents` `(B, T, C)`, with its padding."""
    num_frames = tuple(encoder.num_frames(samples) for samples in batch.num_samples)
    return Encoding(
        features=features,
        latents=latents,
        num_frames=num_frames,
        padding_mask=make_padding_mask(num_frames, latents.shape[1], latents.device),
    )
