"""One trial of a sweep, and where it leaves its traces."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

State = Literal["waiting", "running", "finished", "stopped early", "failed"]

LOG = "log.txt"
"""What a trial prints, in its folder."""

CHECKPOINT = "last.ckpt"
"""What a run goes on from, somewhere below the folder of its trial."""

_LONGEST_NAME = 80


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
            "history": self.history,
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
            trial.history = [float(value) for value in content["history"]]
        except (KeyError, TypeError) as problem:
            raise ValueError(f"{type(problem).__name__}: {problem}") from None
        if not trial.ended:
            trial.state = "waiting"
        return trial


def leaves(parameters: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the parameters with dotted names, whether or not they are nested."""
    for key, value in parameters.items():
        name = f"{above}{key}"
        if isinstance(value, dict):
            yield from leaves(value, f"{name}.")
        else:
            yield name, value


def identity(parameters: Mapping[str, Any]) -> str:
    """Returns a text that is the same for equal parameters only."""
    return json.dumps(parameters, sort_keys=True)


def trial_name(parameters: Mapping[str, Any], varied: set[str]) -> str:
    """Names a trial after its values, with a few digits that no other parameters have.

    The name depends on nothing but the parameters, so a sweep that has grown finds its old trials again.

    Args:
        parameters: Of the trial.
        varied: Dotted names of the parameters with several values.
    """
    words = []
    for name, value in leaves(parameters):
        if name not in varied:
            continue
        text = Path(value).stem if isinstance(value, str) else str(value)
        last = name.removesuffix(".class_path").rpartition(".")[2]
        words.append(text if isinstance(value, str) else f"{last}={text}")
    readable = re.sub(r"[^\w=.+-]+", "_", "-".join(words)).strip("_-.")[:_LONGEST_NAME]
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
    return f"{how}: {last}"[:300]
