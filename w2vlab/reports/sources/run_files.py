"""Reader of the files in a run folder, which may be damaged or untrusted."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import fields
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from w2vlab.reports.outcomes import EVALUATION_SETTING, extract_outcomes
from w2vlab.reports.run import Cost, Row, RunData, split_rows
from w2vlab.utils.files import CONFIG, EVALUATION, METRICS, REPORT, RUN_RECORD
from w2vlab.utils.messages import one_line
from w2vlab.utils.options import flat
from w2vlab.utils.plain_data import MEBIBYTE, read_json, read_yaml

_PEAK_MEMORY = "train/throughput/peak_memory_gib"

_MOST_OF_RECORDS = 64 * MEBIBYTE
_MOST_OF_EVALUATIONS = 256 * MEBIBYTE
_MOST_OF_METRICS = 256 * MEBIBYTE
"""A row has one to two kilobytes, and a run seldom has more than ten thousand rows."""

_MOST_ROWS = 1_000_000

_LONGEST_ROW = MEBIBYTE

_MOST_UPDATES = 1e15
_HIGHEST_COST = 1e12


class UnreadableRunError(Exception):
    """A file of a run cannot be read, or is invalid."""


def read_run(folder: Path, problems: list[str]) -> RunData:
    """Reads one run.

    Args:
        folder: The run folder.
        problems: Messages about optional files that could not be read are appended to this list.

    Raises:
        UnreadableRunError: The configuration or all metrics cannot be read or are invalid.
    """
    try:
        return _read_run(folder, problems)
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError, RecursionError, OSError) as problem:
        raise UnreadableRunError(one_line(f"{folder} is damaged ({type(problem).__name__}: {problem}).", 400)) from None


def _read_run(folder: Path, problems: list[str]) -> RunData:
    config = _config(folder / CONFIG)
    record = read_optional_json(folder / RUN_RECORD, problems)
    report = read_optional_json(folder / REPORT, problems, _MOST_OF_RECORDS)
    if (folder / METRICS).is_file():
        train, validation = split_rows(_read_metric_rows(folder / METRICS, problems))
    elif "train" in report:
        train, validation = split_rows(_rows(report["train"]))[0], split_rows(_rows(report["validation"]))[1]
    else:
        raise UnreadableRunError(one_line(f"{folder} has no metrics."))
    last, status = _last_start(record), record.get("status")
    updates = max((rows[-1]["update"] for rows in (train, validation) if rows), default=0)
    checkpoint = last.get("checkpoint")
    started = one_line(str(last.get("started", "")), 40)
    evaluation, measured_on = _evaluation(folder, problems, started)
    return RunData(
        name=str(folder),
        source=str(folder),
        options=dict(flat("", config)),
        train=train,
        validation=validation,
        cost=_cost(report, train, validation),
        evaluation=evaluation,
        measured_on=measured_on,
        finished=None if status is None else status == "finished",
        ended="" if status in (None, "finished") else f"{_describe_status(str(status))}, update {updates:g}",
        started=started,
        resumed_from=None if checkpoint is None else str(Path(last.get("folder", "."), checkpoint).parent.parent),
    )


def _last_start(record: dict[str, Any]) -> dict[str, Any]:
    """Returns the entry of the last start or resume in a `run.json`."""
    continued = record.get("continued") or []
    if not isinstance(continued, list) or not all(isinstance(start, dict) for start in continued):
        raise ValueError(f"`continued` of its {RUN_RECORD} must be a list of mappings")
    return continued[-1] if continued else record


def _describe_status(status: str) -> str:
    return "running, or killed" if status == "running" else one_line(status, 40)


def _cost(report: dict[str, Any], train: list[Row], validation: list[Row]) -> Cost:
    names = [field.name for field in fields(Cost)]
    if "cost" in report:
        values = {name: report["cost"].get(name) for name in names}
    else:
        last: Row = max((rows[-1] for rows in (train, validation) if rows), key=lambda row: row["update"], default={})
        peaks = [row[_PEAK_MEMORY] for row in train if _PEAK_MEMORY in row]
        values = {
            "seconds": last.get("seconds"),
            "audio_seconds": last.get("audio_seconds"),
            "updates": last.get("update"),
            "peak_memory_gib": max(peaks, default=None),
        }
    for name, value in values.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _HIGHEST_COST
        if value is not None and not is_number and not (isinstance(value, float) and math.isnan(value)):
            raise ValueError(f"`cost.{name}` must be a number, but is {value!r}")
    return Cost(**{name: None if value is None or math.isnan(value) else value for name, value in values.items()})


def _evaluation(folder: Path, problems: list[str], started: str) -> tuple[dict[str, float], dict[str, Any]]:
    """Returns the outcomes of the evaluation of `last.ckpt`, and the settings of that evaluation.

    If `last.ckpt` has no evaluation, the newest evaluation is used. An evaluation from before the run was resumed is
    skipped, because the checkpoint of the same name has been replaced since.
    """
    paths = sorted((folder / "evaluation").glob(f"*/{EVALUATION}"), key=lambda path: path.stat().st_mtime)
    paths.sort(key=lambda path: path.parent.name == "last")
    for path in reversed(paths):
        if _is_outdated(path, folder / "checkpoints" / f"{path.parent.name}.ckpt", started):
            text = f"{path} is older than the checkpoint of the resumed run: skipped. Run `w2vlab evaluate` again."
            problems.append(one_line(text, 400))
            continue
        content = read_optional_json(path, problems, _MOST_OF_EVALUATIONS)
        try:
            if content:
                return extract_outcomes(content), {
                    f"{EVALUATION_SETTING}checkpoint": path.parent.name,
                    **_measured_on(content),
                }
        except (LookupError, TypeError, AttributeError, ValueError) as problem:
            text = f"{path} is not an evaluation ({type(problem).__name__}: {problem}): skipped."
            problems.append(one_line(text, 400))
    return {}, {}


def _is_outdated(evaluation: Path, checkpoint: Path, started: str) -> bool:
    """Returns whether a checkpoint was replaced by a resumed run after its evaluation."""
    try:
        made, written = evaluation.stat().st_mtime, checkpoint.stat().st_mtime
        return made < min(written, datetime.fromisoformat(started).timestamp())
    except (OSError, ValueError, OverflowError):
        return False


def _measured_on(content: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings that must be equal for outcomes of evaluations to be comparable, without unknown ones."""
    corpus = content.get("corpus") or {}
    test = (corpus.get("split") or {}).get("test")
    cells = {
        f"{EVALUATION_SETTING}ABX cells {speakers}": len(task["cells"])
        for speakers, task in (content.get("abx") or {}).items()
    }
    known = {
        f"{EVALUATION_SETTING}corpus": corpus.get("name"),
        f"{EVALUATION_SETTING}test utterances": None
        if test is None
        else sha256(json.dumps(test).encode()).hexdigest()[:6],
        **cells,
    }
    return {name: value for name, value in known.items() if value is not None}


