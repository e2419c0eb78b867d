"""Reading the folders of runs and sweeps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from w2vlab.files import CONFIG, METRICS, REPORT, RUN_RECORD, SWEEP_RECORD, folder_name
from w2vlab.reports.run import Found, RunData, Sweep
from w2vlab.reports.run_files import Unreadable, optional, read_run
from w2vlab.wording import one_line

_NO_RUNS = {"checkpoints", "evaluation", "files", "logs", ".git", "__pycache__"}
"""Folders that hold no run."""

_LONGEST_TEXT = 300


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
    try:
        return (folder / CONFIG).is_file() and any((folder / name).is_file() for name in (RUN_RECORD, METRICS, REPORT))
    except OSError:  # it may not be looked into
        return False


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


def _read_sweep(folder: Path, found: Found) -> None:
    path = folder / SWEEP_RECORD
    content = optional(path, found.problems)
    trials = content.get("trials")
    if not isinstance(trials, list):
        found.problems.append(one_line(f"{path} has no trials: its runs are read one by one."))
        for below in walk(folder):
            if is_run(below):
                _add(below, found)
        return
    whole = []
    for number, trial in enumerate(trials, 1):
        try:
            whole.append(_checked(trial))
        except ValueError as problem:
            found.problems.append(one_line(f"{path} is damaged in its trial {number} ({problem}): skipped."))
    names = dict.fromkeys(name for trial in whole for name in trial["parameters"])
    found.sweeps.append(Sweep(one_line(str(content.get("name", folder.name)), _LONGEST_TEXT), tuple(names)))
    for trial in whole:
        _read_trial(folder, trial, found)


def _checked(trial: Any) -> dict[str, Any]:
    """Returns a trial of a record.

    Raises:
        ValueError: It is none, or its name is a way out of the folder of the sweep.
    """
    if not isinstance(trial, dict) or not isinstance(trial.get("parameters"), dict):
        raise ValueError("it must be a mapping with `parameters`")
    name, value = trial.get("name"), trial.get("value")
    if not isinstance(name, str) or folder_name(name) != name:
        raise ValueError(f"`name` must be that of a folder, but is {name!r}")
    if value is not None and (not isinstance(value, int | float) or isinstance(value, bool)):
        raise ValueError(f"`value` must be a number, but is {value!r}")
    return trial


def _read_trial(sweep: Path, trial: dict[str, Any], found: Found) -> None:
    name, state, parameters = trial["name"], str(trial.get("state")), trial["parameters"]
    failure = f": {trial['failure']}" if trial.get("failure") else ""
    failure += f", at {trial['value']:g}" if trial.get("value") is not None else ""
    if state != "finished":
        found.missing.append((name, parameters, one_line(state + failure, _LONGEST_TEXT)))
        return
    runs: list[RunData] = []
    for below in walk(sweep / name):
        if is_run(below):
            try:
                runs.append(read_run(below, found.problems))
            except Unreadable as problem:
                found.problems.append(str(problem))
    if not runs:
        why = f"finished, but there is no run that can be read below {sweep / name}"
        found.missing.append((name, parameters, one_line(why)))
        return
    # A trial that was taken up again has a folder for each of its parts; the last one holds the history of all.
    run = max(runs, key=lambda run: (run.started, run.cost.updates or 0))
    run.name, run.parameters, run.continues, run.finished, run.ended = name, parameters, None, True, ""
    found.runs.append(run)
