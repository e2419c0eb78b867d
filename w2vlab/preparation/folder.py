"""The folder of a preparation: what it was begun with, what is complete, and its lock."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from w2vlab.callbacks.fault_tolerance.run_lock import LOCK_NAME, RunLock
from w2vlab.data.corpora.sample_corpora import PREPARED_CUTS, PREPARED_RECORD
from w2vlab.data.shards.sources import INDEX
from w2vlab.utils.files import make_writable, remove_unfinished, size_of, sync_to_disk, write_atomically
from w2vlab.utils.messages import one_line
from w2vlab.utils.plain_data import read_json

RECORD = PREPARED_RECORD
"""What a folder has, and where it comes from."""

CUTS = PREPARED_CUTS
"""The manifest of a folder without shards, written last."""

SHARDS = "shards"
"""The folder of the shards: lhotse takes every file in such a folder for a field of its cuts."""

LEFT_OUT = "left_out.tsv"
"""Name of the list of all that was left out, in the folder: reason and id."""

PICTURE = "lengths.png"

STATE = ".prepare"
"""The folder of what a preparation needs to resume, as long as it is not complete."""

LISTING = "utterances.jsonl.unfinished"
"""The utterances, until it is known whether the folder is for them."""

IDENTITY = "identity"

_PLAN = "plan.json"
_OURS = (RECORD, CUTS, INDEX, SHARDS, PICTURE, LEFT_OUT, STATE, LISTING, LOCK_NAME)
_RULE = "`out` must be a folder that no other process writes to"
_ADVICE = "End that process, or choose another folder."


class PreparedFolder:
    """The folder of a preparation.

    Args:
        path: The folder.
        last: Name of the file that is written last.
    """

    def __init__(self, path: Path, last: str) -> None:
        self.path, self.last = path, last
        self.state = path / STATE
        self._lock = RunLock(_RULE, _ADVICE)

    def lock(self) -> None:
        """Creates and locks the folder.

        Raises:
            ValueError: It is a file, has files of other programs, is not writable, or another process writes to it.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"`out` must be a folder, but {self.path} is a file.")
        others = [file.name for file in self.path.glob("*") if file.name not in _OURS]
        if others:
            raise ValueError(
                f"`out` must be a new or empty folder, or that of an earlier `w2vlab prepare`, but {self.path} has "
                f"{one_line(min(others), 60)}."
            )
        make_writable(self.path, "out", "another OUT")
        self._lock.acquire(self.path)

    def open(self, identity: Mapping[str, Any], overwrite: bool) -> Mapping[str, Any] | None:
        """Opens the locked folder for a preparation.

        Args:
            identity: What decides the bytes of the result, by name, as plain data.
            overwrite: Remove another preparation.

        Returns:
            The content of `prepare.json` if the preparation is complete; otherwise None.

        Raises:
            ValueError: The folder has another preparation, or a file of a complete one is missing.
        """
        complete = any((self.path / name).is_file() for name in (CUTS, INDEX))
        begun = self.path / RECORD if complete else self.state / _PLAN
        if not begun.is_file():
            if complete or (self.path / SHARDS).exists():
                self._refuse(f"has {CUTS}, {INDEX} or {SHARDS} of another program", overwrite)
                self._clear()
        else:
            content = _read(begun)
            if differences := _differences(content.get(IDENTITY), identity):
                self._refuse(f"was begun with {differences}", overwrite)
                self._clear()
            elif complete:
                self._check_sizes(content)
                self._remove_state()  # of a process that was killed at its end
                return content
        self.state.mkdir(exist_ok=True)
        remove_unfinished(self.state)
        write_atomically(self.state / _PLAN, json.dumps({IDENTITY: identity}, indent=1), sync=True)
        return None

    def _refuse(self, found: str, overwrite: bool) -> None:
        if not overwrite:
            raise ValueError(
                f"`out` must be a new folder, or one of the same preparation, but {self.path} {found}. Choose another "
                "folder; --overwrite replaces this one."
            )

    def _clear(self) -> None:
        """Removes a preparation: first what marks it as complete."""
        for name in (INDEX, CUTS, RECORD, PICTURE, LEFT_OUT):
            (self.path / name).unlink(missing_ok=True)
        with suppress(OSError):
            sync_to_disk(self.path)
        for folder in (self.path / SHARDS, self.state):
            if folder.exists():
                shutil.rmtree(folder)

    def _check_sizes(self, content: Mapping[str, Any]) -> None:
        for name, size in content.get("files", {}).items():
            if size_of(self.path / name) != size:
                raise ValueError(
                    f"`out` must have all files of its {RECORD}, but in {self.path} {one_line(name, 60)} is missing or "
                    "has another size. Prepare again with --overwrite."
                )

    def check_sums(self, content: Mapping[str, Any]) -> int:
        """Compares the checksums of a complete preparation with its files, and returns the number of files.

        Raises:
            ValueError: A file has changed.
        """
        sums: Mapping[str, str] = content.get("sha256", {})
        for name, expected in sums.items():
            with (self.path / name).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != expected:
                raise ValueError(
                    f"`out` must have the files that were written, but in {self.path} {one_line(name, 60)} has another "
                    "checksum: it is damaged or was changed. Prepare again with --overwrite."
                )
        return len(sums)

    def finish(self, content: Mapping[str, Any], index: str | Path) -> None:
        """Writes the record, then what marks the folder as complete, and removes the state.

        Args:
            content: The record.
            index: Text of the index, or a file with the manifest, on the same disk.

        Raises:
            OSError: It cannot be written.
        """
        write_atomically(self.path / RECORD, _as_json(content), sync=True)
        if isinstance(index, Path):
            index.rename(self.path / self.last)
            with suppress(OSError):
                sync_to_disk(self.path)
        else:
            write_atomically(self.path / self.last, index, sync=True)
        self._remove_state()

    def list_left_out(self, lines: str) -> None:
        """Writes the list of all that was left out, or removes an older one if nothing was.

        Raises:
            OSError: It cannot be written.
        """
        if lines:
            write_atomically(self.path / LEFT_OUT, lines, sync=True)
        else:
            (self.path / LEFT_OUT).unlink(missing_ok=True)

    def close(self) -> None:
        """Removes what is half written, and unlocks the folder."""
        for folder in (self.path, self.path / SHARDS, self.state):
            remove_unfinished(folder)
        self._lock.release()

    def _remove_state(self) -> None:
        remove_unfinished(self.path)
        shutil.rmtree(self.state, ignore_errors=True)


def _as_json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _read(file: Path) -> dict[str, Any]:
    try:
        content = read_json(file)
    except ValueError as problem:
        raise ValueError(f"`out` must be a new folder, but {file} cannot be read: {problem}.") from None
    return content if isinstance(content, dict) else {}


def _differences(before: Any, now: Mapping[str, Any]) -> str:
    """Returns what differs between two identities, in words; empty if nothing does."""
    if not isinstance(before, dict):
        return "options that it does not say"
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return ", ".join(f"{name} {_shown(before.get(name))} (now {_shown(now.get(name))})" for name in names)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return one_line("none" if value is None else f"{value:g}" if isinstance(value, float) else str(value), 80)
