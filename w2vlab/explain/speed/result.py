"""The result of a trial: the time of a micro-batch, divided among products, memory, host and data."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from w2vlab.callbacks.speed.limits import (
    DATA,
    DEVICE,
    HOST,
    MEMORY,
    PRODUCTS,
    Shares,
    divide,
    flops_rate,
    limit_line,
    step_name,
)
from w2vlab.callbacks.speed.limits import span as text_of
from w2vlab.explain.batch_size.cost_model import BatchShape
from w2vlab.explain.batch_size.text import describe
from w2vlab.explain.speed.reading import Reading
from w2vlab.explain.speed.steps import MeasuredSteps
from w2vlab.types import Seconds
from w2vlab.utils.messages import count


@dataclass(frozen=True)
class Speed:
    """What limits the speed of a run on this machine.

    Attributes:
        steps: The measured training steps.
        flops: Operations of the products of a micro-batch; None if a part reads values of tensors.
        reading: The measured workers; None without a corpus.
        not_read: Why the corpus was not read.
        wanted: Shape of the micro-batches of the run; the measured ones have fewer utterances if they take long.
        at_once: Micro-batches of the run that are computed as one batch, whose shape `wanted` then is.
    """

    steps: MeasuredSteps
    flops: int | None
    reading: Reading | None
    not_read: str
    wanted: BatchShape
    at_once: int = 1

    @property
    def step(self) -> Seconds:
        """Median time of a training step: of a micro-batch."""
        return median(self.steps.times)

    @property
    def audio(self) -> Seconds:
        """Audio of a micro-batch."""
        return self.steps.shape.utterances * self.steps.shape.seconds

    @property
    def waiting(self) -> Seconds:
        """Time that training waits for a micro-batch."""
        return 0.0 if self.reading is None else self.reading.waiting(self.audio, self.step)

    @property
    def total(self) -> Seconds:
        """Time of a micro-batch with waiting."""
        return self.step + self.waiting

    @property
    def rate(self) -> float:
        """Seconds of audio a second that one device trains on."""
        return self.audio / self.total

    @property
    def shares(self) -> Shares:
        """The time of a micro-batch, divided; where the host cannot be told apart, it counts as the device."""
        utilisation = None if self.flops is None else self.flops / self.total / max(self.steps.rate, self._least_rate)
        host = (self.steps.host or 0.0) * self.step / self.total
        return divide(self.waiting / self.total, host, utilisation, self.steps.asynchronous)

    @property
    def _least_rate(self) -> float:
        """The rate of the products themselves, which exceeds the measured one if the device was busy at that time."""
        return 0.0 if self.flops is None else self.flops / self.step

    @property
    def line(self) -> str:
        """One line: what limits the speed, by how much, and what to do about it."""
        dtype: torch.dtype = getattr(torch, self.steps.dtype)
        rate = max(self.steps.rate, self._least_rate)
        return limit_line(self.shares, self.total, rate, self.steps.device, dtype, self.at_once)

    def as_dict(self) -> dict[str, Any]:
        """Returns plain data that is valid JSON."""
        return {
            "utterances": self.steps.shape.utterances,
            "utterance_seconds": self.steps.shape.seconds,
            "step_seconds": self.step,
            "step_seconds_of_each_update": self.steps.times,
            "waiting_seconds": self.waiting,
            "audio_seconds_per_second": self.rate,
            "flops": self.flops,
            "flops_rate": self.steps.rate,
            "dtype": self.steps.dtype,
            "device": self.steps.device,
            "reading_audio_seconds_per_second": None if self.reading is None else self.reading.rate,
            "shares": self.shares.parts,
            "limited_by": self.shares.limit,
            "line": self.line,
        }


def print_speed(speed: Speed, console: Console) -> None:
    """Prints the table and the line.

    Args:
        speed: The result of a trial.
        console: Where to print.
    """
    steps = speed.steps
    what = f"{step_name(speed.at_once)}{' of' if speed.at_once == 1 else ','} {describe(steps.shape)}"
    title = f"Speed of {what}, on noise, on {steps.device} in {steps.dtype}"
    if steps.shape != speed.wanted:
        title += f"; the run has {describe(speed.wanted)}, which take too long for this trial"
    console.print(title, style="bold", highlight=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("limit")
    table.add_column("time", justify="right")
    table.add_column("share", justify="right")
    table.add_column("measured by")
    why = _measured_by(speed)
    for name, share in speed.shares.parts.items():
        table.add_row(name, text_of(share * speed.total), f"{share:.0%}", why[name])
    spread = "one update"
    if len(steps.times) > 1:
        spread = (
            f"median of {len(steps.times)} updates, from {text_of(min(steps.times))} to {text_of(max(steps.times))}"
        )
    table.add_row("total", text_of(speed.total), "", f"{spread}; {speed.rate:.3g} s of audio a second")
    console.print(table, highlight=False)
    console.print()
    console.print(speed.line, highlight=False, markup=False, soft_wrap=True)


def _measured_by(speed: Speed) -> dict[str, str]:
    steps, reading = speed.steps, speed.reading
    if reading is None:
        data = f"not measured: {speed.not_read}"
    else:
        needed = speed.audio / speed.step
        who = count(reading.workers, "worker") if reading.workers else "the training process"
        data = f"by {who}, {reading.rate:,.0f} s of audio a second are read; the steps use {needed:,.0f}"
    host = "record of the operations" if steps.device == "cpu" else "launches that the device was waiting for"
    return {
        PRODUCTS: f"{speed.flops or 0:.3g} operations, at {flops_rate(steps.rate)} of a large product",
        MEMORY: "what remains: norms, activations, copies, the optimizer, small products",
        DEVICE: "what remains: a part reads values, so that operations cannot be counted",
        HOST: host if steps.host is not None else "not measured: it cannot be told apart here",
        DATA: data,
    }
