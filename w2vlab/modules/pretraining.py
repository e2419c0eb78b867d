"""Training and validation of the pretraining objectives."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from w2vlab.distributed import all_reduce_sum, world_size
from w2vlab.interfaces import Penalty, UpdatePenalty
from w2vlab.metrics import CodebookMeter
from w2vlab.modules.loading import PRETRAINED
from w2vlab.modules.objective import Objective
from w2vlab.modules.sums import PREDICTIONS, Sums, masked_share, means, sum_up
from w2vlab.modules.whole_update import WholeUpdate, statistics_of, whole_update_penalties
from w2vlab.types import AudioBatch, PretrainOutput, RandomAddress
from w2vlab.wording import W2VLabWarning


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

    **Normalisation.** As in `TrainedModule`, gradients are divided once an update by its number of predictions. Every
    other term counts in proportion: an utterance's mean times its number of predictions; a penalty of the whole update
    times all of them.

    **Randomness.** Masks and negatives have an address (seed, update, utterance); other noise is `TrainedModule`'s.

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
        super().__init__(optimizer, scheduler, penalties, seed)
        self.keep_step = False
        """Whether `step` is kept; a callback that looks inside sets it."""
        self.step: TrainingStep | None = None
        """What the last forward pass of training computed, until its batch ends."""
        self._looks_in_vain = False  # the quantizer gives nothing to sum up over an update

    @property
    def title(self) -> str:
        """Names the objective and the quantizer."""
        size = f" ({self.quantizer.num_codebooks} x {self.quantizer.codebook_size})" if self.num_codes else ""
        return f"{type(self).__name__} with {type(self.quantizer).__name__}{size}"

    @property
    def num_codes(self) -> int:
        """Entries of all codebooks, G V; 0 without codebooks."""
        return self.quantizer.num_codebooks * self.quantizer.codebook_size

    def _begin_update(self) -> None:
        super()._begin_update()
        self._whole: WholeUpdate | None = None

    def training_step(self, batch: AudioBatch, batch_idx: int) -> Tensor:
        """Returns the objective summed over the predictions of one micro-batch."""
        update = self.global_step
        if self._micro_batch == 0:
            self.set_update(update)
            self._whole = self._look_ahead(batch)
        self._seed_noise(self._micro_batch)
        output = self(batch, RandomAddress(seed=self.seed, update=update, ids=batch.ids))
        terms = self.objective_terms(output, self._whole or self._sum_over_processes(output))
        if self.keep_step:
            self.step = TrainingStep(batch, output, terms)
        total = torch.stack(list(terms.values())).sum()
        self._note(batch, output, terms, total.detach())
        return total

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
                category=W2VLabWarning,
                stacklevel=2,
            )
            return None
        sums = Sums(self.device)
        statistics: dict[str, Tensor] = {}
        for number, batch in enumerate(first.update):
            # The same noise as in the forward pass that trains, which begins in the same way.
            self._seed_noise(number)
            batch = batch.to(self.device, non_blocking=True)
            prepared = self.prepare(batch, RandomAddress(seed=self.seed, update=self.global_step, ids=batch.ids))
            statistics = statistics_of(penalties, prepared)
            if not statistics:
                self._looks_in_vain = True
                break
            predictions = sum(self.loss.num_predictions(prepared.num_targets, self.first_ahead))
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
        sums.add({PREDICTIONS: sum(output.prediction.num_predictions), **statistics})
        return WholeUpdate.of(sums)

    def _note(self, batch: AudioBatch, output: PretrainOutput, terms: dict[str, Tensor], total: Tensor) -> None:
        self.num_candidates = output.prediction.num_candidates
        with torch.no_grad():
            values = sum_up(output, terms, self.quantizer.codebook_size if self.quantizer.num_codebooks else 0)
        self.note_step(batch, {**values, **masked_share(output)}, total)

    def make_room(self, checkpoint: Mapping[str, Any]) -> None:
        """Refuses the checkpoint of a fine-tuning.

        Raises:
            ValueError: It is one.
        """
        if PRETRAINED in checkpoint:
            raise ValueError(
                "`ckpt_path` must be a checkpoint of a pretraining, but is one of a fine-tuning. Go on from the one "
                "that the fine-tuning was given with --model.checkpoint."
            )

    def logged_means(self, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns terms, total, accuracy, shares and use of the codebooks."""
        return means(sums)

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
        output = self(batch, RandomAddress(seed=self.seed, update=0, ids=batch.ids, stream="validation"))
        self.num_candidates = output.prediction.num_candidates
        terms = self.objective_terms(output)
        joint = statistics_of(whole_update_penalties(self.penalties), output)
        values = sum_up(output, {name: term for name, term in terms.items() if name not in joint}, codebook_size=0)
        values |= {_JOINT + name: statistics for name, statistics in joint.items()}
        self._validation.add(values, batch.counted)
        if self._codebook is not None:
            self._codebook.update(output.targets, output.target_padding_mask, batch.counted)

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


_JOINT = "joint/"
"""Before the names of statistics that penalties of a whole update are taken of."""
