"""The files that a run and a sweep leave in their folders: their names, and how they are written."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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


def folder_name(name: str) -> str:
    """Returns the name of a folder for something with a name of any kind: always one folder, never a way out of one.

    A name that is one already stays as it is. Of another one, with a `/` in it for example, the readable part is kept,
    with a few digits that no other name has.
    """
    plain = name.isprintable() and "/" not in name and not name.startswith(".") and 0 < len(os.fsencode(name)) <= 200
    if plain and name == name.strip():
        return name
    readable = re.sub(r"[^A-Za-z0-9=+.-]+", "_", name)[:80].strip("_-.")
    digits = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:6]
    return f"{readable}-{digits}" if readable else digits


def make_writable(folder: Path, option: str, instead: str | None = None) -> None:
    """Creates `folder` and makes sure that files can be put there.

    Args:
        folder: The folder.
        option: What names it.
        instead: How to choose another; by default with that option.

    Raises:
        ValueError: They cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Only a real file tells: permission bits say nothing to root or about a file system mounted read-only.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"`{option}` must be writable, but {folder} is not ({error.strerror}); choose another with "
            f"{instead or f'--{option}'}."
        ) from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives the place to write a file to, and renames it when all is written: the file before it is whole until then.

    Args:
        path: What is replaced.

    Raises:
        OSError: It cannot be written; nothing is left of the attempt.
    """
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        yield unfinished
        os.replace(unfinished, path)
    except OSError:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise


def write_whole(path: Path, text: str, newline: str | None = None) -> None:
    """Writes a file such that whoever reads it finds all of the new text or all of the old one.

    Args:
        path: Where.
        text: What.
        newline: What ends lines, as for `open`.

    Raises:
        OSError: It cannot be written; nothing is left of the attempt.
    """
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", newline=newline)


def remove_unfinished(folder: Path) -> None:
    """Removes what processes that were killed while they wrote a file have left in a folder."""
    for path in folder.glob(f"*{UNFINISHED}"):
        with suppress(OSError):
            path.unlink()
