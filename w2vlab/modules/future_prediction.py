"""wav2vec and vq-wav2vec: predict future frames from past ones."""

from __future__ import annotations

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from w2vlab.contexts.conv import ConvContext
from w2vlab.encoders.conv import ConvFeatureEncoder
from w2vlab.functional.kernels import Dropout
from w2vlab.interfaces import (
    ContextFactory,
    EncoderFactory,
    PenaltyFactory,
    PredictionLossFactory,
    QuantizerFactory,
    UtteranceTargets,
)
from w2vlab.losses.future import FuturePredictionLoss
from w2vlab.modules.frontend import Frontend, make_encoding
from w2vlab.modules.fusing.parts import loss_of
from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.modules.warm_start.loading import start_from
from w2vlab.optim import CosineSchedule, Wav2VecAdamW
from w2vlab.quantizers.identity import IdentityQuantizer
from w2vlab.types import (
    AudioBatch,
    Encoding,
    LossInputs,
    Mask,
    Prepared,
    PretrainOutput,
    QuantizerOutput,
    RandomAddress,
)


class FuturePrediction(PretrainingModule):
    """wav2vec: predict the next frames from the past; with a quantizer, vq-wav2vec.

    The quantized frames are both the input of the context network and the targets.

    Args:
        encoder: Builds the encoder of the waveform.
        context: Builds the causal context network from the width of the quantized frames.
        quantizer: Builds the quantizer from the width of the latents; `IdentityQuantizer` is wav2vec.
        loss: Builds the prediction loss from the widths of contexts and targets.
        penalties: Builds further terms of the objective, by their names in the logs; None for none, as published.
        feature_dropout: Dropout of the inputs of the context network.
        optimizer: Builds the optimizer from the parameters.
        scheduler: Builds the learning-rate schedule, stepped once an update.
        seed: Seed of every random draw of the run.
        init_from: A model whose weights are the initial ones (warm start): a path, or `hf:` and a name; of any format.
        init_from_parts: The parts to load of it, such as `[encoder, norm, context]`; None for all that fit.

    Raises:
        ValueError: The context network is not causal, the loss predicts from layers, or `init_from` does not fit.

    Reference:
        Schneider et al. 2019, arXiv:1904.05862; Baevski et al. 2019, arXiv:1910.05453.
    """

    fuses_micro_batches = True

    def __init__(
        self,
        encoder: EncoderFactory = ConvFeatureEncoder,
        context: ContextFactory = ConvContext,
        quantizer: QuantizerFactory = IdentityQuantizer,
        loss: PredictionLossFactory = FuturePredictionLoss,
        penalties: dict[str, PenaltyFactory] | None = None,
        feature_dropout: float = 0.0,
        optimizer: OptimizerCallable = Wav2VecAdamW,
        scheduler: LRSchedulerCallable = CosineSchedule,
        seed: int = 1,
        init_from: str | None = None,
        init_from_parts: list[str] | None = None,
    ) -> None:
        super().__init__(optimizer, scheduler, {name: build() for name, build in (penalties or {}).items()}, seed)
        self.encoder = encoder()
        self.quantizer = quantizer(self.encoder.output_dim)
        if isinstance(self.quantizer, UtteranceTargets):
            raise ValueError(
                "`quantizer` must quantize latents under FuturePrediction, where it makes the inputs, too, but is "
                f"{type(self.quantizer).__name__}, which reads a file. Use it under MaskedPrediction."
            )
        self.context = context(self.quantizer.output_dim)
        if not self.context.causal:
            raise ValueError(
                f"`context` must be causal, such as ConvContext, but is {type(self.context).__name__}, which sees the "
                "frames that it would have to predict. Use it under MaskedPrediction."
            )
        self.loss = loss(self.context.output_dim, self.quantizer.spec)
        if self.loss.context_layers:
            raise ValueError(
                "`loss` must predict from the contexts under FuturePrediction, but its `layers` are "
                f"{', '.join(map(str, self.loss.context_layers))}. Use it under MaskedPrediction."
            )
        self.feature_dropout = Dropout(feature_dropout)
        self.warm_start = start_from(self, init_from, init_from_parts)

    @property
    def first_ahead(self) -> int:
        """Number of frames from the last input of a context to the first latent that shares no audio with it."""
        return self.frame_overlap

    @property
    def min_frames(self) -> int:
        """Smallest number of latents with at least one prediction."""
        return self.loss.min_frames(self.first_ahead)

    def encode(self, batch: AudioBatch) -> Encoding:
        """Returns the latents of a batch: the output of the encoder."""
        features = self.encoder.of_batch(batch)  # (B, T, C)
        return make_encoding(self.encoder, features, features, batch)

    def context_inputs(self, encoding: Encoding) -> Tensor:
        """Returns the quantized frames, which the context network projects."""
        output: QuantizerOutput = self.quantizer(encoding.latents, encoding.padding_mask)
        return output.quantized

    def frontend(self) -> Frontend:
        """Returns encoder and quantizer."""
        return Frontend(self.encoder, None, self.quantizer)

    def prepare(self, batch: AudioBatch, address: RandomAddress, mask: Mask | None = None) -> Prepared:
        """Encodes a batch and quantizes every frame; there is no mask, and `address` is not used."""
        encoding = self.encode(batch)
        targets = self.quantizer(encoding.latents, encoding.padding_mask)
        return Prepared(
            encoding=encoding,
            targets=targets,
            target_padding_mask=encoding.padding_mask,
            num_targets=encoding.num_frames,
        )

    def forward(self, batch: AudioBatch, address: RandomAddress, mask: Mask | None = None) -> PretrainOutput:
        """Computes one batch.

        Args:
            batch: Utterances, each of at least `min_samples` samples.
            address: Address of the random draws of negatives.
            mask: Must be None, because this objective does not mask.

        Returns:
            The prediction loss over all frames and steps, and the tensors from which it was computed.
        """
        # Encode, and quantize every frame.
        prepared = self.prepare(batch, address)
        targets, padding_mask, num_frames = prepared.targets, prepared.target_padding_mask, prepared.num_targets

        # Compute the context of each frame from the past.
        frames = self.context.project(self.feature_dropout(targets.quantized))
        context = self.context(frames, padding_mask)  # (B, T, D)

        # Identify the future frames among distractors.
        inputs = LossInputs(
            context=context,
            targets=targets,
            num_targets=num_frames,
            address=address,
            first_ahead=self.first_ahead,
            lookup=self.quantizer.lookup,
            drawn=self.negatives_of(batch, address, mask),
        )
        prediction = loss_of(self.loss, inputs, batch.parts)
        return PretrainOutput(
            features=prepared.encoding.features,
            num_frames=num_frames,
            context=context,
            targets=targets,
            target_padding_mask=padding_mask,
            prediction=prediction,
        )
