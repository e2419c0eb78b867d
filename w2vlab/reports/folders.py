"""Reading the folders of runs and sweeps."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from w2vlab.files import CONFIG, EVALUATION, METRICS, REPORT, RUN_RECORD, SWEEP_RECORD
from w2vlab.options import flat
from w2vlab.reports.outcomes import of_evaluation
from w2vlab.reports.run import Cost, Found, Row, RunData, Sweep, in_order

_PEAK_MEMORY = "train/throughput/peak_memory_gib"

_NO_RUNS = {"checkpoints", "evaluation", "files", "logs", ".git", "__pycache__"}
"""Folders that hold no run."""

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Unreadable(Exception):
    """A file cannot be read, or is not what it should be."""


def read_folder(root: Path, found: Found) -> None:
    """Adds the runs and sweeps at and below a folder to `found`."""
    for folder in walk(root):
        if (folder / SWEEP_RECORD).is_file():
            _read_sweep(folder, found)
        elif is_run(folder) and not in_sweep(folder, root):
            _add(folder, found)


def walk(root: Path) -> Iterator[Path]:
    """Yields folders in alphabetical order, without those that hold no runs."""
    for folder, below, _ in os.walk(root):
        below[:] = sorted(name for name in below if name not in _NO_RUNS)
        yield Path(folder)


def is_run(folder: Path) -> bool:
    """Tells whether a folder is that of a run: a validation alone leaves only a configuration."""
    return (folder / CONFIG).is_file() and any((folder / name).is_file() for name in (RUN_RECORD, METRICS, REPORT))


def in_sweep(folder: Path, root: Path) -> bool:
    """Tells whether a sweep's folder is above a folder or file, at or below `root`."""
    while folder != root:
        folder = folder.parent
        if (folder / SWEEP_RECORD).is_file():
            return True
    return False


def _add(folder: Path, found: Found) -> RunData | None:
    try:
        run = read_run(folder, found.problems)
    except Unreadable as problem:
        found.problems.append(f"{problem} The run is left out.")
        return None
    found.runs.append(run)
    return run


def read_run(folder: Path, problems: list[str]) -> RunData:
    """Reads one run.

    Args:
        folder: Its folder.
        problems: Takes what could not be read, as far as there is a run without it.

    Raises:
        Unreadable: Its configuration or all of its metrics cannot be read.
    """
    try:
        return _read_run(folder, problems)
    except (LookupError, TypeError, AttributeError, ValueError) as problem:
        raise Unreadable(f"{folder} is damaged ({type(problem).__name__}: {problem}).") from None


def _read_run(folder: Path, problems: list[str]) -> RunData:
    config = _config(folder / CONFIG)
    record = _optional(folder / RUN_RECORD, problems)
    report = _optional(folder / REPORT, problems)
    if (folder / METRICS).is_file():
        train, validation = in_order(_lines(folder / METRICS, problems))
    elif "train" in report:
        train, validation = in_order(report["train"])[0], in_order(report["validation"])[1]
    else:
        raise Unreadable(f"{folder} has no metrics.")
    status = record.get("status")
    last = record["continued"][-1] if record.get("continued") else record
    checkpoint = last.get("checkpoint")
    updates = max((rows[-1]["update"] for rows in (train, validation) if rows), default=0)
    return RunData(
        name=str(folder),
        source=str(folder),
        options=dict(flat("", config)),
        train=train,
        validation=validation,
        cost=_cost(report, train, validation),
        evaluation=_evaluation(folder, problems, str(last.get("started", ""))),
        finished=None if status is None else status == "finished",
        ended="" if status in (None, "finished") else f"{_in_words(status)}, update {updates:g}",
        started=str(last.get("started", "")),
        continues=None if checkpoint is None else str(Path(last.get("folder", "."), checkpoint).parent.parent),
    )


def _in_words(status: str) -> str:
    return "running, or killed" if status == "running" else status


def _cost(report: dict[str, Any], train: list[Row], validation: list[Row]) -> Cost:
    if "cost" in report:
        known = {field.name for field in fields(Cost)}
        return Cost(**{name: value for name, value in report["cost"].items() if name in known})
    last: Row = max((rows[-1] for rows in (train, validation) if rows), key=lambda row: row["update"], default={})
    peaks = [row[_PEAK_MEMORY] for row in train if _PEAK_MEMORY in row]
    return Cost(last.get("seconds"), last.get("audio_seconds"), last.get("update"), max(peaks, default=None))


