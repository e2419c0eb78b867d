"""The parts of a model with a teacher that give the targets of each frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from w2vlab.functional.lengths import make_padding_mask
from w2vlab.interfaces import FeatureEncoder, Quantizer, Teacher
from w2vlab.modules.frontend import Frontend, make_encoding
from w2vlab.types import AudioBatch, Encoding


class TeacherFrontend(Frontend):
    """Computes the targets of each frame: encoder, norm, teacher and quantizer.

    Args:
        encoder: The encoder of the waveform.
        norm: Normalizes each latent.
        teacher: The teacher.
        quantizer: The quantizer of the targets.
    """

    sees_all_frames = True

    def __init__(self, encoder: FeatureEncoder, norm: nn.Module, teacher: Teacher, quantizer: Quantizer) -> None:
        super().__init__(encoder, norm, quantizer)
        self.teacher = teacher

    def forward(self, batch: AudioBatch) -> Encoding:
        """Computes the quantized targets of a batch, `Encoding.latents`.

        Args:
            batch: Utterances.
        """
        features = self.encoder.of_batch(batch)  # (B, T, C)
        latents = features if self.norm is None else self.norm(features)
        encoding = make_encoding(self.encoder, features, latents, batch)
        taught = self.teacher(encoding.latents, encoding.padding_mask)[0]
        assert self.quantizer is not None, "of the constructor"
        encoding.latents = self.quantizer(taught, encoding.padding_mask).quantized  # (B, T, E)
        return encoding

    def _latents(self, waveform: Tensor, num_samples: Sequence[int]) -> Iterator[Tensor]:
        """Yields what the teacher computes of all frames `(B, T, E)`, in one piece, because its layers see them all."""
        latents = torch.cat(list(super()._latents(waveform, num_samples)), dim=1)
        num_frames = [self.encoder.num_frames(samples) for samples in num_samples]
        yield self.teacher(latents, make_padding_mask(num_frames, latents.shape[1], latents.device))[0]
