"""wav2vec 2.0: predict the masked frames from the visible ones."""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from w2vlab.contexts.transformer import TransformerContext
from w2vlab.encoders.alignment import align_frames, check_target_encoder
from w2vlab.encoders.conv import ConvFeatureEncoder
from w2vlab.functional.choices import check_choice
from w2vlab.functional.kernels import Dropout, noise
from w2vlab.functional.lengths import gather_frames, make_padding_mask
from w2vlab.interfaces import (
    ContextFactory,
    EncoderFactory,
    LossTerm,
    MaskingFactory,
    PenaltyFactory,
    PredictionLossFactory,
    QuantizerFactory,
    UtteranceTargets,
)
from w2vlab.losses.contrastive import ContrastiveLoss
from w2vlab.losses.penalties import DiversityPenalty, FeaturePenalty
from w2vlab.losses.several import build_loss
from w2vlab.masking.span import SpanMasking
from w2vlab.modules.frontend import Frontend
from w2vlab.modules.fusing.parts import loss_of
from w2vlab.modules.masked_objective import MaskedObjective
from w2vlab.modules.warm_start.loading import start_from
from w2vlab.optim import PolynomialSchedule, Wav2Vec2AdamW
from w2vlab.quantizers.gumbel import GumbelQuantizer
from w2vlab.types import (
    AllFrames,
    AudioBatch,
    Encoding,
    Mask,
    Prepared,
    PretrainOutput,
    QuantizerOutput,
    RandomAddress,
)
from w2vlab.utils.messages import W2VLabWarning

Inputs = Literal["continuous", "quantized"]