def _config(path: Path) -> dict[str, Any]:
    try:
        content = read_yaml(path)
    except (OSError, ValueError) as problem:
        raise UnreadableRunError(one_line(f"{path} cannot be read ({problem}).", 400)) from None
    if not isinstance(content, dict):
        raise UnreadableRunError(one_line(f"{path} has no options."))
    return content


def read_optional_json(path: Path, problems: list[str], max_bytes: int = 16 * MEBIBYTE) -> dict[str, Any]:
    """Returns the content of a JSON file; empty if it is missing, or damaged, which is appended to `problems`."""
    if not path.exists():
        return {}
    try:
        content = read_json(path, max_bytes)
    except (OSError, ValueError) as problem:
        problems.append(one_line(f"{path} cannot be read ({problem}): skipped.", 400))
        return {}
    if isinstance(content, dict):
        return content
    problems.append(one_line(f"{path} is not a JSON object: skipped.", 400))
    return {}


def _rows(content: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(content, list):
        raise ValueError(f"the rows of its {REPORT} must be a list")
    for row in content:
        yield _check_row(row)


def _check_row(row: Any) -> dict[str, Any]:
    """Returns a row of metrics after checking it.

    Raises:
        ValueError: It is not a mapping with an update.
    """
    if not isinstance(row, dict):
        raise ValueError("a row of metrics must be a mapping")
    update = row.get("update")
    if not isinstance(update, int | float) or isinstance(update, bool) or not 0 <= update <= _MOST_UPDATES:
        raise ValueError("a row of metrics must have the number of its update")
    return row


def _read_metric_rows(path: Path, problems: list[str]) -> Iterable[dict[str, Any]]:
    """Returns the rows of `metrics.jsonl`; damaged lines are skipped, and their number is appended to `problems`.

    Raises:
        UnreadableRunError: The file cannot be read, is too large, or has no valid row.
    """
    rows, num_damaged = [], 0
    try:
        if (size := path.stat().st_size) > _MOST_OF_METRICS:
            raise ValueError(
                f"it has {size / MEBIBYTE:,.0f} MiB, and more than {_MOST_OF_METRICS // MEBIBYTE} are not read"
            )
        with path.open("rb") as file:
            for line in file:
                try:
                    if len(line) > _LONGEST_ROW:
                        raise ValueError
                    if line.strip():
                        rows.append(_check_row(json.loads(line)))
                        if len(rows) > _MOST_ROWS:
                            raise OSError(f"it has more than {_MOST_ROWS:,} rows")
                except (ValueError, RecursionError):
                    num_damaged += 1
    except (OSError, ValueError) as problem:
        raise UnreadableRunError(one_line(f"{path} cannot be read ({problem}).", 400)) from None
    if num_damaged and not rows:
        raise UnreadableRunError(one_line(f"{path} has no row of metrics in {num_damaged:,} lines."))
    if num_damaged:
        problems.append(one_line(f"{path}: {num_damaged} of {num_damaged + len(rows)} lines are damaged: skipped."))
    return rows
