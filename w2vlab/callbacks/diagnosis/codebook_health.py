"""Codebook statistics during training, measured on a fixed set of utterances."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import replace
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from w2vlab.callbacks.history import MetricHistory
from w2vlab.callbacks.pretraining_only import require_pretraining_module
from w2vlab.callbacks.run_folder import run_folder, save_picture, warn_on_write_failure
from w2vlab.callbacks.whole_model import has_unsharded_model
from w2vlab.functional.codebooks import perplexity, sum_probabilities
from w2vlab.functional.lengths import make_padding_mask
from w2vlab.functional.measures.code_statistics import (
    changed_share,
    joint_perplexity,
    mean_run_length,
    next_code_entropy,
    usage_counts,
)
from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.types import SAMPLE_RATE, AudioBatch, Seconds
from w2vlab.utils.checks import check_at_least
from w2vlab.utils.files import write_atomically
from w2vlab.utils.messages import W2VLabWarning

PREFIX = "codebook_health"
"""Prefix of all logged metrics, and stem of the file names."""


class CodebookHealth(Callback):
    """Measures codebook usage on a fixed set of utterances (the probe), without masks, noise or dropout.

    The probe is the first utterances of the first validation (the sanity check included). All of their frames are
    quantized in evaluation mode. Process 0 does this alone, on its own probe; the other processes wait for it at their
    next update.

    Each measurement gives, for each codebook:

    * `perplexity_hard` and `perplexity_soft`, of the codes and of the probabilities (if the quantizer has any), in
      [1, V];
    * `num_dead`, the entries that no frame of the probe chose; at least V minus the number of frames;
    * `changed`, the share of frames whose code differs from the last measurement;
    * `next_code_entropy`, the conditional entropy of a code given the one before, in bits a frame
      (`functional.measures.code_statistics`), and `run_frames`, the mean number of frames for which a code is repeated;

    and for all codebooks together `joint_perplexity`, of the tuples of codes. The loggers get them as
    `codebook_health/<codebook>/<name>`. `codebook_health.png` and `codebook_health.json` in the run folder, and the
    figure in Weights & Biases, show usage and codes of the last measurement.

    Args:
        every: Updates between two measurements. There is one more before the first update, if the probe is known by
            then, and one at the end of the run.
        num_utterances: Utterances of the probe; fewer if the validation set has fewer.
    """

    def __init__(self, every: int = 500, num_utterances: int = 16) -> None:
        super().__init__()
        check_at_least(1, every=every, num_utterances=num_utterances)
        self.every = every
        self.num_utterances = num_utterances
        self.history = MetricHistory()
        self._probe: list[AudioBatch] = []
        self._probe_complete = False
        self._codes: list[Tensor] = []
        self._ids: list[str] = []
        self._last_update = -1
        self._active = False

    def state_dict(self) -> dict[str, Any]:
        """Returns the history and the codes of the last measurement, for the checkpoint."""
        return {"history": self.history.state_dict(), "codes": self._codes, "ids": self._ids}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the history and the codes to compare with from a checkpoint."""
        self.history.load_state_dict(state_dict["history"])
        self._codes, self._ids = list(state_dict["codes"]), list(state_dict["ids"])
        if self.history.rows:
            self._last_update = int(self.history.rows[-1]["update"])

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Checks that the model has codebooks, and warns if it has none.

        Raises:
            ValueError: The strategy shards the model, or the module is not a pretraining objective.
        """
        require_pretraining_module(self, pl_module)
        self._active = False
        if stage != TrainerFn.FITTING:
            return
        quantizer = cast(PretrainingModule, pl_module).quantizer
        if not quantizer.num_codebooks:
            if trainer.is_global_zero:
                warnings.warn(
                    f"CodebookHealth has no effect: {type(quantizer).__name__} has no codebooks.",
                    category=W2VLabWarning,
                    stacklevel=2,
                )
            return
        if not has_unsharded_model(trainer):
            raise ValueError(
                "`trainer.strategy` must keep the whole model in each process for CodebookHealth, such as ddp, "
                f"but is {type(trainer.strategy).__name__}. Remove the callback."
            )
        self._active = trainer.is_global_zero

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Discards an incomplete probe, because the sanity check has a few batches only."""
        if not self._probe_complete:
            self._probe = []

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: AudioBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Collects the first utterances on the CPU."""
        if not self._active or self._probe_complete:
            return
        missing = self.num_utterances - sum(len(kept) for kept in self._probe)
        kept = _first_utterances(batch, missing)
        self._probe.append(kept)
        self._probe_complete = len(kept) == missing

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Accepts a probe with fewer utterances if the validation set has no more."""
        if self._probe and not trainer.sanity_checking:
            self._probe_complete = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures before the first update, and warns if there is no validation to take the probe from."""
        if self._active and not trainer.enable_validation:
            warnings.warn(
                "CodebookHealth has no effect: its probe is from the validation, and the run has no validation.",
                category=W2VLabWarning,
                stacklevel=2,
            )
        self._measure(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measures every `every` updates."""
        if self._active and trainer.global_step % self.every == 0:
            self._measure(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures after the last update."""
        self._measure(trainer, pl_module)

    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # With gradient accumulation this is called for several micro-batches of an update.
        if not self._active or not self._probe or trainer.global_step == self._last_update:
            return
        self._last_update = trainer.global_step
        module = cast(PretrainingModule, pl_module)
        codes, soft = self._quantize(trainer, module)
        ids = [name for batch in self._probe for name in batch.ids]
        previous = self._codes if ids == self._ids else None
        self._codes, self._ids = codes, ids

        size = module.quantizer.codebook_size
        counts = usage_counts(codes, size)
        values = _compute_statistics(codes, previous, counts, soft)
        self.history.record(trainer.global_step, values)
        for logger in trainer.loggers:
            logger.log_metrics({f"{PREFIX}/{name}": value for name, value in values.items()}, trainer.global_step)
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            stride = module.encoder.stride / SAMPLE_RATE
            with warn_on_write_failure(f"{PREFIX}.png"):
                self._write_files(trainer, _title(trainer, module), counts, codes[0], stride)

    def _quantize(self, trainer: Trainer, module: PretrainingModule) -> tuple[list[Tensor], Tensor | None]:
        """Returns the codes `(T, G)` of each utterance, and the mean probabilities `(G, V)` if there are any."""
        training = [part for part in module.modules() if part.training]
        module.eval()
        sequences: list[Tensor] = []
        total: Tensor | None = None
        try:
            with torch.no_grad(), trainer.precision_plugin.val_step_context():
                for batch in self._probe:
                    output = module.quantize(batch.to(module.device))
                    num_frames = [module.encoder.num_frames(samples) for samples in batch.num_samples]
                    rows = output.assignment.cpu()  # (B, T, G)
                    sequences += [row[:frames] for row, frames in zip(rows, num_frames, strict=True)]
                    if output.probabilities is not None:
                        padding = make_padding_mask(num_frames, rows.shape[1], output.probabilities.device)
                        batch_sum = sum_probabilities(output.probabilities, padding)
                        total = batch_sum if total is None else total + batch_sum
        finally:
            for part in training:  # one by one, so that modules that were in evaluation mode before stay in it
                part.training = True
        return sequences, None if total is None else (total / total.sum(dim=1, keepdim=True)).cpu()

    def _write_files(self, trainer: Trainer, title: str, counts: Tensor, codes: Tensor, frame_seconds: Seconds) -> None:
        from w2vlab.callbacks.diagnosis.codebook_picture import HealthView, draw_codebook_health  # imports matplotlib

        folder = run_folder(trainer)
        folder.mkdir(parents=True, exist_ok=True)
        picture = folder / f"{PREFIX}.png"
        view = HealthView(title=title, history=self.history, counts=counts, codes=codes, frame_seconds=frame_seconds)
        save_picture(draw_codebook_health(view), picture, dpi=100)
        rows = [
            {name: value if math.isfinite(value) else None for name, value in row.items()} for row in self.history.rows
        ]
        content = {
            "probe": {"utterances": self._ids, "num_frames": sum(len(codes) for codes in self._codes)},
            "looks": rows,
            "last": {
                "counts": counts.int().tolist(),
                "dead": [(row == 0).nonzero().flatten().tolist() for row in counts],
            },
        }
        write_atomically(folder / f"{PREFIX}.json", json.dumps(content, allow_nan=False))
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image(PREFIX, [str(picture)], step=trainer.global_step)


def _compute_statistics(
    codes: list[Tensor], previous: list[Tensor] | None, counts: Tensor, soft: Tensor | None
) -> dict[str, float]:
    by_codebook = {
        "perplexity_hard": perplexity(counts / counts.sum(dim=1, keepdim=True)).tolist(),
        "num_dead": (counts == 0).sum(dim=1).tolist(),
        "next_code_entropy": next_code_entropy(codes, counts.shape[1]),
        "run_frames": mean_run_length(codes),
    }
    if soft is not None:
        by_codebook["perplexity_soft"] = perplexity(soft).tolist()
    if previous is not None:
        by_codebook["changed"] = changed_share(previous, codes)
    values = {
        f"{codebook}/{name}": float(value)
        for name, series in by_codebook.items()
        for codebook, value in enumerate(series, start=1)
    }
    return {"joint_perplexity": joint_perplexity(codes), **values}


def _first_utterances(batch: AudioBatch, count: int) -> AudioBatch:
    """Copies the first `count` utterances to the CPU, without padding beyond the longest of them."""
    num_samples = batch.num_samples[:count]
    waveform = batch.of_targets.waveform[:count, : max(num_samples)].detach().cpu().clone()
    starts = None if batch.starts is None else batch.starts[:count]
    whole = None if batch.utterance_samples is None else batch.utterance_samples[:count]
    return replace(
        batch,
        waveform=waveform,
        num_samples=num_samples,
        ids=batch.ids[:count],
        starts=starts,
        utterance_samples=whole,
        clean=None,
    )


def _title(trainer: Trainer, module: PretrainingModule) -> str:
    quantizer = module.quantizer
    size = f"{quantizer.num_codebooks} x {quantizer.codebook_size}"
    return f"{type(quantizer).__name__} ({size}) on the probe, update {trainer.global_step}"
