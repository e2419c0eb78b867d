"""What the pretraining objectives have in common: terms, their normalisation, optimisation, logging."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import lightning.pytorch as pl
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MeanMetric, Metric

from w2vlab.distributed import all_reduce_sum, rank, world_size
from w2vlab.functional.codebooks import count_codes, sum_probabilities
from w2vlab.functional.lengths import make_padding_mask, mean_per_utterance
from w2vlab.interfaces import (
    ContextNetwork,
    FeatureEncoder,
    LearnsByStatistics,
    Penalty,
    PredictionLoss,
    Quantizer,
    StepDependent,
)
from w2vlab.metrics import AudioRate, CodebookMeter, codebook_statistics
from w2vlab.modules.loading import read_checkpoint
from w2vlab.types import AudioBatch, Encoding, PretrainOutput, QuantizerOutput, RandomAddress


@dataclass
class TrainingStep:
    """One forward pass of training, for callbacks that look inside.

    Attributes:
        batch: The micro-batch.
        output: Everything computed from it.
        terms: The weighted terms of the objective, `()` each, with their graph until the backward pass.
    """

    batch: AudioBatch
    output: PretrainOutput
    terms: dict[str, Tensor]


class PretrainingModule(pl.LightningModule, ABC):
    """Base of the pretraining objectives; a subclass assembles parts and says what is predicted from what.

    **Normalisation.** `training_step` returns a *sum* over the predictions of its micro-batch. Before the optimiser
    steps, gradients are divided once by the number of predictions of all processes and accumulation steps, so the
    update is the mean over all of them, however they were laid out. Every other term counts in proportion: an
    utterance's mean times its number of predictions.

    **Randomness.** Masks and negatives have an address (seed, update, utterance). Noise drawn on the device (Gumbel,
    dropout) comes from the default generator, seeded anew for every micro-batch by (seed, update, micro-batch, rank).

    Args:
        optimizer: Builds the optimiser from the parameters.
        scheduler: Builds the learning-rate schedule, stepped once an update.
        penalties: Builds the further terms of the objective, by their names in the logs.
        seed: Seed of every random draw of the run.
    """

    encoder: FeatureEncoder
    context: ContextNetwork
    quantizer: Quantizer
    loss: PredictionLoss

    def __init__(
        self,
        optimizer: OptimizerCallable,
        scheduler: LRSchedulerCallable,
        penalties: dict[str, Penalty],
        seed: int,
    ) -> None:
        super().__init__()
        if seed < 0:
            raise ValueError(f"`seed` must not be negative, but is {seed}.")
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.penalties = nn.ModuleDict(penalties)
        self.seed = seed
        self.run_config: dict[str, Any] | None = None
        """The resolved configuration that built this module, if one did; saved in its checkpoints."""
        self.codebook_counts: Tensor | None = None
        """How often each entry was chosen in the last validation, `(G, V)`, on the host."""
        self.num_candidates: int | None = None
        """Candidates 1 + K of a prediction, known after the first one; chance is one over it."""
        self.keep_step = False
        """Whether `step` is kept; a callback that looks inside sets it."""
        self.step: TrainingStep | None = None
        """What the last forward pass of training computed, until its batch ends."""
        self._meters: dict[str, Metric] = {}
        self.audio_rate = AudioRate()
        self._update_predictions = 0
        self._micro_batch = 0

    @abstractmethod
    def forward(self, batch: AudioBatch, address: RandomAddress) -> PretrainOutput:
        """Computes one batch, with masks and negatives drawn at `address`."""

    @abstractmethod
    def encode(self, batch: AudioBatch) -> Encoding:
        """Returns the latents of a batch, before anything is masked or quantized."""

    def quantize(self, batch: AudioBatch) -> QuantizerOutput:
        """Quantizes every frame of a batch, as the targets are; in evaluation it draws nothing."""
        encoding = self.encode(batch)
        output: QuantizerOutput = self.quantizer(encoding.latents, encoding.padding_mask)
        return output

    def _encoding(self, features: Tensor, latents: Tensor, batch: AudioBatch) -> Encoding:
        num_frames = tuple(self.encoder.num_frames(samples) for samples in batch.num_samples)
        return Encoding(features, latents, num_frames, make_padding_mask(num_frames, latents.shape[1], latents.device))

    @property
    @abstractmethod
    def min_frames(self) -> int:
        """The fewest latents of an utterance that this objective can be trained on."""

    @property
    def min_samples(self) -> int:
        """The shortest utterance, in samples, that this model can be trained on."""
        return self.encoder.receptive_field + (self.min_frames - 1) * self.encoder.stride

    @property
    def frame_overlap(self) -> int:
        """Frames ahead at which two latents share no audio."""
        return math.ceil(self.encoder.receptive_field / self.encoder.stride)

    def objective_terms(self, output: PretrainOutput) -> dict[str, Tensor]:
        """Returns every weighted term of the objective, summed over the predictions of the batch, `()` each."""
        counts = torch.tensor(output.prediction.counts, dtype=torch.float32)
        counts = counts.to(output.context.device, non_blocking=True)  # (B,)
        terms = {self.loss.name: output.prediction.total}
        for name, values in output.targets.losses.items():
            terms[name] = (mean_per_utterance(values, output.target_padding) * counts).sum()
        if output.inputs is not None:
            padding = make_padding_mask(output.num_frames, output.features.shape[1], output.features.device)
            for name, values in output.inputs.losses.items():
                terms[f"input_{name}"] = (mean_per_utterance(values, padding) * counts).sum()
        for name, penalty in self.penalties.items():
            terms[name] = (penalty(output) * counts).sum() * penalty.weight
        return terms

    def set_update(self, update: int) -> None:
        """Brings every part that depends on the number of updates to its state after `update` of them."""
        for module in self.modules():
            if isinstance(module, StepDependent):
                module.set_update(update, self.seed)

    def on_train_start(self) -> None:
        """Starts the clock of the audio rate."""
        self.audio_rate.restart()

    def training_step(self, batch: AudioBatch, batch_idx: int) -> Tensor:
        """Returns the objective summed over the predictions of one micro-batch."""
        update = self.global_step
        self.set_update(update)
        torch.manual_seed(_device_seed(self.seed, update, self._micro_batch, rank()))
        output = self(batch, RandomAddress(self.seed, update, batch.ids))
        terms = self.objective_terms(output)
        if self.keep_step:
            self.step = TrainingStep(batch, output, terms)
        self._micro_batch += 1
        self._update_predictions += sum(output.prediction.counts)
        self._log_training(batch, output, terms)
        return torch.stack(list(terms.values())).sum()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Divides the gradients by the number of predictions that they are the sum over."""
        predictions = all_reduce_sum(self._on_device(self._update_predictions))
        # Undo the mean over processes that DDP takes and the one over micro-batches that the trainer takes.
        scale = world_size() * self.trainer.accumulate_grad_batches / predictions.clamp(min=1)
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        torch._foreach_mul_(gradients, scale)
        for module in self.modules():
            if isinstance(module, LearnsByStatistics):
                module.finish_update(self.global_step)
        self._update_predictions = 0
        self._micro_batch = 0
        self.log("train/gradient_norm", torch.nn.utils.get_total_norm(gradients))

    def on_train_batch_end(self, outputs: Any, batch: AudioBatch, batch_idx: int) -> None:
        """Logs the speed, and lets go of what was kept of the step."""
        self.step = None
        self.audio_rate.add(batch.seconds)
        self.log("train/audio_seconds_per_second", self.audio_rate.read() * world_size(), batch_size=len(batch))

    def _log_training(self, batch: AudioBatch, output: PretrainOutput, terms: dict[str, Tensor]) -> None:
        self.num_candidates = output.prediction.num_candidates
        count = sum(output.prediction.counts)
        sums = [*terms.values(), output.prediction.num_correct]
        with torch.no_grad():
            stacked = torch.stack([value.float() for value in sums] + [self._on_device(count)])
            stacked = all_reduce_sum(stacked)
            *means, accuracy = stacked[:-1] / stacked[-1].clamp(min=1)
        values: dict[str, Tensor | float] = {f"loss/{name}": mean for name, mean in zip(terms, means, strict=True)}
        values["loss/total"] = torch.stack(means).sum()
        values["accuracy"] = accuracy
        values |= output.prediction.metrics
        values |= {f"codebook/{name}": value for name, value in self._codebook_statistics(output).items()}
        if output.mask is not None:
            values["masked_fraction"] = sum(output.mask.num_targets) / sum(output.num_frames)
        for module in self.modules():
            if isinstance(module, StepDependent):
                values |= module.scheduled_values(self.global_step)
        self.log_dict({f"train/{name}": value for name, value in values.items()}, batch_size=len(batch))

    def _on_device(self, number: int) -> Tensor:
        # Filling is queued on the device; copying a tensor made of a number there would wait for it.
        return torch.full((), float(number), device=self.device)

    def _codebook_statistics(self, output: PretrainOutput) -> dict[str, Tensor]:
        if not self.quantizer.num_codebooks:
            return {}
        targets, padding = output.targets, output.target_padding
        with torch.no_grad():
            counts = all_reduce_sum(count_codes(targets.assignment, self.quantizer.codebook_size, padding))
            probabilities = None
            if targets.probabilities is not None:
                probabilities = all_reduce_sum(sum_probabilities(targets.probabilities, padding))
            return codebook_statistics(counts, probabilities)

    def on_validation_epoch_start(self) -> None:
        """Starts the counts of a validation anew."""
        self.set_update(self.global_step)
        self._meters = {}

    def validation_step(self, batch: AudioBatch, batch_idx: int) -> None:
        """Adds one batch to the counts; its masks and negatives are the same in every validation."""
        output = self(batch, RandomAddress(self.seed, 0, batch.ids, stream="validation"))
        self.num_candidates = output.prediction.num_candidates
        count = sum(output.prediction.counts)
        means = {f"loss/{name}": value / count for name, value in self.objective_terms(output).items()}
        means["loss/total"] = torch.stack(list(means.values())).sum()
        means["accuracy"] = output.prediction.num_correct / count
        for name, mean in (means | output.prediction.metrics).items():
            self._meter(name, MeanMetric).update(mean, count)
        if self.quantizer.num_codebooks:
            shape = self.quantizer.num_codebooks, self.quantizer.codebook_size
            self._meter("codebook", lambda: CodebookMeter(*shape)).update(output.targets, output.target_padding)

    def _meter(self, name: str, build: Callable[[], Metric]) -> Metric:
        if name not in self._meters:
            self._meters[name] = build().to(self.device)
        return self._meters[name]

    def on_validation_epoch_end(self) -> None:
        """Logs the means over all validation batches of all processes."""
        meters = dict(self._meters)
        codebook = meters.pop("codebook", None)
        values = {name: meter.compute() for name, meter in meters.items()}
        if isinstance(codebook, CodebookMeter):
            values |= {f"codebook/{name}": value for name, value in codebook.compute().items()}
            self.codebook_counts = all_reduce_sum(codebook.counts).cpu()
        # They are the same on all processes already; `sync_dist` keeps Lightning from warning that they may not be.
        self.log_dict({f"val/{name}": value for name, value in values.items()}, sync_dist=True)
        self.audio_rate.restart()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Builds the optimiser and its schedule, stepped once an update."""
        optimizer = self.make_optimizer(p for p in self.parameters() if p.requires_grad)
        scheduler = self.make_scheduler(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the configuration that built the model, as plain data."""
        if self.run_config is not None:
            checkpoint["w2vlab_config"] = self.run_config

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: Any,
        map_location: Any = None,
        hparams_file: Any = None,
        strict: bool | None = None,
        weights_only: bool | None = True,
        **kwargs: Any,
    ) -> Self:
        """Rebuilds the module from the configuration in its checkpoint and loads its weights.

        A module that was built in Python has no configuration: give its parts as keyword arguments, as in Lightning.

        Raises:
            ValueError: The file is not a whole checkpoint.
        """
        checkpoint = read_checkpoint(checkpoint_path, map_location)
        config = checkpoint.get("w2vlab_config")
        if kwargs or config is None:
            return super().load_from_checkpoint(
                checkpoint_path, map_location, hparams_file, strict, weights_only, **kwargs
            )
        parser = ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(cls, "model")
        module: Self = parser.instantiate_classes(parser.parse_object({"model": config["model"]})).model
        module.run_config = config
        module.load_state_dict(checkpoint["state_dict"], strict=strict is not False)
        return module


def _device_seed(seed: int, update: int, micro_batch: int, process: int) -> int:
    key = f"{seed}/{update}/{micro_batch}/{process}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1
