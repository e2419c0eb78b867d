"""From what batches cost to the options of the data: how much audio, in how many micro-batches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from w2vlab.explain.batch_size.cost_model import BatchShape, CostModel
from w2vlab.types import Seconds

_DIGITS = 4
"""Of the options that are computed, after the decimal point."""


@dataclass(frozen=True)
class Batches:
    """Options of the data that decide how large batches are.

    Attributes:
        batch_seconds: `data.batch_seconds`: the most that the utterances of a micro-batch count.
        quadratic_seconds: `data.quadratic_seconds` q: an utterance of t seconds counts as t + t² / q; None for t.
        micro_batches: Micro-batches of an update on each process.
    """

    batch_seconds: Seconds
    quadratic_seconds: Seconds | None
    micro_batches: int

    def shape(self, seconds: Seconds) -> BatchShape:
        """Returns the largest batch of utterances of this length; at least one of them."""
        utterances = int(
            self.batch_seconds / (seconds * self.factor(seconds)) + 1e-9
        )  # 0.3 / 0.1 is 2.9999999999999996
        return BatchShape(max(utterances, 1), seconds)

    def factor(self, seconds: Seconds) -> float:
        """Returns what a second of an utterance of this length counts."""
        return 1 + (0 if self.quadratic_seconds is None else seconds / self.quadratic_seconds)

    def audio(self, seconds: Seconds) -> Seconds:
        """Returns the most audio of an update on each process, of utterances of this length."""
        return self.micro_batches * self.batch_seconds / self.factor(seconds)


@dataclass(frozen=True)
class Run:
    """What batches are chosen for.

    Attributes:
        min_seconds: Length of the shortest utterance.
        max_seconds: Length of the longest utterance, or crop.
        batches: The options of the run as they are.
        processes: Number of processes.
        by_micro_batches: Whether `data.micro_batches` fixes the update; otherwise `trainer.accumulate_grad_batches`.
    """

    min_seconds: Seconds
    max_seconds: Seconds
    batches: Batches
    processes: int
    by_micro_batches: bool

    @property
    def lengths(self) -> list[Seconds]:
        """Lengths of utterances to measure, from short to long."""
        if self.max_seconds <= self.min_seconds:
            return [self.max_seconds]
        step = (self.max_seconds - self.min_seconds) / 3
        return [self.min_seconds, self.min_seconds + step, self.max_seconds - step, self.max_seconds]


def rounded_quadratic_seconds(time: CostModel) -> Seconds | None:
    """Returns the `quadratic_seconds` of a model of the time, to four digits.

    Raises:
        ValueError: The time has no linear term.
    """
    exact = time.quadratic_seconds
    return None if exact is None else float(f"{exact:.4g}")


def choose_batches(run: Run, quadratic_seconds: Seconds | None, most: float) -> Batches:
    """Chooses the fewest and largest micro-batches that keep the audio of an update of the longest utterances.

    Args:
        run: The options of the run.
        quadratic_seconds: As in `Batches`.
        most: Largest `batch_seconds` that is possible, at least that of one of the longest utterances.
    """
    audio = run.batches.audio(run.max_seconds)
    one = Batches(1.0, quadratic_seconds, 1)
    total = audio * one.factor(run.max_seconds)  # `batch_seconds` times `micro_batches`
    micro_batches = max(1, math.ceil(total / most - 1e-9))
    # Of one utterance at least; that may be more audio than before, if an update has few utterances.
    batch_seconds = max(total / micro_batches, run.max_seconds * one.factor(run.max_seconds))
    rounded = math.ceil(batch_seconds * 10**_DIGITS - 1e-6) / 10**_DIGITS  # up, so that no utterance is lost to it
    return Batches(rounded, quadratic_seconds, micro_batches)


def as_options(run: Run, batches: Batches) -> dict[str, dict[str, Any]]:
    """Returns the options of `w2vlab fit` that make these batches."""
    data: dict[str, Any] = {"batch_seconds": batches.batch_seconds, "quadratic_seconds": batches.quadratic_seconds}
    if run.by_micro_batches:
        return {"data": {**data, "micro_batches": batches.micro_batches * run.processes}}
    return {"data": data, "trainer": {"accumulate_grad_batches": batches.micro_batches}}


def fuse_seconds(run: Run, batches: Batches) -> Seconds | None:
    """Returns the `data.fuse_seconds` that computes the run's own micro-batches in batches as large as other ones.

    Args:
        run: The options of the run.
        batches: The largest batches that may be, counted in their own way.

    Returns:
        None if that is less than two micro-batches, or if an update is not set by `data.micro_batches`.
    """
    # Of the longest utterances, which take the most memory a second.
    audio = batches.batch_seconds / batches.factor(run.max_seconds)
    seconds = math.floor(audio * run.batches.factor(run.max_seconds) * 10 + 1e-6) / 10
    return seconds if run.by_micro_batches and seconds >= 2 * run.batches.batch_seconds else None
