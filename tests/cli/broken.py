"""Packages that are broken on purpose, for processes that are started with them before the real ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import w2vlab

MISSING_SYMBOL = "libtorchaudio.so: undefined symbol: torch_exception_get_what_without_backtrace"


def break_package(folder: Path, package: str, code: str) -> None:
    """Puts a package into `folder` that runs `code` when it is imported."""
    (folder / package).mkdir(parents=True)
    (folder / package / "__init__.py").write_text(code + "\n")


def start(folder: Path, *args: str, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs `w2vlab` in a process that imports from `folder` first."""
    paths = [str(folder), str(Path(w2vlab.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    # Weights & Biases sets variables in the process of the tests.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment = {**inherited, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **variables}
    environment.setdefault("W2VLAB_TRACEBACK", "")
    command = [sys.executable, "-P", "-m", "w2vlab", *args]
    return subprocess.run(command, env=environment, cwd=cwd or folder, capture_output=True, text=True)
