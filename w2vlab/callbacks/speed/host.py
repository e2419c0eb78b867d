"""The share of the host in the time of training, measured beside it."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from statistics import median
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import nn

from w2vlab.callbacks.speed.operations import Recorder, host_seconds, operation_cost
from w2vlab.types import Seconds


class HostMeter(ABC):
    """Measures the time in which the host sets the pace of training.

    A micro-batch is computed between `start` and `end`. What is between them and the next `start` is waiting for data,
    and work of the host: callbacks, logs and checkpoints.
    """

    asynchronous: bool
    """Whether the device computes beside the host."""

    share: float
    """Share of the host in the time within micro-batches; NaN if it is not known yet."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Ignores the time since the last micro-batch, such as that of a validation."""
        self._ended: Seconds | None = None
        self._started: Seconds = 0.0
        self._between: Seconds = 0.0

    def start(self, number: int, of: int) -> None:
        """Begins a micro-batch.

        Args:
            number: Its number in the update, from 0.
            of: Micro-batches of the update on this process.
        """
        self._started = time.perf_counter()
        self._between = 0.0 if self._ended is None else self._started - self._ended
        self._start(number, of)

    def launched(self) -> None:  # noqa: B027
        """Must be called after each backward pass."""

    def end(self, waited: Seconds) -> tuple[Seconds, Seconds, Seconds]:
        """Ends a micro-batch.

        Args:
            waited: Time that the training process has waited for data since the last `end`.

        Returns:
            The time since then in which training waited for data and the device had nothing to compute; the time in
            which the host is known to have set the pace; and the time of which it has set the pace in `share`.
        """
        self._ended = time.perf_counter()
        return self._end(waited, self._ended - self._started)

    def stop(self) -> None:  # noqa: B027
        """Ends the measurement, also in the middle of a micro-batch."""

    @abstractmethod
    def _start(self, number: int, of: int) -> None:
        """Begins a micro-batch."""

    @abstractmethod
    def _end(self, waited: Seconds, inside: Seconds) -> tuple[Seconds, Seconds, Seconds]:
        """Ends a micro-batch that took the host this long."""


class CpuHost(HostMeter):
    """The host on a CPU, where a kernel and Python never run at the same time.

    The time within micro-batches is measured in few of them, by a record of the operations: in the first, a middle and
    the last one of a few updates, after one that is not measured because it includes the start-up.

    Args:
        updates: How many updates are recorded.
    """

    asynchronous = False

    def __init__(self, updates: int = 3) -> None:
        super().__init__()
        self.share = math.nan
        self._updates = updates
        self._skip = 1
        self._found: list[float] = []  # share of each update
        self._parts: dict[int, tuple[Seconds, Seconds]] = {}  # time of the host, and all time, by micro-batch
        self._number, self._of = 0, 1
        self._recording = False

    def _start(self, number: int, of: int) -> None:
        self._number, self._of = number, of
        if number == 0:
            self._parts = {}
        chosen = number in (0, 1, of - 1) and len(self._found) < self._updates and not self._skip
        if chosen and Recorder.available():
            operation_cost()
            Recorder.start()
            self._recording = True

    def _end(self, waited: Seconds, inside: Seconds) -> tuple[Seconds, Seconds, Seconds]:
        if self._recording:
            self._recording = False
            self._parts[self._number] = host_seconds(Recorder.stop())
        if self._number == self._of - 1:
            self._skip = max(0, self._skip - 1)
            self._end_update()
        return waited, max(0.0, self._between - waited), inside

    def _end_update(self) -> None:
        parts, middle, last = self._parts, min(1, self._of - 1), self._of - 1
        if set(parts) == {0, middle, last}:
            # The micro-batches that were not recorded are like the second one.
            weights = {number: 1 + (number == middle) * max(0, self._of - 3) for number in parts}
            by_host, total = (sum(weights[number] * parts[number][kind] for number in parts) for kind in (0, 1))
            self._found.append(by_host / total if total > 0 else 1.0)
            if len(self._found) == self._updates:
                self.share = median(self._found)

    def stop(self) -> None:
        """Ends a recording."""
        if self._recording:
            self._recording = False
            Recorder.stop()


class GpuHost(HostMeter):
    """The host beside a GPU, which computes what was launched while the host launches more.

    Events are recorded behind the backward pass and behind the micro-batch, and it is asked without waiting whether the
    device has passed them: the first one at the end of the micro-batch, the second one before the next begins. A device
    that limits training is behind the host by much more than that.
    """

    asynchronous = True
    share = 0.0

    def __init__(self) -> None:
        super().__init__()
        self._backward, self._micro_batch = self._event(), self._event()
        self._idle = False
        self._any = False

    def _event(self) -> Any:
        return torch.cuda.Event()  # type: ignore[no-untyped-call]

    def _start(self, number: int, of: int) -> None:
        self._idle = self._ended is not None and self._any and bool(self._micro_batch.query())

    def launched(self) -> None:
        """Records an event behind the backward pass."""
        self._backward.record()

    def _end(self, waited: Seconds, inside: Seconds) -> tuple[Seconds, Seconds, Seconds]:
        set_pace = bool(self._backward.query())
        self._micro_batch.record()
        self._any = True
        between = (waited, max(0.0, self._between - waited)) if self._idle else (0.0, 0.0)
        return between[0], between[1] + (inside if set_pace else 0.0), 0.0


def scales_gradients(trainer: Trainer) -> bool:
    """Returns whether a trainer scales gradients, which float16 needs."""
    return getattr(trainer.precision_plugin, "scaler", None) is not None


def host_meter(model: nn.Module, device: torch.device, scales_gradients: bool, updates: int = 3) -> HostMeter | None:
    """Returns the meter of a device; None if the host cannot be told apart there.

    Args:
        model: The model. What is compiled on a CPU consists of no operations that can be recorded.
        device: The device.
        scales_gradients: Whether the trainer scales gradients (float16), which waits for the device in each update.
        updates: How many updates are recorded on a CPU.
    """
    if device.type == "cuda":
        return None if scales_gradients else GpuHost()
    compiled = any(vars(module).get("_compiled_call_impl") is not None for module in model.modules())
    return CpuHost(updates) if device.type == "cpu" and not compiled else None
