"""Throughput of training: audio rate, model FLOPs utilisation, what limits the speed, and memory."""

from __future__ import annotations

import logging
import math
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from w2vlab.callbacks.speed.host import HostMeter, host_meter, scales_gradients
from w2vlab.callbacks.speed.limits import Shares, divide, limit_line, typical
from w2vlab.metrics import RateMeter, matmul_rate
from w2vlab.modules.counting.flops import StepFlops, fit_flops, size_terms
from w2vlab.modules.counting.without_values import NOT_WITHOUT_VALUES, skeleton
from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.modules.update import TrainedModule
from w2vlab.types import AudioBatch, Seconds
from w2vlab.utils.distributed import world_size

logger = logging.getLogger(__name__)

AUDIO_RATE = "train/audio_seconds_per_second"
MFU = "train/throughput/mfu"
FLOPS_RATE = "train/throughput/flops_per_second"
DATA_WAIT_SHARE = "train/throughput/data_wait_share"
PEAK_MEMORY = "train/throughput/peak_memory_gib"


class ThroughputMonitor(Callback):
    """Logs the throughput of a run, the utilisation of the device, the time spent waiting for data, and memory.

    Rates are means over the last complete updates, without validations, and are measured on one process, whose
    micro-batches represent those of the others:

    * `train/audio_seconds_per_second`, after every update: audio of all processes together, without padding.

    And every `log_every_n_steps` updates:

    * `train/throughput/data_wait_share`: the share of the time, in [0, 1], in which training waited for the next batch.
    * `train/throughput/limited_by_data`, `…_host`, `…_memory` and `…_products`: the time, divided by what limits the
      speed. `w2vlab.callbacks.speed.limits.Shares` defines the four words; their sum is 1. Without utilisation,
      `…_device` is in place of memory and products. A line of the log says which is the greatest, when the shares are
      first known, and at the end of the run, where `RunReport` shows it in its table. They are logged on CPUs and CUDA
      devices, if the loader measures how long it is waited for (as those of `SpeechDataModule` do), and neither for
      models that are compiled on a CPU nor for precision 16-mixed, which waits for the device in each update.
    * `train/throughput/flops_per_second`: floating-point operations of all processes together, in matrix products and
      convolutions of the forward and the backward pass (a multiply-add counts as two). Padding is included, because it
      is computed. Recomputation is not included (activation checkpointing, and the additional forward pass for
      global-batch statistics of penalties), nor are layers that LayerDrop drops. This and the next metric are logged in
      pretraining only, because no formula holds for a whole run if parts are frozen temporarily.
    * `train/throughput/mfu`: model FLOPs utilisation, the above relative to the rate at which the devices multiply
      large square matrices in the precision of the run. That rate is measured, and measured again if a run exceeds it,
      because then another process was using the device.
    * `train/throughput/peak_memory_gib`: the peak memory of one process: on a GPU, memory allocated by PyTorch; on a
      CPU, the resident memory of the process without data workers.

    There is one synchronisation with the device: before the first utilisation is logged, the rate is measured in 0.2 s,
    and operations are counted at a few sizes on the meta device, which takes seconds for a large model. On a CPU, the
    operations of a few micro-batches are recorded. Losses and weights of the run are bit-identical with and without
    this callback.

    Args:
        window: Minimum number of micro-batches of the means, rounded up to complete updates.
        mfu: Whether to log utilisation and operations.

    Raises:
        ValueError: `window` is less than 1.

    Reference:
        Chowdhery et al. 2022, arXiv:2204.02311, Appendix B, for the utilisation; there, relative to the rate of the
        data sheet.
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
        self._host: HostMeter | None = None
        self._number = 0  # steps of the update so far
        self._at_once = 1  # most micro-batches of a step
        self._shares: list[Shares] = []
        self._times: list[Seconds] = []  # of a step: of a micro-batch, or of those that are computed at once

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Copies the model to the meta device, before the strategy shards it."""
        self._skeleton = self._flops = None
        if self.mfu and stage == TrainerFn.FITTING and isinstance(pl_module, PretrainingModule):
            with _warn_without_mfu(trainer):
                self._skeleton = skeleton(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._update = trainer.global_step
        self._validated = False
        self._number, self._at_once, self._shares, self._times = 0, 1, [], []
        self._host = host_meter(pl_module, pl_module.device, scales_gradients(trainer))
        self._restart(trainer)

    def _restart(self, trainer: Trainer) -> None:
        self._data_wait_since_last_call(trainer)
        self._meter.restart()
        if self._host is not None:
            self._host.restart()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Marks the window as invalid, because validation, saving and drawing do not count as training time."""
        self._validated = True

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: AudioBatch, batch_idx: int
    ) -> None:
        """Restarts the clock after a validation."""
        if self._validated:
            self._validated = False
            self._restart(trainer)
        if self._host is not None:
            self._host.start(self._number, trainer.accumulate_grad_batches)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Marks the end of the backward pass."""
        if self._host is not None:
            self._host.launched()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: AudioBatch, batch_idx: int
    ) -> None:
        """Counts the micro-batch, or those that are computed at once; logs after the last one of an update."""
        counts_flops = self._skeleton is not None or self._flops is not None
        passes = pl_module.fusing.passes(batch) if isinstance(pl_module, TrainedModule) else batch.passes
        sizes = [size_terms(cast(PretrainingModule, pl_module), one) for one in passes] if counts_flops else []
        waited = self._data_wait_since_last_call(trainer)
        limits = (math.nan,) * 3 if self._host is None else self._host.end(waited)
        micro_batches = sum(one.num_micro_batches for one in passes)
        self._at_once = max(self._at_once, micro_batches)
        self._meter.add(
            waited,
            *limits,
            1,
            sum(one.seconds for one in passes),
            *(np.sum(sizes, axis=0) if sizes else ()),
            micro_batches=micro_batches,
        )
        self._number += 1
        if trainer.global_step == self._update:
            return
        self._update, self._number = trainer.global_step, 0
        self._meter.end_update()
        rates = self._meter.read()
        if rates is None:
            return
        wait_share, without_data, by_host, inside, steps, audio, *sizes = rates.tolist()
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
                if flops > self._rate:  # the device was busy when the rate was measured
                    self._rate = max(
                        self._rate, matmul_rate(pl_module.device, product_dtype(trainer, pl_module.device))
                    )
                    self._restart(trainer)
                values[MFU] = flops / self._rate
            if self._host is not None and math.isfinite(without_data + self._host.share):
                by_host += self._host.share * inside
                shares = divide(without_data, by_host, values.get(MFU), self._host.asynchronous)
                values |= shares.metrics()
                self._shares.append(shares)
                self._times.append(1 / steps)
                if len(self._shares) == 1:
                    self._log_limit(trainer, pl_module.device)
        # `full` fills the tensor on the device; the trainer would copy a float from the host, which synchronises.
        on_device = {name: torch.full((), value, device=pl_module.device) for name, value in values.items()}
        pl_module.log_dict(on_device, batch_size=len(batch))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs what limited the run, unless a report shows it."""
        shown = any(getattr(callback, "shows_limit", False) for callback in trainer.callbacks)  # type: ignore[attr-defined]
        if len(self._shares) > 1 and not shown:
            self._log_limit(trainer, pl_module.device, "The whole run: ")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Ends the measurement of the host."""
        if self._host is not None:
            self._host.stop()

    def _log_limit(self, trainer: Trainer, device: torch.device, start: str = "") -> None:
        shares = typical(self._shares)
        if shares is not None and trainer.is_global_zero:
            dtype = product_dtype(trainer, device)
            line = limit_line(shares, median(self._times), self._rate, device.type, dtype, self._at_once)
            logger.info("%s%s", start, line)

    def _data_wait_since_last_call(self, trainer: Trainer) -> Seconds:
        """Returns the time spent waiting for data since the last call; NaN if the loader does not measure it."""
        previous, self._waited = self._waited, float(getattr(trainer.train_dataloader, "waited", math.nan))
        return self._waited - previous if self._waited >= previous else self._waited  # a new loader starts at 0

    def _measure(self, trainer: Trainer, device: torch.device, model: PretrainingModule) -> None:
        self._skeleton = None
        with _warn_without_mfu(trainer):
            self._rate = matmul_rate(device, product_dtype(trainer, device))
            self._flops = fit_flops(model)
        self._restart(trainer)


@contextmanager
def _warn_without_mfu(trainer: Trainer) -> Iterator[None]:
    """Logs errors as a warning, so that a run continues without MFU if a part does not support the meta device."""
    try:
        yield
    except Exception as problem:
        if trainer.is_global_zero:
            reads_values = isinstance(problem, NOT_WITHOUT_VALUES)
            reason = "a part of the model reads values" if reads_values else f"{type(problem).__name__}: {problem}"
            logger.warning("%s is not logged, because operations cannot be counted: %s.", MFU, reason)


def product_dtype(trainer: Trainer, device: torch.device) -> torch.dtype:
    """Returns the dtype of the run's matrix products."""
    with trainer.precision_plugin.forward_context():
        one = torch.ones(1, 1, device=device)
        return torch.mm(one, one).dtype


def _peak_memory(device: torch.device) -> int:
    """Returns the peak memory of this process, in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
