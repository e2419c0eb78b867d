"""What a report knows of one run, wherever it was read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, float]

SEED = "seed_everything"

_COSTS = ("seconds", "audio_seconds")

_LARGEST = 1e100


@dataclass(frozen=True)
class Cost:
    """What a run has taken; None where it was not recorded.

    Attributes:
        seconds: Time, all parts of a resumed run together.
        audio_seconds: Audio heard by all processes together, without padding.
        updates: Steps of the optimiser.
        peak_memory_gib: The most memory that one process has had.
    """

    seconds: float | None = None
    audio_seconds: float | None = None
    updates: float | None = None
    peak_memory_gib: float | None = None


@dataclass(kw_only=True)
class RunData:
    """One run.

    Attributes:
        name: Tells it apart from the others of a report.
        source: A folder, or an address of Weights & Biases.
        options: Every option by its key as it is typed: `model.quantizer.codebook_size`.
        train: Rows of metrics of training, by ascending `update`.
        validation: The same of the validations.
        cost: What it took.
        evaluation: Outcomes of `w2vlab evaluate`, in [0, 1]; empty where it has not been run.
        measured_on: What these were measured on: checkpoint, corpus, test utterances, cells.
        finished: Whether it came to its end; None where nothing says so.
        ended: How it ended, or that it has not, in words; empty of a run that is finished.
        started: ISO time; empty where it is not known.
        continues: The folder of the run whose checkpoint this one went on from.
        parameters: Those of its trial of a sweep; None outside of one.
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
    continues: str | None = None
    parameters: dict[str, Any] | None = None

    @property
    def seed(self) -> Any:
        """The seed of all draws."""
        return self.options.get(SEED)

    def metrics(self) -> set[str]:
        """Returns the names of everything that was measured."""
        names = {name for row in (*self.train, *self.validation) for name in row}
        return (names - {"update", *_COSTS}) | self.evaluation.keys()

    def value(self, metric: str) -> float | None:
        """Returns the last value of a metric, of a validation where there is one; None where it was never logged."""
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
    """What a sweep says of itself.

    Attributes:
        name: Of its file.
        parameters: The names of what its trials differ in.
    """

    name: str
    parameters: tuple[str, ...]


@dataclass
class Found:
    """Everything that was read.

    Attributes:
        runs: In the order in which they were found.
        sweeps: Those that the runs belong to.
        missing: Trials without a result: their names, parameters, and why.
        problems: Files that could not be read, as lines of text.
    """

    runs: list[RunData] = field(default_factory=list)
    sweeps: list[Sweep] = field(default_factory=list)
    missing: list[tuple[str, dict[str, Any], str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def in_order(rows: Iterable[Mapping[str, Any]]) -> tuple[list[Row], list[Row]]:
    """Sorts rows of a log into those of training and of validation, what is no number left out.

    A run that went on from a checkpoint has recorded what was behind it a second time: the later rows count.
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
    """Returns a number of a log; NaN for what no float32 can be, whose squares would not even be float64."""
    return math.nan if value is None or abs(value) > _LARGEST else value


def is_number(value: Any) -> bool:
    """Tells whether `value` is a number; null in a file stands for one that is not finite."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
