"""How fast a run is, and what holds it up."""

from __future__ import annotations

import logging
import math
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from w2vlab.distributed import world_size
from w2vlab.metrics import RateMeter, matmul_rate
from w2vlab.modules.flops import StepFlops, fit_flops, size_terms
from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.modules.without_values import NOT_WITHOUT_VALUES, skeleton
from w2vlab.types import AudioBatch, Seconds

logger = logging.getLogger(__name__)

AUDIO_RATE = "train/audio_seconds_per_second"
MFU = "train/throughput/mfu"
FLOPS_RATE = "train/throughput/flops_per_second"
DATA_WAIT_SHARE = "train/throughput/data_wait_share"
PEAK_MEMORY = "train/throughput/peak_memory_gib"


class ThroughputMonitor(Callback):
    """Logs how fast a run is, how much of the device that uses, and how long it waits for data.

    Taken over the last whole updates, without validations and what comes with them, and measured on one process, whose
    micro-batches stand for those of the others:

    * `train/audio_seconds_per_second`, after every update: audio of all processes together, without padding.

    And as often as the trainer logs:

    * `train/throughput/data_wait_share`: the share of the time, in [0, 1], for which training stood still because the
      next batch was not there.
    * `train/throughput/flops_per_second`: floating-point operations of all processes together, in matrix products and
      convolutions of the forward and the backward pass (a product and its sum are two). Padding counts, because it is
      computed. Not counted is what is computed a second time (activation checkpointing; the look at a whole update
      that penalties need where it has several micro-batches) and the layers that LayerDrop leaves out. It is logged
      of pretraining alone, and so is the next: of what is frozen for a while, no formula holds for a whole run.
    * `train/throughput/mfu`: model FLOPs utilisation, these by what the devices would do in the same time if they did
      nothing but multiply large square matrices, in the precision of the run. That rate is measured, and
      once more when a run is above it: something else then took the device before.
    * `train/throughput/peak_memory_gib`: the most memory that one process has had so far: of its GPU, what PyTorch
      gave to tensors; on a CPU, all of the process, without those that read audio.

    The device is not waited for, but once: for the first utilisation, its rate is measured in 0.2 s and operations are
    counted at a few sizes without computing them, which takes seconds for a large model. Losses and weights of the run
    stay bit for bit what they are without.

    Args:
        window: Micro-batches that rates and shares are taken over, at least: as many as whole updates have.
        mfu: Whether to log the utilisation and the operations.

    Raises:
        ValueError: `window` is less than 1.

    Reference:
        Chowdhery et al. 2022, arXiv:2204.02311, Appendix B, for the utilisation; theirs is of the data sheet's rate.
    """

    def __init__(self, window: int = 20, mfu: bool = True) -> None:
        super().__init__()
        if window < 1:
            raise ValueError(f"`window` must be at least 1, but is {window}.")
        self.mfu = mfu
        self._meter = RateMeter(window)
        self._skeleton: PretrainingModule | None = None
        self._flops: StepFlops | None = None
        self._rate = 0.0
        self._update = 0
        self._waited: Seconds = 0.0
        self._validated = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Copies the model without its values, while it is whole: the strategy may shard it."""
        self._skeleton = self._flops = None
        if self.mfu and stage == TrainerFn.FITTING and isinstance(pl_module, PretrainingModule):
            with _mfu_may_fail(trainer):
                self._skeleton = skeleton(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._update = trainer.global_step
        self._validated = False
        self._newly_waited(trainer)
        self._meter.restart()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes it: a validation is no training, nor is what other callbacks save and draw behind it."""
        self._validated = True

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: AudioBatch, batch_idx: int
    ) -> None:
        """Starts the clock anew behind a validation."""
        if self._validated:
            self._validated = False
            self._newly_waited(trainer)
            self._meter.restart()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: AudioBatch, batch_idx: int
    ) -> None:
        """Counts the micro-batch; logs behind the last one of an update."""
        counted = self._skeleton is not None or self._flops is not None
        sizes = size_terms(cast(PretrainingModule, pl_module), batch) if counted else ()
        self._meter.add(self._newly_waited(trainer), batch.seconds, *sizes)
        if trainer.global_step == self._update:
            return
        self._update = trainer.global_step
        self._meter.end_update()
        rates = self._meter.read()
        if rates is None:
            return
        wait_share, audio, *sizes = rates.tolist()
        values = {AUDIO_RATE: audio * world_size()}
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if trainer.global_step % every == 0:
            values[PEAK_MEMORY] = _peak_memory(pl_module.device) / 2**30
            if not math.isnan(wait_share):
                values[DATA_WAIT_SHARE] = wait_share
            if self._skeleton is not None:
                self._measure(trainer, pl_module.device, self._skeleton)
            if self._flops is not None:
                flops = self._flops.of(np.array(sizes))
                values[FLOPS_RATE] = flops * world_size()
                if flops > self._rate:  # other processes had the device when it was measured
                    self._rate = max(self._rate, matmul_rate(pl_module.device, _precision(trainer, pl_module.device)))
                    self._meter.restart()
                values[MFU] = flops / self._rate
        # Filling is queued on the device; the trainer would copy a number there, and wait.
        on_device = {name: torch.full((), value, device=pl_module.device) for name, value in values.items()}
        pl_module.log_dict(on_device, batch_size=len(batch))

    def _newly_waited(self, trainer: Trainer) -> Seconds:
        """Returns how long training waited for data since the last call; NaN where the loader does not tell."""
        before, self._waited = self._waited, float(getattr(trainer.train_dataloader, "waited", math.nan))
        return self._waited - before if self._waited >= before else self._waited  # a new loader starts at 0

    def _measure(self, trainer: Trainer, device: torch.device, model: PretrainingModule) -> None:
        self._skeleton = None
        with _mfu_may_fail(trainer):
            self._rate = matmul_rate(device, _precision(trainer, device))
            self._flops = fit_flops(model)
        self._meter.restart()


@contextmanager
def _mfu_may_fail(trainer: Trainer) -> Iterator[None]:
    """Has a run go on without its utilisation, whatever a part does where it is copied or has no values."""
    try:
        yield
    except Exception as problem:
        if trainer.is_global_zero:
            reads = isinstance(problem, NOT_WITHOUT_VALUES)
            why = "a part of the model reads values" if reads else f"{type(problem).__name__}: {problem}"
            logger.warning("%s is not logged, because operations cannot be counted: %s.", MFU, why)


def _precision(trainer: Trainer, device: torch.device) -> torch.dtype:
    """Returns what the run's matrix products are computed in."""
    with trainer.precision_plugin.forward_context():
        one = torch.ones(1, 1, device=device)
        return torch.mm(one, one).dtype


def _peak_memory(device: torch.device) -> int:
    """Returns the bytes that this process has had at most."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
