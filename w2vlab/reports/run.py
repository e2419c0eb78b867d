"""The data of the runs of a report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, float]

SEED = "seed_everything"

_COSTS = ("seconds", "audio_seconds")

_LARGEST = 1e100


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The compute cost of a run; None for values that were not recorded.

    Attributes:
        seconds: Wall-clock time, including the time before a resume.
        audio_seconds: Audio processed by all processes together, without padding.
        updates: Optimiser updates.
        peak_memory_gib: Peak memory of one process.
    """

    seconds: float | None = None
    audio_seconds: float | None = None
    updates: float | None = None
    peak_memory_gib: float | None = None


@dataclass(kw_only=True)
class RunData:
    """One run.

    Attributes:
        name: Name of the run, unique in a report.
        source: A folder, or an address of Weights & Biases.
        options: All options by their keys, such as `model.quantizer.codebook_size`.
        train: Rows of training metrics, by ascending `update`.
        validation: Rows of validation metrics, by ascending `update`.
        cost: The compute cost.
        evaluation: Outcomes of `w2vlab evaluate`, in [0, 1]; empty without an evaluation.
        measured_on: Settings of the evaluation: checkpoint, corpus, test utterances, cells.
        finished: Whether the run has finished; None if unknown.
        ended: How an unfinished run ended, or that it is running, as text; empty for a finished run.
        started: ISO time; empty if unknown.
        resumed_from: The folder of the run whose checkpoint this run has resumed; None if it has not.
        parameters: The parameters of its trial, if it belongs to a sweep.
    """

    name: str
    source: str
    options: dict[str, Any]
    train: list[Row] = field(default_factory=list)
    validation: list[Row] = field(default_factory=list)
    cost: Cost = field(default_factory=Cost)
    evaluation: dict[str, float] = field(default_factory=dict)
    measured_on: dict[str, Any] = field(default_factory=dict)
    finished: bool | None = None
    ended: str = ""
    started: str = ""
    resumed_from: str | None = None
    parameters: dict[str, Any] | None = None

    @property
    def seed(self) -> Any:
        """The random seed."""
        return self.options.get(SEED)

    def metrics(self) -> set[str]:
        """Returns the names of all metrics."""
        names = {name for row in (*self.train, *self.validation) for name in row}
        return (names - {"update", *_COSTS}) | self.evaluation.keys()

    def value(self, metric: str) -> float | None:
        """Returns the last value of a metric, preferably of a validation; None if it was never logged."""
        if metric in self.evaluation:
            return self.evaluation[metric]
        for rows in (self.validation, self.train):
            for row in reversed(rows):
                if metric in row:
                    return row[metric]
        return None

    def series(self, metric: str) -> dict[float, float]:
        """Returns the finite values of a metric by update."""
        rows = [row for row in (*self.train, *self.validation) if metric in row]
        return {row["update"]: row[metric] for row in rows if math.isfinite(row[metric])}


@dataclass(frozen=True)
class Sweep:
    """A sweep that runs belong to.

    Attributes:
        name: Name of the sweep.
        parameters: Names of the parameters in which its trials differ.
    """

    name: str
    parameters: tuple[str, ...]


@dataclass
class Found:
    """The runs of a report, and everything else that was read.

    Attributes:
        runs: The runs, in the order in which they were read.
        sweeps: The sweeps that the runs belong to.
        missing: Trials without a result: name, parameters, and the reason.
        problems: Messages about files that could not be read.
    """

    runs: list[RunData] = field(default_factory=list)
    sweeps: list[Sweep] = field(default_factory=list)
    missing: list[tuple[str, dict[str, Any], str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def split_rows(rows: Iterable[Mapping[str, Any]]) -> tuple[list[Row], list[Row]]:
    """Splits rows of a log into those of training and of validation, and removes values that are not numbers.

    A resumed run has recorded the updates after its checkpoint twice; the later rows are used.
    """
    train: list[Row] = []
    validation: list[Row] = []
    for row in rows:
        kept = validation if any(name.startswith("val/") for name in row) else train
        while kept and kept[-1]["update"] >= row["update"]:
            kept.pop()
        kept.append({name: _as_float(value) for name, value in row.items() if is_number(value)})
    return train, validation


def _as_float(value: float | None) -> float:
    """Returns a number of a log; NaN for null, and for numbers whose squares would overflow in float64."""
    return math.nan if value is None or abs(value) > _LARGEST else value


def is_number(value: Any) -> bool:
    """Returns whether `value` is a number or null, which represents a number that is not finite."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
