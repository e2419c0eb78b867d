"""The folder of an encoding: what it was begun with, and which shards are complete."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from w2vlab.callbacks.fault_tolerance.run_lock import LOCK_NAME, RunLock
from w2vlab.extraction.encoding.plan import Shard
from w2vlab.units.description import STATE
from w2vlab.utils.files import make_writable, remove_unfinished, size_of, write_atomically
from w2vlab.utils.messages import one_line
from w2vlab.utils.plain_data import read_json

RESULT = "encoding.json"
"""What a complete folder has, written last."""

IDENTITY = "identity"
"""Key in both files of what decides the frames; it must agree if a folder is resumed."""

_PLAN = "plan.json"

_LOCK_RULE = "`out` must be a folder that no other process writes to"
_LOCK_ADVICE = "End that process, or choose another folder."


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """What is known of a complete shard.

    Attributes:
        files: Name and size in bytes of each file.
        utterances: Utterances in it.
        samples: Their samples at 16 kHz.
        frames: Their frames.
        cut: Utterances that were computed in several pieces.
        failed: The reason for each id that could not be read.
        statistics: Statistics of the codes, as plain data; None for vectors.
    """

    files: Mapping[str, int]
    utterances: int
    samples: int
    frames: int
    cut: int = 0
    failed: Mapping[str, str] = field(default_factory=dict)
    statistics: Any = None


class EncodingFolder:
    """The folder of an encoding; opened by one process, and written to by all of them.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._state = path / STATE
        self._lock = RunLock(_LOCK_RULE, _LOCK_ADVICE)

    def open(self, identity: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Opens the folder for an encoding, and locks it; only the first process does.

        Args:
            identity: What decides the frames, by the name of the option, as plain data.

        Returns:
            The content of `encoding.json` if the encoding is complete; otherwise None.

        Raises:
            ValueError: It is not a folder, has other files, belongs to another encoding, or is being written to.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"`out` must be a folder, but {self.path} is a file.")
        result = self.path / RESULT
        begun = result if result.is_file() else self._state / _PLAN
        if begun.is_file():
            content = self._read_begun(begun, identity)
            if begun == result:
                return self._complete(content)
        elif others := self._others():
            raise ValueError(
                f"`out` must be a new or empty folder, or that of an earlier `w2vlab encode`, but {self.path} has "
                f"{one_line(min(others).name, 60)}."
            )
        make_writable(self.path, "out", "OUT")
        self._lock.acquire(self.path)
        self._state.mkdir(exist_ok=True)
        if not begun.is_file():
            write_atomically(begun, json.dumps({IDENTITY: identity}, indent=1), sync=True)
        return None

    def _others(self) -> list[Path]:
        """Returns the files of other programs; a lock is what a process leaves that was killed at its start."""
        return [file for file in self.path.glob("*") if file.name not in (STATE, LOCK_NAME)]

    def _read_begun(self, file: Path, identity: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns the content of a file with an identity, after a check that it is this one."""
        try:
            content: Any = read_json(file)
        except ValueError as problem:
            raise ValueError(
                f"`out` must be a new folder, or that of an encoding, but {file} cannot be read: {problem}."
            ) from None
        before = content.get(IDENTITY) if isinstance(content, dict) else None
        if not isinstance(before, dict):
            raise ValueError(f"`out` must be a new folder, but {self.path} has an {RESULT} of another program.")
        names = [name for name in identity if identity[name] != before.get(name)]
        if names:
            named = [f"{name} {_shown(before.get(name))} (now {_shown(identity[name])})" for name in names]
            raise ValueError(
                f"`out` must be a new folder, or one of the same encoding, but {self.path} was begun with "
                f"{', '.join(named)}. Choose another folder, or remove this one."
            )
        return dict(content)

    def _complete(self, content: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns the result, after a check that its files are there."""
        for name, size in content.get("files", {}).items():
            if size_of(self.path / name) != size:
                raise ValueError(
                    f"`out` must have all files of its {RESULT}, but in {self.path} {one_line(name, 60)} is missing or "
                    "has another size. Remove the folder, and encode again."
                )
        self._remove_state(content.get("files", {}))
        return content

    def complete_shards(self, shards: Sequence[Shard]) -> dict[int, ShardRecord]:
        """Returns the records of the shards that are complete, by number."""
        found = {}
        for shard in shards:
            record = self._read(shard)
            if record is not None:
                found[shard.number] = record
        return found

    def _read(self, shard: Shard) -> ShardRecord | None:
        path = self._state / f"{shard.name}.json"
        if not path.is_file():
            return None
        try:
            record = ShardRecord(**read_json(path))
        except (ValueError, TypeError):  # damaged, or of another version: the shard is encoded again
            return None
        complete = all(size_of(self.path / name) == size for name, size in record.files.items())
        return record if complete else None

    def record(self, shard: Shard, record: ShardRecord) -> None:
        """Marks a shard as complete.

        Raises:
            OSError: The record cannot be written.
        """
        write_atomically(self._state / f"{shard.name}.json", json.dumps(asdict(record)), sync=True)

    def finish(self, content: Mapping[str, Any]) -> None:
        """Writes `encoding.json`, removes everything that is not part of the result, and unlocks the folder.

        Args:
            content: The result; `files` has the name and size of each file, and of a folder the size of its files.

        Raises:
            OSError: It cannot be written.
        """
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        write_atomically(self.path / RESULT, f"{text}\n", sync=True)
        self._remove_state(content["files"])
        self.close()

    def close(self) -> None:
        """Unlocks the folder."""
        self._lock.release()

    def _remove_state(self, kept: Mapping[str, int]) -> None:
        """Removes the files of shards that a format has joined, and the state."""
        for file in self.path.glob("shard-*"):
            if file.name not in kept:
                file.unlink(missing_ok=True)
        remove_unfinished(self.path)
        with suppress(OSError):
            for file in self._state.iterdir():
                file.unlink()
            self._state.rmdir()


def _shown(value: Any) -> str:
    return one_line("none" if value is None else f"{value:g}" if isinstance(value, float) else str(value), 60)
