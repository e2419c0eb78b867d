"""The record of a sweep in its folder, and the lock of that folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from w2vlab.sweeps.file import Sweep
from w2vlab.sweeps.plan import Plan
from w2vlab.sweeps.trial import Trial, canonical_parameters
from w2vlab.utils.comparable import canonical_text
from w2vlab.utils.files import SWEEP_RECORD, write_atomically
from w2vlab.utils.folder_lock import folder_lock
from w2vlab.utils.messages import one_line
from w2vlab.utils.plain_data import MEBIBYTE, read_json

FILE = "sweep.yaml"
_MOST_BYTES = 256 * MEBIBYTE
_LOCK = "sweep.lock"


def write_record(folder: Path, sweep: Sweep, trials: Sequence[Trial]) -> None:
    """Writes the sweep file and, atomically, the state of all trials."""
    (folder / FILE).write_text(sweep.text, encoding="utf-8")
    metric = None if sweep.metric is None else {"name": sweep.metric.name, "goal": sweep.metric.goal}
    rows = [trial.as_dict() for trial in trials]
    content = {
        "name": sweep.name,
        "method": sweep.method,
        "metric": metric,
        "options": _move_common([row["ran"]["options"] for row in rows if row["ran"] is not None]),
        "trials": rows,
    }
    write_atomically(folder / SWEEP_RECORD, json.dumps(content, indent=1))


def _move_common(options: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Removes the options that are equal in all trials, which are most of them, and returns them."""
    if len(options) < 2:
        return {}
    first, *others = options
    common = {
        name: value
        for name, value in first.items()
        if all(name in other and canonical_text(other[name]) == canonical_text(value) for other in others)
    }
    for some in options:
        for name in common:
            del some[name]
    return common


def read_trials(folder: Path) -> list[Trial]:
    """Returns the trials of an earlier run of a sweep; empty without one.

    Raises:
        ValueError: The record exists, but is invalid.
    """
    path = folder / SWEEP_RECORD
    if not path.exists():
        return []
    try:
        content = read_json(path, _MOST_BYTES)
        trials = [Trial.from_dict(trial) for trial in content["trials"]]
        common = dict(content.get("options") or {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        reason = one_line(f"{type(problem).__name__}: {problem}", 300)
        raise ValueError(
            f"{path} must be the record of a sweep, but is not ({reason}). Move it away to restart the sweep; its "
            "trials still resume from their checkpoints."
        ) from None
    for trial in trials:
        if trial.ran is not None:
            trial.ran = Plan(trial.ran.command, {**common, **trial.ran.options})
    return trials


def merge_earlier_trials(trials: Sequence[Trial], earlier: Sequence[Trial]) -> list[Trial]:
    """Restores the state of trials from an earlier run, and keeps ended trials that the sweep no longer has.

    Failed trials are set to waiting, because the cause may have been fixed before the sweep was started again.
    """
    known: Mapping[str, Trial] = {canonical_parameters(trial.parameters): trial for trial in earlier}
    planned = {canonical_parameters(trial.parameters) for trial in trials}
    merged = []
    for new in trials:
        trial = known.get(canonical_parameters(new.parameters), new)
        trial.updates, trial.failure, trial.plan = new.updates, None, new.plan
        if trial.state == "failed":
            trial.state, trial.attempts = "waiting", 0
        merged.append(trial)
    gone = [trial for key, trial in known.items() if key not in planned and trial.ended]
    return [*merged, *gone]


@contextmanager
def lock_folder(folder: Path) -> Iterator[int]:
    """Locks the folder of a sweep; yields the lock's file descriptor, which trials inherit to hold the lock too.

    Raises:
        ValueError: A sweep, or a trial of a sweep that has ended, still runs in the folder.
    """
    in_use = (
        f"`folder` must not be in use, but a sweep (process {{process}}) or one of its trials still runs in {folder}. "
        "Wait, end it, or use another folder."
    )
    with folder_lock(folder, _LOCK, in_use) as lock:
        yield lock
