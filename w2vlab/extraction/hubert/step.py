"""A step of the chain: a command, and what it leaves on disk."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from w2vlab.utils.files import EVALUATION, RUN_RECORD
from w2vlab.utils.plain_data import MEBIBYTE, read_json

Kind = Literal["cluster", "encode", "fit", "evaluate"]

ENCODING = "encoding.json"
"""What `w2vlab encode` writes to its folder when all of its files are complete."""

_LAST = "last.ckpt"
_LARGEST_EVALUATION = 256 * MEBIBYTE


@dataclass(frozen=True)
class LastCheckpoint:
    """A word of a command line: the last checkpoint of a run, whose folder has a name only once the run has started.

    Attributes:
        root: The root folder of the run.
    """

    root: Path

    def find(self) -> Path | None:
        """Returns the newest checkpoint; None if there is none."""
        return max(self.root.rglob(_LAST), key=lambda path: path.stat().st_mtime, default=None)

    def pattern(self) -> str:
        """Returns it as a pattern that a shell replaces."""
        return f"{shlex.quote(str(self.root))}/*/*/checkpoints/{_LAST}"


Word = str | LastCheckpoint


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command of the chain.

    Attributes:
        kind: The command.
        iteration: Number of its iteration, from 1.
        words: Its command line, without `w2vlab`.
        output: What it writes: a file, or a folder; for an evaluation the root folder of the run that it measures.
        needs: Names of the steps whose results it reads.
        options: What its result depends on, by name.
    """

    kind: Kind
    iteration: int
    words: Sequence[Word]
    output: Path
    needs: Sequence[str]
    options: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Its name, such as `cluster1`."""
        return f"{self.kind}{self.iteration}"

    def command(self) -> list[str]:
        """Returns the command line without `w2vlab`; that of a run that has a checkpoint resumes from it.

        Raises:
            ValueError: A checkpoint that it reads does not exist.
        """
        return [word if isinstance(word, str) else str(_existing(word)) for word in self._words()]

    def shell_line(self) -> str:
        """Returns the command as typed in a shell, also if a checkpoint that it reads does not exist yet."""
        words = [
            shlex.quote(word) if isinstance(word, str) else _quoted(word.find()) or word.pattern()
            for word in self._words()
        ]
        return " ".join(["w2vlab", *words])

    def _words(self) -> list[Word]:
        resume = self.kind == "fit" and any(self.output.rglob("*.ckpt"))
        return [*self.words, *(["--ckpt_path=last"] if resume else [])]

    def result(self) -> Path | None:
        """Returns the file that the step writes last, complete; None if it has not.

        That of a run is its last checkpoint.
        """
        if self.kind == "cluster":
            return self.output if self.output.is_file() else None
        if self.kind == "encode":
            content = _read(self.output / ENCODING)
            complete = bool(content) and all((self.output / name).is_file() for name in content.get("files") or ())
            return self.output / ENCODING if complete else None
        checkpoint = LastCheckpoint(self.output).find()
        if checkpoint is None:
            return None
        run = checkpoint.parent.parent
        if self.kind == "evaluate":
            return _readable(_evaluation(checkpoint) / EVALUATION)
        return checkpoint if _read(run / RUN_RECORD).get("status") == "finished" else None

    def files(self) -> list[Path]:
        """Returns the files or folders that exist of the step, complete or not."""
        if self.kind == "evaluate":
            checkpoint = LastCheckpoint(self.output).find()
            return [] if checkpoint is None else [path for path in [_evaluation(checkpoint)] if path.exists()]
        if self.kind == "fit" and not any(self.output.rglob("*.ckpt")):
            return []  # it would start from the beginning
        return [self.output] if self.output.exists() else []


def read_result(step: Step) -> dict[str, Any]:
    """Returns the content of the result of an `encode` or `evaluate` step; empty if it cannot be read."""
    path = step.result()
    return {} if path is None else _read(path)


def _existing(word: LastCheckpoint) -> Path:
    found = word.find()
    if found is None:
        raise ValueError(f"{word.root} must have the checkpoint of a run ({_LAST}), but has none.")
    return found


def _quoted(path: Path | None) -> str:
    return "" if path is None else shlex.quote(str(path))


def _evaluation(checkpoint: Path) -> Path:
    return checkpoint.parent.parent / "evaluation" / checkpoint.stem


def _readable(path: Path) -> Path | None:
    return path if _read(path) else None


def _read(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path, _LARGEST_EVALUATION)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
