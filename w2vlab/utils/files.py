"""Names of the files of runs and sweeps, and atomic writing of files."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

RUNS = "runs"
"""Default folder of runs; a logger with this folder is moved to `trainer.default_root_dir`."""

CONFIG = "config.yaml"
"""All options of a run."""

RUN_RECORD = "run.json"
"""Provenance of a run, and its final status."""

METRICS = "metrics.jsonl"
"""All recorded metrics of a run."""

REPORT = "report.json"
"""The report of a run."""

FINAL_PROBE = "final_probe.json"
"""The result of the probe at the end of a run."""

EVALUATION = "evaluation.json"
"""The result of `w2vlab evaluate`, in `evaluation/<checkpoint>/`."""

SWEEP_RECORD = "sweep.json"
"""The trials of a sweep and their states."""

UNFINISHED = ".unfinished"
"""Suffix of the temporary file that is renamed when it is complete."""


def cache_root(cache_dir: Path | None) -> Path:
    """Returns `cache_dir`, otherwise the environment variable `W2VLAB_CACHE`, otherwise `~/.cache/w2vlab`."""
    chosen = cache_dir or os.environ.get("W2VLAB_CACHE") or "~/.cache/w2vlab"
    return Path(chosen).expanduser().absolute()


def folder_name(name: str) -> str:
    """Converts any name to a safe name of a single folder.

    A name that is safe already is returned unchanged. From others, for example with a `/`, unsafe characters are
    replaced, and a hash of the name is appended.
    """
    plain = name.isprintable() and "/" not in name and not name.startswith(".") and 0 < len(os.fsencode(name)) <= 200
    if plain and name == name.strip():
        return name
    readable = re.sub(r"[^A-Za-z0-9=+.-]+", "_", name)[:80].strip("_-.")
    digits = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:6]
    return f"{readable}-{digits}" if readable else digits


def size_of(path: Path) -> int | None:
    """Returns the bytes of a file, or of all files in a folder; None if there is neither."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size if path.is_file() else None


def make_writable(folder: Path, option: str, instead: str | None = None) -> None:
    """Creates `folder` and checks that files can be written to it.

    Args:
        folder: The folder.
        option: The option that sets the folder, for the error message.
        instead: What to choose, after "choose another"; by default one with that option.

    Raises:
        ValueError: The folder is not writable.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # By writing a file, because permission bits do not apply to root, or show a file system mounted read-only.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"`{option}` must be writable, but {folder} is not ({error.strerror}); choose another "
            f"{instead or f'one with --{option}'}."
        ) from None


@contextmanager
def replace_atomically(path: Path, sync: bool = False) -> Iterator[Path]:
    """Yields a temporary path to write to, and renames it to `path` at the end, so that the replacement is atomic.

    Args:
        path: The file to replace.
        sync: Sync the file to disk before it is renamed, and its folder afterwards, so that it is complete or absent
            even after the machine has failed.

    Raises:
        OSError: The file cannot be written; the temporary file is removed.
    """
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        yield unfinished
        if sync:
            sync_to_disk(unfinished)
        os.replace(unfinished, path)
        if sync:
            with suppress(OSError):  # a file system that does not sync folders
                sync_to_disk(path.parent)
    except OSError:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise


def sync_to_disk(path: Path) -> None:
    """Waits until a file, or the entries of a folder, are on disk.

    Raises:
        OSError: They cannot be written.
    """
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def write_atomically(path: Path, text: str, newline: str | None = None, sync: bool = False) -> None:
    """Writes a file atomically, so that readers see either the old text or the new text.

    Args:
        path: The file.
        text: The text, which is written in UTF-8.
        newline: Line ending, as for `open`.
        sync: Sync it to disk, as in `replace_atomically`.

    Raises:
        OSError: The file cannot be written; the temporary file is removed.
    """
    with replace_atomically(path, sync) as unfinished:
        unfinished.write_text(text, encoding="utf-8", newline=newline)


def remove_unfinished(folder: Path) -> None:
    """Removes temporary files of processes that were killed while writing to a folder."""
    for path in folder.glob(f"*{UNFINISHED}"):
        with suppress(OSError):
            path.unlink()
