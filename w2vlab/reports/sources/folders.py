"""Readers for the folders of runs and sweeps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from w2vlab.reports.run import Found, RunData, Sweep
from w2vlab.reports.sources.run_files import UnreadableRunError, read_optional_json, read_run
from w2vlab.utils.files import CONFIG, METRICS, REPORT, RUN_RECORD, SWEEP_RECORD, folder_name
from w2vlab.utils.messages import one_line

_NO_RUNS = {"checkpoints", "evaluation", "files", "logs", ".git", "__pycache__"}
"""Names of folders that cannot contain runs."""

_LONGEST_TEXT = 300


def read_folder(root: Path, found: Found) -> None:
    """Adds the runs and sweeps at and below a folder to `found`."""
    for folder in walk(root):
        if (folder / SWEEP_RECORD).is_file():
            _read_sweep(folder, found)
        elif is_run(folder) and not in_sweep(folder, root):
            _add(folder, found)


def walk(root: Path) -> Iterator[Path]:
    """Yields folders in alphabetical order, without those that cannot contain runs."""
    for folder, subfolders, _ in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if name not in _NO_RUNS)
        yield Path(folder)


def is_run(folder: Path) -> bool:
    """Returns whether a folder is a run folder; `w2vlab validate` writes a configuration only, and is not a run."""
    try:
        return (folder / CONFIG).is_file() and any((folder / name).is_file() for name in (RUN_RECORD, METRICS, REPORT))
    except OSError:  # no permission
        return False


def in_sweep(folder: Path, root: Path) -> bool:
    """Returns whether a folder or file is inside the folder of a sweep that is at or below `root`."""
    while folder != root:
        folder = folder.parent
        if (folder / SWEEP_RECORD).is_file():
            return True
    return False


def _add(folder: Path, found: Found) -> RunData | None:
    try:
        run = read_run(folder, found.problems)
    except UnreadableRunError as problem:
        found.problems.append(f"{problem} The run is skipped.")
        return None
    found.runs.append(run)
    return run


def _read_sweep(folder: Path, found: Found) -> None:
    path = folder / SWEEP_RECORD
    content = read_optional_json(path, found.problems)
    trials = content.get("trials")
    if not isinstance(trials, list):
        found.problems.append(one_line(f"{path} has no trials: its runs are read one by one."))
        for subfolder in walk(folder):
            if is_run(subfolder):
                _add(subfolder, found)
        return
    valid = []
    for number, trial in enumerate(trials, 1):
        try:
            valid.append(_check_trial(trial))
        except ValueError as problem:
            found.problems.append(one_line(f"{path} is damaged in its trial {number} ({problem}): skipped."))
    names = dict.fromkeys(name for trial in valid for name in trial["parameters"])
    found.sweeps.append(Sweep(one_line(str(content.get("name", folder.name)), _LONGEST_TEXT), tuple(names)))
    for trial in valid:
        _read_trial(folder, trial, found)


def _check_trial(trial: Any) -> dict[str, Any]:
    """Returns a trial of `sweep.json` after checking it.

    Raises:
        ValueError: It is invalid, or its name leads out of the folder of the sweep.
    """
    if not isinstance(trial, dict) or not isinstance(trial.get("parameters"), dict):
        raise ValueError("it must be a mapping with `parameters`")
    name, value = trial.get("name"), trial.get("value")
    if not isinstance(name, str) or folder_name(name) != name:
        raise ValueError(f"`name` must be the name of a folder, but is {name!r}")
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
    for subfolder in walk(sweep / name):
        if is_run(subfolder):
            try:
                runs.append(read_run(subfolder, found.problems))
            except UnreadableRunError as problem:
                found.problems.append(str(problem))
    if not runs:
        reason = f"finished, but has no readable run below {sweep / name}"
        found.missing.append((name, parameters, one_line(reason)))
        return
    # A resumed trial may have several run folders; the last one has the complete history.
    run = max(runs, key=lambda run: (run.started, run.cost.updates or 0))
    run.name, run.parameters, run.resumed_from, run.finished, run.ended = name, parameters, None, True, ""
    found.runs.append(run)
