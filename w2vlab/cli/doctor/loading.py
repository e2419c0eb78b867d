"""Which packages can be loaded, found out in child processes that a broken library may end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import w2vlab

_PATIENCE_SECONDS = 300
"""A disk in a network may take minutes for PyTorch; a library that waits for ever must not be waited for."""

_NEED_TORCH = ("torch", "torchaudio", "lightning", "torchmetrics", "lhotse", "vector-quantize-pytorch")
"""Packages that one process imports in turn: PyTorch takes most of the time, and is imported once."""


@dataclass(frozen=True)
class Loaded:
    """The result of importing a package.

    Attributes:
        error: Why it cannot be loaded; None if it can.
        culprit: The package in which that failed, which may be one that it needs.
        facts: Properties of the machine that the package reports.
    """

    error: str | None = None
    culprit: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def load_all(distributions: Sequence[str]) -> dict[str, Loaded]:
    """Imports packages in several processes in parallel, and returns the result of each."""
    groups = [
        [name for name in _NEED_TORCH if name in distributions],
        [name for name in distributions if name not in _NEED_TORCH],
    ]
    with ThreadPoolExecutor(len(groups)) as pool:
        results = list(pool.map(_load, groups))
    return {name: loaded for result in results for name, loaded in result.items()}


def _load(distributions: Sequence[str]) -> dict[str, Loaded]:
    """Imports packages in one process, and in a new one those after a package that ended it."""
    found: dict[str, Loaded] = {}
    while waiting := [name for name in distributions if name not in found]:
        output, end = _probe(waiting)
        importing = waiting[0]
        for line in map(json.loads, output.splitlines()):
            importing = line["package"]
            if "error" in line:
                found[importing] = Loaded(line["error"], line["culprit"], line["facts"])
        if importing in found:
            importing = next((name for name in waiting if name not in found), importing)
        found.setdefault(importing, Loaded(f"the process that imported it {end}", importing))
    return found


def _probe(distributions: Sequence[str]) -> tuple[str, str]:
    """Returns the lines of one process, and how it ended."""
    # The package must be found, and found last: what the environment puts before it stays there.
    paths = [os.environ.get("PYTHONPATH", ""), str(Path(w2vlab.__file__).parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-P", "-m", "w2vlab.cli.doctor.probe", *distributions]
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        output, _ = process.communicate(timeout=_PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        return output, f"had not ended after {_PATIENCE_SECONDS} s"
    if process.returncode < 0:
        return output, f"was ended by {signal.Signals(-process.returncode).name}"
    return output, f"ended with status {process.returncode}"
