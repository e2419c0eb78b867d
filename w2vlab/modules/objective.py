"""What the pretraining objectives compute: parts, what comes before the context network, and the terms of the loss."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from w2vlab.functional.lengths import make_padding_mask, mean_per_utterance
from w2vlab.interfaces import ContextNetwork, FeatureEncoder, Penalty, PredictionLoss, Quantizer
from w2vlab.modules.frontend import Frontend
from w2vlab.modules.trained import TrainedModule
from w2vlab.modules.whole_update import WholeUpdate, whole_update_penalties
from w2vlab.types import AudioBatch, Encoding, Prepared, PretrainOutput, QuantizerOutput, RandomAddress


class Objective(TrainedModule):
    """Base of what is computed in a step; a subclass assembles parts and says what is predicted from what.

    Args:
        optimizer: Builds the optimiser from the parameters.
        scheduler: Builds the learning-rate schedule, stepped once an update.
        penalties: The further terms of the objective, by their names in the logs.
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
        super().__init__(optimizer, scheduler, seed)
        self.penalties = nn.ModuleDict(penalties)

    @abstractmethod
    def forward(self, batch: AudioBatch, address: RandomAddress) -> PretrainOutput:
        """Computes one batch, with masks and negatives drawn at `address`."""

    @abstractmethod
    def prepare(self, batch: AudioBatch, address: RandomAddress) -> Prepared:
        """Computes what comes before the context network; `forward` begins with it."""

    @abstractmethod
    def encode(self, batch: AudioBatch) -> Encoding:
        """Returns the latents of a batch, before anything is masked or quantized."""

    def visible(self, encoding: Encoding) -> Tensor:
        """Returns what the context network projects and sees where nothing is hidden, `(B, T, ...)`."""
        return encoding.latents

    @abstractmethod
    def frontend(self) -> Frontend:
        """Returns the parts before the context network, to be trained further without this objective."""

    def quantize(self, batch: AudioBatch, encoding: Encoding | None = None) -> QuantizerOutput:
        """Quantizes every frame of a batch, as the targets are; in evaluation it draws nothing.

        Args:
            batch: Utterances.
            encoding: What `encode` returned for them; None computes it.
        """
        encoding = self.encode(batch) if encoding is None else encoding
        output: QuantizerOutput = self.quantizer(encoding.latents, encoding.padding_mask)
        return output

    @property
    @abstractmethod
    def first_ahead(self) -> int:
        """Frames from a context to the nearest target that it cannot have seen, as in `LossInputs`."""

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

    @property
    def looks_ahead(self) -> bool:
        """Whether an update of several micro-batches must be known as a whole before its first backward pass."""
        return bool(whole_update_penalties(self.penalties))

    def objective_terms(self, output: PretrainOutput, whole: WholeUpdate | None = None) -> dict[str, Tensor]:
        """Returns every weighted term of the objective, summed over the predictions of the batch, `()` each.

        Args:
            output: What `forward` returned.
            whole: Sums over the update that the batch belongs to; None where the batch is all of it.
        """
        counts = torch.tensor(output.prediction.num_predictions, dtype=torch.float32)
        counts = counts.to(output.context.device, non_blocking=True)  # (B,)
        terms = {self.loss.name: output.prediction.total}
        for name, values in output.targets.losses.items():
            terms[name] = (mean_per_utterance(values, output.target_padding_mask) * counts).sum()
        if output.inputs is not None:
            padding = make_padding_mask(output.num_frames, output.features.shape[1], output.features.device)
            for name, values in output.inputs.losses.items():
                terms[f"input_{name}"] = (mean_per_utterance(values, padding) * counts).sum()
        joint = {} if whole is None else whole_update_penalties(self.penalties)
        for name, penalty in self.penalties.items():
            if whole is not None and name in whole.statistics:
                terms[name] = whole.term(name, joint[name], output)
            else:
                terms[name] = (penalty(output) * counts).sum() * penalty.weight
        return terms
