"""What it takes to repeat a run, and how it ended."""

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
from w2vlab.callbacks.checkpoint import run_checkpoint
from w2vlab.callbacks.run_folder import may_fail, run_folder
from w2vlab.callbacks.run_lock import RunLock
from w2vlab.files import RUN_RECORD, remove_unfinished, write_whole
from w2vlab.modules.update import TrainedModule
from w2vlab.plain_data import read_json

_PACKAGES = ("torch", "torchaudio", "lightning", "wandb")


class RunRecord(Callback):
    """Writes `run.json` to the run's folder: command, code, versions, machine, and how the run ended.

    A run that resumes from a checkpoint of a run that has such a file takes that over and adds itself, in the same
    folder or another one. A process that is killed leaves the status `running`.

    Args:
        command: The command line, the program's name first.

    Attributes:
        lock: Of the run's folder; taken by the process that logs.
        resumed: The folder of the run that wrote the checkpoint; None where there is none.
        changed: Options that were others in the checkpoint: what each was, and what it is.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)
        self._content: dict[str, Any] | None = None
        self.lock = RunLock()
        self.resumed: Path | None = None
        self.changed: dict[str, list[Any]] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes who runs what, where and since when."""
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self.lock.take(run_folder(trainer))
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
        before = None if checkpoint is None else _record_of(self.resumed or Path(checkpoint).parent.parent)
        if before is None:
            content = {**start, "continued": []}
        else:
            content = {**before, "continued": [*before["continued"], start]}
        self._content = {**content, "finished": None, "status": "running"}
        remove_unfinished(run_folder(trainer))
        self._write(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes that the run came to its end, and whether it has saved it."""
        checkpoint = run_checkpoint(trainer)
        self._end(trainer, "finished" if checkpoint is None or checkpoint.unsaved is None else "failed")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Notes what ended the run."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._end(trainer, "stopped" if isinstance(exception, KeyboardInterrupt | SIGTERMException) else "failed")
        self.lock.release()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Has other processes continue the run."""
        self.lock.release()

    def _end(self, trainer: Trainer, status: str) -> None:
        if self._content is not None and self._content["finished"] is None:
            self._content |= {"finished": _now(), "status": status}
            self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        with may_fail("What it takes to repeat the run"):
            folder = run_folder(trainer)
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / RUN_RECORD, json.dumps(self._content, indent=1) + "\n")


def versions() -> dict[str, str | None]:
    """Returns the versions that numbers may depend on; None for what is not installed."""
    found: dict[str, str | None] = {"w2vlab": w2vlab.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def git_state() -> dict[str, Any] | None:
    """Returns the commit of the code, and whether files differ from it that git follows; None outside of git.

    Where the working folder is in no repository, that of this package counts, if it follows the package.
    """
    package = Path(w2vlab.__file__).parent
    for folder in (Path.cwd(), package):
        commit = _git(folder, "rev-parse", "HEAD")
        followed = folder != package or _git(folder, "ls-files", "--error-unmatch", "__init__.py") is not None
        if commit and followed:
            return {"commit": commit, "changed": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}
    return None


def _git(folder: Path, *args: str) -> str | None:
    """Returns what git says; None where it fails, is not there, or takes too long on a slow disk."""
    command = ["git", "--no-optional-locks", *args]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def device_name(device: torch.device) -> str:
    """Returns what one process computes on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"cpu, {cores} cores"


def _record_of(folder: Path) -> dict[str, Any] | None:
    """Returns what the run in a folder says of itself; None where there is nothing that can be read."""
    try:
        content = read_json(folder / RUN_RECORD)
    except (OSError, ValueError):
        return None
    whole = isinstance(content, dict) and isinstance(content.get("continued"), list) and "command" in content
    return content if whole else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
