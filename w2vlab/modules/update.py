"""One update, from a batch to the optimizer step, in the order of Lightning's calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Self

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer

from w2vlab.functional.kernels import free_copies, keep_copies
from w2vlab.interfaces import LearnsByStatistics, StepDependent
from w2vlab.modules.checkpoints.initial_weights import WarmStart
from w2vlab.modules.fusing.micro_batches import check_order, ids_of, micro_batches_of_update
from w2vlab.modules.fusing.passes import Fusing
from w2vlab.modules.non_finite import SkippedUpdates, check_optimizers, gradient_norm, skip_unless
from w2vlab.modules.sums import DELIVERED, DeliveredAudio, Sums
from w2vlab.types import AudioBatch, Draws, RandomAddress
from w2vlab.utils.distributed import AsyncCount, world_size
from w2vlab.vocabulary import Units


class TrainedModule(pl.LightningModule, ABC):
    """Base of all modules that `w2vlab fit` trains; a subclass defines the draws and the loss of a micro-batch.

    For each micro-batch of an update, Lightning calls `training_step` and runs the backward pass; then it calls
    `on_before_optimizer_step`, clips the gradients, and runs the optimizer step.

    **Normalization.** The loss of a micro-batch is a sum over predictions, divided by the number of predictions in the
    global batch: in all micro-batches of the update, on all processes. The host counts them before the first forward
    pass, from lengths and masks. So the gradients are those of the mean over the global batch, however it is split.

    **Randomness.** Noise drawn on the device (Gumbel, dropout) comes from the default generator, seeded for every
    micro-batch by (seed, update, index of the micro-batch in the global batch), so it does not depend on the number
    of processes. Micro-batches that are computed as one batch draw from a generator each (`fuses_micro_batches`).

    **Non-finite values.** All processes skip an update whose loss or gradient is not finite (`skipped`).

    Args:
        optimizer: Builds the optimizer from the parameters.
        scheduler: Builds the learning-rate schedule, stepped once an update.
        seed: Seed of every random draw of the run.

    Raises:
        ValueError: The seed is negative.
    """

    units: Units | None = None
    """The units of the transcripts; None if the module needs no transcripts."""

    targets_follow_clean_audio: ClassVar[bool] = False
    """Whether the targets of mixed utterances are those of their clean audio: from `AudioBatch.clean`, or of a file."""

    fuses_micro_batches: ClassVar[bool] = False
    """Whether `compute_loss` takes several micro-batches as one batch, and gives the sum of their losses."""

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
        self.warm_start: WarmStart | None = None
        """What was loaded from `init_from`; None if all weights are new, or are those of a checkpoint."""
        self.units_of_run: dict[str, tuple[str, str]] = {}
        """Hashes of the run's utterances and of their units, by the part that reads them; saved in checkpoints."""
        self.codebook_counts: Tensor | None = None
        """Counts of the chosen entries in the last validation, `(G, V)`, on the host."""
        self.num_candidates: int | None = None
        """Candidates 1 + K of a prediction, known after the first forward pass; chance is `1 / num_candidates`."""
        self.examples: list[tuple[str, str, str]] = []
        """Id, transcript and hypothesis of some utterances of the last validation of this process."""
        self.skipped = SkippedUpdates()
        """Updates that were skipped because a loss or a gradient was not finite."""
        self.fusing = Fusing()
        """Whether several micro-batches are computed as one batch, and their noise."""
        self.delivered = DeliveredAudio()
        """Audio of each corpus of a mixture in the updates so far."""
        self._reset_update()

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets an attribute; one that Lightning sets all the time is not searched for among parameters and modules."""
        if name == "_current_fx_name":  # before and after each hook, 30 times a micro-batch
            vars(self)[name] = value
        else:
            super().__setattr__(name, value)

    def _reset_update(self) -> None:
        free_copies(self)
        self._draws: list[list[Draws]] = []  # of all batches of this process in the update, of each pass
        self._ids: list[tuple[str, ...]] = []  # utterances of these batches
        self._losses: list[Tensor] = []  # of its batches so far
        self._sums: Sums | None = None  # metrics of its batches so far

    def on_train_start(self) -> None:
        """Discards the state of an interrupted update.

        Raises:
            ValueError: The optimizer cannot be used with this precision.
        """
        check_optimizers(self.trainer)
        self._reset_update()
        for learner in self._learners():
            learner.forget_update()

    def training_step(self, batch: AudioBatch, batch_idx: int) -> Tensor:
        """Returns the loss of a micro-batch, or of several, divided by the number of predictions in the global batch.

        Raises:
            ValueError: The first batch does not hold the other micro-batches of its update, or others follow it.
        """
        number = len(self._losses)
        if number == 0:
            self.set_update(self.global_step)
            # `AudioBatch.update` of the first micro-batch holds all micro-batches of this process.
            self.begin_update(micro_batches_of_update(batch, batch_idx, self.trainer))
            if sum(map(len, self._draws)) > 1 and not getattr(self.trainer.strategy, "shards_weights", False):
                keep_copies(self)
        passes = self.fusing.passes(batch)
        check_order(tuple(name for one in passes for name in one.ids), self._ids, number)
        losses = []
        for one, draws in zip(passes, self._draws[number], strict=True):
            with self.fusing.noise(self, one, number):
                loss, metrics = self.compute_loss(one, draws)
            self._add_metrics(metrics)
            losses.append(loss)
        total = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
        self._losses.append(total.detach())
        self._add_metrics({**self.delivered.sums(batch), "bad_losses": ~total.detach().isfinite()})
        mean = total / self._num_predictions.wait().clamp(min=1)
        # DDP divides the gradients by the number of processes, and the trainer divides the loss by the number of
        # micro-batches. `mean` is a share of the mean over the global batch, so both divisions are undone.
        return mean * (world_size() * self.trainer.accumulate_grad_batches)

    def set_update(self, update: int) -> None:
        """Sets every part that depends on the number of updates (schedules, LayerDrop) to its state after `update`."""
        for module in self.learning_parts():
            if isinstance(module, StepDependent):
                module.set_update(update, self.seed)

    def begin_update(self, batches: Sequence[AudioBatch]) -> None:
        """Draws for all micro-batches of this process, and starts the sum of all predictions over the processes."""
        self.fusing.decide(self, batches)
        address = partial(RandomAddress, seed=self.seed, update=self.global_step)
        self._draws = [[self.draw(one, address(ids=one.ids)) for one in self.fusing.passes(batch)] for batch in batches]
        self._ids = ids_of(self._draws)
        count = sum(draws.num_predictions for passes in self._draws for draws in passes)
        self._num_predictions = AsyncCount(count, self.device)

    @abstractmethod
    def draw(self, batch: AudioBatch, address: RandomAddress) -> Draws:
        """Draws for a micro-batch and counts its predictions on the host, without its audio.

        Draws that came with the batch are returned if they are those that the module would make itself.
        """

    @abstractmethod
    def compute_loss(self, batch: AudioBatch, draws: Draws) -> tuple[Tensor, dict[str, Tensor | float]]:
        """Returns the loss summed over predictions, `()`, and the metrics to sum over the global batch for the logs."""

    def _add_metrics(self, metrics: Mapping[str, Tensor | float]) -> None:
        self._sums = self._sums or Sums(self.device)
        with torch.no_grad():
            self._sums.add(metrics)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Ends an update, after its last backward pass: skips it unless it is finite, updates moving averages, logs."""
        assert self._sums is not None, "an update has a micro-batch"
        sums = self._sums.over_processes()  # one all-reduce
        free_copies(self)  # all backward passes are done, and the step that follows changes the weights
        norm = gradient_norm(optimizer)
        finite = norm.isfinite() & (sums["bad_losses"] == 0)  # the same on all processes
        # Unless `finite`, the optimizer step changes nothing: a fused one is given `found_inf`, which it reads on the
        # device; any other one finds no gradients.
        skip_unless(finite, optimizer)
        self.skipped.record(finite, self._losses, sums["bad_losses"], self._ids)
        for learner in self._learners():
            learner.finish_update(self.global_step, skipped=~finite)  # the step that follows increments `global_step`
        self._log_update(sums, norm)
        self._reset_update()

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Runs the last micro-batch and the optimizer step, and frees the gradients.

        The trainer would free them after the next forward pass, so that they would be kept beside its activations.
        """
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        optimizer.zero_grad()

    def learning_parts(self) -> Iterator[nn.Module]:
        """Yields the modules among which `StepDependent` and `LearnsByStatistics` parts are found; by default all."""
        return self.modules()

    def _learners(self) -> Iterator[LearnsByStatistics]:
        return (module for module in self.learning_parts() if isinstance(module, LearnsByStatistics))

    def _log_update(self, sums: dict[str, Tensor], norm: Tensor) -> None:
        values = {**self.logged_means(sums), "gradient_norm": norm}
        for module in self.learning_parts():
            if isinstance(module, StepDependent):
                scheduled = module.scheduled_values(self.global_step)
                # `torch.full` is queued on the device; the trainer would copy a Python number there, and wait for it.
                values |= {name: torch.full((), value, device=self.device) for name, value in scheduled.items()}
        logged = {f"train/{name}": value for name, value in values.items()}
        self.log_dict({**logged, **self.delivered.add(sums)}, batch_size=1)

    @abstractmethod
    def logged_means(self, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the means to log of an update, from the sums over its global batch."""

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Builds the optimizer and its schedule, stepped once an update."""
        optimizer = self.make_optimizer(p for p in self.parameters() if p.requires_grad)
        scheduler = self.make_scheduler(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    @property
    @abstractmethod
    def min_samples(self) -> int:
        """Length of the shortest utterance in training, in samples."""

    @property
    @abstractmethod
    def title(self) -> str:
        """A short description of the model, for the report."""

    @property
    def num_codes(self) -> int:
        """Entries of all codebooks, G V; 0 without codebooks."""
        return 0

    @property
    def error_rates(self) -> Mapping[str, str]:
        """The unit of each error rate of a validation, by its name in the logs; empty if none are logged."""
        return {}

    # Saving and loading: the hooks are here, the code is in `checkpointing.py` and `checkpoints/`.

    def on_fit_start(self) -> None:
        """Checks augmentations and files of units, logs the warm start, and warns of arguments that are not saved.

        Raises:
            ValueError, RunError: As `check_start`.
        """
        from w2vlab.modules.checkpointing import check_start

        check_start(self)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the configuration of the model, and rewinds the progress to the last complete update."""
        from w2vlab.modules.checkpointing import complete_checkpoint

        complete_checkpoint(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Overrides the options in a checkpoint with those of this run."""
        from w2vlab.modules.checkpoints.resuming import apply_overrides
        from w2vlab.modules.checkpoints.unit_files import units_in

        self.resize_to_checkpoint(checkpoint)
        self.units_of_run = units_in(checkpoint)
        self.delivered.load_state_dict(checkpoint.get(DELIVERED))
        apply_overrides(checkpoint, self)

    def resize_to_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Resizes parameters whose shape depends on the data to those of a checkpoint, before weights are loaded."""

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Self:
        """Rebuilds a module from its checkpoint; the arguments are those of `checkpointing.load_module`."""
        from w2vlab.modules.checkpointing import load_module

        return load_module(cls, checkpoint_path, *args, **kwargs)

    @classmethod
    def arguments_from(cls, checkpoint: Mapping[str, Any], path: Any) -> dict[str, Any]:
        """Returns arguments of the constructor that a checkpoint has besides its configuration."""
        return {}
