"""Everything that the runs of a report are read from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from w2vlab.files import RUN_RECORD
from w2vlab.reports.folders import in_sweep, is_run, read_folder, walk
from w2vlab.reports.run import Found
from w2vlab.reports.wandb_runs import SCHEME, read_files, read_server, run_files
from w2vlab.wording import one_line

_LONGEST_NAME = 200


def read(places: Sequence[str], api: Any = None) -> Found:
    """Reads runs.

    Args:
        places: Folders of runs, of sweeps, of Weights & Biases' own files, or with any of these below them; and
            `wandb:ENTITY/PROJECT` with `/GROUP` or `/RUN` behind it if wanted.
        api: A `wandb.Api`; made where one is needed.

    Raises:
        ValueError: There is no run.
    """
    found = Found()
    for place in places:
        if place.startswith(SCHEME):
            read_server(place.removeprefix(SCHEME), found, api)
        elif Path(place).is_dir():
            read_folder(Path(place), found)
        else:
            raise ValueError(
                f"`RUN` must be a folder, or {SCHEME}ENTITY/PROJECT, but is {place}, which does not exist."
            )
    known = {Path(run.source).name for run in found.runs}
    for place in places:
        if not place.startswith(SCHEME):
            folder = Path(place).resolve()
            # The files of trials and of runs that were read say the same a second time.
            read_files((path for path in run_files(folder) if not in_sweep(path, folder)), known, found)
    _only_once(found)
    if not found.sweeps:
        found.runs.sort(key=lambda run: run.started)  # the first group is the baseline
    if not found.runs and not found.missing:
        looked = "".join(f" {problem}" for problem in found.problems)
        raise ValueError(
            f"There are no runs in {', '.join(places)}. Looked for folders with config.yaml and metrics.jsonl, "
            f"run.json or report.json, for sweep.json, and for run-*.wandb.{looked}"
        )
    _name(found)
    return found


def _only_once(found: Found) -> None:
    """Keeps the first of what two places both hold."""
    seen: set[str] = set()
    kept = []
    for run in found.runs:
        source = run.source if run.source.startswith(SCHEME) else str(Path(run.source).resolve())
        if source not in seen:
            seen.add(source)
            kept.append(run)
    found.runs[:] = kept


def _name(found: Found) -> None:
    """Calls runs by what their folders do not have in common, in names that can stand in a table."""
    paths = [run for run in found.runs if run.name == run.source and not run.source.startswith(SCHEME)]
    folders = [Path(run.source).absolute() for run in paths]
    if folders:
        common = Path(os.path.commonpath([folder.parent for folder in folders]))
        for run, folder in zip(paths, folders, strict=True):
            run.name = str(folder.relative_to(common))
    for run in found.runs:
        run.name = one_line(run.name, _LONGEST_NAME)


def the_run(place: str) -> Path:
    """Returns the folder of the only run at or below a folder that says how to repeat it.

    Raises:
        ValueError: There is none, or more than one.
    """
    root = Path(place)
    folders = [root] if is_run(root) else [folder for folder in walk(root) if is_run(folder)]
    recorded = [folder for folder in folders if (folder / RUN_RECORD).is_file()]
    if len(recorded) == 1:
        return recorded[0]
    if len(recorded) > 1:
        some = ", ".join(one_line(str(folder)) for folder in recorded[:8]) + (", …" if len(recorded) > 8 else "")
        raise ValueError(f"`repeat` must be one run, but {place} has {len(recorded)}: {some}.")
    why = f", which is a run without {RUN_RECORD}: its config.yaml has its options" if folders else ""
    raise ValueError(f"`repeat` must be the folder of a run with {RUN_RECORD}, but is {place}{why}.")
