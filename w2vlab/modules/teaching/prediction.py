"""data2vec, DinoSR and SpidR: predict what a teacher computes from the frames that are not masked for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer

from w2vlab.contexts.transformer import TransformerContext
from w2vlab.encoders.conv import ConvFeatureEncoder
from w2vlab.functional.kernels import noise
from w2vlab.functional.lengths import make_padding_mask
from w2vlab.interfaces import (
    ContextFactory,
    EncoderFactory,
    LossTerm,
    MaskingFactory,
    PenaltyFactory,
    PredictionLossFactory,
    QuantizerFactory,
    TeacherFactory,
)
from w2vlab.losses.regression import RegressionLoss
from w2vlab.losses.several import build_loss
from w2vlab.masking.span import SpanMasking
from w2vlab.modules.drawing.copies import address_of_copies, repeated
from w2vlab.modules.frontend import Frontend
from w2vlab.modules.fusing.parts import Parts, loss_of
from w2vlab.modules.teaching.checks import check_has_teacher, check_quantizer, tell_what_is_left_out
from w2vlab.modules.teaching.copies import parts_of_copies, repeat_output, repeat_rows
from w2vlab.modules.teaching.freezing import FrontendFreezing
from w2vlab.modules.teaching.frontend import TeacherFrontend
from w2vlab.modules.warm_start.loading import start_from
from w2vlab.modules.whole_update import GlobalBatchStatistics
from w2vlab.optim import PolynomialSchedule, Wav2Vec2AdamW
from w2vlab.quantizers.identity import IdentityQuantizer
from w2vlab.teachers.ema import EMATeacher
from w2vlab.types import AllFrames, AudioBatch, Encoding, Mask, Prepared, PretrainOutput, QuantizerOutput, RandomAddress
from w2vlab.utils.checks import check_at_least


class TeacherPrediction(FrontendFreezing):
    """data2vec: mask spans of latents, and predict what a teacher that sees all frames computes of the masked ones.

    The teacher is an average of the student (`EMATeacher`), updated after every optimizer step that is not skipped. It
    shares the encoder, has neither masks nor LayerDrop nor dropout, and gets no gradient. With codebooks as
    `quantizer`, the student predicts the codes of the teacher's layers (DinoSR, SpidR). The defaults are those of
    data2vec where it differs from wav2vec 2.0 BASE.

    Args:
        encoder: Builds the encoder of the waveform.
        context: Builds the student's context network from the width of the latents.
        teacher: Builds the teacher from the student's context network.
        quantizer: Builds the quantizer of the targets from their width; `IdentityQuantizer` for none (data2vec).
        masking: Builds the masking strategy.
        loss: Builds the prediction loss from the widths of contexts and targets.
        losses: Several losses in place of `loss`, by their names in the logs, each with its weight and its layer of the
            context network (`LossTerm`); None for `loss`.
        penalties: Builds further terms of the objective, by their names in the logs.
        masked_copies: Masks of each utterance in training, R. The encoder and the teacher compute an utterance once,
            and the student R times, as one batch. The gradient is that of the mean over all predictions (data2vec 2.0).
        optimizer: Builds the optimizer from the parameters.
        scheduler: Builds the learning-rate schedule, stepped once an update.
        freeze_frontend_from: Updates after which encoder, norm and input projection no longer change; they then get no
            gradient and no weight decay. None if they always change.
        seed: Seed of every random draw of the run.
        init_from: A model whose weights are the initial ones (warm start), of student and teacher: a path, or `hf:` and
            a name; of any format.
        init_from_parts: The parts to load of it, such as `[encoder, norm, context]`; None for all that fit.

    Raises:
        ValueError: The quantizer reads a file, the context network has no layers, or `init_from` does not fit.

    Reference:
        Baevski et al. 2022, arXiv:2202.03555 (data2vec), and arXiv:2212.07525, Section 3 (several masks of an
        utterance); Liu et al. 2023, arXiv:2305.10005 (DinoSR).
    """

    fuses_micro_batches = True

    def __init__(
        self,
        encoder: EncoderFactory = ConvFeatureEncoder,
        context: ContextFactory = TransformerContext,
        teacher: TeacherFactory = EMATeacher,
        quantizer: QuantizerFactory = IdentityQuantizer,
        masking: MaskingFactory = SpanMasking,
        loss: PredictionLossFactory = RegressionLoss,
        losses: dict[str, LossTerm] | None = None,
        penalties: dict[str, PenaltyFactory] | None = None,
        masked_copies: int = 1,
        optimizer: OptimizerCallable = Wav2Vec2AdamW,
        scheduler: LRSchedulerCallable = PolynomialSchedule,
        freeze_frontend_from: int | None = None,
        seed: int = 1,
        init_from: str | None = None,
        init_from_parts: list[str] | None = None,
    ) -> None:
        check_at_least(1, masked_copies=masked_copies)
        built = {name: build() for name, build in (penalties or {}).items()}
        super().__init__(optimizer, scheduler, built, seed, freeze_frontend_from)
        self.encoder = encoder()
        self.norm = nn.LayerNorm(self.encoder.output_dim)
        self.context = context(self.encoder.output_dim)
        self.teacher = teacher(self.context)
        self.quantizer = quantizer(self.teacher.output_dim)
        check_quantizer(self.quantizer, self.teacher)
        self.masking = masking()
        self.masked_copies = masked_copies
        self._losses_left_out = False
        self.loss = build_loss(loss, losses, self.context.output_dim, self.quantizer.spec)
        self.check_loss()
        self.mask_embedding = nn.Parameter(torch.rand(self.context.model_dim))
        self.warm_start = start_from(self, init_from, init_from_parts)
        if self.warm_start is not None:
            self.teacher.restart(self.context)

    def copies(self, training: bool) -> int:
        """Returns `masked_copies` in training; one in a validation."""
        return self.masked_copies if training else 1

    def frontend(self) -> Frontend:
        """Returns encoder and norm."""
        return Frontend(self.encoder, self.norm, None)

    def target_frontend(self) -> Frontend:
        """Returns encoder, norm and teacher, and the quantizer of the targets."""
        return TeacherFrontend(self.encoder, self.norm, self.teacher, self.quantizer)

    def quantize(self, batch: AudioBatch, encoding: Encoding | None = None) -> QuantizerOutput:
        """Quantizes what the teacher computes of every frame of a batch, as the targets.

        Args:
            batch: Utterances.
            encoding: The output of `encode` for them; None computes it.
        """
        encoding = encoding or self.encode(batch)
        return self._quantize(self.teach(encoding, batch)[0], encoding.padding_mask)

    @torch.no_grad()
    def teach(self, encoding: Encoding, batch: AudioBatch, positions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Computes the targets of frames by the teacher, which sees all frames, without gradient.

        Args:
            encoding: The output of `encode` for the batch.
            batch: Utterances; the targets of mixed ones are those of their clean audio.
            positions: The frames, `(B, M)`; None for all.

        Returns:
            Targets `(B, M, E)`, and the share of their variance, `(B,)`, as of `Teacher.forward`.
        """
        # Detached, because a view of latents that need a gradient would need one here, too.
        latents = encoding.latents.detach()
        if batch.clean is not None:
            latents = latents.index_copy(0, batch.clean.rows, self.encode(batch.clean.batch).latents)
        taught: tuple[Tensor, Tensor] = self.teacher(latents, encoding.padding_mask, positions)
        return taught

    def _quantize(self, targets: Tensor, padding_mask: Tensor | None) -> QuantizerOutput:
        output: QuantizerOutput = self.quantizer(targets, padding_mask)
        if output.losses and not any(parameter.requires_grad for parameter in self.quantizer.parameters()):
            if not self._losses_left_out:
                tell_what_is_left_out(self.quantizer, output.losses)
                self._losses_left_out = True
            output.losses = {}
        return output

    def prepare(self, batch: AudioBatch, address: RandomAddress, mask: Mask | None = None) -> Prepared:
        """Encodes a batch, draws its mask, and lets the teacher compute the targets of the frames to predict.

        Args:
            batch: Utterances, each of at least `min_samples` samples.
            address: The seed of the mask.
            mask: The mask; None draws it.
        """
        return self._prepare(batch, address, mask)[0]

    def _prepare(self, batch: AudioBatch, address: RandomAddress, mask: Mask | None) -> tuple[Prepared, Tensor]:
        """Returns the share of the variance of the targets, `(B,)`, too."""
        encoding = self.encode(batch)
        mask = mask or self.draw_mask(batch.num_samples, address)
        assert mask is not None, "this objective masks frames"
        mask = mask.to(encoding.latents.device)

        # The teacher sees all frames; the quantizer, if it learns, learns from those to predict.
        copies = len(mask.num_targets) // len(batch)
        padding_mask = make_padding_mask(mask.num_targets, mask.targets.shape[1], mask.targets.device)
        all_frames = None
        if self.loss.uses_every_frame:
            taught, variance = self.teach(encoding, batch)
            every = repeat_output(self._quantize(taught, encoding.padding_mask), copies)  # (B R, T, E)
            targets = every.at(mask.targets)
            num_frames = repeated(encoding.num_frames, copies)
            all_frames = AllFrames(targets=every, num_frames=num_frames, positions=mask.targets)
        else:
            taught, variance = self.teach(encoding, batch, mask.targets.reshape(len(batch), -1))  # of all copies
            with noise.repeated(copies), noise.along(mask.num_targets):
                targets = self._quantize(taught.reshape(*mask.targets.shape, -1), padding_mask)  # (B R, M, E)
        prepared = Prepared(
            encoding=encoding,
            targets=targets,
            target_padding_mask=padding_mask,
            num_targets=mask.num_targets,
            mask=mask,
            all_frames=all_frames,
        )
        return prepared, variance

    def forward(self, batch: AudioBatch, address: RandomAddress, mask: Mask | None = None) -> PretrainOutput:
        """Computes one batch.

        Args:
            batch: Utterances, each of at least `min_samples` samples.
            address: The seed of the mask.
            mask: The mask; None draws it.

        Returns:
            The prediction loss over the frames to predict, and the intermediate results.
        """
        drawn = self.negatives_of(batch, address, mask)
        prepared, variance = self._prepare(batch, address, mask)
        encoding, mask = prepared.encoding, prepared.mask
        assert mask is not None, "this objective masks frames"

        # The student: project latents, replace masked frames, compute contexts; each masked copy has a row.
        copies = len(mask.num_targets) // len(batch)
        frames = repeat_rows(self.context.project(encoding.latents), copies)  # (B R, T, model_dim)
        with noise.repeated(copies):
            frames = mask.hide(frames, self.mask_embedding)
            context, layers = self.contexts_of(frames, repeat_rows(encoding.padding_mask, copies))  # (B R, T, D)

        # Predict what the teacher has computed of the masked frames.
        inputs = self.loss_inputs(prepared, mask, context, layers, address_of_copies(address, copies), drawn)
        prediction = loss_of(self.loss, inputs, parts_of_copies(batch.parts, copies))
        shares = {**prediction.shares, "target_variance": (variance.sum(), len(variance))}
        return PretrainOutput(
            features=repeat_rows(encoding.features, copies),
            num_frames=repeated(encoding.num_frames, copies),
            context=context,
            targets=prepared.targets,
            target_padding_mask=prepared.target_padding_mask,
            prediction=replace(prediction, shares=shares),
            mask=mask,
        )

    def objective_terms(
        self, output: PretrainOutput, statistics: GlobalBatchStatistics | None = None, parts: Parts = None
    ) -> dict[str, Tensor]:
        """Returns every weighted term, as of all objectives; the rows of the output are masked copies."""
        copies = len(output.num_frames) // sum(part.size for part in parts) if parts else 1
        return super().objective_terms(output, statistics, parts_of_copies(parts, copies))

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Runs the optimizer step, after which the teacher follows the student, unless the update is skipped."""
        update = self.global_step
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.teacher.follow(self.context, update, self.skipped.now)

    def resize_to_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Checks that a checkpoint is of a pretraining with a teacher; nothing is resized.

        Raises:
            ValueError: It is that of a fine-tuning, or has no teacher.
        """
        super().resize_to_checkpoint(checkpoint)
        check_has_teacher(checkpoint)
