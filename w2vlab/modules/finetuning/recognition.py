"""A pretrained model with a linear layer that scores the units of transcripts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Any, Self

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.optim import Optimizer

from w2vlab.functional.ctc import log_probabilities
from w2vlab.functional.gradients import with_zero_gradients
from w2vlab.functional.kernels import Dropout
from w2vlab.interfaces import ContextNetwork, Masking
from w2vlab.modules.checkpoints.loading import PRETRAINED, VOCABULARY
from w2vlab.modules.finetuning.pretrained import Pretrained
from w2vlab.modules.frontend import Frontend
from w2vlab.modules.representations import Representations
from w2vlab.modules.update import TrainedModule
from w2vlab.types import AudioBatch, RandomAddress
from w2vlab.vocabulary import Units, Vocabulary


@dataclass
class Recognition:
    """The output of a forward pass.

    Attributes:
        log_probabilities: Log-probabilities of the V entries of the vocabulary at each frame, shape `(B, T, V)`.
        num_frames: Number of frames of each utterance, B integers.
    """

    log_probabilities: Tensor
    num_frames: tuple[int, ...]


class Recognizer(TrainedModule, Representations):
    """Base class of models that recognize units from the contexts of a pretrained model; a subclass adds the loss.

    The linear layer is built when the vocabulary is known, before the optimizer.

    Args:
        pretrained: The model to fine-tune.
        units: The units of the transcripts.
        masking: Masks frames and channels in training.
        freeze_updates: Number of first updates in which only the linear layer is trained.
        train_encoder: Whether the encoder is trained as well, after `freeze_updates`.
        dropout: Dropout of the contexts before the linear layer.
        optimizer: Builds the optimizer from the parameters.
        scheduler: Builds the learning-rate schedule, stepped once an update.
        seed: Seed of every random draw of the run.

    Raises:
        ValueError: The encoder cannot be trained.
    """

    targets_follow_clean_audio = True  # transcripts

    def __init__(
        self,
        pretrained: Pretrained,
        units: Units,
        masking: Masking,
        freeze_updates: int,
        train_encoder: bool,
        dropout: float,
        optimizer: OptimizerCallable,
        scheduler: LRSchedulerCallable,
        seed: int,
    ) -> None:
        super().__init__(optimizer, scheduler, seed)
        self.units = units
        self.pretrained_config = pretrained.config
        self.frontend = pretrained.frontend
        self.context = pretrained.context
        self.masking = masking
        embedding = pretrained.mask_embedding
        self.mask_embedding = nn.Parameter(torch.rand(self.context.model_dim) if embedding is None else embedding)
        self.dropout = Dropout(dropout)
        self.register_module("head", None)
        self.vocabulary: Vocabulary | None = None
        """The units that the model recognizes; None until the data is set up."""
        self.freeze_updates = freeze_updates
        self.frozen = freeze_updates > 0
        """Whether only the linear layer is trained in the current update."""
        if self.frontend.is_discrete and train_encoder:
            raise ValueError(
                "`train_encoder` must be false if the inputs of the context network are codes, because they have no "
                "gradient, but is true (the default with `reinitialise`)."
            )
        self.train_encoder = train_encoder
        self.frontend.encoder.requires_grad_(train_encoder)
        if self.frontend.is_discrete:
            self.frontend.requires_grad_(False)

    def input_frontend(self) -> Frontend:
        """Returns the parts before the context network."""
        return self.frontend

    def target_frontend(self) -> Frontend:
        """Returns the same: the only codes of a fine-tuned model are the inputs of its context network."""
        return self.frontend

    def context_network(self) -> ContextNetwork:
        """Returns the context network."""
        return self.context

    @property
    def min_samples(self) -> int:
        """The shortest utterance that can be masked, in samples."""
        encoder = self.frontend.encoder
        return encoder.receptive_field + (self.masking.min_frames - 1) * encoder.stride

    def learning_parts(self) -> Iterator[nn.Module]:
        """Yields all modules but the quantizer, which is not trained."""
        return chain(self.frontend.encoder.modules(), self.context.modules())

    def train(self, mode: bool = True) -> Self:
        """Sets the training mode; parts that are never trained stay in evaluation mode."""
        super().train(mode)
        if not self.train_encoder:
            self.frontend.eval()
        return self

    def setup(self, stage: str) -> None:
        """Builds the vocabulary from the training transcripts, unless it is set.

        Raises:
            ValueError: The data has no transcripts.
        """
        if self.vocabulary is None:
            data: Any = getattr(self.trainer, "datamodule", None)
            if data is None:
                raise ValueError("`set_vocabulary` must be called before running a model without a data module.")
            assert self.units is not None, "the constructor has them"
            self.set_vocabulary(Vocabulary.of(self.units, data.training_transcripts()))

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Builds a new linear layer for the units of `vocabulary`.

        Args:
            vocabulary: The vocabulary.

        Raises:
            ValueError: Its units are not `units`.
        """
        if vocabulary.units != self.units:
            raise ValueError(
                f"`units` must be {vocabulary.units}, as in the checkpoint, but is {self.units}; start a new run "
                "without --ckpt_path."
            )
        if vocabulary == self.vocabulary:
            return
        self.vocabulary = vocabulary
        head = nn.Linear(self.context.output_dim, len(vocabulary), device=self.device)
        generator = torch.Generator().manual_seed(self.seed)
        with torch.no_grad():
            weight = torch.empty(head.weight.shape, dtype=head.weight.dtype)
            head.weight.copy_(nn.init.xavier_uniform_(weight, generator=generator))  # as published
            head.bias.zero_()
        self.head = head

    def resize_to_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Sets the vocabulary of a checkpoint, and resizes the linear layer to it.

        Args:
            checkpoint: The loaded checkpoint.

        Raises:
            ValueError: The checkpoint has no vocabulary.
        """
        if VOCABULARY not in checkpoint:
            raise ValueError(
                "`ckpt_path` must be a checkpoint of a fine-tuning, but has no vocabulary. To fine-tune a pretrained "
                "model, use --model.checkpoint."
            )
        self.set_vocabulary(Vocabulary.from_dict(checkpoint[VOCABULARY]))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the pretrained configuration and the vocabulary, so that the checkpoint loads without other files."""
        checkpoint[PRETRAINED] = self.pretrained_config
        if self.vocabulary is not None:
            checkpoint[VOCABULARY] = self.vocabulary.as_dict()
        super().on_save_checkpoint(checkpoint)  # last, because it removes entries that are not plain data

    def set_update(self, update: int) -> None:
        """Freezes or unfreezes the pretrained parts."""
        super().set_update(update)
        self.frozen = update < self.freeze_updates

    def forward(self, batch: AudioBatch, address: RandomAddress | None = None) -> Recognition:
        """Computes one batch.

        Args:
            batch: Utterances, each of at least `min_samples` samples.
            address: Address of the random draws of masks; None does not mask.
        """
        with torch.no_grad() if self.frozen else nullcontext():
            # Encode, and mask spans of the inputs.
            encoding = self.frontend(batch)
            frames = self.context.project(encoding.latents)
            if address is not None:
                mask = self.masking(encoding.num_frames, address.generators("mask"), self.context.model_dim)
                frames = mask.to(frames.device).hide(frames, self.mask_embedding)  # (B, T, model_dim)
            context = self.context(frames, encoding.padding_mask)  # (B, T, D)
        if self.frozen and torch.is_grad_enabled():
            context = with_zero_gradients(context, self._pretrained_parameters())

        # Score the units.
        logits = self.head(self.dropout(context))  # (B, T, V)
        return Recognition(log_probabilities(logits), encoding.num_frames)

    def _pretrained_parameters(self) -> list[Tensor]:
        """Returns the parameters that are trained only after `freeze_updates`."""
        parameters = chain(self.frontend.parameters(), self.context.parameters(), [self.mask_embedding])
        return [parameter for parameter in parameters if parameter.requires_grad]

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Also removes the gradients of frozen parameters, so that weight decay does not change them."""
        super().on_before_optimizer_step(optimizer)
        if self.frozen:
            for parameter in self._pretrained_parameters():
                parameter.grad = None
