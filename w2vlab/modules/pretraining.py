"""Training and validation of the pretraining objectives: normalisation, noise, optimisation, logging."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from w2vlab.distributed import all_reduce_sum, rank, world_size
from w2vlab.interfaces import LearnsByStatistics, Penalty, StepDependent, UpdatePenalty
from w2vlab.metrics import CodebookMeter
from w2vlab.modules.loading import read_checkpoint
from w2vlab.modules.non_finite import SkippedUpdates, check_optimizers, skip_unless
from w2vlab.modules.objective import Objective
from w2vlab.modules.resuming import settle, take_up
from w2vlab.modules.sums import PREDICTIONS, Sums, masked_share, means, sum_up
from w2vlab.modules.whole_update import WholeUpdate, statistics_of, whole_update_penalties
from w2vlab.types import AudioBatch, PretrainOutput, RandomAddress


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


class PretrainingModule(Objective):
    """Base of the pretraining objectives, trained and validated by Lightning.

    **Normalisation.** `training_step` returns a *sum* over the predictions of its micro-batch. Before the optimiser
    steps, gradients are divided once by the number of predictions of all processes and accumulation steps, so the
    update is the mean over all of them, however they were laid out. Every other term counts in proportion: an
    utterance's mean times its number of predictions; a penalty of the whole update times all of them.

    **Randomness.** Masks and negatives have an address (seed, update, utterance). Noise drawn on the device (Gumbel,
    dropout) comes from the default generator, seeded anew for every micro-batch by (seed, update, number of the
    micro-batch among those of all processes), and so does not depend on how many processes share them either.

    **Not finite.** An update whose gradient or loss is not finite is skipped on all processes (`skipped`).

    Args:
        optimizer: Builds the optimiser from the parameters.
        scheduler: Builds the learning-rate schedule, stepped once an update.
        penalties: Builds the further terms of the objective, by their names in the logs.
        seed: Seed of every random draw of the run.
    """

    def __init__(
        self,
        optimizer: OptimizerCallable,
        scheduler: LRSchedulerCallable,
        penalties: dict[str, Penalty],
        seed: int,
    ) -> None:
        super().__init__(penalties, seed)
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
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
        self.skipped = SkippedUpdates()
        """Updates that were skipped because something was not finite."""
        self._looks_in_vain = False  # the quantizer gives nothing to sum up over an update
        self._begin_update()

    def _begin_update(self) -> None:
        self._micro_batch = 0  # of this process in this update
        self._whole: WholeUpdate | None = None
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

    def _forget_update(self) -> None:
        self._begin_update()
        for learner in self._learners():
            learner.forget_update()

    def _learners(self) -> Iterator[LearnsByStatistics]:
        return (module for module in self.modules() if isinstance(module, LearnsByStatistics))

    def training_step(self, batch: AudioBatch, batch_idx: int) -> Tensor:
        """Returns the objective summed over the predictions of one micro-batch."""
        update = self.global_step
        if self._micro_batch == 0:
            self.set_update(update)
            self._whole = self._look_ahead(batch)
        self._seed_noise(self._micro_batch)
        output = self(batch, RandomAddress(self.seed, update, batch.ids))
        terms = self.objective_terms(output, self._whole or self._sum_over_processes(output))
        if self.keep_step:
            self.step = TrainingStep(batch, output, terms)
        total = torch.stack(list(terms.values())).sum()
        self._note(batch, output, terms, total.detach())
        return total

    def _seed_noise(self, micro_batch: int) -> None:
        number = micro_batch * world_size() + rank()
        key = f"{self.seed}/{self.global_step}/{number}".encode()
        torch.manual_seed(int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1)

    @torch.no_grad()
    def _look_ahead(self, first: AudioBatch) -> WholeUpdate | None:
        """Sums up what penalties of the whole update need, where it has more micro-batches than one."""
        penalties = whole_update_penalties(self.penalties)
        if not penalties or self.trainer.accumulate_grad_batches == 1 or self._looks_in_vain:
            return None
        if first.update is None:
            warnings.warn(
                f"{', '.join(penalties)} is taken over each micro-batch and not over the whole update: the batches do "
                "not bring the update that they belong to (`SpeechDataModule.require(…, whole_updates=True)`).",
                stacklevel=2,
            )
            return None
        sums = Sums(self.device)
        statistics: dict[str, Tensor] = {}
        for number, batch in enumerate(first.update):
            # The same noise as in the forward pass that trains, which begins in the same way.
            self._seed_noise(number)
            batch = batch.to(self.device, non_blocking=True)
            prepared = self.prepare(batch, RandomAddress(self.seed, self.global_step, batch.ids))
            statistics = statistics_of(penalties, prepared)
            if not statistics:
                self._looks_in_vain = True
                break
            predictions = sum(self.loss.num_predictions(prepared.num_valid, self.first_ahead))
            sums.add({PREDICTIONS: predictions, **statistics})
        for learner in self._learners():
            learner.forget_update()  # it will see the same again
        return WholeUpdate.of(sums) if statistics else None

    def _sum_over_processes(self, output: PretrainOutput) -> WholeUpdate | None:
        """Sums up the same where each process has one micro-batch."""
        penalties = whole_update_penalties(self.penalties)
        statistics = statistics_of(penalties, output) if world_size() > 1 else {}
        if not statistics:
            return None
        sums = Sums(self.device)
        sums.add({PREDICTIONS: sum(output.prediction.counts), **statistics})
        return WholeUpdate.of(sums)

    def _note(self, batch: AudioBatch, output: PretrainOutput, terms: dict[str, Tensor], total: Tensor) -> None:
        self.num_candidates = output.prediction.num_candidates
        self._sums = self._sums or Sums(self.device)
        with torch.no_grad():
            values = sum_up(output, terms, self.quantizer.codebook_size if self.quantizer.num_codebooks else 0)
            self._sums.add({**values, **masked_share(output), "bad_losses": ~total.isfinite()})
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
        values = {**means(sums), "gradient_norm": norm}
        for module in self.modules():
            if isinstance(module, StepDependent):
                scheduled = module.scheduled_values(self.global_step)
                # Filling is queued on the device; the trainer would copy a number there, and wait.
                values |= {name: torch.full((), value, device=self.device) for name, value in scheduled.items()}
        self.log_dict({f"train/{name}": value for name, value in values.items()}, batch_size=1)

    def on_train_batch_end(self, outputs: Any, batch: AudioBatch, batch_idx: int) -> None:
        """Lets go of what was kept of the step."""
        self.step = None

    def on_validation_epoch_start(self) -> None:
        """Starts the counts of a validation anew."""
        self.set_update(self.global_step)
        self._validation = Sums(self.device)
        self._codebook: CodebookMeter | None = None
        if self.quantizer.num_codebooks:
            meter = CodebookMeter(self.quantizer.num_codebooks, self.quantizer.codebook_size)
            self._codebook = meter.to(self.device)

    def validation_step(self, batch: AudioBatch, batch_idx: int) -> None:
        """Adds one batch to the counts; its masks and negatives are the same in every validation."""
        output = self(batch, RandomAddress(self.seed, 0, batch.ids, stream="validation"))
        self.num_candidates = output.prediction.num_candidates
        terms = self.objective_terms(output)
        joint = statistics_of(whole_update_penalties(self.penalties), output)
        values = sum_up(output, {name: term for name, term in terms.items() if name not in joint}, codebook_size=0)
        values |= {_JOINT + name: statistics for name, statistics in joint.items()}
        self._validation.add(values, batch.counted)
        if self._codebook is not None:
            self._codebook.update(output.targets, output.target_padding, batch.counted)

    def on_validation_epoch_end(self) -> None:
        """Logs the means over all validation batches of all processes."""
        sums = self._validation.over_processes()
        for name in [name for name in sums if name.startswith(_JOINT)]:
            # As over the whole update in training: a function of the sums, and so the same in every layout.
            penalty = self.penalties[name.removeprefix(_JOINT)]
            assert isinstance(penalty, UpdatePenalty)
            value = penalty.weight * penalty.evaluate(sums.pop(name))
            sums["term/" + name.removeprefix(_JOINT)] = value * sums[PREDICTIONS]
        values = means(sums)
        if self._codebook is not None:
            values |= {f"codebook/{name}": value for name, value in self._codebook.compute().items()}
            self.codebook_counts = all_reduce_sum(self._codebook.counts).cpu()
        # They are the same on all processes already; `sync_dist` keeps Lightning from warning that they may not be.
        self.log_dict({f"val/{name}": value for name, value in values.items()}, sync_dist=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Builds the optimiser and its schedule, stepped once an update."""
        optimizer = self.make_optimizer(p for p in self.parameters() if p.requires_grad)
        scheduler = self.make_scheduler(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the configuration that built the model, as plain data, and makes the place that of the last update."""
        if self.run_config is not None:
            checkpoint["w2vlab_config"] = self.run_config
        settle(checkpoint, self.trainer)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Has the options at hand win over those in the checkpoint."""
        take_up(checkpoint, self)

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


_JOINT = "joint/"
"""Before the names of statistics that penalties of a whole update are taken of."""


def _whole(value: Tensor) -> Tensor:
    """Returns the whole of a number that is spread over processes."""
    return value.full_tensor() if isinstance(value, DTensor) else value
