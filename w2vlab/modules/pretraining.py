"""The base of the pretraining objectives: the forward pass in training, the terms of the loss, validation."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from w2vlab.functional.lengths import make_padding_mask, mean_per_utterance
from w2vlab.interfaces import ContextNetwork, Penalty, Quantizer
from w2vlab.modules.drawing.module import DrawingModule
from w2vlab.modules.frontend import Frontend
from w2vlab.modules.fusing.parts import Parts, penalty_of
from w2vlab.modules.representations import Representations
from w2vlab.modules.sums import Sums, masked_share, means, metric_sums
from w2vlab.modules.validation import Validation
from w2vlab.modules.whole_update import GlobalBatchStatistics, statistics_of, whole_update_penalties
from w2vlab.types import AudioBatch, Draws, Encoding, Mask, Prepared, PretrainOutput, QuantizerOutput, RandomAddress
from w2vlab.utils.distributed import class_name, world_size


@dataclass
class TrainingStep:
    """One forward pass of training, for callbacks that inspect it.

    Attributes:
        batch: The micro-batch, or several that are computed as one batch.
        output: The output of `forward` for it.
        terms: The weighted terms of the objective, `()` each, with their graph until the backward pass.
    """

    batch: AudioBatch
    output: PretrainOutput
    terms: dict[str, Tensor]


class PretrainingModule(DrawingModule, Representations):
    """Base of the pretraining objectives; a subclass assembles the parts and defines `forward`.

    **Normalization.** As in `TrainedModule`, the prediction loss is summed over predictions, and the sum is divided by
    the number of predictions of the global batch. Any other term is weighted in proportion, so that after the division
    it is a mean: the mean over an utterance times the predictions of that utterance. An `UpdatePenalty` is a function
    of sums over the global batch; it is multiplied by the predictions of the global batch.

    **Randomness.** Masks and distractors are drawn from generators keyed by (seed, update, utterance); dropout and
    Gumbel noise are as in `TrainedModule`.

    Args:
        optimizer: Builds the optimizer from the parameters.
        scheduler: Builds the learning-rate schedule, stepped once an update.
        penalties: The further terms of the objective, by their names in the logs.
        seed: Seed of every random draw of the run.
    """

    quantizer: Quantizer

    def __init__(
        self,
        optimizer: OptimizerCallable,
        scheduler: LRSchedulerCallable,
        penalties: dict[str, Penalty],
        seed: int,
    ) -> None:
        super().__init__(optimizer, scheduler, seed)
        self.penalties = nn.ModuleDict(penalties)
        self.keep_step = False
        """Whether `step` is kept; set by callbacks that inspect it."""
        self.step: TrainingStep | None = None
        """The first forward pass of the last training step, until its batch ends."""
        # Set if the quantizer returns no statistics for any `UpdatePenalty`, so that the extra pass is not repeated.
        self._no_update_statistics = False

    # Defined by subclasses.

    @abstractmethod
    def forward(self, batch: AudioBatch, address: RandomAddress, mask: Mask | None = None) -> PretrainOutput:
        """Computes one batch; mask (unless given) and distractors are drawn from the generators of `address`."""

    @abstractmethod
    def prepare(self, batch: AudioBatch, address: RandomAddress, mask: Mask | None = None) -> Prepared:
        """Computes the parts before the context network; `forward` starts with it."""

    @abstractmethod
    def encode(self, batch: AudioBatch) -> Encoding:
        """Returns the latents of a batch, before masking and quantization."""

    @abstractmethod
    def frontend(self) -> Frontend:
        """Returns the parts before the context network, for fine-tuning."""

    def input_frontend(self) -> Frontend:
        """Returns the parts before the context network."""
        return self.frontend()

    def target_frontend(self) -> Frontend:
        """Returns the parts that give the targets of each frame."""
        inputs = self.frontend()
        return Frontend(inputs.encoder, inputs.norm, self.quantizer)

    def context_network(self) -> ContextNetwork:
        """Returns the context network."""
        return self.context

    @property
    @abstractmethod
    def min_frames(self) -> int:
        """Smallest number of latents of an utterance in training."""

    def context_inputs(self, encoding: Encoding) -> Tensor:
        """Returns the frames that the context network projects, without masking, `(B, T, ...)`."""
        return encoding.latents

    def quantize(self, batch: AudioBatch, encoding: Encoding | None = None) -> QuantizerOutput:
        """Quantizes every frame of a batch in the same way as the targets; in evaluation mode without noise.

        Args:
            batch: Utterances.
            encoding: The output of `encode` for them; None computes it.
        """
        encoding = self.encode(batch) if encoding is None else encoding
        output: QuantizerOutput = self.quantizer(encoding.latents, encoding.padding_mask)
        return output

    # Training.

    def begin_update(self, batches: Sequence[AudioBatch]) -> None:
        """Draws for all micro-batches, counts their predictions, and sums the statistics of each `UpdatePenalty`."""
        super().begin_update(batches)
        passes = [(number, one) for number, batch in enumerate(batches) for one in self.fusing.passes(batch)]
        self._statistics = self._statistics_ahead(passes) if len(passes) > 1 else None

    def compute_loss(self, batch: AudioBatch, draws: Draws) -> tuple[Tensor, dict[str, Tensor | float]]:
        """Returns the objective summed over the predictions of one micro-batch, `()`, and sums for the logs."""
        output = self(batch, draws.address, (self.draws_of(batch, draws.address) or draws).mask)
        self.num_candidates = output.prediction.num_candidates
        # With a single micro-batch, its own forward pass gives the statistics; no extra pass is needed.
        statistics = self._statistics or self._statistics_over_processes(output)
        terms = self.objective_terms(output, statistics, batch.parts)
        if self.keep_step and self.step is None:
            self.step = TrainingStep(batch, output, terms)
        total = torch.stack(list(terms.values())).sum()
        with torch.no_grad():
            codebook_size = self.quantizer.codebook_size if self.quantizer.num_codebooks else 0
            return total, {**metric_sums(output, terms, codebook_size), **masked_share(output)}

    def objective_terms(
        self, output: PretrainOutput, statistics: GlobalBatchStatistics | None = None, parts: Parts = None
    ) -> dict[str, Tensor]:
        """Returns every weighted term of the objective, summed over the predictions of the batch, `()` each.

        Args:
            output: What `forward` returned.
            statistics: Sums over the global batch; None if the global batch is this batch.
            parts: The micro-batches, if the batch has several.
        """
        counts = torch.tensor(output.prediction.num_predictions, dtype=torch.float32)
        counts = counts.to(output.context.device, non_blocking=True)  # (B,)
        terms = dict(output.prediction.terms) or {self.loss.name: output.prediction.total}
        # Losses of the quantizer of the targets, and of that of the inputs: a mean over each utterance, weighted.
        for name, values in output.targets.losses.items():
            if name in terms:
                raise ValueError(f"The names of losses must not be those of `quantizer`, but `{name}` is.")
            terms[name] = (mean_per_utterance(values, output.target_padding_mask) * counts).sum()
        if output.inputs is not None:
            padding = make_padding_mask(output.num_frames, output.features.shape[1], output.features.device)
            for name, values in output.inputs.losses.items():
                terms[f"input_{name}"] = (mean_per_utterance(values, padding) * counts).sum()
        # Penalties: from the statistics of the global batch if there are any, otherwise from this batch alone. `term`
        # has the value of the global batch, and the gradient of this micro-batch's share in it.
        joint = {} if statistics is None else whole_update_penalties(self.penalties)
        for name, penalty in self.penalties.items():
            if statistics is not None and name in statistics.statistics:
                terms[name] = statistics.term(name, joint[name], output)
            else:
                terms[name] = penalty_of(cast(Penalty, penalty), output, parts, counts)
        return terms

    @torch.no_grad()
    def _statistics_ahead(self, passes: Sequence[tuple[int, AudioBatch]]) -> GlobalBatchStatistics | None:
        """Sums the statistics of each `UpdatePenalty` over all micro-batches, before the first backward pass.

        Args:
            passes: What is computed at once, each with the number of its batch of the loader.
        """
        penalties = whole_update_penalties(self.penalties)
        if not penalties or self._no_update_statistics:
            return None
        sums = Sums(self.device)
        all_draws = [draws for of_batch in self._draws for draws in of_batch]
        for (number, batch), draws in zip(passes, all_draws, strict=True):
            audio = replace(batch, draws=None).to(self.device, non_blocking=True)
            with self.fusing.noise(self, batch, number):  # that of the forward pass in `training_step`
                prepared = self.prepare(audio, draws.address, draws.mask)
            statistics = statistics_of(penalties, prepared)
            self._no_update_statistics = not statistics
            if self._no_update_statistics:
                break
            sums.add(statistics)
        for learner in self._learners():
            learner.forget_update()  # `training_step` collects the same statistics again
        return None if self._no_update_statistics else self._sum_statistics(sums)

    def _statistics_over_processes(self, output: PretrainOutput) -> GlobalBatchStatistics | None:
        """Sums the same statistics if each process has one micro-batch; None for a single process, or without any."""
        statistics = statistics_of(whole_update_penalties(self.penalties), output) if world_size() > 1 else {}
        if not statistics:
            return None
        sums = Sums(self.device)
        sums.add(statistics)
        return self._sum_statistics(sums)

    def _sum_statistics(self, sums: Sums) -> GlobalBatchStatistics:
        return GlobalBatchStatistics(self._num_predictions.wait(), sums.over_processes())

    def logged_means(self, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns terms, total, accuracy, shares and codebook usage."""
        return means(sums)

    def on_train_batch_end(self, outputs: Any, batch: AudioBatch, batch_idx: int) -> None:
        """Frees the intermediate results that were kept for callbacks."""
        self.step = None

    # Validation.

    def on_validation_epoch_start(self) -> None:
        """Resets the sums of the validation."""
        self.set_update(self.global_step)
        self._validation = Validation(self.penalties, self.quantizer, self.device)

    def validation_step(self, batch: AudioBatch, batch_idx: int) -> None:
        """Adds one batch; its masks and distractors are the same in every validation."""
        address = RandomAddress(seed=self.seed, update=0, ids=batch.ids, stream="validation")
        made = self.draws_of(batch, address)
        output = self(batch, address, None if made is None else made.mask)
        self.num_candidates = output.prediction.num_candidates
        self._validation.add(output, self.objective_terms(output), batch.counted)

    def on_validation_epoch_end(self) -> None:
        """Logs the means over all validation batches of all processes."""
        values, self.codebook_counts = self._validation.compute()
        # The values are equal on all processes already; without `sync_dist` Lightning would warn.
        self.log_dict({f"val/{name}": value for name, value in values.items()}, sync_dist=True)

    # Properties for the data module, the report and checkpoints.

    @property
    def min_samples(self) -> int:
        """Length of the shortest utterance in training, in samples."""
        return self.encoder.receptive_field + (self.min_frames - 1) * self.encoder.stride

    @property
    def frame_overlap(self) -> int:
        """The fewest frames between two latents that share no audio."""
        return math.ceil(self.encoder.receptive_field / self.encoder.stride)

    @property
    def title(self) -> str:
        """The names of the objective and the quantizer."""
        size = f" ({self.quantizer.num_codebooks} x {self.quantizer.codebook_size})" if self.num_codes else ""
        return f"{class_name(self)} with {type(self.quantizer).__name__}{size}"

    @property
    def num_codes(self) -> int:
        """Entries of all codebooks, G V; 0 without codebooks."""
        return self.quantizer.num_codebooks * self.quantizer.codebook_size

    def resize_to_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Checks that a checkpoint is not of a fine-tuning; nothing is resized.

        Raises:
            ValueError: The checkpoint is that of a fine-tuning.
        """
        from w2vlab.modules.checkpoints.loading import PRETRAINED

        if PRETRAINED in checkpoint:
            raise ValueError(
                "`ckpt_path` must be a checkpoint of a pretraining, but is one of a fine-tuning. Resume from the "
                "checkpoint that the fine-tuning started from, its --model.checkpoint."
            )
