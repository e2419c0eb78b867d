"""One trial of a sweep, and where it leaves its traces."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from w2vlab.files import folder_name
from w2vlab.sweeps.plan import Plan
from w2vlab.wording import one_line

State = Literal["waiting", "running", "finished", "stopped early", "failed"]

LOG = "log.txt"
"""What a trial prints, in its folder."""

CHECKPOINT = "last.ckpt"
"""What a run goes on from, somewhere below the folder of its trial."""

_LONGEST_NAME = 80
_MOST_BYTES = 190


@dataclass
class Trial:
    """One setting of the parameters.

    Attributes:
        name: Of the trial and its folder; it follows from the parameters.
        parameters: As an agent of Weights & Biases passes them on: by their names, nested where the file nests them.
        state: How far it is.
        attempts: How often it was begun.
        seconds: Time of all attempts together.
        failure: Why the last attempt failed.
        value: The best value of the metric so far.
        updates: Updates that it takes; None where that is not known.
        update: Updates that it has had.
        history: All values of the metric so far.
        evaluating: Whether it is being evaluated.
        plan: What it is to be run with; None where that was not looked at.
        ran: What it was run with; None of one that was never begun, and in records of earlier versions.
        repeats: How often it was begun anew after it had ended.
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
    def begun(self) -> bool:
        """Whether there is anything of it that what comes next would be added to."""
        return self.ended or self.attempts > 0 or self.seconds > 0

    @property
    def ended(self) -> bool:
        """Whether nothing is left to do, but an evaluation."""
        return self.state in ("finished", "stopped early", "failed")

    def as_dict(self) -> dict[str, Any]:
        """Returns what the record of a sweep keeps."""
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
        """Returns the trial that `as_dict` described; one that was being run waits.

        Raises:
            ValueError: It describes none.
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
            raise ValueError(f"`name` must be that of a folder, but is {trial.name!r}")
        if not trial.ended:
            trial.state = "waiting"
        return trial


def value_at(parameters: Mapping[str, Any], path: Sequence[str]) -> Any:
    """Returns the value of the parameter with this path; None where there is none."""
    value: Any = parameters
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def in_words(value: Any) -> str:
    """Returns a value as people call it: a file by its name, a part by its class and options."""
    if isinstance(value, str):
        return Path(value).stem if value.endswith((".yaml", ".yml")) else value
    if not isinstance(value, dict):
        return str(value)
    options = ", ".join(
        f"{name}={in_words(inner)}"
        for key, content in value.items()
        if key != "class_path"
        for name, inner in (content.items() if key == "init_args" and isinstance(content, dict) else [(key, content)])
    )
    kind = str(value.get("class_path", "")).rpartition(".")[2]
    return f"{kind}({options})" if kind and options else kind or options


def identity(parameters: Mapping[str, Any]) -> str:
    """Returns a text that is the same for equal parameters only."""
    return json.dumps(parameters, sort_keys=True)


def trial_name(parameters: Mapping[str, Any], varied: Mapping[str, Any]) -> str:
    """Names a trial after its values, with a few digits that no other parameters have.

    The name depends on nothing but the parameters, so a sweep that has grown finds its old trials again.

    Args:
        parameters: Of the trial.
        varied: Those of them that have several values, by their dotted names.
    """
    words = []
    for name, value in varied.items():
        last = name.removesuffix(".class_path").rpartition(".")[2]
        words.append(in_words(value) if isinstance(value, str | dict) else f"{last}={value}")
    readable = re.sub(r"[^\w=.+-]+", "_", "-".join(words))[:_LONGEST_NAME]
    while len(readable.encode()) > _MOST_BYTES:  # the name of a folder ends there
        readable = readable[:-1]
    readable = readable.strip("_-.")
    digits = hashlib.sha256(identity(parameters).encode()).hexdigest()[:6]
    return f"{readable}-{digits}" if readable else digits


def newest(folder: Path, name: str) -> Path | None:
    """Returns the file called `name` that was written last anywhere below `folder`; None where there is none."""
    return max(folder.rglob(name), key=lambda path: path.stat().st_mtime, default=None)


def why_it_failed(folder: Path, status: int) -> str:
    """Returns, on one line, what the log of a trial says of its end."""
    try:
        lines = (folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    lines = [line.strip() for line in lines if line.strip() and not line.startswith("(W2VLAB_TRACEBACK")]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    how = f"ended by signal {-status}" if status < 0 else f"exit status {status}"
    last = errors[-1] if errors else lines[-1] if lines else "it printed nothing"
    return one_line(f"{how}: {last}", 300)
