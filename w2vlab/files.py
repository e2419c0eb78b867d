"""The files that a run and a sweep leave in their folders: their names, and how they are written."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

RUNS = "runs"
"""Where runs go by default; a logger with this folder follows `trainer.default_root_dir`."""

CONFIG = "config.yaml"
"""All options of a run."""

RUN_RECORD = "run.json"
"""What it takes to repeat a run, and how it ended."""

METRICS = "metrics.jsonl"
"""Every recorded row of a run."""

REPORT = "report.json"
"""What came out of a run."""

FINAL_PROBE = "final_probe.json"
"""What the probe at the end of a run has found."""

EVALUATION = "evaluation.json"
"""What `w2vlab evaluate` has found, in `evaluation/<checkpoint>/`."""

SWEEP_RECORD = "sweep.json"
"""The trials of a sweep and their states."""

UNFINISHED = ".unfinished"
"""What the name of a file has behind it until all of it is written."""


def cache_root(cache_dir: Path | None) -> Path:
    """Returns `cache_dir`, else the environment's `W2VLAB_CACHE`, else `~/.cache/w2vlab`."""
    chosen = cache_dir or os.environ.get("W2VLAB_CACHE") or "~/.cache/w2vlab"
    return Path(chosen).expanduser().absolute()


def write_whole(path: Path, text: str, newline: str | None = None) -> None:
    """Writes a file such that whoever reads it finds all of the new text or all of the old one.

    Args:
        path: Where.
        text: What.
        newline: What ends lines, as for `open`.

    Raises:
        OSError: It cannot be written; nothing is left of the attempt.
    """
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        unfinished.write_text(text, encoding="utf-8", newline=newline)
        os.replace(unfinished, path)
    except OSError:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise


def remove_unfinished(folder: Path) -> None:
    """Removes what processes that were killed while they wrote a file have left in a folder."""
    for path in folder.glob(f"*{UNFINISHED}"):
        with suppress(OSError):
            path.unlink()
