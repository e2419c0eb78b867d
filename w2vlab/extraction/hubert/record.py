"""The record of a chain in its folder: what each step was run with, how long it took, and its figures."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from w2vlab.utils.files import remove_unfinished, write_atomically
from w2vlab.utils.messages import one_line
from w2vlab.utils.plain_data import read_json

RECORD = "hubert.json"
LOCK = "hubert.lock"


@dataclass
class StepRecord:
    """What is known of a step that was started.

    Attributes:
        command: Its command line, of its last start.
        options: What its result depends on.
        seconds: Wall-clock time of all attempts together.
        finished: Whether it has ended with status 0.
        figures: Figures of its result, for the table.
    """

    command: list[str]
    options: dict[str, Any]
    seconds: float = 0.0
    finished: bool = False
    figures: dict[str, Any] = field(default_factory=dict)


class ChainRecord:
    """The steps of a chain that were started, by name.

    Args:
        folder: Folder of the chain.

    Raises:
        ValueError: The folder has a record that cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.steps: dict[str, StepRecord] = {}
        path = folder / RECORD
        if not path.exists():
            return
        try:
            content = read_json(path)["steps"]
            self.steps = {str(name): _step(entry) for name, entry in content.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
            reason = one_line(f"{type(problem).__name__}: {problem}", 300)
            raise ValueError(
                f"{path} must be the record of a chain, but is not ({reason}). Use another folder with --out."
            ) from None

    def write(self) -> None:
        """Writes the record atomically.

        Raises:
            OSError: It cannot be written.
        """
        remove_unfinished(self.folder)
        content = {"steps": {name: asdict(step) for name, step in self.steps.items()}}
        write_atomically(self.folder / RECORD, json.dumps(content, indent=1) + "\n")


def _step(entry: dict[str, Any]) -> StepRecord:
    return StepRecord(
        [str(word) for word in entry["command"]],
        dict(entry["options"]),
        float(entry["seconds"]),
        bool(entry["finished"]),
        dict(entry["figures"]),
    )
