"""What every module that is trained here has in common: normalisation, noise, optimisation, logging, checkpoints."""

from __future__ import annotations

import hashlib
import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Self

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer

from w2vlab.distributed import rank, world_size
from w2vlab.interfaces import LearnsByStatistics, StepDependent
from w2vlab.modules.loading import read_checkpoint
from w2vlab.modules.non_finite import SkippedUpdates, check_optimizers, skip_unless
from w2vlab.modules.resuming import settle, take_up
from w2vlab.modules.saved import Record, build_model, class_named, load_weights, record, saved_config
from w2vlab.modules.saved.plain import CONFIG
from w2vlab.modules.sums import PREDICTIONS, Sums
from w2vlab.types import AudioBatch
from w2vlab.vocabulary import Units
from w2vlab.wording import W2VLabWarning


class TrainedModule(pl.LightningModule, ABC):
    """Base of everything that `w2vlab fit` trains; a subclass says what is computed in a step.

    **Normalisation.** `training_step` returns a *sum* over the predictions of its micro-batch, and gives `note_step`
    how many there are. Before the optimiser steps, gradients are divided once by the number of predictions of all
    processes and accumulation steps, so the update is the mean over all of them, however they were laid out.

    **Randomness.** Noise drawn on the device (Gumbel, dropout) comes from the default generator, seeded anew for every
    micro-batch by (seed, update, number of the micro-batch among those of all processes), and so does not depend on how
    many processes share them either.

    **Not finite.** An update whose gradient or loss is not finite is skipped on all processes (`skipped`).

    Args:
        optimizer: Builds the optimiser from the parameters.
        scheduler: Builds the learning-rate schedule, stepped once an update.
        seed: Seed of every random draw of the run.

    Raises:
        ValueError: The seed is negative.
    """

    units: Units | None = None
    """What the transcript of an utterance must be told in; None where none is needed."""

    _record: Record | None

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Notes what the module is built of, so that its checkpoints can be opened again."""
        module = super().__new__(cls)
        object.__setattr__(module, "_record", record(cls, args, kwargs))  # which a module forbids before it is one
        return module

    def __init__(self, optimizer: OptimizerCallable, scheduler: LRSchedulerCallable, seed: int) -> None:
        super().__init__()
        if seed < 0:
            raise ValueError(f"`seed` must not be negative, but is {seed}.")
        self.seed = seed
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.run_config: dict[str, Any] | None = None if self._record is None else {"model": self._record.config}
        """The resolved configuration of the run, or of the model that Python built; saved in its checkpoints."""
        self.codebook_counts: Tensor | None = None
        """How often each entry was chosen in the last validation, `(G, V)`, on the host."""
        self.num_candidates: int | None = None
        """Candidates 1 + K of a prediction, known after the first one; chance is one over it."""
        self.examples: list[tuple[str, str, str]] = []
        """Id, transcript and what was recognised, of some utterances of the last validation of this process."""
        self.skipped = SkippedUpdates()
        """Updates that were skipped because something was not finite."""
        self._begin_update()

    @property
    @abstractmethod
    def min_samples(self) -> int:
        """The shortest utterance, in samples, that this model can be trained on."""

    @property
    def looks_ahead(self) -> bool:
        """Whether an update of several micro-batches must be known as a whole before its first backward pass."""
        return False

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
        """What is counted by each error rate of a validation, by its name in the logs; empty where none are logged."""
        return {}

    @abstractmethod
    def logged_means(self, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns what is logged of an update, of the sums over what `note_step` was given."""

    def learning_parts(self) -> Iterator[nn.Module]:
        """Yields the modules that follow the updates: whose schedules move, and which learn by statistics."""
        return self.modules()

    def set_update(self, update: int) -> None:
        """Brings every part that depends on the number of updates to its state after `update` of them."""
        for module in self.learning_parts():
            if isinstance(module, StepDependent):
                module.set_update(update, self.seed)

    def _begin_update(self) -> None:
        self._micro_batch = 0  # of this process in this update
        self._sums: Sums | None = None
        self._losses: list[Tensor] = []
        self._ids: list[tuple[str, ...]] = []

    def on_train_start(self) -> None:
        """Starts an update.

        Raises:
            ValueError: The optimiser cannot be used with this precision.
        """
        check_optimizers(self.trainer)
        self._forget_update()
        if self.trainer.checkpoint_callbacks:
            self._warn_of_what_is_not_saved()

    def _forget_update(self) -> None:
        self._begin_update()
        for learner in self._learners():
            learner.forget_update()

    def _learners(self) -> Iterator[LearnsByStatistics]:
        return (module for module in self.learning_parts() if isinstance(module, LearnsByStatistics))

    def _seed_noise(self, micro_batch: int) -> None:
        number = micro_batch * world_size() + rank()
        key = f"{self.seed}/{self.global_step}/{number}".encode()
        torch.manual_seed(int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1)

    def note_step(self, batch: AudioBatch, values: Mapping[str, Tensor | float], total: Tensor) -> None:
        """Adds a micro-batch to the sums of its update.

        Args:
            batch: The micro-batch.
            values: What is added up, among it the number of `PREDICTIONS`.
            total: The objective, summed over them, `()` and without its graph.
        """
        self._sums = self._sums or Sums(self.device)
        with torch.no_grad():
            self._sums.add({**values, "bad_losses": ~total.isfinite()})
        self._losses.append(total)
        self._ids.append(batch.ids)
        self._micro_batch += 1

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Divides the gradients by the number of predictions that they are the sum over, logs, and learns the rest."""
        assert self._sums is not None, "an update has a micro-batch"
        sums = self._sums.over_processes()
        # Undo the mean over processes that DDP takes and the one over micro-batches that the trainer takes.
        scale = world_size() * self.trainer.accumulate_grad_batches / sums[PREDICTIONS].clamp(min=1)
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        torch._foreach_mul_(gradients, scale)
        norm = _whole(torch.nn.utils.get_total_norm(gradients))
        finite = norm.isfinite() & (sums["bad_losses"] == 0)
        self._log_update(sums, norm)
        for learner in self._learners():
            learner.finish_update(self.global_step, skipped=~finite)
        self.skipped.record(finite, self._losses, sums["bad_losses"], self._ids)
        skip_unless(finite, optimizer)
        self._begin_update()

    def _log_update(self, sums: dict[str, Tensor], norm: Tensor) -> None:
        values = {**self.logged_means(sums), "gradient_norm": norm}
        for module in self.learning_parts():
            if isinstance(module, StepDependent):
                scheduled = module.scheduled_values(self.global_step)
                # Filling is queued on the device; the trainer would copy a number there, and wait.
                values |= {name: torch.full((), value, device=self.device) for name, value in scheduled.items()}
        self.log_dict({f"train/{name}": value for name, value in values.items()}, batch_size=1)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Builds the optimiser and its schedule, stepped once an update."""
        optimizer = self.make_optimizer(p for p in self.parameters() if p.requires_grad)
        scheduler = self.make_scheduler(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the configuration that built the model, as plain data, and makes the place that of the last update."""
        if self.run_config is not None:
            data = getattr(getattr(self.trainer, "datamodule", None), "options", None)
            checkpoint[CONFIG] = {"data": data, **self.run_config} if isinstance(data, dict) else self.run_config
        self._warn_of_what_is_not_saved()
        settle(checkpoint, self.trainer)

    def _warn_of_what_is_not_saved(self) -> None:
        record, self._record = self._record, None  # once
        if record is None or not record.missing or (self.run_config or {}).get("model") is not record.config:
            return
        if rank() == 0:
            names = ", ".join(f"`{name}`" for name in record.missing)
            warnings.warn(
                f"Checkpoints of this model cannot be opened without it: {names} must be a class, a functools.partial "
                "of one or plain data to be saved, but is a function or an object. Training is the same.",
                category=W2VLabWarning,
                stacklevel=2,
            )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Has the options at hand win over those in the checkpoint."""
        self.make_room(checkpoint)
        take_up(checkpoint, self)

    def make_room(self, checkpoint: Mapping[str, Any]) -> None:
        """Brings what depends on the data to the shape that it has in a checkpoint, before weights are loaded."""

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

        Whoever made the file, opening it runs no code of theirs: it may name parts that are loaded already, and plain
        data for their options (`w2vlab.modules.saved`). No optimiser is built.

        Args:
            checkpoint_path: The checkpoint. The class is the one that it names, which must be this one or extend it.
            map_location: Where tensors go, as in `torch.load`.
            hparams_file: Must be None: options are those in the checkpoint.
            strict: Whether all weights must be those of the model; None for yes.
            weights_only: Is true, whatever is given.
            kwargs: Arguments of the constructor that count in place of the saved ones, such as a part that is no class
                and so could not be saved.

        Raises:
            ValueError: The file is not a whole checkpoint, or names what may not be built.
        """
        if hparams_file is not None:
            raise ValueError(f"`hparams_file` must be None, but is {hparams_file}: give options as keyword arguments.")
        checkpoint = read_checkpoint(checkpoint_path, map_location)
        config = saved_config(checkpoint, checkpoint_path)
        if config is not None:
            kind = class_named(config.get("model"), cls, checkpoint_path)
            given = {**kind.arguments_from(checkpoint, checkpoint_path), **kwargs}
            module: Self = build_model(config["model"], cls, checkpoint_path, given)
            module.run_config = {**config, **(module.run_config or {})} if kwargs else config
        elif kwargs and not inspect.isabstract(cls):
            module = cls(**kwargs)
        else:
            raise ValueError(
                f"`checkpoint_path` must hold the configuration of its model, but {checkpoint_path} has none. Call "
                "this on the class of the model, with its parts as keyword arguments."
            )
        module.on_load_checkpoint(checkpoint)
        load_weights(module, checkpoint["state_dict"], checkpoint_path, strict=strict is not False)
        return module

    @classmethod
    def arguments_from(cls, checkpoint: Mapping[str, Any], path: Any) -> dict[str, Any]:
        """Returns arguments of the constructor that a checkpoint brings beside its configuration."""
        return {}


def _whole(value: Tensor) -> Tensor:
    """Returns the whole of a number that is spread over processes."""
    full = getattr(value, "full_tensor", None)  # DTensor's; to import it takes as long as half of PyTorch
    return value if full is None else full()