class MaskedPrediction(MaskedObjective):
    """wav2vec 2.0: mask spans of latents, and identify the quantized latent of each masked frame among distractors.

    The defaults are wav2vec 2.0 BASE.

    Args:
        encoder: Builds the encoder of the waveform.
        context: Builds the context network from the width of the latents.
        quantizer: Builds the quantizer of the targets from the width of the latents.
        masking: Builds the masking strategy.
        loss: Builds the prediction loss from the widths of contexts and targets.
        losses: Several losses in place of `loss`, by their names in the logs, each with its weight and its layer of the
            context network (`LossTerm`); None for `loss`.
        penalties: Builds further terms of the objective, by their names in the logs; None for the published ones
            (`diversity` and `feature`), an empty mapping for none.
        inputs: The input of the context network: the latents (`continuous`), or the output of a quantizer for them
            (`quantized`). Continuous targets are the quantizer `IdentityQuantizer`. The four combinations of
            continuous and quantized inputs and targets are Table 4.
        input_quantizer: Builds a separate quantizer for quantized inputs; None shares the one of the targets.
        target_encoder: Builds a separate encoder for the targets; None shares the one of the inputs. If its frames are
            at other times than those of the inputs, the nearest one is the target.
        target_gradient: Whether the gradient of the targets reaches the encoder. False stops it before the quantizer
            (Table 13: 8.41 % WER in place of 7.97 %). With a target encoder without parameters it fixes the targets:
            its frames then are quantized without the learned norm (BEST-RQ).
        feature_dropout: Dropout of the latents that are quantized.
        optimizer: Builds the optimizer from the parameters.
        scheduler: Builds the learning-rate schedule, stepped once an update.
        seed: Seed of every random draw of the run.
        init_from: A model whose weights are the initial ones (warm start): a path, or `hf:` and a name; of any format.
        init_from_parts: The parts to load of it, such as `[encoder, norm, context]`; None for all that fit.

    Raises:
        ValueError: The target encoder would get no gradient, or `init_from` does not fit.

    Reference:
        Baevski et al. 2020, arXiv:2006.11477.
    """

    fuses_micro_batches = True

    def __init__(
        self,
        encoder: EncoderFactory = ConvFeatureEncoder,
        context: ContextFactory = TransformerContext,
        quantizer: QuantizerFactory = GumbelQuantizer,
        masking: MaskingFactory = SpanMasking,
        loss: PredictionLossFactory = ContrastiveLoss,
        losses: dict[str, LossTerm] | None = None,
        penalties: dict[str, PenaltyFactory] | None = None,
        inputs: Inputs = "continuous",
        input_quantizer: QuantizerFactory | None = None,
        target_encoder: EncoderFactory | None = None,
        target_gradient: bool = True,
        feature_dropout: float = 0.1,
        optimizer: OptimizerCallable = Wav2Vec2AdamW,
        scheduler: LRSchedulerCallable = PolynomialSchedule,
        seed: int = 1,
        init_from: str | None = None,
        init_from_parts: list[str] | None = None,
    ) -> None:
        if penalties is None:
            penalties = {"diversity": DiversityPenalty, "feature": FeaturePenalty}
        check_choice("inputs", inputs, Inputs)
        super().__init__(optimizer, scheduler, {name: build() for name, build in penalties.items()}, seed)
        self.encoder = encoder()
        self.norm = nn.LayerNorm(self.encoder.output_dim)
        self.target_encoder = None if target_encoder is None else target_encoder()
        target_dim = (self.target_encoder or self.encoder).output_dim
        # Without a gradient, weight decay alone would change the norm, and with it the targets.
        self.target_norm = nn.LayerNorm(target_dim) if self.target_encoder is not None and target_gradient else None
        self.quantizer = quantizer(target_dim)
        check_target_encoder(self.target_encoder, self.quantizer, target_gradient)
        self.inputs = inputs
        self.input_quantizer = None if input_quantizer is None else input_quantizer(self.encoder.output_dim)
        self.context = context(self._input_dim(inputs))
        self.masking = masking()
        self.loss = build_loss(loss, losses, self.context.output_dim, self.quantizer.spec)
        self.check_loss()
        self.mask_embedding = nn.Parameter(torch.rand(self.context.model_dim))
        self.target_gradient = target_gradient
        self.feature_dropout = Dropout(feature_dropout)
        self.warm_start = start_from(self, init_from, init_from_parts)

    @property
    def min_samples(self) -> int:
        """Length of the shortest utterance in training, in samples."""
        return max(super().min_samples, 0 if self.target_encoder is None else self.target_encoder.receptive_field)

    def _input_dim(self, inputs: str) -> int:
        if inputs == "continuous":
            if self.input_quantizer is not None:
                warnings.warn("`input_quantizer` has no effect: `inputs` is continuous.", W2VLabWarning, stacklevel=3)
                self.input_quantizer = None
            return self.encoder.output_dim
        if isinstance(self.input_quantizer or self.quantizer, UtteranceTargets):
            raise ValueError(
                "`input_quantizer` must quantize latents if `inputs` is quantized, but codes of a file do not. Use an "
                "encoder that reads them (CodeEmbedding), or another quantizer."
            )
        if self.input_quantizer is not None:
            return self.input_quantizer.output_dim
        if self.target_encoder is not None:
            raise ValueError("`input_quantizer` must be given if `target_encoder` is, but is None.")
        return self.quantizer.output_dim

    def context_inputs(self, encoding: Encoding) -> Tensor:
        """Returns the frames that the context network projects, without masking."""
        if self.inputs == "continuous":
            return encoding.latents
        output: QuantizerOutput = (self.input_quantizer or self.quantizer)(encoding.latents, encoding.padding_mask)
        return output.quantized

    def frontend(self) -> Frontend:
        """Returns encoder and norm, and the quantizer of the inputs if they are quantized."""
        quantizer = None if self.inputs == "continuous" else self.input_quantizer or self.quantizer
        return Frontend(self.encoder, self.norm, quantizer)

    def target_frontend(self) -> Frontend:
        """Returns encoder and norm of the targets, and their quantizer."""
        if self.target_encoder is None:
            return Frontend(self.encoder, self.norm, self.quantizer)
        return Frontend(self.target_encoder, self.target_norm, self.quantizer)

    def quantize(self, batch: AudioBatch, encoding: Encoding | None = None) -> QuantizerOutput:
        """Quantizes every frame of a batch in the same way as the targets.

        Args:
            batch: Utterances.
            encoding: The output of `encode` for them; None computes it.
        """
        return self._quantize_all(encoding or self.encode(batch), batch, nn.Identity())

    def _quantize_all(self, encoding: Encoding, batch: AudioBatch, dropout: nn.Module) -> QuantizerOutput:
        """Quantizes the target latents of every frame, or takes the codes of the utterances from a file."""
        if isinstance(self.quantizer, UtteranceTargets):
            return self.quantizer.of_utterances(batch, self.encoder.grid, encoding.num_frames)
        latents = dropout(self._target_latents(encoding.latents, batch))  # (B, T, C)
        output: QuantizerOutput = self.quantizer(latents, encoding.padding_mask)
        return output

    def prepare(self, batch: AudioBatch, address: RandomAddress, mask: Mask | None = None) -> Prepared:
        """Encodes a batch, draws its mask, and quantizes the frames to predict.

        Args:
            batch: Utterances, each of at least `min_samples` samples.
            address: The seed of the mask.
            mask: The mask; None draws it.
        """
        encoding = self.encode(batch)
        mask = mask or self.draw_mask(batch.num_samples, address)
        assert mask is not None, "this objective masks frames"
        mask = mask.to(encoding.latents.device)

        # Quantize the frames to predict; or every frame, if distractors are drawn among all of them.
        padding_mask = make_padding_mask(mask.num_targets, mask.targets.shape[1], mask.targets.device)
        all_frames = None
        if self.loss.uses_every_frame or isinstance(self.quantizer, UtteranceTargets):
            every = self._quantize_all(encoding, batch, self.feature_dropout)
            targets = every.at(mask.targets)
            if self.loss.uses_every_frame:
                all_frames = AllFrames(targets=every, num_frames=encoding.num_frames, positions=mask.targets)
        else:
            latents = self.feature_dropout(self._target_latents(encoding.latents, batch))  # (B, T, C)
            with noise.along(mask.num_targets):
                targets = self.quantizer(gather_frames(latents, mask.targets), padding_mask)  # (B, M, E)
        return Prepared(
            encoding=encoding,
            targets=targets,
            target_padding_mask=padding_mask,
            num_targets=mask.num_targets,
            mask=mask,
            all_frames=all_frames,
        )

    def forward(self, batch: AudioBatch, address: RandomAddress, mask: Mask | None = None) -> PretrainOutput:
        """Computes one batch.

        Args:
            batch: Utterances, each of at least `min_samples` samples.
            address: The seed of the mask and the distractors.
            mask: The mask; None draws it.

        Returns:
            The prediction loss over the frames to predict, and the intermediate results.
        """
        drawn = self.negatives_of(batch, address, mask)
        prepared = self.prepare(batch, address, mask)
        encoding, mask, targets = prepared.encoding, prepared.mask, prepared.targets
        assert mask is not None, "this objective masks frames"

        # Project latents, replace masked frames, compute contexts; `context_inputs` has the same two cases of inputs.
        latents, quantized_inputs = encoding.latents, None
        if self.inputs == "quantized":
            quantized_inputs = (self.input_quantizer or self.quantizer)(latents, encoding.padding_mask)
            latents = quantized_inputs.quantized
        frames = mask.hide(self.context.project(latents), self.mask_embedding)  # (B, T, model_dim)
        context, layers = self.contexts_of(frames, encoding.padding_mask)  # (B, T, D)

        # Identify the true target of each frame to predict among distractors.
        inputs = self.loss_inputs(prepared, mask, context, layers, address, drawn)
        prediction = loss_of(self.loss, inputs, batch.parts)
        return PretrainOutput(
            features=encoding.features,
            num_frames=encoding.num_frames,
            context=context,
            targets=targets,
            target_padding_mask=prepared.target_padding_mask,
            prediction=prediction,
            mask=mask,
            inputs=quantized_inputs,
        )

    def _target_latents(self, latents: Tensor, batch: AudioBatch) -> Tensor:
        if self.target_encoder is not None:
            latents = self.target_encoder.of_batch(batch.of_targets)
            latents = align_frames(latents, self.encoder, self.target_encoder, batch.num_samples)
            latents = latents if self.target_norm is None else self.target_norm(latents)
        elif batch.clean is not None:  # targets of mixed utterances are those of their clean audio
            latents = latents.index_copy(0, batch.clean.rows, self.encode(batch.clean.batch).latents)
        return latents if self.target_gradient else latents.detach()
