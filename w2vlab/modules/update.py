"""One update, from a batch to the optimiser's step, in the order in which Lightning calls it."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer

from w2vlab.interfaces import LearnsByStatistics, StepDependent
from w2vlab.modules.micro_batches import check_order, micro_batches_of_update
from w2vlab.modules.non_finite import SkippedUpdates, check_optimizers, gradient_norm, skip_unless
from w2vlab.modules.sums import Sums
from w2vlab.types import AudioBatch, Mask, RandomAddress
from w2vlab.utils.distributed import AsyncCount, rank, world_size
from w2vlab.vocabulary import Units


@dataclass(frozen=True)
class Draws:
    """What is drawn and counted on the host for one micro-batch, before anything is computed from it.

    Attributes:
        address: Where the random draws of the micro-batch come from.
        num_predictions: Predictions of the micro-batch.
        mask: What is hidden, on the host; None if nothing is, or if the forward pass draws it.
    """

    address: RandomAddress
    num_predictions: int
    mask: Mask | None = None


class TrainedModule(pl.LightningModule, ABC):
    """Base of everything that `w2vlab fit` trains; a subclass says what is predicted, and what that costs.

    Lightning calls `training_step` and the backward pass for each micro-batch of an update, then
    `on_before_optimizer_step`, gradient clipping and the optimiser's step.

    **Normalisation.** The loss of a micro-batch is a sum over predictions, divided by the number of predictions in the
    global batch: in all micro-batches of the update, on all processes. The host counts them before the first forward
    pass, from lengths and masks. So gradients are those of the mean however the batch is split, and never rescaled.

    **Randomness.** Noise drawn on the device (Gumbel, dropout) comes from the default generator, seeded for every
    micro-batch by (seed, update, number of the micro-batch in the global batch), so it does not depend on the number
    of processes either.

    **Non-finite values.** All processes skip an update whose loss or gradient is not finite (`skipped`).

    Args:
        optimizer: Builds the optimiser from the parameters.
        scheduler: Builds the learning-rate schedule, stepped once an update.
        seed: Seed of every random draw of the run.

    Raises:
        ValueError: The seed is negative.
    """

    units: Units | None = None
    """The units of the transcripts to learn from; None if no transcripts are needed."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Records the arguments of the constructor, from which a checkpoint rebuilds the module."""
        from w2vlab.modules.checkpointing import record_arguments

        return record_arguments(super().__new__(cls), args, kwargs)

    def __init__(self, optimizer: OptimizerCallable, scheduler: LRSchedulerCallable, seed: int) -> None:
        super().__init__()
        if seed < 0:
            raise ValueError(f"`seed` must not be negative, but is {seed}.")
        self.seed = seed
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.run_config: dict[str, Any] | None
        """The resolved configuration of the run, or of a model built in Python; saved in its checkpoints."""
        self.codebook_counts: Tensor | None = None
        """How often each entry was chosen in the last validation, `(G, V)`, on the host."""
        self.num_candidates: int | None = None
        """Candidates 1 + K of a prediction, known after the first one; chance is one over it."""
        self.examples: list[tuple[str, str, str]] = []
        """Id, transcript and hypothesis of some utterances of the last validation of this process."""
        self.skipped = SkippedUpdates()
        """Updates that were skipped because a loss or a gradient was not finite."""
        self._reset_update()

    def _reset_update(self) -> None:
        self._draws: list[Draws] = []  # one for each micro-batch of this process
        self._losses: list[Tensor] = []  # of the micro-batches so far
        self._sums: Sums | None = None

    def on_train_start(self) -> None:
        """Discards what is left of an interrupted update.

        Raises:
            ValueError: The optimiser cannot be used with this precision.
        """
        check_optimizers(self.trainer)
        self._reset_update()
        for learner in self._learners():
            learner.forget_update()

    def training_step(self, batch: AudioBatch, batch_idx: int) -> Tensor:
        """Returns the loss of a micro-batch, divided by the number of predictions in the global batch.

        Raises:
            ValueError: The batches do not bring the update that they belong to.
        """
        number = len(self._losses)
        if number == 0:
            self.set_update(self.global_step)
            self.begin_update(micro_batches_of_update(batch, batch_idx, self.trainer))
        check_order(batch.ids, tuple(draws.address.ids for draws in self._draws), number)
        self._seed_noise(number)
        total, metrics = self.compute_loss(batch, self._draws[number])
        self._accumulate_metrics(metrics, total.detach())
        mean = total / self._num_predictions.wait().clamp(min=1)
        # DDP takes the mean of the gradients over processes, and the trainer that of the losses over micro-batches.
        return mean * (world_size() * self.trainer.accumulate_grad_batches)

    def set_update(self, update: int) -> None:
        """Moves every part that depends on the number of updates to its state after `update` of them."""
        for module in self.learning_parts():
            if isinstance(module, StepDependent):
                module.set_update(update, self.seed)

    def begin_update(self, batches: Sequence[AudioBatch]) -> None:
        """Draws for all micro-batches of an update, and counts the predictions of all processes."""
        self._draws = [
            self.draw(batch, RandomAddress(seed=self.seed, update=self.global_step, ids=batch.ids)) for batch in batches
        ]
        self._num_predictions = AsyncCount(sum(draws.num_predictions for draws in self._draws), self.device)

    def _seed_noise(self, micro_batch: int) -> None:
        number = micro_batch * world_size() + rank()
        key = f"{self.seed}/{self.global_step}/{number}".encode()
        torch.manual_seed(int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1)

    @abstractmethod
    def draw(self, batch: AudioBatch, address: RandomAddress) -> Draws:
        """Draws for a micro-batch and counts its predictions, from its lengths, ids and transcripts alone."""

    @abstractmethod
    def compute_loss(self, batch: AudioBatch, draws: Draws) -> tuple[Tensor, dict[str, Tensor | float]]:
        """Returns the loss summed over predictions, `()`, and what is summed over the global batch for the logs."""

    def _accumulate_metrics(self, metrics: Mapping[str, Tensor | float], total: Tensor) -> None:
        self._sums = self._sums or Sums(self.device)
        with torch.no_grad():
            self._sums.add({**metrics, "bad_losses": ~total.isfinite()})
        self._losses.append(total)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Skips the update unless it is finite, lets codebooks learn from its statistics, and logs it."""
        assert self._sums is not None, "an update has a micro-batch"
        sums = self._sums.over_processes()
        norm = gradient_norm(optimizer)
        finite = norm.isfinite() & (sums["bad_losses"] == 0)
        skip_unless(finite, optimizer)
        self.skipped.record(finite, self._losses, sums["bad_losses"], [draws.address.ids for draws in self._draws])
        for learner in self._learners():
            learner.finish_update(self.global_step, skipped=~finite)
        self._log_update(sums, norm)
        self._reset_update()

    def learning_parts(self) -> Iterator[nn.Module]:
        """Yields the modules that change with the updates: by a schedule, or by statistics."""
        return self.modules()

    def _learners(self) -> Iterator[LearnsByStatistics]:
        return (module for module in self.learning_parts() if isinstance(module, LearnsByStatistics))

    def _log_update(self, sums: dict[str, Tensor], norm: Tensor) -> None:
        values = {**self.logged_means(sums), "gradient_norm": norm}
        for module in self.learning_parts():
            if isinstance(module, StepDependent):
                scheduled = module.scheduled_values(self.global_step)
                # Filling is queued on the device; the trainer would copy a number there, and wait.
                values |= {name: torch.full((), value, device=self.device) for name, value in scheduled.items()}
        self.log_dict({f"train/{name}": value for name, value in values.items()}, batch_size=1)

    @abstractmethod
    def logged_means(self, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns what is logged of an update, from the sums over its global batch."""

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Builds the optimiser and its schedule, stepped once an update."""
        optimizer = self.make_optimizer(p for p in self.parameters() if p.requires_grad)
        scheduler = self.make_scheduler(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    @property
    @abstractmethod
    def min_samples(self) -> int:
        """The shortest utterance, in samples, that this model can be trained on."""

    @property
    @abstractmethod
    def title(self) -> str:
        """What is trained, in a few words, for the report."""

    @property
    def num_codes(self) -> int:
        """Entries of all codebooks, G V; 0 without codebooks."""
        return 0

    @property
    def error_rates(self) -> Mapping[str, str]:
        """The unit of each error rate of a validation, by its name in the logs; empty if none are logged."""
        return {}

    # Saving and loading are in `checkpointing.py` and `resuming.py`.

    def on_fit_start(self) -> None:
        """Warns of arguments of the constructor that the checkpoints of this run cannot hold."""
        from w2vlab.modules.checkpointing import warn_of_unsaved_arguments

        if self.trainer.checkpoint_callbacks:
            warn_of_unsaved_arguments(self)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the configuration of the model, and rewinds the progress to the last whole update."""
        from w2vlab.modules.checkpointing import complete_checkpoint

        complete_checkpoint(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Overrides the options in a checkpoint by those of this run."""
        from w2vlab.modules.checkpoints.resuming import apply_overrides

        self.resize_to_checkpoint(checkpoint)
        apply_overrides(checkpoint, self)

    def resize_to_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Resizes what depends on the data to its shape in a checkpoint, before weights are loaded."""

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Self:
        """Rebuilds a module from its checkpoint; the arguments are those of `checkpointing.load_module`."""
        from w2vlab.modules.checkpointing import load_module

        return load_module(cls, checkpoint_path, *args, **kwargs)

    @classmethod
    def arguments_from(cls, checkpoint: Mapping[str, Any], path: Any) -> dict[str, Any]:
        """Returns arguments of the constructor that a checkpoint holds beside its configuration."""
        return {}
