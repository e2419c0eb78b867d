"""Provenance of a run: command, code, versions, machine, and its final status."""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException

import w2vlab
from w2vlab.callbacks.fault_tolerance.checkpoint import find_run_checkpoint
from w2vlab.callbacks.fault_tolerance.run_lock import RunLock
from w2vlab.callbacks.run_folder import run_folder, warn_on_write_failure
from w2vlab.modules.update import TrainedModule
from w2vlab.utils.files import RUN_RECORD, remove_unfinished, write_atomically
from w2vlab.utils.plain_data import read_json

_PACKAGES = ("torch", "torchaudio", "lightning", "wandb")


class RunRecord(Callback):
    """Writes `run.json` to the run folder: command, code, versions, machine, and how the run ended.

    A resumed run copies the `run.json` of the original run, in the same folder or another one, and appends an entry for
    itself. A process that is killed leaves the status `running`.

    Args:
        command: The command line, including the program name.

    Attributes:
        lock: Lock of the run folder; acquired by the process that logs.
        resumed: Folder of the run that wrote the checkpoint; None if unknown or not resumed.
        changed: Options that differ from the checkpoint: the old and the new value.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)
        self._content: dict[str, Any] | None = None
        self.lock = RunLock()
        self.resumed: Path | None = None
        self.changed: dict[str, list[Any]] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the record with the status `running`."""
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self.lock.acquire(run_folder(trainer))
        checkpoint = trainer.ckpt_path
        start = {
            "command": self._command,
            "folder": os.getcwd(),
            "root": os.path.abspath(trainer.default_root_dir),
            "seed": (cast(TrainedModule, pl_module).run_config or {}).get("seed_everything"),
            "git": git_state(),
            "versions": versions(),
            "host": socket.gethostname(),
            "device": device_name(trainer.strategy.root_device),
            "processes": trainer.world_size,
            "started": _now(),
            "checkpoint": None if checkpoint is None else str(checkpoint),
        }
        if checkpoint is not None:
            start["changed"] = self.changed
        if (warm_start := getattr(pl_module, "warm_start", None)) is not None:
            start["warm_start"] = warm_start.as_dict()
        original = None if checkpoint is None else _read_record(self.resumed or Path(checkpoint).parent.parent)
        if original is None:
            content = {**start, "continued": []}
        else:
            content = {**original, "continued": [*original["continued"], start]}
        self._content = {**content, "finished": None, "status": "running"}
        remove_unfinished(run_folder(trainer))
        self._write(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the status: `finished`, or `failed` if the final state could not be saved."""
        checkpoint = find_run_checkpoint(trainer)
        self._write_status(trainer, "finished" if checkpoint is None or checkpoint.unsaved is None else "failed")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Writes the status: `stopped` or `failed`."""
        if trainer.state.fn == TrainerFn.FITTING:
            stopped = isinstance(exception, KeyboardInterrupt | SIGTERMException)
            self._write_status(trainer, "stopped" if stopped else "failed")
        self.lock.release()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Releases the lock, so that other processes can resume the run."""
        self.lock.release()

    def _write_status(self, trainer: Trainer, status: str) -> None:
        if self._content is not None and self._content["finished"] is None:
            self._content |= {"finished": _now(), "status": status}
            self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        with warn_on_write_failure("The record of the run"):
            folder = run_folder(trainer)
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / RUN_RECORD, json.dumps(self._content, indent=1) + "\n")


def versions() -> dict[str, str | None]:
    """Returns the versions of packages that results may depend on; None for those that are not installed."""
    found: dict[str, str | None] = {"w2vlab": w2vlab.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def git_state() -> dict[str, Any] | None:
    """Returns the git commit, and whether tracked files have uncommitted changes; None outside of a git repository.

    The repository of the working folder is used; outside of a repository, that of this package, if it tracks the
    package.
    """
    package = Path(w2vlab.__file__).parent
    for folder in (Path.cwd(), package):
        commit = _git(folder, "rev-parse", "HEAD")
        tracked = folder != package or _git(folder, "ls-files", "--error-unmatch", "__init__.py") is not None
        if commit and tracked:
            return {"commit": commit, "changed": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}
    return None


def _git(folder: Path, *args: str) -> str | None:
    """Returns the output of git; None if it fails, is not installed, or takes over 10 s on a slow disk."""
    command = ["git", "--no-optional-locks", *args]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def device_name(device: torch.device) -> str:
    """Returns the name of the device of a process."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"cpu, {cores} cores"


def _read_record(folder: Path) -> dict[str, Any] | None:
    """Returns the `run.json` of a folder; None if it is missing or invalid."""
    try:
        content = read_json(folder / RUN_RECORD)
    except (OSError, ValueError):
        return None
    valid = isinstance(content, dict) and isinstance(content.get("continued"), list) and "command" in content
    return content if valid else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
