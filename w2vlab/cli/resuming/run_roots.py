"""The folders in which a run searches for its own checkpoints: those that it writes to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from w2vlab.modules.checkpoints.loading import LAST, previous_of
from w2vlab.utils.files import CONFIG, RUN_RECORD
from w2vlab.utils.plain_data import read_json, read_yaml


@dataclass(frozen=True)
class RunRoots:
    """The folders below which a run's folder is.

    Attributes:
        root: `trainer.default_root_dir`.
        logs: The first logger's folder, which may be elsewhere and contain runs of other root folders, too.
        checkpoints: `checkpoint.dirpath`, if it is given.
    """

    root: Path
    logs: Path
    checkpoints: Path | None = None

    def __str__(self) -> str:
        if self.checkpoints is not None:
            return str(self.checkpoints)
        return str(self.root) if self._logs_inside() else f"{self.root} or {self.logs}"

    def _logs_inside(self) -> bool:
        return self.logs.resolve().is_relative_to(self.root.resolve())

    def checkpoint_folders(self) -> tuple[list[Path], list[Path]]:
        """Returns the folders with checkpoints of this root's runs, newest first, and the roots of the others.

        A run whose root folder is inside this one, such as that of a job or a trial, belongs to the other root.
        """
        if self.checkpoints is not None:
            return [self.checkpoints] if any(self.checkpoints.glob("*.ckpt")) else [], []
        places = [self.root] if self._logs_inside() else [self.root, self.logs]
        found = {folder for place in places for folder in _with_checkpoints(place)}
        own, others = [], set()
        for folder in found:
            root = recorded_root(folder.parent)
            if self._owns(folder, root):
                own.append(folder)
            elif root is not None and root.is_relative_to(self.root.resolve()):
                others.add(root)
        return sorted(own, key=_written, reverse=True), sorted(others)

    def _owns(self, folder: Path, recorded: Path | None) -> bool:
        root, folder = self.root.resolve(), folder.resolve()
        if recorded == root:
            return True
        inside = folder.is_relative_to(root)
        # A folder that was copied or renamed has moved with its content.
        of_another = recorded is not None and recorded.is_relative_to(root) and folder.is_relative_to(recorded)
        return inside and not of_another


def _with_checkpoints(place: Path) -> Iterator[Path]:
    for path in place.rglob("*.ckpt"):
        own = path.name in (LAST, previous_of(LAST).name) or (path.parent.parent / RUN_RECORD).is_file()
        if own:
            yield path.parent


def _written(folder: Path) -> float:
    """Returns the time at which the last checkpoint of a folder was written."""
    names = (folder / LAST, previous_of(folder / LAST), *folder.glob("*.ckpt"))
    return next((path.stat().st_mtime for path in names if path.exists()), 0.0)


def recorded_root(run: Path) -> Path | None:
    """Returns the root folder in the record of a run; None if it cannot be read."""
    try:
        record = read_json(run / RUN_RECORD)
        start: dict[str, Any] = record["continued"][-1] if record.get("continued") else record
        root = start["root"] if "root" in start else Path(start["folder"], _configured_root(run / CONFIG))
        return Path(root).resolve()
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _configured_root(path: Path) -> str:
    """Returns the root folder in the configuration of a run, for records without it."""
    return str(read_yaml(path)["trainer"]["default_root_dir"])
