"""An evaluation as rows of a table and as plain data."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from w2vlab.data.held_out import EvaluationSplit
from w2vlab.evaluation.abx import AbxTask
from w2vlab.evaluation.abx_errors import AbxErrors
from w2vlab.evaluation.evaluate import Evaluation
from w2vlab.evaluation.measure import Measured, SourceResult
from w2vlab.evaluation.probe import ProbeResult


@dataclass(frozen=True)
class Row:
    """One representation beside its controls; None where something was not measured.

    Attributes:
        name: Of the representation.
        dim: Its width.
        accuracy: Of the phone probe, in [0, 1].
        accuracy_shifted: The same 0.3 s behind the phone.
        accuracy_random: The same of the network before training.
        abx: Error by `within` or `across`, in [0, 1].
        abx_random: The same of the network before training.
    """

    name: str
    dim: int
    accuracy: float | None
    accuracy_shifted: float | None
    accuracy_random: float | None
    abx: dict[str, float]
    abx_random: dict[str, float]


def table_rows(evaluation: Evaluation) -> list[Row]:
    """Returns the rows of the model's representations and, last, of cepstra."""
    controls = {m.name: m for m in evaluation.random.representations} if evaluation.random else {}
    rows = [_row(evaluation, measured, controls.get(measured.name)) for measured in evaluation.model.representations]
    if evaluation.mfcc is not None:
        found = evaluation.mfcc.representations
        joined = Measured(
            "MFCC (control)",
            max(m.dim for m in found),
            next((m.probe for m in found if m.probe), None),
            next((m.shifted for m in found if m.shifted), None),
            next((m.abx for m in found if m.abx), {}),
        )
        rows.append(_row(evaluation, joined, None))
    return rows


def _row(evaluation: Evaluation, measured: Measured, control: Measured | None) -> Row:
    def means(found: dict[str, AbxErrors]) -> dict[str, float]:
        return {name: errors.value for name, errors in found.items()}

    return Row(
        measured.name,
        measured.dim,
        _accuracy(measured.probe),
        _accuracy(measured.shifted),
        _accuracy(control.probe) if control else None,
        means(measured.abx),
        means(control.abx) if control else {},
    )


def _accuracy(probe: ProbeResult | None) -> float | None:
    return None if probe is None else probe.accuracy


def majority(evaluation: Evaluation) -> float | None:
    """Returns the accuracy of naming the most frequent phone each time; None without phones."""
    return next((m.probe.majority for m in evaluation.model.representations if m.probe), None)


def as_dict(evaluation: Evaluation) -> dict[str, Any]:
    """Returns everything as plain data that is valid JSON, with what each utterance and cell gave."""
    corpus = evaluation.corpus
    content = {
        "corpus": {
            "name": corpus.name,
            "phones": list(corpus.phones),
            "split": asdict(corpus.split),
            "test_seconds": corpus.seconds(corpus.split.test),
            "seen_in_pretraining": asdict(evaluation.seen),
        },
        "table": [asdict(row) for row in table_rows(evaluation)],
        "majority": majority(evaluation),
        "sources": {source.name: _source(source) for source in evaluation.sources},
        "abx": {task.speakers: _task(task) for task in evaluation.tasks},
        "seconds": evaluation.seconds,
    }
    plain: dict[str, Any] = _plain(content)
    return plain


def as_plain_split(split: EvaluationSplit) -> dict[str, Any]:
    """Returns a split as `--split FILE` takes it."""
    return {"rule": split.rule, "train": list(split.train), "test": list(split.test)}


def _source(source: SourceResult) -> dict[str, Any]:
    return {
        "frames_per_second": source.frames_per_second,
        "representations": [
            {
                "name": m.name,
                "dim": m.dim,
                "probe": None if m.probe is None else asdict(m.probe),
                "shifted": None if m.shifted is None else asdict(m.shifted),
                "abx_errors": {name: found.errors.tolist() for name, found in m.abx.items()},
                "abx_mean_over_cells": {name: float(found.errors.mean()) for name, found in m.abx.items()},
            }
            for m in source.representations
        ],
        "units": [asdict(unit) for unit in source.units],
    }


def _task(task: AbxTask) -> dict[str, Any]:
    cells = [[c.phone, c.other, c.before, c.after, c.speaker, c.speaker_x] for c in task.cells]
    return {"num_possible": task.num_possible, "cells": cells}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
