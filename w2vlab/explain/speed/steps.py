"""Training steps of a run on noise, timed, with the share of the host and the rate of matrix products."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from w2vlab.callbacks.speed.host import HostMeter, host_meter, scales_gradients
from w2vlab.callbacks.throughput import product_dtype
from w2vlab.explain.batch_size.cost_model import BatchShape
from w2vlab.explain.batch_size.steps import TrialSettings, run_updates
from w2vlab.metrics import matmul_rate
from w2vlab.modules.counting.flops import count_flops
from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.types import SAMPLE_RATE, Seconds

_LEAST, _MOST = 3, 24
"""Updates that are timed, after the first one, which includes the start-up; one if they take long."""


@dataclass(frozen=True)
class MeasuredSteps:
    """Measurements of the training steps of one shape.

    Attributes:
        shape: Shape of the micro-batches.
        times: Time of a micro-batch in each update, without that of the first update.
        host: Share of their time in which the host sets the pace; None if it cannot be told apart.
        asynchronous: Whether the device computes beside the host.
        rate: Operations a second of large matrix products.
        dtype: Name of their dtype.
        device: Type of the device.
    """

    shape: BatchShape
    times: list[Seconds]
    host: float | None
    asynchronous: bool
    rate: float
    dtype: str
    device: str


def measure_steps(
    settings: TrialSettings, shape: BatchShape, budget: Seconds, advance: Callable[[Seconds], None]
) -> MeasuredSteps:
    """Times training steps.

    Args:
        settings: How updates are computed.
        shape: Shape of the micro-batches. If a few updates of it would take longer than `budget`, fewer utterances are
            measured.
        budget: About how long to measure.
        advance: Called with the time that has passed since its last call.

    Raises:
        OutOfMemory: A batch does not fit in memory.
    """
    model = settings.build_model()
    single: list[Seconds] = []
    # The first one includes the start-up.
    while not single or (len(single) == 1 and settings.accumulate * single[0] < budget / 2):
        run_updates(settings, model, [BatchShape(1, shape.seconds)], _ticking(single.append, advance))
    update = settings.accumulate * single[-1]  # with one utterance in each micro-batch
    least = _LEAST if (1 + _LEAST) * update < budget else 1
    utterances = min(shape.utterances, max(1, int(budget / ((1 + least) * update))))
    probe = _Probe(settings.accumulate, budget, least)
    timed = replace(settings, build_callbacks=lambda: [*settings.build_callbacks(), probe])
    times: list[Seconds] = []
    measured = BatchShape(utterances, shape.seconds)
    run_updates(timed, model, [measured] * (1 + _MOST), _ticking(times.append, advance))
    return replace(probe.result(measured), times=times[1:])


def _ticking(record: Callable[[Seconds], None], advance: Callable[[Seconds], None]) -> Callable[[Seconds], None]:
    last = time.perf_counter()

    def on_update(seconds: Seconds) -> None:
        nonlocal last
        now = time.perf_counter()
        advance(now - last)
        last = now
        record(seconds)

    return on_update


class _Probe(Callback):
    """Measures the host during updates and the rate of products after them; ends the trial in time."""

    def __init__(self, accumulate: int, budget: Seconds, least: int) -> None:
        self._accumulate = accumulate
        self._least = least
        self._end = time.perf_counter() + budget
        self._meter: HostMeter | None = None
        self._by_host: list[tuple[Seconds, Seconds]] = []
        self._inside: list[Seconds] = []
        self._started: Seconds = 0.0
        self._dtype = torch.float32
        self._device = torch.device("cpu")
        self._rate = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._device = pl_module.device
        self._dtype = product_dtype(trainer, self._device)
        self._meter = host_meter(pl_module, self._device, scales_gradients(trainer), self._least)
        self._rate = matmul_rate(self._device, self._dtype)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        number = batch_idx % self._accumulate
        if self._meter is None:
            return
        if number == 0:
            self._meter.restart()  # between updates, noise is made
        self._meter.start(number, self._accumulate)
        self._started = time.perf_counter()

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._meter is not None:
            self._meter.launched()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._meter is not None:
            _, by_host, inside = self._meter.end(0.0)
            if batch_idx >= self._accumulate:  # not in the first update
                self._by_host.append((by_host, inside))
                self._inside.append(time.perf_counter() - self._started)
        done = (batch_idx + 1) / self._accumulate
        if done >= 1 + self._least and time.perf_counter() > self._end:
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Twice, because other programs on the machine can only slow it down.
        self._rate = max(self._rate, matmul_rate(self._device, self._dtype))

    def result(self, shape: BatchShape) -> MeasuredSteps:
        """Returns what was measured, without the times."""
        host = None
        if self._meter is not None and self._by_host:
            known, shared = map(sum, zip(*self._by_host, strict=True))
            host = (known + shared * self._meter.share) / sum(self._inside)
        asynchronous = self._meter is not None and self._meter.asynchronous
        dtype = str(self._dtype).removeprefix("torch.")
        return MeasuredSteps(shape, [], host, asynchronous, self._rate, dtype, self._device.type)


def model_flops(model: PretrainingModule, shape: BatchShape) -> int:
    """Counts the operations of a micro-batch; the model cannot be used afterwards."""
    return count_flops(model, shape.utterances, round(shape.seconds * SAMPLE_RATE))
