"""wav2vec 2.0: predict the hidden frames from the visible ones."""

from __future__ import annotations

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn

from w2vlab.contexts import TransformerContext
from w2vlab.encoders import ConvFeatureEncoder
from w2vlab.functional.lengths import gather_frames, make_padding_mask
from w2vlab.interfaces import (
    ContextFactory,
    EncoderFactory,
    MaskingFactory,
    PenaltyFactory,
    PredictionLossFactory,
    QuantizerFactory,
)
from w2vlab.losses import ContrastiveLoss, DiversityPenalty, FeaturePenalty
from w2vlab.masking import SpanMasking
from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.optim import PolynomialSchedule, Wav2Vec2AdamW
from w2vlab.quantizers import GumbelQuantizer
from w2vlab.types import AudioBatch, PredictionTask, PretrainOutput, RandomAddress


class MaskedPrediction(PretrainingModule):
    """wav2vec 2.0: hide spans of latents, and tell each one's quantized target from distractors.

    The defaults are wav2vec 2.0 BASE.

    Args:
        encoder: Builds the encoder of the waveform.
        context: Builds the context network from the width of the latents.
        quantizer: Builds the quantizer of the targets from the width of the latents.
        masking: Builds the masking strategy.
        loss: Builds the prediction loss from the widths of contexts and targets.
        penalties: Builds further terms of the objective, by their names in the logs; None for the published ones
            (`diversity` and `feature`), an empty mapping for none.
        feature_dropout: Dropout of the latents that are quantized.
        optimizer: Builds the optimiser from the parameters.
        scheduler: Builds the learning-rate schedule, stepped once an update.
        seed: Seed of every random draw of the run.

    Reference:
        Baevski et al. 2020, arXiv:2006.11477.
    """

    def __init__(
        self,
        encoder: EncoderFactory = ConvFeatureEncoder,
        context: ContextFactory = TransformerContext,
        quantizer: QuantizerFactory = GumbelQuantizer,
        masking: MaskingFactory = SpanMasking,
        loss: PredictionLossFactory = ContrastiveLoss,
        penalties: dict[str, PenaltyFactory] | None = None,
        feature_dropout: float = 0.1,
        optimizer: OptimizerCallable = Wav2Vec2AdamW,
        scheduler: LRSchedulerCallable = PolynomialSchedule,
        seed: int = 1,
    ) -> None:
        if penalties is None:
            penalties = {"diversity": DiversityPenalty, "feature": FeaturePenalty}
        super().__init__(optimizer, scheduler, {name: build() for name, build in penalties.items()}, seed)
        self.encoder = encoder()
        self.norm = nn.LayerNorm(self.encoder.output_dim)
        self.context = context(self.encoder.output_dim)
        self.quantizer = quantizer(self.encoder.output_dim)
        self.masking = masking()
        self.loss = loss(self.context.output_dim, self.quantizer.output_dim)
        self.mask_embedding = nn.Parameter(torch.rand(self.context.model_dim))
        self.feature_dropout = nn.Dropout(feature_dropout)

    @property
    def min_frames(self) -> int:
        """The fewest latents that can be masked and predicted."""
        return max(self.masking.min_frames, self.loss.min_frames(self.frame_overlap))

    def forward(self, batch: AudioBatch, address: RandomAddress) -> PretrainOutput:
        """Computes one batch.

        Args:
            batch: Utterances, each of at least `min_samples` samples.
            address: Where masks and negatives are drawn.

        Returns:
            The prediction loss over the masked frames and everything it was computed from.
        """
        # Encode.
        features = self.encoder(batch.waveform, batch.num_samples)  # (B, T, C)
        latents = self.norm(features)
        num_frames = tuple(self.encoder.num_frames(samples) for samples in batch.num_samples)
        padding_mask = make_padding_mask(num_frames, latents.shape[1], latents.device)

        # Hide spans of the latents, and look at what is left.
        mask = self.masking(num_frames, address.generators("mask")).to(latents.device)
        frames = self.context.project(latents)  # (B, T, model_dim)
        frames = torch.where(mask.frames[..., None], self.mask_embedding.to(frames.dtype), frames)
        context = self.context(frames, padding_mask)  # (B, T, D)

        # Quantize what was hidden, as it was before it was hidden.
        target_padding = make_padding_mask(mask.num_targets, mask.targets.shape[1], latents.device)
        hidden = gather_frames(self.feature_dropout(latents), mask.targets)  # (B, M, C)
        targets = self.quantizer(hidden, target_padding)

        # Tell each true target from distractors.
        predicted_from = gather_frames(context, mask.targets)  # (B, M, D)
        prediction = self.loss(PredictionTask(predicted_from, targets, mask.num_targets, address, self.frame_overlap))
        return PretrainOutput(features, num_frames, context, targets, target_padding, prediction, mask)
