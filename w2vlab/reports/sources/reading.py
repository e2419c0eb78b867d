"""Reader of runs from folders, sweeps and Weights & Biases."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from w2vlab.reports.run import Found, RunData
from w2vlab.reports.sources.folders import in_sweep, is_run, read_folder, walk
from w2vlab.reports.sources.wandb_runs import SCHEME, find_wandb_files, read_wandb_files, read_wandb_server
from w2vlab.utils.files import RUN_RECORD
from w2vlab.utils.messages import one_line

_LONGEST_NAME = 200


def read_runs(sources: Sequence[str], api: Any = None) -> Found:
    """Reads runs.

    Args:
        sources: Folders of runs, of sweeps or of Weights & Biases files, folders that contain any of these, and
            addresses `wandb:ENTITY/PROJECT`, optionally with `/GROUP` or `/RUN`.
        api: A `wandb.Api`; created if needed.

    Raises:
        ValueError: A source does not exist, or there are no runs.
    """
    found = Found()
    for source in sources:
        if source.startswith(SCHEME):
            read_wandb_server(source.removeprefix(SCHEME), found, api)
        elif Path(source).is_dir():
            read_folder(Path(source), found)
        else:
            raise ValueError(
                f"`RUN` must be a folder, or {SCHEME}ENTITY/PROJECT, but is {source}, which does not exist."
            )
    known = {Path(run.source).name for run in found.runs}
    for source in sources:
        if not source.startswith(SCHEME):
            folder = Path(source).resolve()
            # Skip the W&B files of trials, and of runs that were read already, because they have the same metrics.
            read_wandb_files((path for path in find_wandb_files(folder) if not in_sweep(path, folder)), known, found)
    _remove_duplicates(found)
    if not found.sweeps:
        found.runs.sort(key=lambda run: run.started)  # because the first group is the baseline
    if not found.runs and not found.missing:
        problems = "".join(f" {problem}" for problem in found.problems)
        raise ValueError(
            f"There are no runs in {', '.join(sources)}. Searched for folders with config.yaml and metrics.jsonl, "
            f"run.json or report.json, for sweep.json, and for run-*.wandb.{problems}"
        )
    _assign_names(found)
    return found


def _remove_duplicates(found: Found) -> None:
    """Keeps the first of several runs with the same source."""
    seen: set[str] = set()
    kept = []
    for run in found.runs:
        source = run.source if run.source.startswith(SCHEME) else str(Path(run.source).resolve())
        if source not in seen:
            seen.add(source)
            kept.append(run)
    found.runs[:] = kept


def _assign_names(found: Found) -> None:
    """Names runs by their folders, relative to the common parent, in one line."""
    paths = [run for run in found.runs if run.name == run.source and not run.source.startswith(SCHEME)]
    folders = [Path(run.source).absolute() for run in paths]
    if folders:
        common = Path(os.path.commonpath([folder.parent for folder in folders]))
        for run, folder in zip(paths, folders, strict=True):
            run.name = str(folder.relative_to(common))
    for run in found.runs:
        run.name = one_line(run.name, _LONGEST_NAME)


def drop_superseded_runs(found: Found) -> list[str]:
    """Removes runs that others have resumed, and unfinished runs if there are finished ones; returns notes on them."""
    notes = []
    by_source = {str(Path(run.source).absolute()): run for run in found.runs}
    resumed = []
    for run in found.runs:
        original = by_source.get(str(Path(run.resumed_from).absolute())) if run.resumed_from else None
        if original is not None and original is not run and _same_run(original, run):
            resumed.append(original)
    if resumed:
        found.runs[:] = [run for run in found.runs if not any(run is original for original in resumed)]
        notes.append(
            f"Runs that another run has resumed are part of that run: {', '.join(run.name for run in resumed)}."
        )
    finished = [run for run in found.runs if run.finished is not False]
    unfinished = [run for run in found.runs if run.finished is False]
    if unfinished:
        listed = "; ".join(f"{run.name} ({run.ended})" for run in unfinished)
        if finished:
            found.runs[:] = finished
            notes.append(f"Unfinished, and not in the table: {listed}.")
        else:
            notes.append(f"None of the runs is finished: {listed}.")
    return notes


def _same_run(one: RunData, other: RunData) -> bool:
    may_differ = ("ckpt_path", "new_run", "trainer.max_steps")
    first, second = (
        {k: v for k, v in run.options.items() if k not in may_differ and not k.startswith("trainer.logger")}
        for run in (one, other)
    )
    return first == second


def find_single_run(path: str) -> Path:
    """Returns the folder of the only run with a `run.json` at or below a folder.

    Raises:
        ValueError: No run matches, or more than one.
    """
    root = Path(path)
    folders = [root] if is_run(root) else [folder for folder in walk(root) if is_run(folder)]
    recorded = [folder for folder in folders if (folder / RUN_RECORD).is_file()]
    if len(recorded) == 1:
        return recorded[0]
    if len(recorded) > 1:
        listed = ", ".join(one_line(str(folder)) for folder in recorded[:8]) + (", …" if len(recorded) > 8 else "")
        raise ValueError(f"`repeat` must be one run, but {path} has {len(recorded)}: {listed}.")
    reason = f", which is a run without {RUN_RECORD}: its config.yaml has its options" if folders else ""
    raise ValueError(f"`repeat` must be the folder of a run with {RUN_RECORD}, but is {path}{reason}.")
