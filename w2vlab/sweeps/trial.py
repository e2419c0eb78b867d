"""One trial of a sweep, and the files in its folder."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from w2vlab.sweeps.plan import Plan
from w2vlab.utils.files import folder_name
from w2vlab.utils.messages import one_line

State = Literal["waiting", "running", "finished", "stopped early", "failed"]

LOG = "log.txt"
"""The output of a trial, in its folder."""

CHECKPOINT = "last.ckpt"
"""The checkpoint that a run resumes from, at any depth below the folder of its trial."""

_LONGEST_NAME = 80
_MOST_BYTES = 190


@dataclass
class Trial:
    """One setting of the parameters of a sweep.

    Attributes:
        name: Name of the trial and its folder, derived from the parameters.
        parameters: Parameters by name, in the form of W&B agents: nested if the file nests them.
        state: The state.
        attempts: Number of attempts to run it.
        seconds: Wall-clock time of all attempts together.
        failure: Why the last attempt failed; None if it did not.
        value: The best value of the metric so far.
        updates: Total updates of the run; None if unknown.
        update: Updates so far.
        history: All values of the metric so far.
        evaluating: Whether it is being evaluated.
        plan: The current command and options; None if they were not resolved.
        ran: The command and options that it was last run with; None if never, and in records of earlier versions.
        repeats: How often it was repeated from scratch.
    """

    name: str
    parameters: dict[str, Any]
    state: State = "waiting"
    attempts: int = 0
    seconds: float = 0.0
    failure: str | None = None
    value: float | None = None
    updates: int | None = None
    update: int = 0
    history: list[float] = field(default_factory=list)
    evaluating: bool = False
    plan: Plan | None = None
    ran: Plan | None = None
    repeats: int = 0

    @property
    def started(self) -> bool:
        """Whether it was ever started."""
        return self.ended or self.attempts > 0 or self.seconds > 0

    @property
    def ended(self) -> bool:
        """Whether it has ended; an evaluation may follow."""
        return self.state in ("finished", "stopped early", "failed")

    def as_dict(self) -> dict[str, Any]:
        """Returns the trial as plain data for the record of a sweep."""
        return {
            "name": self.name,
            "parameters": self.parameters,
            "state": self.state,
            "attempts": self.attempts,
            "seconds": round(self.seconds, 3),
            "failure": self.failure,
            "value": self.value,
            "update": self.update,
            "history": self.history,
            "repeats": self.repeats,
            "ran": None if self.ran is None else self.ran.as_dict(),
        }

    @staticmethod
    def from_dict(content: Mapping[str, Any]) -> Trial:
        """Returns the trial from the data of `as_dict`; a running trial becomes a waiting one.

        Raises:
            ValueError: The data are invalid.
        """
        try:
            state = content["state"]
            if state not in get_args(State):
                raise ValueError(f"unknown state {state}")
            trial = Trial(str(content["name"]), dict(content["parameters"]), state)
            trial.attempts, trial.seconds = int(content["attempts"]), float(content["seconds"])
            trial.failure, trial.value = content["failure"], content["value"]
            trial.update = int(content.get("update", 0))
            trial.history = [float(value) for value in content["history"]]
            trial.repeats, trial.ran = int(content.get("repeats", 0)), Plan.from_dict(content.get("ran"))
            trial.value = None if trial.value is None else float(trial.value)
        except (KeyError, TypeError, AttributeError, OverflowError) as problem:
            raise ValueError(f"{type(problem).__name__}: {problem}") from None
        if folder_name(trial.name) != trial.name:
            raise ValueError(f"`name` must be the name of a folder, but is {trial.name!r}")
        if not trial.ended:
            trial.state = "waiting"
        return trial


def value_at(parameters: Mapping[str, Any], path: Sequence[str]) -> Any:
    """Returns the value of the parameter with this path; None if it does not exist."""
    value: Any = parameters
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def format_value(value: Any) -> str:
    """Formats a value for display: files by their name, parts by their class and options."""
    if isinstance(value, str):
        return Path(value).stem if value.endswith((".yaml", ".yml")) else value
    if not isinstance(value, dict):
        return str(value)
    options = ", ".join(
        f"{name}={format_value(inner)}"
        for key, content in value.items()
        if key != "class_path"
        for name, inner in (content.items() if key == "init_args" and isinstance(content, dict) else [(key, content)])
    )
    kind = str(value.get("class_path", "")).rpartition(".")[2]
    return f"{kind}({options})" if kind and options else kind or options


def canonical_parameters(parameters: Mapping[str, Any]) -> str:
    """Returns a canonical text of parameters, which is equal only for equal parameters."""
    return json.dumps(parameters, sort_keys=True)


def trial_name(parameters: Mapping[str, Any], varied: Mapping[str, Any]) -> str:
    """Returns the name of a trial: its varied values and a hash of all its parameters.

    The name depends only on the parameters, so that an extended sweep finds its existing trials.

    Args:
        parameters: The parameters of the trial.
        varied: The parameters that have several values in the sweep, by their dotted names.
    """
    words = []
    for name, value in varied.items():
        last = name.removesuffix(".class_path").rpartition(".")[2]
        words.append(format_value(value) if isinstance(value, str | dict) else f"{last}={value}")
    readable = re.sub(r"[^\w=.+-]+", "_", "-".join(words))[:_LONGEST_NAME]
    while len(readable.encode()) > _MOST_BYTES:  # file systems limit the length of names
        readable = readable[:-1]
    readable = readable.strip("_-.")
    digits = hashlib.sha256(canonical_parameters(parameters).encode()).hexdigest()[:6]
    return f"{readable}-{digits}" if readable else digits


def find_newest(folder: Path, name: str) -> Path | None:
    """Returns the most recently modified file called `name` below `folder`; None if it does not exist."""
    return max(folder.rglob(name), key=lambda path: path.stat().st_mtime, default=None)


def failure_reason(folder: Path, status: int) -> str:
    """Returns a line with the exit status of a trial and the last error in its log."""
    try:
        lines = (folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    lines = [line.strip() for line in lines if line.strip() and not line.startswith("(W2VLAB_TRACEBACK")]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    status_text = f"ended by signal {-status}" if status < 0 else f"exit status {status}"
    last = errors[-1] if errors else lines[-1] if lines else "it printed nothing"
    return one_line(f"{status_text}: {last}", 300)
