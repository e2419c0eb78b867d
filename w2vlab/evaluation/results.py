"""Converts an evaluation to table rows and to JSON data."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from w2vlab.data.corpora.held_out import EvaluationSplit
from w2vlab.evaluation.evaluate import Evaluation
from w2vlab.evaluation.tasks.abx import AbxTask
from w2vlab.evaluation.tasks.abx_errors import AbxErrors
from w2vlab.evaluation.tasks.measure import RepresentationResult, SourceResult
from w2vlab.evaluation.tasks.probe import ProbeResult


@dataclass(frozen=True, kw_only=True)
class Row:
    """Results of one representation and its controls; None for results that were not measured.

    Attributes:
        name: Name of the representation.
        dim: Its width D.
        accuracy: Accuracy of the phone probe, in [0, 1].
        accuracy_shifted: Accuracy with frames 0.3 s after the phones.
        accuracy_random: Accuracy of the network with random weights.
        abx: ABX error by `within` or `across`, in [0, 1].
        abx_random: ABX error of the network with random weights.
    """

    name: str
    dim: int
    accuracy: float | None
    accuracy_shifted: float | None
    accuracy_random: float | None
    abx: dict[str, float]
    abx_random: dict[str, float]


def table_rows(evaluation: Evaluation) -> list[Row]:
    """Returns the rows of the model's representations, and a last one of MFCCs."""
    controls = {m.name: m for m in evaluation.random.representations} if evaluation.random else {}
    rows = [_make_row(result, controls.get(result.name)) for result in evaluation.model.representations]
    if evaluation.mfcc is not None:
        results = evaluation.mfcc.representations
        joined = RepresentationResult(
            name="MFCC (control)",
            dim=max(m.dim for m in results),
            probe=next((m.probe for m in results if m.probe), None),
            shifted=next((m.shifted for m in results if m.shifted), None),
            abx=next((m.abx for m in results if m.abx), {}),
        )
        rows.append(_make_row(joined, None))
    return rows


def _make_row(result: RepresentationResult, control: RepresentationResult | None) -> Row:
    def means(errors_by_task: dict[str, AbxErrors]) -> dict[str, float]:
        return {name: errors.value for name, errors in errors_by_task.items()}

    return Row(
        name=result.name,
        dim=result.dim,
        accuracy=_accuracy(result.probe),
        accuracy_shifted=_accuracy(result.shifted),
        accuracy_random=_accuracy(control.probe) if control else None,
        abx=means(result.abx),
        abx_random=means(control.abx) if control else {},
    )


def _accuracy(probe: ProbeResult | None) -> float | None:
    return None if probe is None else probe.accuracy


def majority(evaluation: Evaluation) -> float | None:
    """Returns the accuracy of always predicting the most frequent phone; None without phones."""
    return next((m.probe.majority for m in evaluation.model.representations if m.probe), None)


def as_dict(evaluation: Evaluation) -> dict[str, Any]:
    """Returns all results as data for valid JSON, including those of each utterance and cell."""
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
    plain: dict[str, Any] = _to_json(content)
    return plain


def as_plain_split(split: EvaluationSplit) -> dict[str, Any]:
    """Returns a split in the format of `--split FILE`."""
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


def _to_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _to_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has neither NaN nor infinity
    return value