def _evaluation(folder: Path, problems: list[str], started: str) -> dict[str, float]:
    """Returns the outcomes of the last checkpoint's evaluation; of the newest one where that has none.

    An evaluation from before the run was resumed is of another state under the same name, and is left out.
    """
    paths = sorted((folder / "evaluation").glob(f"*/{EVALUATION}"), key=lambda path: path.stat().st_mtime)
    paths.sort(key=lambda path: path.parent.name == "last")
    for path in reversed(paths):
        if _is_outdated(path, folder / "checkpoints" / f"{path.parent.name}.ckpt", started):
            problems.append(f"{path} is of the run before it was resumed: skipped. `w2vlab evaluate` makes it anew.")
            continue
        try:
            return of_evaluation(_optional(path, problems))
        except (KeyError, TypeError, AttributeError) as problem:
            problems.append(f"{path} is no evaluation ({type(problem).__name__}: {problem}): skipped.")
    return {}


def _is_outdated(evaluation: Path, checkpoint: Path, started: str) -> bool:
    """Tells whether a checkpoint was written anew, by a start of the run after its evaluation."""
    try:
        made, written = evaluation.stat().st_mtime, checkpoint.stat().st_mtime
        return made < min(written, datetime.fromisoformat(started).timestamp())
    except (OSError, ValueError):
        return False


def _read_sweep(folder: Path, found: Found) -> None:
    content = _optional(folder / SWEEP_RECORD, found.problems)
    trials = content.get("trials")
    if not isinstance(trials, list):
        found.problems.append(f"{folder / SWEEP_RECORD} has no trials: its runs are read one by one.")
        for below in walk(folder):
            if is_run(below):
                _add(below, found)
        return
    try:
        names = dict.fromkeys(name for trial in trials for name in trial["parameters"])
        found.sweeps.append(Sweep(str(content.get("name", folder.name)), tuple(names)))
        for trial in trials:
            _read_trial(folder, trial, found)
    except (KeyError, TypeError) as problem:
        found.problems.append(f"{folder / SWEEP_RECORD} is damaged ({type(problem).__name__}: {problem}).")


def _read_trial(sweep: Path, trial: dict[str, Any], found: Found) -> None:
    name, state, parameters = str(trial["name"]), str(trial.get("state")), trial["parameters"]
    failure = f": {trial['failure']}" if trial.get("failure") else ""
    failure += f", at {trial['value']:g}" if trial.get("value") is not None else ""
    if state != "finished":
        found.missing.append((name, parameters, state + failure))
        return
    runs: list[RunData] = []
    for below in walk(sweep / name):
        if is_run(below):
            try:
                runs.append(read_run(below, found.problems))
            except Unreadable as problem:
                found.problems.append(str(problem))
    if not runs:
        found.missing.append((name, parameters, f"finished, but there is no run that can be read below {sweep / name}"))
        return
    # A trial that was taken up again has a folder for each of its parts; the last one holds the history of all.
    run = max(runs, key=lambda run: (run.started, run.cost.updates or 0))
    run.name, run.parameters, run.continues, run.finished, run.ended = name, parameters, None, True, ""
    found.runs.append(run)


def _config(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, ValueError, yaml.YAMLError) as problem:
        raise Unreadable(f"{path} cannot be read ({_first_line(problem)}).") from None
    if not isinstance(content, dict):
        raise Unreadable(f"{path} holds no options.")
    return content


def _optional(path: Path, problems: list[str]) -> dict[str, Any]:
    """Returns a file of JSON; nothing where it is not there, and with a line in `problems` where it is damaged."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        problems.append(f"{path} cannot be read ({_first_line(problem)}): skipped.")
        return {}
    if isinstance(content, dict):
        return content
    problems.append(f"{path} is not what it should be: skipped.")
    return {}


def _lines(path: Path, problems: list[str]) -> Iterable[dict[str, Any]]:
    rows, bad = [], 0
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as problem:
        raise Unreadable(f"{path} cannot be read ({_first_line(problem)}).") from None
    for line in filter(None, text.splitlines()):
        try:
            row = json.loads(line)
            rows.append({**row, "update": row["update"] + 0})
        except (ValueError, TypeError, KeyError):
            bad += 1
    if bad:
        problems.append(f"{path}: {bad} of {bad + len(rows)} lines are damaged: skipped.")
    return rows


def _first_line(problem: BaseException) -> str:
    return (str(problem).splitlines() or [type(problem).__name__])[0]
