"""What a sweep keeps of itself in its folder."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from w2vlab.comparable import text_of
from w2vlab.files import SWEEP_RECORD, write_whole
from w2vlab.plain_data import MEBIBYTE, read_json
from w2vlab.sweeps.file import Sweep
from w2vlab.sweeps.plan import Plan
from w2vlab.sweeps.trial import Trial, identity
from w2vlab.wording import one_line

FILE = "sweep.yaml"
_MOST_BYTES = 256 * MEBIBYTE
_LOCK = "sweep.lock"


def write_record(folder: Path, sweep: Sweep, trials: Sequence[Trial]) -> None:
    """Writes the file as it was and the state of all trials; who reads meanwhile sees the old state or the new one."""
    (folder / FILE).write_text(sweep.text, encoding="utf-8")
    metric = None if sweep.metric is None else {"name": sweep.metric.name, "goal": sweep.metric.goal}
    rows = [trial.as_dict() for trial in trials]
    content = {
        "name": sweep.name,
        "method": sweep.method,
        "metric": metric,
        "options": _take_common([row["ran"]["options"] for row in rows if row["ran"] is not None]),
        "trials": rows,
    }
    write_whole(folder / SWEEP_RECORD, json.dumps(content, indent=1))


def _take_common(options: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Takes out what all of some options have in common, and returns it: most of a hundred options are the same."""
    if len(options) < 2:
        return {}
    first, *others = options
    common = {
        name: value
        for name, value in first.items()
        if all(name in other and text_of(other[name]) == text_of(value) for other in others)
    }
    for some in options:
        for name in common:
            del some[name]
    return common


def read_trials(folder: Path) -> list[Trial]:
    """Returns the trials of an earlier run of a sweep; none where there was none.

    Raises:
        ValueError: The record is there but cannot be used.
    """
    path = folder / SWEEP_RECORD
    if not path.exists():
        return []
    try:
        content = read_json(path, _MOST_BYTES)
        trials = [Trial.from_dict(trial) for trial in content["trials"]]
        common = dict(content.get("options") or {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        why = one_line(f"{type(problem).__name__}: {problem}", 300)
        raise ValueError(
            f"{path} must be the record of a sweep, but is not ({why}). Move it away to begin the sweep anew: trials "
            "still go on from their checkpoints."
        ) from None
    for trial in trials:
        if trial.ran is not None:
            trial.ran = Plan(trial.ran.command, {**common, **trial.ran.options})
    return trials


def with_earlier(trials: Sequence[Trial], earlier: Sequence[Trial]) -> list[Trial]:
    """Gives trials the state that they had in an earlier run, and keeps those that the sweep no longer has.

    One that failed waits for another try: whoever starts the sweep again may have mended what was wrong.
    """
    known: Mapping[str, Trial] = {identity(trial.parameters): trial for trial in earlier}
    planned = {identity(trial.parameters) for trial in trials}
    merged = []
    for new in trials:
        trial = known.get(identity(new.parameters), new)
        trial.updates, trial.failure, trial.plan = new.updates, None, new.plan
        if trial.state == "failed":
            trial.state, trial.attempts = "waiting", 0
        merged.append(trial)
    gone = [trial for key, trial in known.items() if key not in planned and trial.ended]
    return [*merged, *gone]


@contextmanager
def only_one(folder: Path) -> Iterator[int]:
    """Keeps a second sweep out of a folder; gives a descriptor that trials inherit, and so hold the lock, too.

    Raises:
        ValueError: A sweep, or a trial that an ended sweep has left behind, still runs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = os.pread(lock, 32, 0).decode().strip() or "?"
            raise ValueError(
                f"`folder` must not be in use, but a sweep (process {who}), or a trial that it has left, still runs in "
                f"{folder}. Wait, end it, or take another folder."
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        yield lock
    finally:
        os.close(lock)
